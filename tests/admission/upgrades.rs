//! Connections that are handed over to another protocol, as WebSockets are.

use std::net::SocketAddr;

use axum::{Extension, Router, body::Body, extract::Request, response::Response, routing::get};
use http::{StatusCode, header};
use hyper_util::rt::TokioIo;
use plimsoll::limit::{Limit, StreamPlace};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{common::wire::read_until, support::*, world::*};

/// Hands the connection over, and sends back what comes; `/keeps` holds on to its place meanwhile.
async fn echo(Extension(place): Extension<StreamPlace>, request: Request) -> Response {
    let keeps = request.uri().path() == "/keeps";
    let place = keeps.then_some(place);
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let _place = place;
        let mut connection = TokioIo::new(upgrade.await.expect("an upgrade"));
        let mut byte = [0];
        while connection.read_exact(&mut byte).await.is_ok() {
            connection.write_all(&byte).await.expect("it is read");
        }
    });
    let answer = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    let answer = answer.header(header::UPGRADE, "echo");
    let answer = answer.header(header::CONNECTION, "upgrade");
    answer.body(Body::empty()).expect("a response")
}

fn app() -> Router {
    Router::new()
        .route("/keeps", get(echo))
        .route("/lets-go", get(echo))
        .route("/stays", get(async || "no upgrade"))
}

/// Asks for an upgrade. The head of the answer, and the connection.
async fn upgraded(address: SocketAddr, path: &str) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let head =
        format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("it reads");
    let head = read_until(&mut stream, "\r\n\r\n").await;
    (head, stream)
}

async fn connected(address: SocketAddr, path: &str) -> TcpStream {
    let (head, mut stream) = upgraded(address, path).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    stream.write_all(b"!").await.expect("it reads");
    read_until(&mut stream, "!").await;
    stream
}

fn counts(limit: &Limit) -> (usize, usize) {
    (limit.handle().streams(), limit.handle().in_flight())
}

/// Both layers, each with a limit of its own.
fn layered(most: usize) -> [(Limit, Router); 2] {
    let [one, other] = [(); 2].map(|()| fixed(2).max_streams(most));
    let routes = [app().layer(shedding(&one)), app().layer(queueing(&other))];
    let [shed, waits] = routes;
    [(one, shed), (other, waits)]
}

#[tokio::test]
async fn our_loop_holds_the_place_of_an_upgraded_connection_until_it_is_closed() {
    for path in ["/lets-go", "/keeps"] {
        for (limit, routes) in layered(1) {
            let address = plimsoll_server(routes).await;
            let first = connected(address, path).await;
            until(&limit.handle(), |_| counts(&limit) == (1, 0)).await;
            // There is room for one. Others were found out too late, and are held to the limit itself.
            let second = connected(address, path).await;
            let third = connected(address, path).await;
            until(&limit.handle(), |_| counts(&limit) == (1, 2)).await;
            let (head, _) = upgraded(address, path).await;
            if !head.starts_with("HTTP/1.1 503 ") {
                // It waited, and in vain.
                panic!("{path}: {head}");
            }
            drop(second);
            until(&limit.handle(), |_| counts(&limit) == (1, 1)).await;
            drop((first, third));
            until_idle(&limit).await;
        }
    }
}

#[tokio::test]
async fn elsewhere_the_handler_keeps_the_place() {
    for (limit, routes) in layered(9) {
        let address = axum_server(routes).await;
        let kept = [
            connected(address, "/keeps").await,
            connected(address, "/keeps").await,
        ];
        until(&limit.handle(), |_| counts(&limit) == (2, 0)).await;
        // Whoever does not is not seen any more.
        let unseen = connected(address, "/lets-go").await;
        until(&limit.handle(), |_| counts(&limit) == (2, 0)).await;
        drop(unseen);
        drop(kept);
        until_idle(&limit).await;
    }
}

/// Who asked for it and stays is a call like any other.
#[tokio::test]
async fn an_upgrade_that_is_not_granted_holds_nothing() {
    for (limit, routes) in layered(9) {
        let address = plimsoll_server(routes).await;
        let mut open = Vec::new();
        for _ in 0..5 {
            let (head, stream) = upgraded(address, "/stays").await;
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            open.push(stream);
        }
        until_idle(&limit).await;
        assert_eq!(limit.handle().admitted(), 5);
    }
}

/// Limits one inside the other hold a place each.
#[tokio::test]
async fn each_limit_holds_a_place_of_its_own() {
    let (outer, inner) = (fixed(2), fixed(2));
    let routes = app().layer(queueing(&inner)).layer(shedding(&outer));
    let address = axum_server(routes).await;
    let open = connected(address, "/keeps").await;
    for limit in [&outer, &inner] {
        until(&limit.handle(), |_| counts(limit) == (1, 0)).await;
    }
    drop(open);
    until_idle(&outer).await;
    until_idle(&inner).await;
}
