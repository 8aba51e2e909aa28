//! Fields of handlers, and sampling.

use super::*;

#[tokio::test]
async fn handlers_add_fields_to_their_own_line_only() {
    assert!(!access_log::field("tenant", "nobody"), "outside of a call");
    let service = service_fn(|_: Request<Body>| async {
        assert!(access_log::field("tenant", "acme"));
        assert!(access_log::field("count", 3));
        Yield::default().await;
        assert!(access_log::field("count", 4_u64));
        let bare = tokio::spawn(async { access_log::field("late", true) });
        assert!(!bare.await.expect("no panic"), "in a task of its own");
        let carried = tokio::spawn(in_current_call(async { access_log::field("late", true) }));
        assert!(
            !carried.await.expect("no panic"),
            "in a task of its own, with the ids"
        );
        let supervised = plimsoll::task::spawn("t", async { access_log::field("late", true) });
        assert!(
            !supervised.await.expect("no panic"),
            "in a task of its own, with the ids"
        );
        Ok::<_, Infallible>(response(200, [Step::Data(b"ok")]))
    });
    let answer = AccessLogLayer::new().layer(service).oneshot(get("/")).await;
    common::body::read(answer.expect("infallible").into_body()).await;
    assert!(!access_log::field("tenant", "nobody"), "after the call");
}

#[tokio::test]
async fn more_fields_than_a_line_takes_are_refused() {
    const NAMES: [&str; 40] = {
        let mut names = [""; 40];
        let all = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN";
        let mut at = 0;
        while at < 40 {
            names[at] = all.split_at(at).1;
            at += 1;
        }
        names
    };
    let service = AccessLogLayer::new().layer(service_fn(|_: Request<Body>| async {
        let taken = NAMES
            .iter()
            .filter(|name| access_log::field(name, 1))
            .count();
        assert_eq!(taken, 32);
        assert!(access_log::field(NAMES[0], 2), "an old one may change");
        Ok::<_, Infallible>(response(200, []))
    }));
    drop(service.oneshot(get("/")).await);
}

// ---- sampling

#[tokio::test]
async fn one_in_so_many_successes_is_written_and_every_failure() {
    let lines = Lines::listen();
    let layer = AccessLogLayer::new().sample_successes(NonZeroU32::new(10).expect("not zero"));
    let app = Router::new()
        .route("/ok", on_get(|| async { "ok" }).post(|| async { "ok" }))
        .route("/ok/too", on_get(|| async { "ok" }))
        .route("/err", on_get(|| async { StatusCode::BAD_GATEWAY }))
        .layer(layer.clone());
    for _ in 0..50 {
        for path in ["/ok", "/ok/too", "/err", "/nowhere"] {
            let answer = app.clone().oneshot(get(path)).await.expect("infallible");
            drop(answer.into_body().collect().await);
        }
    }
    let written = lines.take_access();
    let count = |outcome: &str| {
        written
            .iter()
            .filter(|line| line["outcome"] == outcome)
            .count()
    };
    assert_eq!(
        [count("ok"), count("server_error"), count("client_error")],
        [10, 50, 50]
    );
    assert_eq!(layer.sampled_out(), 90);
}
