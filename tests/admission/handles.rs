//! Limits that are changed while calls run.

use std::sync::{Arc, Mutex};

use plimsoll::{
    gauge::Gauges,
    limit::{Limit, LimitHandle},
    rejection::Reason,
};
use proptest::{collection::vec, prelude::*};
use tower::ServiceExt;

use crate::support::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Call,
    End,
    Drop(usize),
    Resize(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => Just(Step::Call),
        2 => Just(Step::End),
        1 => (0..8_usize).prop_map(Step::Drop),
        1 => (1..9_usize).prop_map(Step::Resize),
    ];
    vec(step, 1..60)
}

fn in_runtime(run: impl AsyncFnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.expect("a runtime").block_on(run());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Never more in flight than the limit lets in, the real number is told, and all come back.
    #[test]
    fn any_changes_of_the_limit_keep_the_count(steps in steps()) {
        in_runtime(async || {
            let (till, limit) = (Till::closed(), fixed(4).max_waiting(3));
            let service = till.behind(queueing(&limit));
            let handle = limit.handle();
            let (mut running, mut allowed) = (Vec::new(), 4);
            for step in steps {
                let before = handle.in_flight();
                match step {
                    Step::Call => running.push(spawn(&service, request())),
                    Step::End => till.serve(1),
                    Step::Drop(place) => {
                        if let Some(call) = running.get(place) {
                            call.abort();
                        }
                    }
                    Step::Resize(limit) => {
                        allowed = limit;
                        handle.set(calls(limit));
                    }
                }
                settle().await;
                let now = handle.in_flight();
                assert!(now <= allowed.max(before), "{now} of {allowed}, {before} before");
                assert!(handle.waiting() == 0 || now >= allowed, "{handle:?} waits for nothing");
                assert_eq!(handle.limit(), allowed);
            }
            till.serve(1_000);
            for call in running {
                drop(call.await);
            }
            assert_eq!((handle.in_flight(), handle.waiting()), (0, 0));
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_shrinks_below_what_is_in_flight() {
    let (till, limit) = (Till::closed(), fixed(8));
    let service = till.behind(shedding(&limit));
    let handle = limit.handle();
    let running: Vec<_> = (0..8).map(|_| spawn(&service, request())).collect();
    settle().await;
    handle.set(calls(2));
    assert_eq!((handle.in_flight(), handle.limit()), (8, 2));
    for left in (0..8).rev() {
        till.serve(1);
        settle().await;
        assert_eq!(handle.in_flight(), left);
        assert_eq!(handle.has_room(), left < 2, "nobody waits here");
        if left >= 2 {
            let no = service.clone().oneshot(request()).await;
            assert_rejected(&no.expect("infallible"), Reason::Shed);
        }
    }
    for call in running {
        assert_served(&call.await.expect("it ends"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_grows_lets_those_in_who_wait() {
    let (till, limit) = (Till::closed(), fixed(1));
    let service = till.behind(queueing(&limit));
    let _calls: Vec<_> = (0..5).map(|_| spawn(&service, request())).collect();
    settle().await;
    limit.handle().set(calls(4));
    settle().await;
    assert_eq!(
        (limit.handle().in_flight(), limit.handle().waiting()),
        (4, 1)
    );
}

fn readings(handle: &LimitHandle) -> Vec<String> {
    let told = Mutex::new(Vec::new());
    handle.read(&mut |reading| {
        let names: Vec<_> = handle
            .metrics()
            .iter()
            .map(|metric| metric.name())
            .collect();
        assert!(names.contains(&reading.metric()));
        let attributes: Vec<_> = reading
            .attributes()
            .iter()
            .map(|(_, value)| *value)
            .collect();
        let text = format!("{} {:?} {}", reading.metric(), attributes, reading.value());
        told.lock().expect("no panic").push(text);
    });
    told.into_inner().expect("no panic")
}

#[tokio::test(start_paused = true)]
async fn the_gauges_tell_all_of_it() {
    let (till, limit) = (Till::closed(), fixed(2).named("orders").max_waiting(1));
    let service = till.behind(queueing(&limit));
    let _calls: Vec<_> = (0..4).map(|_| spawn(&service, request())).collect();
    settle().await;
    assert_eq!(
        readings(&limit.handle()),
        [
            r#"plimsoll.limit.permits ["orders", "limit"] 2"#,
            r#"plimsoll.limit.permits ["orders", "in_use"] 2"#,
            r#"plimsoll.limit.streams ["orders"] 0"#,
            r#"plimsoll.queue.length ["orders"] 1"#,
            r#"plimsoll.limit.rejected ["orders", "queue_full", "normal"] 1"#,
            r#"plimsoll.limit.would_shed ["orders"] 0"#,
        ]
    );
}

#[tokio::test]
async fn panics_give_permits_back() {
    use axum::body::Body;
    use futures_util::FutureExt as _;
    use http::{Request, Response};

    for path in ["/call", "/await", "/body"] {
        let limit = fixed(1);
        let service = tower::service_fn(|request: Request<Body>| {
            let path = request.uri().path().to_owned();
            assert_ne!(path, "/call", "as asked");
            async move {
                assert_ne!(path, "/await", "as asked");
                let body = futures_util::stream::poll_fn(
                    |_| -> std::task::Poll<Option<Result<&str, std::io::Error>>> {
                        panic!("as asked")
                    },
                );
                Ok::<_, std::convert::Infallible>(Response::new(Body::from_stream(body)))
            }
        });
        for layered in [
            tower::Layer::layer(&shedding(&limit), service).any(),
            tower::Layer::layer(&queueing(&limit), service).any(),
        ] {
            let request = Request::builder()
                .uri(path)
                .body(Body::empty())
                .expect("a request");
            let call = std::panic::AssertUnwindSafe(async {
                let answer = layered.oneshot(request).await.expect("infallible");
                axum::body::to_bytes(answer.into_body(), 100).await
            });
            assert!(call.catch_unwind().await.is_err(), "{path}");
            assert_eq!(limit.handle().in_flight(), 0, "{path}");
        }
    }
}

/// State is made in the constructor: axum lays the layer over each route and method anew, and again for each connection.
#[tokio::test]
async fn all_routes_of_a_router_share_one_limit() {
    use axum::{Router, routing::get};

    #[derive(Clone)]
    struct Unused;
    let limit = fixed(1);
    let gate = Arc::new(tokio::sync::Notify::new());
    let wait = Arc::clone(&gate);
    let slow = move || {
        let wait = Arc::clone(&wait);
        async move { wait.notified().await }
    };
    let app: Router<Unused> = Router::new()
        .route("/a", get(slow.clone()).post(|| async {}))
        .route("/b", get(|| async {}))
        .layer(shedding(&limit));
    let app: Router = app.with_state(Unused);
    let ask = |method: &str, path: &str| {
        let request = axum::http::Request::builder().method(method).uri(path);
        let request = request.body(axum::body::Body::empty()).expect("a request");
        app.clone().oneshot(request)
    };
    let first = tokio::spawn(ask("GET", "/a"));
    settle().await;
    assert_eq!(limit.handle().in_flight(), 1);
    for (method, path) in [("POST", "/a"), ("GET", "/b"), ("GET", "/a")] {
        assert_rejected(&ask(method, path).await.expect("infallible"), Reason::Shed);
    }
    gate.notify_one();
    drop(first.await.expect("it ends"));
    assert_eq!(limit.handle().in_flight(), 0);
}

#[test]
fn a_name_and_bounds_are_part_of_a_limit() {
    let limit = Limit::adaptive()
        .named("orders")
        .initial(calls(50))
        .between(calls(2), calls(9));
    assert_eq!(
        (limit.handle().name(), limit.handle().limit()),
        ("orders", 9)
    );
    // What makes no sense is taken for the nearest that does.
    let odd = Limit::adaptive()
        .target(f64::NAN)
        .target(-3.0)
        .between(calls(9), calls(2));
    assert_eq!(odd.handle().limit(), 9);
    assert_eq!(Limit::fixed(calls(3)).initial(calls(9)).handle().limit(), 3);
}
