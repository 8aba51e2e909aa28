//! What ends a process is tried in a process of its own.

use super::*;

/// Runs this test again in a process of its own, where `run` is what it does. Lines go to its standard error.
fn in_a_process(test: &str, run: impl FnOnce()) -> Option<Output> {
    const CHILD: &str = "PLIMSOLL_TEST_CHILD";
    if std::env::var(CHILD).is_ok_and(|name| name == test) {
        let writer = tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_ansi(false);
        tracing::subscriber::with_default(writer.finish(), run);
        return None;
    }
    let program = std::env::current_exe().expect("a path");
    let child = std::process::Command::new(program)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, test)
        .env("RUST_BACKTRACE", "0")
        .output();
    Some(child.expect("it runs"))
}

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(future)
}

#[test]
fn too_many_panics_within_the_window_end_the_process() {
    let output = in_a_process(
        "process::too_many_panics_within_the_window_end_the_process",
        || {
            let most = NonZeroU32::new(3).expect("not zero");
            let catch = CatchPanicLayer::new().abort_after(most, Duration::from_secs(600));
            let services = [catch.clone(), catch].map(|catch| catch.layer(service_fn(explosive)));
            block_on(async {
                for round in 0..10 {
                    eprintln!("round {round}");
                    let response = services[round % 2].clone().oneshot(get("/response")).await;
                    assert_eq!(response.expect("infallible").status(), 500);
                }
            });
        },
    );
    let Some(output) = output else { return };
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        text.contains("round 2") && !text.contains("round 3"),
        "{text}"
    );
    assert!(text.contains("too many panics"), "{text}");
}

#[test]
fn a_panic_while_another_unwinds_has_a_fatal_line() {
    struct Always;
    impl Drop for Always {
        fn drop(&mut self) {
            panic!("the second");
        }
    }
    let output = in_a_process(
        "process::a_panic_while_another_unwinds_has_a_fatal_line",
        || {
            let service = CatchPanicLayer::new().layer(service_fn(|_: Request<Body>| async {
                let _always = Always;
                if true {
                    panic!("the first");
                }
                Ok::<_, Infallible>(Response::new(Script::of([])))
            }));
            drop(block_on(service.oneshot(get("/"))));
        },
    );
    let Some(output) = output else { return };
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    let lines: Vec<_> = text
        .lines()
        .filter(|line| line.contains("plimsoll::panic"))
        .collect();
    for (panic, place) in [("the first", "process.rs"), ("the second", "process.rs")] {
        let line = lines.iter().find(|line| line.contains(panic));
        let line = line.unwrap_or_else(|| panic!("{panic} is told: {text}"));
        assert!(line.contains(place), "{line}");
    }
    assert!(
        lines.iter().any(|line| line.contains("fatal=true")),
        "{text}"
    );
}

#[test]
fn panics_that_are_not_caught_here_go_to_the_hook_that_was_there_before() {
    let output = in_a_process(
        "process::panics_that_are_not_caught_here_go_to_the_hook_that_was_there_before",
        || {
            std::panic::set_hook(Box::new(|info| {
                eprintln!("old hook: {}", info.payload_as_str().unwrap_or("-"))
            }));
            let service = CatchPanicLayer::new().layer(service_fn(explosive));
            block_on(async {
                let task = tokio::spawn(async { panic!("in a bare task") });
                assert!(task.await.is_err());
                let response = service.oneshot(get("/response")).await.expect("infallible");
                assert_eq!(response.status(), 500);
            });
            assert!(std::thread::spawn(|| panic!("in a thread")).join().is_err());
        },
    );
    let Some(output) = output else { return };
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("old hook: in a bare task"), "{text}");
    assert!(text.contains("old hook: in a thread"), "{text}");
    assert!(!text.contains("old hook: canary"), "{text}");
    assert_eq!(
        text.matches(SECRET).count(),
        1,
        "the line of the layer: {text}"
    );
}
