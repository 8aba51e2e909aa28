//! A configuration that changes while calls run.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use http::{Request, Response, StatusCode};
use plimsoll::{
    gauge::Gauges as _,
    preset::{self, Part, Setup, Stack},
};
use tokio::sync::Semaphore;
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer as _, ServiceExt as _, service_fn};

use crate::{
    common::{Line, Lines, get},
    config::File,
};

const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn shop(file: &File) -> Setup {
    let none: [(&str, &str); 0] = [];
    preset::server("shop").config(&file.path).variables(none)
}

pub(crate) fn built(file: &File) -> Stack {
    shop(file).build().expect("nothing is wrong with it")
}

/// With the task that watches the file, and nothing that is global.
pub(crate) fn watched(file: &File) -> Stack {
    let setup = shop(file).without(Part::Log).without(Part::Telemetry);
    setup.start().expect("nothing is wrong with it")
}

/// With exporters of its own.
fn watched_telemetry(file: &File) -> Stack {
    let setup = shop(file).without(Part::Log);
    setup.start().expect("nothing is wrong with it")
}

async fn ask(stack: &Stack) -> StatusCode {
    let ok = service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::empty())));
    let answer = stack.layer().layer(ok).oneshot(get("/")).await;
    answer.expect("an answer").status()
}

pub(crate) fn events(lines: &Lines) -> Vec<(String, String)> {
    let mut told = lines.take();
    told.retain(|line| ["plimsoll::preset", "plimsoll::ops"].contains(&line["target"].as_str()));
    let of = |line: &Line, name: &str| line.get(name).cloned().unwrap_or_default();
    told.iter()
        .map(|line| {
            let key = if line["event"] == "config_rejected" {
                "key"
            } else {
                "setting"
            };
            (of(line, "event"), of(line, key))
        })
        .collect()
}

pub(crate) fn pairs<const N: usize>(all: [(&str, &str); N]) -> Vec<(String, String)> {
    all.map(|(event, name)| (event.to_owned(), name.to_owned()))
        .into()
}

const FIRST: &str = "
[timeout]
head = \"10s\"
[rate_limit]
quotas = \"3/h\"
key = \"everyone\"
[back_pressure]
limit = 5
max_waiting = 1
[body_limit]
max = \"1 MiB\"
";

#[tokio::test]
async fn what_can_change_does_and_the_rest_is_named() {
    let lines = Lines::listen();
    let file = File::of("changes", FIRST);
    let stack = built(&file);
    assert_eq!(stack.reload().expect("it is the same").changed, [""; 0]);
    file.write(
        "
[log]
filter = \"debug\"
[request_id]
trust = \"replace\"
[timeout]
head = \"7s\"
total = \"1m\"
[rate_limit]
quotas = \"4/h\"
key = \"everyone\"
dry_run = true
[back_pressure]
limit = 9
max_waiting = 3
max_wait = \"2s\"
dry_run = true
[body_limit]
max = \"2 KiB\"
[serve]
max_connections = 5
",
    );
    let reloaded = stack.reload().expect("nothing is wrong with it");
    let live = [
        "timeout.head",
        "timeout.total",
        "rate_limit.quotas",
        "rate_limit.dry_run",
        "back_pressure.limit",
        "back_pressure.max_waiting",
        "back_pressure.max_wait",
        "back_pressure.dry_run",
        "body_limit.max",
    ];
    assert_eq!(reloaded.changed, live);
    assert_eq!(
        reloaded.needs_restart,
        ["request_id.trust", "serve.max_connections"]
    );
    let mut told = events(&lines);
    told.sort();
    let mut expected: Vec<_> = live
        .map(|name| ("setting_changed".into(), name.into()))
        .into();
    expected.extend(pairs([
        ("setting_needs_restart", "request_id.trust"),
        ("setting_needs_restart", "serve.max_connections"),
    ]));
    expected.sort();
    assert_eq!(told, expected);
    let quotas = stack.rate_limit().expect("there are quotas");
    assert_eq!(
        quotas.quotas("default").expect("one").as_slice()[0].to_string(),
        "4/h"
    );
    assert!(quotas.is_dry_run() && stack.limit().is_dry_run());
    assert_eq!(
        (stack.limit().limit(), stack.body_limit().max_bytes()),
        (9, 2_048)
    );
    let shown = format!("{stack:?}");
    assert!(
        shown.contains("head 7s, total 1m") && shown.contains("trust keep"),
        "{shown}"
    );
    // What needs a restart is told again, what was changed is not.
    let again = stack.reload().expect("nothing is wrong with it");
    assert_eq!((again.changed.len(), again.needs_restart.len()), (0, 2));
    // What is not said any more is as it was at first.
    file.write(FIRST);
    assert_eq!(
        stack.reload().expect("nothing is wrong with it").changed,
        live
    );
    assert_eq!(
        (stack.limit().limit(), stack.limit().is_dry_run()),
        (5, false)
    );
    assert_eq!(
        (stack.reloads().applied(), stack.reloads().rejected()),
        (4, 0)
    );
}

#[tokio::test]
async fn a_file_that_is_wrong_changes_nothing_and_says_so() {
    let lines = Lines::listen();
    let file = File::of("rejected", FIRST);
    let stack = built(&file);
    let before = format!("{stack:?}");
    for (text, key) in [
        ("[timeout]\nhead = \"7s\"\nheat = \"1s\"", "timeout.heat"),
        ("[timeout]\nhead = 7", "timeout.head"),
        ("[timeout]\nhead = \"7s\"\ntotal = \"1s\"", "timeout.head"),
        ("[timeout", ""),
    ] {
        file.write(text);
        let error = stack.reload().expect_err("it is wrong");
        assert_eq!(error.key(), key);
        assert_eq!(events(&lines), pairs([("config_rejected", key)]));
        assert_eq!(format!("{stack:?}"), before);
    }
    std::fs::remove_file(&file.path).expect("it is there");
    assert!(stack.reload().is_err());
    assert_eq!(
        (stack.reloads().applied(), stack.reloads().rejected()),
        (0, 5)
    );
    let mut told = Vec::new();
    stack
        .reloads()
        .read(&mut |reading| told.push(format!("{reading:?}")));
    assert_eq!(told.len(), 2, "{told:?}");
    let line = {
        stack.reload().expect_err("it is gone");
        lines.take_of("plimsoll::preset").pop().expect("a line")
    };
    assert_eq!(
        (line["level"].as_str(), line["stack"].as_str()),
        ("ERROR", "shop")
    );
}

/// A start would refuse what would hold until the restart.
#[tokio::test]
async fn a_file_that_is_right_only_as_a_whole_waits_for_the_restart_as_a_whole() {
    let file = File::of("whole", "[timeout]\nhead = \"10s\"\n");
    let stack = built(&file);
    file.write("[timeout]\nenabled = false\n[back_pressure]\nmax_wait = \"1h\"\n");
    let reloaded = stack.reload().expect("nothing is wrong with it");
    assert_eq!(reloaded.changed, [""; 0]);
    assert!(reloaded.needs_restart.contains(&"timeout.enabled"));
    assert!(reloaded.needs_restart.contains(&"back_pressure.max_wait"));
}

#[tokio::test]
async fn secrets_of_a_url_are_not_told() {
    let lines = Lines::listen();
    let file = File::of("url", "");
    let stack = watched_telemetry(&file);
    file.write("[telemetry]\notlp_endpoint = \"http://me:hunter2@127.0.0.1:1/v1?key=hunter3\"\n");
    let reloaded = stack.reload().expect("nothing is wrong with it");
    assert_eq!(reloaded.needs_restart, ["telemetry.otlp_endpoint"]);
    let told = format!("{:?}", lines.take());
    assert!(told.contains("http://..@127.0.0.1:1/v1?.."), "{told}");
    assert!(!told.contains("hunter"), "{told}");
}

#[tokio::test]
async fn what_was_made_at_the_start_needs_a_restart() {
    let file = File::of("made", FIRST);
    let stack = built(&file);
    for (text, needs) in [
        (
            FIRST.replace("limit = 5", "limit = \"adaptive\""),
            "back_pressure.limit",
        ),
        (
            FIRST.replace("\"3/h\"", "\"3/h and 10/d\""),
            "rate_limit.quotas",
        ),
        (FIRST.replace("\"everyone\"", "\"peer\""), "rate_limit.key"),
    ] {
        file.write(&text);
        let reloaded = stack.reload().expect("nothing is wrong with it");
        assert_eq!(
            (reloaded.changed.len(), reloaded.needs_restart),
            (0, vec![needs])
        );
    }
    // What would be set of a limit that there is only after a restart.
    file.write(&FIRST.replace("limit = 5", "limit = \"adaptive\"\nmin = 2\nmax = 9"));
    let reloaded = stack.reload().expect("nothing is wrong with it");
    assert_eq!(reloaded.changed, [""; 0]);
    let limit = [
        "back_pressure.limit",
        "back_pressure.min",
        "back_pressure.max",
    ];
    assert_eq!(reloaded.needs_restart, limit);
    assert_eq!(stack.limit().limit(), 5);
    let none = File::of("none", "");
    let stack = built(&none);
    none.write("[rate_limit]\nquotas = \"1/s\"\nkey = \"everyone\"\ndry_run = true");
    let reloaded = stack.reload().expect("nothing is wrong with it");
    assert_eq!(reloaded.changed, [""; 0]);
    assert_eq!(
        reloaded.needs_restart,
        ["rate_limit.quotas", "rate_limit.key", "rate_limit.dry_run"]
    );
    assert_eq!(
        (ask(&stack).await, ask(&stack).await),
        (StatusCode::OK, StatusCode::OK)
    );
}

#[tokio::test]
async fn a_limit_that_finds_itself_can_be_held_and_let_go() {
    let file = File::of("held", "");
    let stack = built(&file);
    for (limit, adapts) in [("7", false), ("\"adaptive\"", true), ("9", false)] {
        file.write(&format!("[back_pressure]\nlimit = {limit}\n"));
        let reloaded = stack.reload().expect("nothing is wrong with it");
        assert_eq!(reloaded.changed, ["back_pressure.limit"]);
        assert_eq!(stack.limit().is_adaptive(), adapts);
    }
    assert_eq!(stack.limit().limit(), 9);
}

/// Not the one of the environment, which the program's own has won over.
#[tokio::test]
async fn a_filter_that_is_not_set_any_more_is_the_program_s_own() {
    let setting = |filter: &str| format!("[log]\nfilter = \"{filter}\"\n");
    let file = File::of("filter", &setting("warn"));
    let log = plimsoll::log::Setup::new().filter("error,own=debug");
    let log = log.to_writer(std::io::sink());
    let setup = shop(&file).set("reload.enabled", "false");
    let setup = setup.without(Part::Telemetry).log(log);
    let stack = setup.start().expect("nothing is wrong with it");
    let filter = || stack.log().expect("it was started").filter();
    assert_eq!(filter(), "warn");
    file.write("");
    let reloaded = stack.reload().expect("nothing is wrong with it");
    assert_eq!(reloaded.changed, ["log.filter"]);
    let own = filter();
    assert!(own.contains("error") && own.contains("own=debug"), "{own}");
    file.write(&setting("info"));
    stack.reload().expect("nothing is wrong with it");
    assert_eq!(filter(), "info");
}

#[tokio::test]
async fn what_an_operator_changed_stays_until_the_file_says_otherwise() {
    let file = File::of("operator", FIRST);
    let stack = built(&file);
    let by_hand = std::num::NonZeroUsize::new(77).expect("above 0");
    stack.limit().hold(by_hand);
    file.write(&FIRST.replace("10s", "11s"));
    stack.reload().expect("nothing is wrong with it");
    assert_eq!(stack.limit().limit(), 77);
    file.write(&FIRST.replace("limit = 5", "limit = 6"));
    stack.reload().expect("nothing is wrong with it");
    assert_eq!(stack.limit().limit(), 6);
}

/// What callers have spent stays spent, who is in flight stays in, and who waits goes on waiting.
/// On a paused clock: who waits does so for a moment only.
#[tokio::test(start_paused = true)]
async fn no_call_is_dropped_and_no_state_is_lost() {
    let file = File::of("state", FIRST);
    let stack = built(&file);
    let (gate, begun) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let service = {
        let (gate, begun) = (Arc::clone(&gate), Arc::clone(&begun));
        stack.layer().layer(service_fn(move |_: Request<Body>| {
            let (gate, begun) = (Arc::clone(&gate), Arc::clone(&begun));
            async move {
                begun.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await.expect("it stays open").forget();
                Ok::<_, Infallible>(Response::new(Body::empty()))
            }
        }))
    };
    file.write(&FIRST.replace("limit = 5", "limit = 1"));
    stack.reload().expect("nothing is wrong with it");
    let mut calls: Vec<_> = (0..3)
        .map(|_| task::spawn(service.clone().oneshot(get("/"))))
        .collect();
    let pending = calls.iter_mut().map(|call| call.poll().is_pending());
    assert_eq!(
        pending.collect::<Vec<_>>(),
        [true, true, false],
        "one is in, one waits"
    );
    calls.truncate(2);
    for limit in [4, 1, 3, 2] {
        file.write(&FIRST.replace("limit = 5", &format!("limit = {limit}")));
        stack.reload().expect("nothing is wrong with it");
    }
    // The one who waited was let in, and both are still there.
    for call in &mut calls {
        assert_pending!(call.poll());
    }
    assert_eq!(
        (begun.load(Ordering::SeqCst), stack.limit().in_flight()),
        (2, 2)
    );
    gate.add_permits(2);
    for call in &mut calls {
        let answer = assert_ready!(call.poll()).expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
    }
    calls.clear();
    assert_eq!(
        (stack.limit().in_flight(), stack.limit().admitted()),
        (0, 2)
    );
    // Three calls are spent of three an hour.
    assert_eq!(ask(&stack).await, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_changed_is_taken_once_it_stays_the_same() {
    let lines = Lines::listen();
    let file = File::of("watched", FIRST);
    let stack = watched(&file);
    let limit = |calls: u32| FIRST.replace("limit = 5", &format!("limit = {calls}"));
    let wait = async || tokio::time::sleep(SECOND).await;
    wait().await;
    file.write(&limit(6));
    wait().await;
    file.write(&limit(7));
    wait().await;
    assert_eq!(stack.limit().limit(), 5, "it may be half written");
    wait().await;
    wait().await;
    assert_eq!((stack.limit().limit(), stack.reloads().applied()), (7, 1));
    assert_eq!(
        events(&lines),
        pairs([("setting_changed", "back_pressure.limit")])
    );
    // One that is wrong is told once, and not each second.
    file.write("[back_pressure]\nlimit = 0");
    for _ in 0..10 {
        wait().await;
    }
    assert_eq!(
        events(&lines),
        pairs([("config_rejected", "back_pressure.limit")])
    );
    assert_eq!(stack.limit().limit(), 7);
    file.write(&limit(8));
    for _ in 0..3 {
        wait().await;
    }
    assert_eq!((stack.limit().limit(), stack.reloads().rejected()), (8, 1));
    // Nor is one that has become empty: a disk may be full.
    file.write("");
    for _ in 0..3 {
        wait().await;
    }
    assert_eq!((stack.limit().limit(), stack.reloads().rejected()), (8, 2));
    assert!(plimsoll::task::deaths().is_empty());
}

/// Calls come and go all the while, and each is answered by the service.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_every_call_is_answered() {
    let file = File::of("load", "[back_pressure]\nlimit = 50\n");
    let stack = built(&file);
    let service = stack.layer().layer(service_fn(async |_: Request<Body>| {
        tokio::task::yield_now().await;
        Ok::<_, Infallible>(Response::new(Body::empty()))
    }));
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move {
                for _ in 0..500 {
                    let answer = service.clone().oneshot(get("/")).await.expect("an answer");
                    assert_eq!(answer.status(), StatusCode::OK);
                }
            })
        })
        .collect();
    for round in 0..100 {
        let (limit, dry) = (10 + round % 40, round % 2 == 0);
        file.write(&format!(
            "[back_pressure]\nlimit = {limit}\ndry_run = {dry}\n"
        ));
        stack.reload().expect("nothing is wrong with it");
        tokio::task::yield_now().await;
    }
    for caller in callers {
        caller.await.expect("no panic");
    }
    assert_eq!(
        (stack.limit().admitted(), stack.limit().in_flight()),
        (4_000, 0)
    );
    assert_eq!(stack.reloads().applied(), 100);
}
