//! On real servers, with real connections.

use std::net::SocketAddr;

use axum::{Router, body::Body, routing::get};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use plimsoll::server::{
    access_log::AccessLogLayer,
    catch_panic::CatchPanicLayer,
    rate_limit::{Key, RateLimitLayer},
    request_id::RequestIdLayer,
};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceBuilder;

use crate::lines::Lines;
use crate::support::{api_key, header, quota, request};

/// One request on a connection of its own.
async fn call_alone(server: SocketAddr, path: &str) -> Response<()> {
    let stream = TcpStream::connect(server).await.expect("a connection");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .expect("a handshake");
    let call = async move {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = path.parse().expect("a path");
        request
            .headers_mut()
            .insert("host", HeaderValue::from_static("localhost"));
        let answer = sender.send_request(request).await.expect("an answer");
        let (head, body) = answer.into_parts();
        body.collect().await.expect("a whole body");
        Response::from_parts(head, ())
    };
    let (answer, served) = tokio::join!(call, connection);
    served.expect("a clean end");
    answer
}

/// Serves while the calls are made.
async fn while_served<T>(
    app: Router,
    with_peers: bool,
    calls: impl AsyncFnOnce(SocketAddr) -> T,
) -> T {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let serve = async move {
        if with_peers {
            let app = app.into_make_service_with_connect_info::<SocketAddr>();
            axum::serve(listener, app).await
        } else {
            axum::serve(listener, app).await
        }
    };
    tokio::select! {
        ended = serve => panic!("the server ended: {ended:?}"),
        result = calls(address) => result,
    }
}

fn app() -> Router {
    Router::new()
        .route(
            "/menu",
            get(|| async { "espresso" }).post(|| async { "ordered" }),
        )
        .route("/orders/{id}", get(|| async { "on its way" }))
}

#[tokio::test]
async fn a_plain_axum_server_has_one_limit_over_all_routes_and_connections() {
    let layer = RateLimitLayer::new(Key::peer(), quota("5/h"));
    let handle = layer.handle();
    let admitted = while_served(app().layer(layer), true, async |server| {
        let mut admitted = 0;
        for round in 0..10 {
            for path in ["/menu", "/orders/1", "/nowhere"] {
                let answer = call_alone(server, path).await;
                if answer.status() != StatusCode::TOO_MANY_REQUESTS {
                    admitted += 1;
                }
                assert!(round > 1 || header(&answer, "ratelimit").is_some());
            }
        }
        admitted
    });
    assert_eq!(admitted.await, 5);
    let offender = handle.top_offenders(1)[0];
    assert_eq!(
        (offender.key.to_string(), offender.rejected),
        ("127.0.0.1".to_owned(), 25)
    );
}

#[tokio::test]
async fn routes_can_have_quotas_of_their_own() {
    let layer = RateLimitLayer::new(Key::peer().and(Key::route()), quota("2/h"));
    while_served(app().layer(layer), true, async |server| {
        for path in ["/menu", "/orders"] {
            for call in 0..4 {
                // Other ids are the same route.
                let path = if path == "/orders" {
                    format!("/orders/{call}")
                } else {
                    path.to_owned()
                };
                let expected = if call < 2 {
                    StatusCode::OK
                } else {
                    StatusCode::TOO_MANY_REQUESTS
                };
                assert_eq!(
                    call_alone(server, &path).await.status(),
                    expected,
                    "{path} {call}"
                );
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_that_does_not_tell_its_peers_is_seen_at_the_first_call() {
    let layer = RateLimitLayer::new(Key::peer(), quota("5/h"));
    while_served(app().layer(layer), false, async |server| {
        let answer = call_alone(server, "/menu").await;
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(header(&answer, "plimsoll-reason"), Some("missing_key"));
    })
    .await;
}

#[tokio::test]
async fn a_tonic_server_tells_peers_by_itself() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let method = || async { [("grpc-status", "0"), ("content-type", "application/grpc")] };
    let routes = Router::new().route("/coffee.Barista/Brew", axum::routing::post(method));
    let server = tonic::transport::Server::builder()
        .layer(RateLimitLayer::new(
            Key::peer().and(Key::route()),
            quota("3/h"),
        ))
        .add_routes(tonic::service::Routes::from(routes))
        .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
    let calls = async {
        let client: Client<_, Body> = Client::builder(TokioExecutor::new())
            .http2_only(true)
            .build_http();
        let mut statuses = Vec::new();
        for _ in 0..5 {
            let request = Request::post(format!("http://{address}/coffee.Barista/Brew"))
                .header("content-type", "application/grpc")
                .body(Body::empty())
                .expect("a request");
            let answer = client.request(request).await.expect("an answer");
            assert_eq!(answer.status(), StatusCode::OK);
            if header(&answer, "grpc-status") == Some("8") {
                let pushback = header(&answer, "grpc-retry-pushback-ms").expect("a hint");
                let pushback: u64 = pushback.parse().expect("milliseconds");
                assert!((1_100_000..=1_200_000).contains(&pushback), "{pushback}");
            }
            statuses.push(header(&answer, "grpc-status").expect("a status").to_owned());
        }
        statuses
    };
    tokio::select! {
        ended = server => panic!("the server ended: {ended:?}"),
        statuses = calls => assert_eq!(statuses, ["0", "0", "0", "8", "8"]),
    }
}

#[tokio::test(start_paused = true)]
async fn in_the_stack_a_rejection_bears_the_id_and_its_line_tells_all() {
    let lines = Lines::keep();
    let stack = ServiceBuilder::new()
        .layer(RequestIdLayer::new())
        .layer(AccessLogLayer::new())
        .layer(RateLimitLayer::new(api_key(), quota("1/h")))
        .layer(CatchPanicLayer::new());
    let app = app().layer(stack);
    for status in [StatusCode::OK, StatusCode::TOO_MANY_REQUESTS] {
        let mut request = request("ann");
        *request.uri_mut() = "/menu".parse().expect("a path");
        request
            .headers_mut()
            .insert("x-request-id", HeaderValue::from_static("call-1"));
        let answer = tower::ServiceExt::oneshot(app.clone(), request)
            .await
            .expect("infallible");
        assert_eq!(answer.status(), status);
        assert_eq!(header(&answer, "x-request-id"), Some("call-1"));
        answer.into_body().collect().await.expect("a whole body");
    }
    let told = lines.with("outcome=\"rate_limited\"");
    assert_eq!(told.len(), 1, "{}", lines.text());
    for part in [
        "layer=\"rate_limit\"",
        "which=\"hour\"",
        "status=429",
        "request_id=\"call-1\"",
        "route=\"/menu\"",
    ] {
        assert!(told[0].contains(part), "{part}: {}", told[0]);
    }
}
