//! `grpc.health.v1` as a client of another maker sees it, on tonic's server; and the ready-made checks against what they
//! ask.

mod ask;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use plimsoll::ops::health::{Check, Health};
use tokio::{net::TcpListener, time::timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

/// Longer than anything here takes.
const BOUND: Duration = Duration::from_secs(60);

struct Server {
    health: Health,
    away: Arc<AtomicBool>,
    address: String,
    client: HealthClient<Channel>,
}

async fn serve() -> Server {
    let away = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&away);
    let database = Check::new("database", move || {
        let away = asked.load(Ordering::Relaxed);
        async move {
            if away {
                return Err(io::Error::other("refused"));
            }
            Ok(())
        }
    });
    let health = Health::new()
        .check(database.keep(Duration::ZERO))
        .grpc_service("shop.Barista");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let server = tonic::transport::Server::builder().add_service(health.grpc());
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let channel = Channel::from_shared(address.clone()).expect("an address");
    let channel = channel.connect().await.expect("a connection");
    Server {
        health,
        away,
        address,
        client: HealthClient::new(channel),
    }
}

fn about(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

#[tokio::test]
async fn check_follows_readiness_and_knows_its_services() {
    let mut server = serve().await;
    for service in ["", "shop.Barista"] {
        let answer = server
            .client
            .check(about(service))
            .await
            .expect("an answer");
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
    }
    let unknown = server.client.check(about("shop.Baker")).await;
    assert_eq!(unknown.expect_err("no such service").code(), Code::NotFound);
    server.away.store(true, Ordering::Relaxed);
    let answer = server.client.check(about("")).await.expect("an answer");
    assert_eq!(answer.into_inner().status(), ServingStatus::NotServing);
}

#[tokio::test]
async fn watch_tells_each_change_and_ends_when_the_service_drains() {
    let mut server = serve().await;
    let watch = server.client.watch(about("shop.Barista")).await;
    let mut watch = watch.expect("a stream").into_inner();
    let mut heard = Vec::new();
    for away in [true, false] {
        let told = timeout(BOUND, watch.message()).await.expect("in time");
        heard.push(told.expect("no error").expect("a message").status());
        server.away.store(away, Ordering::Relaxed);
    }
    let told = timeout(BOUND, watch.message()).await.expect("in time");
    heard.push(told.expect("no error").expect("a message").status());
    use ServingStatus::{NotServing, Serving};
    assert_eq!(heard, [Serving, NotServing, Serving]);

    server.health.drain();
    let told = timeout(BOUND, watch.message()).await.expect("in time");
    assert_eq!(
        told.expect("no error").expect("a message").status(),
        NotServing
    );
    let end = timeout(BOUND, watch.message()).await.expect("in time");
    assert_eq!(end.expect("a clean end"), None);
}

#[tokio::test]
async fn watch_of_an_unknown_service_stays_and_hears_when_it_is_known() {
    let mut server = serve().await;
    let watch = server.client.watch(about("shop.Baker")).await;
    let mut watch = watch.expect("a stream").into_inner();
    let mut heard = Vec::new();
    for step in 0..3 {
        let told = timeout(BOUND, watch.message()).await.expect("in time");
        heard.push(told.expect("no error").expect("a message").status());
        match step {
            0 => server.health.add_grpc_service("shop.Baker"),
            1 => server.health.remove_grpc_service("shop.Baker"),
            _ => {}
        }
    }
    use ServingStatus::{ServiceUnknown, Serving};
    assert_eq!(heard, [ServiceUnknown, Serving, ServiceUnknown]);
    server.health.drain();
    let end = timeout(BOUND, watch.message()).await.expect("in time");
    assert_eq!(end.expect("a clean end"), None);
}

#[tokio::test]
async fn list_names_all_services() {
    let server = serve().await;
    let (status, body) = list(&server).await;
    assert_eq!(status, "0");
    assert!(body.contains("shop.Barista"), "{body}");
    for number in 0..99 {
        server
            .health
            .add_grpc_service(format!("shop.Baker{number}"));
    }
    assert_eq!(list(&server).await.0, "8", "RESOURCE_EXHAUSTED above 100");
}

async fn list(server: &Server) -> (String, String) {
    // An empty message in a frame of gRPC; the client at hand does not know the method.
    let request = http::Request::post(format!("{}/grpc.health.v1.Health/List", server.address))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(bytes::Bytes::from_static(&[0; 5])))
        .expect("a request");
    let client = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http();
    let response = client.request(request).await.expect("an answer");
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("a body");
    let trailers = body.trailers().cloned().unwrap_or(head.headers);
    let status = trailers["grpc-status"].to_str().expect("text").to_owned();
    (status, String::from_utf8_lossy(&body.to_bytes()).into())
}
