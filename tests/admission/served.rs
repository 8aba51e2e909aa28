//! Over real servers: HTTP/1, h2c and gRPC, on axum's and on tonic's own.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::State,
    routing::{any, get},
};
use futures_util::future::join_all;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use plimsoll::{
    limit::{Limit, LimitHandle},
    rejection::Reason,
    server::{back_pressure::BackPressureLayer, load_shed::LoadShedLayer},
};
use tokio::sync::Semaphore;
use tonic::Code;

use crate::{
    common::{
        get as a_get,
        grpc::{Calls, channel, listen, many, one},
        header,
        wire::{HyperClient, ask, http1, http2, raw, serve},
    },
    support::{assert_rejected, fixed, rejected},
};

/// How long something may take that is not a matter of time.
const BOUND: Duration = Duration::from_secs(30);

/// Waits until the handle says so.
async fn until(handle: &LimitHandle, is: impl Fn(&LimitHandle) -> bool) {
    let waited = tokio::time::timeout(BOUND, async {
        while !is(handle) {
            tokio::task::yield_now().await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{handle:?}"));
}

/// `/` answers when it is let, `/stream` with a body that ends when it is dropped.
fn app(gate: &Arc<Semaphore>) -> Router {
    let wait = async |State(gate): State<Arc<Semaphore>>| {
        gate.acquire().await.expect("never closed").forget();
        "espresso"
    };
    let stream = async || {
        let first = futures_util::stream::iter([Ok::<_, std::io::Error>("bean")]);
        Body::from_stream(futures_util::StreamExt::chain(
            first,
            futures_util::stream::pending(),
        ))
    };
    Router::new()
        .route("/", any(wait))
        .route("/stream", get(stream))
        .with_state(Arc::clone(gate))
}

async fn shed_by_streams(client: HyperClient) {
    let limit = fixed(4);
    let gate = Arc::new(Semaphore::new(1));
    let address = serve(app(&gate).layer(LoadShedLayer::new(limit.clone()))).await;
    let handle = limit.handle();
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut answer = ask(&client, address, a_get("/stream")).await;
        assert_eq!(answer.status(), StatusCode::OK);
        // The head and the first of the body are there: the call is still in flight.
        let frame = answer.frame().await.expect("a frame").expect("no error");
        assert_eq!(frame.into_data().expect("data"), "bean");
        streams.push(answer);
    }
    assert_eq!(handle.in_flight(), 4);
    assert_rejected(&ask(&client, address, a_get("/")).await, Reason::Shed);
    drop(streams);
    until(&handle, |handle| handle.in_flight() == 0).await;
    assert_eq!(
        ask(&client, address, a_get("/")).await.status(),
        StatusCode::OK
    );
}

#[tokio::test]
async fn streams_hold_their_permits_over_http1() {
    shed_by_streams(http1()).await;
}

#[tokio::test]
async fn streams_hold_their_permits_over_h2c() {
    shed_by_streams(http2()).await;
}

async fn grpc_server(limit: &Limit, waits: bool) -> SocketAddr {
    let (address, incoming) = listen().await;
    let server = tonic::transport::Server::builder();
    let (shed, wait) = (
        LoadShedLayer::new(limit.clone()),
        BackPressureLayer::new(limit.clone()),
    );
    tokio::spawn(async move {
        let served = if waits {
            server
                .layer(wait)
                .add_service(Calls)
                .serve_with_incoming(incoming)
                .await
        } else {
            server
                .layer(shed)
                .add_service(Calls)
                .serve_with_incoming(incoming)
                .await
        };
        served.expect("it serves for ever");
    });
    address
}

#[tokio::test]
async fn streams_of_grpc_hold_their_permits_on_tonics_server() {
    let limit = fixed(4);
    let channel = channel(grpc_server(&limit, false).await).await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut stream = many(channel.clone(), "hang")
            .await
            .expect("a stream")
            .into_inner();
        assert_eq!(
            stream.message().await.expect("no error").expect("one"),
            "hang"
        );
        streams.push(stream);
    }
    let fifth = one(channel.clone(), "espresso")
        .await
        .expect_err("it is shed");
    assert_eq!(fifth.code(), Code::Unavailable);
    let metadata = fifth.metadata();
    assert_eq!(metadata.get("plimsoll-reason").expect("a reason"), "shed");
    assert!(metadata.contains_key("grpc-retry-pushback-ms"));
    drop(streams);
    until(&limit.handle(), |handle| handle.in_flight() == 0).await;
    let sixth = one(channel, "espresso").await.expect("it is served");
    assert_eq!(sixth.into_inner(), "espresso");
}

#[tokio::test]
async fn calls_of_grpc_wait_on_tonics_server() {
    let limit = fixed(1).max_wait(BOUND);
    let channel = channel(grpc_server(&limit, true).await).await;
    let stream = many(channel.clone(), "hang").await.expect("a stream");
    let waits = tokio::spawn(one(channel.clone(), "espresso"));
    until(&limit.handle(), |handle| handle.waiting() == 1).await;
    drop(stream);
    let served = waits.await.expect("it ends").expect("it is served");
    assert_eq!(served.into_inner(), "espresso");
    // A caller that goes away leaves the room.
    let _stream = many(channel.clone(), "hang").await.expect("a stream");
    let waits = tokio::spawn(one(channel, "espresso"));
    until(&limit.handle(), |handle| handle.waiting() == 1).await;
    waits.abort();
    until(&limit.handle(), |handle| handle.waiting() == 0).await;
}

async fn calls_wait(client: HyperClient) {
    let limit = fixed(2).max_wait(BOUND);
    let gate = Arc::new(Semaphore::new(0));
    let address = serve(app(&gate).layer(BackPressureLayer::new(limit.clone()))).await;
    let handle = limit.handle();
    let calls = (0..6).map(|_| ask(&client, address, a_get("/")));
    let (answers, ()) = tokio::join!(join_all(calls), async {
        until(&handle, |handle| {
            (handle.in_flight(), handle.waiting()) == (2, 4)
        })
        .await;
        gate.add_permits(6);
    });
    assert!(
        answers
            .iter()
            .all(|answer| answer.status() == StatusCode::OK)
    );
    drop(answers);
    until(&handle, |handle| handle.in_flight() == 0).await;
    assert_eq!(handle.admitted(), 6);
}

#[tokio::test]
async fn calls_wait_over_http1() {
    calls_wait(http1()).await;
}

#[tokio::test]
async fn calls_wait_over_h2c() {
    calls_wait(http2()).await;
}

/// A rejection reads no body, so that the connection is answered before ten megabytes have come.
#[tokio::test]
async fn a_rejection_does_not_wait_for_the_body() {
    let limit = fixed(1);
    let gate = Arc::new(Semaphore::new(0));
    let address = serve(app(&gate).layer(LoadShedLayer::new(limit.clone()))).await;
    let client = http1();
    let running = ask(&client, address, a_get("/"));
    let (running, answer) = tokio::join!(running, async {
        until(&limit.handle(), |handle| handle.in_flight() == 1).await;
        let head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10000000\r\n\r\nbean";
        let answer = tokio::time::timeout(BOUND, raw(address, head)).await;
        gate.add_permits(1);
        answer.expect("an answer without the rest of the body")
    });
    assert_eq!(running.status(), StatusCode::OK);
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("plimsoll-reason: shed\r\n"), "{answer}");
}

/// A connection that is open and asks nothing holds no permit.
#[tokio::test]
async fn idle_connections_hold_no_permits() {
    let limit = fixed(16);
    let gate = Arc::new(Semaphore::new(0));
    let app = app(&gate).layer(BackPressureLayer::new(limit.clone()).hold_connections());
    let address = serve(app.layer(LoadShedLayer::new(fixed(16)))).await;
    let handle = limit.handle();
    let clients: Vec<_> = (0..100)
        .map(|place| if place % 10 == 0 { http2() } else { http1() })
        .collect();
    // Each opens a connection and keeps it.
    for client in &clients {
        gate.add_permits(1);
        let answer = ask(client, address, a_get("/")).await;
        assert_eq!(answer.status(), StatusCode::OK);
        answer.collect().await.expect("a whole body");
    }
    until(&handle, |handle| handle.in_flight() == 0).await;
    let calls = clients
        .iter()
        .take(16)
        .map(|client| ask(client, address, a_get("/")));
    let (answers, ()) = tokio::join!(join_all(calls), async {
        until(&handle, |handle| handle.in_flight() == 16).await;
        gate.add_permits(16);
    });
    assert!(
        answers
            .iter()
            .all(|answer| answer.status() == StatusCode::OK)
    );
    assert_eq!(rejected(&handle, Reason::Shed), 0);
}

/// axum and tonic on one port: each is told in its own words.
#[tokio::test]
async fn both_protocols_on_one_port_are_told_in_their_own_words() {
    let limit = fixed(1);
    let gate = Arc::new(Semaphore::new(0));
    let app = tonic::service::Routes::new(Calls)
        .into_axum_router()
        .merge(app(&gate))
        .layer(LoadShedLayer::new(limit.clone()));
    let address = serve(app).await;
    let (client, channel) = (http2(), channel(address).await);
    let (first, ()) = tokio::join!(ask(&client, address, a_get("/")), async {
        until(&limit.handle(), |handle| handle.in_flight() == 1).await;
        let grpc = one(channel, "espresso").await.expect_err("it is shed");
        assert_eq!(grpc.code(), Code::Unavailable);
        let http = ask(&client, address, Request::new(Body::empty())).await;
        assert_rejected(&http, Reason::Shed);
        assert_eq!(
            header(&http, "content-type"),
            Some("application/problem+json")
        );
        gate.add_permits(1);
    });
    assert_eq!(first.status(), StatusCode::OK);
}
