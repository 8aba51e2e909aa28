//! The ready-made checks, each against what it asks.

use std::{num::NonZeroUsize, time::Duration};

use axum::{Router, routing::get};
use http::{Request, Response, StatusCode};
use plimsoll::{
    limit::Limit,
    ops::health::{Check, Health, InvalidUrl, Status},
    server::load_shed::LoadShedLayer,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::timeout,
};
use tonic::transport::{Channel, Endpoint};
use tower::{ServiceBuilder, ServiceExt as _, service_fn};

use crate::{BOUND, serve};

/// What a check finds, and why it fails.
async fn asked(check: Check) -> (Status, String) {
    let name = check.name();
    let health = Health::new().check(check);
    let report = timeout(BOUND, health.report()).await.expect("in time");
    let item = report.items.into_iter().find(|item| item.name == name);
    let finding = item.and_then(|item| item.finding).expect("it was asked");
    (report.status, finding.error.unwrap_or_default())
}

/// As long as it takes: what is asked answers, or is not there.
async fn asked_patiently(check: Check) -> (Status, String) {
    asked(check.timeout(BOUND)).await
}

async fn asked_http(url: &str) -> (Status, String) {
    asked_patiently(Check::http("http", url).expect("a URL")).await
}

/// A server of HTTP whose answers are in its paths.
async fn answering() -> String {
    let app = Router::new()
        .route(
            "/{code}",
            get(async |code: axum::extract::Path<u16>| {
                StatusCode::from_u16(*code).expect("a code")
            }),
        )
        .route("/long", get(async || "x".repeat(1 << 20)));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(axum::serve(listener, app).into_future());
    format!("http://{address}")
}

/// A server that says this to the first who asks, and closes or hangs.
async fn saying(words: &'static str, hangs: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("a caller");
        let mut request = Vec::new();
        socket.read_buf(&mut request).await.expect("a request");
        socket
            .write_all(words.as_bytes())
            .await
            .expect("it listens");
        if !hangs {
            socket.shutdown().await.expect("it listens");
        }
        // Until it leaves.
        while socket
            .read_buf(&mut request)
            .await
            .is_ok_and(|read| read > 0)
        {}
    });
    format!("http://{address}")
}

#[tokio::test]
async fn http_follows_the_status() {
    let url = answering().await;
    for good in ["/200", "/204", "/302", "/399", "/long"] {
        let found = asked_http(&format!("{url}{good}")).await;
        assert_eq!(found, (Status::Ok, String::new()), "{good}");
    }
    for bad in ["400", "404", "429", "500", "503"] {
        let found = asked_http(&format!("{url}/{bad}")).await;
        assert_eq!(found, (Status::Unavailable, format!("answered {bad}")));
    }
    assert_eq!(
        Check::http("http", "https://shop.example/").expect_err("TLS"),
        InvalidUrl::Https
    );
}

#[tokio::test]
async fn http_that_is_none_hangs_or_is_away_has_failed() {
    for (words, says) in [
        ("220 mail ready\r\n", "no answer of HTTP/1"),
        ("HTTP/1.1 100 Continue\r\n\r\n", "unexpected end of file"),
        ("", "unexpected end of file"),
    ] {
        let (status, error) = asked_http(&saying(words, false).await).await;
        assert_eq!(status, Status::Unavailable);
        assert!(error.contains(says), "{words:?}: {error}");
    }
    for words in ["", "HTTP/1.1 200 OK", "HTTP/1.1 103 Early Hints\r\n\r\n"] {
        let check = Check::http("http", &saying(words, true).await).expect("a URL");
        let (status, error) = asked(check.timeout(Duration::from_millis(50))).await;
        assert_eq!(
            (status, &*error),
            (Status::Unavailable, "no answer within 50 ms")
        );
    }
    // The head has come: what a body does is another matter.
    let endless = saying("HTTP/1.1 200 OK\r\n\r\n", true).await;
    assert_eq!(asked_http(&endless).await.0, Status::Ok);
    let (status, error) = asked_http("http://127.0.0.1:1/").await;
    assert_eq!(status, Status::Unavailable);
    assert!(error.contains("refused"), "{error}");
}

#[tokio::test]
async fn grpc_follows_what_the_service_says_of_itself() {
    let server = serve().await;
    let channel = Channel::from_shared(server.address.clone()).expect("an address");
    let channel = channel.connect_lazy();
    for service in ["", "shop.Barista"] {
        let found = asked_patiently(Check::grpc("barista", channel.clone(), service)).await;
        assert_eq!(found, (Status::Ok, String::new()));
    }
    let baker = Check::grpc("barista", channel.clone(), "shop.Baker");
    let (status, error) = asked_patiently(baker).await;
    assert_eq!(status, Status::Unavailable);
    assert_eq!(error, "status NotFound: no such service");
    server.health.drain();
    let found = asked_patiently(Check::grpc("barista", channel, "")).await;
    assert_eq!(found, (Status::Unavailable, "it says NOT_SERVING".into()));

    let nobody = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
    let nobody = Check::grpc("barista", nobody, "").not_critical();
    let (status, error) = asked_patiently(nobody).await;
    assert_eq!(status, Status::Degraded);
    assert!(error.starts_with("status Unavailable"), "{error}");
}

#[tokio::test]
async fn redis_that_leaves_hangs_or_is_away_has_failed() {
    for (hangs, says) in [(false, ""), (true, "no answer within 800 ms")] {
        let url = saying("", hangs).await.replace("http", "redis");
        let (status, error) = asked(Check::redis("redis", &url).expect("a URL")).await;
        assert_eq!(status, Status::Unavailable);
        assert!(error.contains(says), "{error}");
    }
    let away = Check::redis("redis", "redis://:hunter2@127.0.0.1:1/").expect("a URL");
    let (status, error) = asked_patiently(away).await;
    assert_eq!(status, Status::Unavailable);
    assert!(
        error.contains("refused") && !error.contains("hunter2"),
        "{error}"
    );
}

#[tokio::test]
async fn disk_and_memory_are_not_critical_unless_it_is_said() {
    assert_eq!(
        asked_patiently(Check::disk("disk", "/", 0)).await,
        (Status::Ok, String::new())
    );
    assert_eq!(
        asked_patiently(Check::disk("disk", "/", u64::MAX)).await.0,
        Status::Degraded
    );
    let critical = Check::disk("disk", "/no/such/path", 0).critical();
    assert_eq!(asked_patiently(critical).await.0, Status::Unavailable);
    assert_eq!(
        asked_patiently(Check::memory("memory", 1.0)).await,
        (Status::Ok, String::new())
    );
    assert_eq!(
        asked_patiently(Check::memory("memory", 0.0)).await.0,
        Status::Degraded
    );
}

#[tokio::test(start_paused = true)]
async fn readiness_follows_a_limit_that_stays_full() {
    let limit = Limit::fixed(NonZeroUsize::MIN).named("orders");
    let health = Health::new().saturation(limit.handle(), Duration::from_secs(5));
    let service = ServiceBuilder::new()
        .layer(LoadShedLayer::new(limit.clone()))
        .service(service_fn(async |_: Request<String>| {
            Ok::<_, std::convert::Infallible>(Response::new(String::new()))
        }));
    assert_eq!(health.status().await, Status::Ok);
    let answer = service
        .oneshot(Request::new(String::new()))
        .await
        .expect("an answer");
    assert_eq!(limit.handle().in_flight(), 1, "until its body ends");
    assert_eq!(
        health.status().await,
        Status::Ok,
        "a burst is no reason to leave"
    );
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(health.status().await, Status::Unavailable);
    drop(answer);
    assert_eq!(health.status().await, Status::Ok);
}
