//! Connections that are handed over to another protocol, such as WebSocket.

use std::{convert::Infallible, num::NonZeroUsize, sync::Arc};

use axum::{
    Router,
    extract::Request,
    response::Response,
    routing::{any, get},
};
use http::StatusCode;
use hyper_util::rt::TokioIo;
use plimsoll::serve::Closed;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::{Mutex, mpsc},
};

use crate::support::{
    BOUND, Doors, LIMIT, Running, ends_within, eventually, run, run_inside, send, server,
    until_closed,
};

/// How the other end of an upgrade fared: what it read until it ended, and with which error.
type Fates = Arc<Mutex<mpsc::UnboundedReceiver<Result<Vec<u8>, std::io::ErrorKind>>>>;

/// Echoes at an upgrade's other end until its connection ends.
fn echoing(doors: &Doors) -> (Router, Fates) {
    let (tell, fates) = mpsc::unbounded_channel();
    let doors = doors.clone();
    let upgrade = async move |request: Request| {
        let (doors, tell) = (doors.clone(), tell.clone());
        let is_tunnel = request.method() == http::Method::CONNECT;
        tokio::spawn(async move {
            let upgraded = hyper::upgrade::on(request).await.expect("an upgrade");
            let mut upgraded = TokioIo::new(upgraded);
            doors.begun.notify_one();
            let mut all = Vec::new();
            let mut some = [0; 64];
            let ended = loop {
                match upgraded.read(&mut some).await {
                    Ok(0) => break Ok(()),
                    Ok(read) => {
                        all.extend_from_slice(&some[..read]);
                        if let Err(error) = upgraded.write_all(&some[..read]).await {
                            break Err(error.kind());
                        }
                    }
                    Err(error) => break Err(error.kind()),
                }
            };
            tell.send(ended.map(|()| all)).expect("the test listens");
        });
        let mut response = Response::new(axum::body::Body::empty());
        if !is_tunnel {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let headers = response.headers_mut();
            headers.insert("connection", "upgrade".parse().expect("a value"));
            headers.insert("upgrade", "test".parse().expect("a value"));
        }
        Ok::<_, Infallible>(response)
    };
    let router = Router::new()
        .route("/up", get(upgrade.clone()))
        .route("/tunnel", any(upgrade));
    (router, Arc::new(Mutex::new(fates)))
}

async fn upgraded(server: &Running) -> tokio::net::TcpStream {
    let mut stream = server.connect().await;
    let request = b"GET /up HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: test\r\n\r\n";
    send(&mut stream, request).await;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.expect("a head"));
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    stream.write_all(b"hello").await.expect("sent");
    let mut echoed = [0; 5];
    stream.read_exact(&mut echoed).await.expect("an echo");
    assert_eq!(&echoed, b"hello");
    stream
}

#[tokio::test]
async fn one_that_ends_by_itself_is_counted_as_any_other() {
    let doors = Doors::default();
    let (router, fates) = echoing(&doors);
    let server = run(server(router).max_connections(NonZeroUsize::MIN)).await;
    let stream = upgraded(&server).await;
    // It is open, and takes its place.
    let mut second = server.connect().await;
    assert_eq!(until_closed(&mut second).await, "");
    server.closes(Closed::ConnCap, 1).await;
    assert_eq!(server.connections.open(), 1);
    drop(stream);
    let fate = fates.lock().await.recv().await.expect("it ended");
    assert_eq!(fate, Ok(b"hello".to_vec()));
    server.closes(Closed::Eof, 1).await;
    assert_eq!(server.end().await.upgraded_cut, 0);
}

#[tokio::test]
async fn one_that_does_not_end_is_cut_off_at_the_end_and_holds_up_nothing() {
    let doors = Doors::default();
    let (router, fates) = echoing(&doors);
    let server = run(server(router).drain(ends_within(BOUND * 2))).await;
    let mut streams = [upgraded(&server).await, upgraded(&server).await];
    assert_eq!(server.connections.open(), 2);
    let connections = server.connections.clone();
    let report = server.end().await;
    assert_eq!((report.upgraded_cut, report.connections_cut), (2, 0));
    assert_eq!((report.cut, report.exit_code()), (0, 0));
    assert_eq!(connections.open(), 0);
    assert_eq!(connections.closed(Closed::Drain), 2);
    for stream in &mut streams {
        assert_eq!(until_closed(stream).await, "");
        let fate = fates.lock().await.recv().await.expect("it ended");
        assert_eq!(fate, Err(std::io::ErrorKind::ConnectionAborted));
    }
}

#[tokio::test]
async fn one_that_is_never_read_again_holds_up_nothing_either() {
    let kept = Arc::new(std::sync::Mutex::new(Vec::new()));
    let keep = Arc::clone(&kept);
    let upgrade = async move |request: Request| {
        let keep = Arc::clone(&keep);
        tokio::spawn(async move {
            let upgraded = hyper::upgrade::on(request).await.expect("an upgrade");
            keep.lock().expect("no panic").push(upgraded);
        });
        let headers = [("connection", "upgrade"), ("upgrade", "test")];
        (StatusCode::SWITCHING_PROTOCOLS, headers)
    };
    let server = run(server(Router::new().route("/up", get(upgrade)))).await;
    let mut stream = server.connect().await;
    let request = b"GET /up HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: test\r\n\r\n";
    send(&mut stream, request).await;
    eventually(|| !kept.lock().expect("no panic").is_empty()).await;
    let connections = server.connections.clone();
    assert_eq!(server.end().await.upgraded_cut, 1);
    assert_eq!(connections.open(), 1, "it is still somebody's");
    kept.lock().expect("no panic").clear();
    assert_eq!(connections.closed(Closed::Drain), 1);
}

/// WebSocket over HTTP/2 (RFC 8441): a stream that is handed over, on a connection that is not.
#[tokio::test(start_paused = true)]
async fn a_stream_of_http2_keeps_its_connection_and_is_cut_with_it() {
    let doors = Doors::default();
    let (router, fates) = echoing(&doors);
    let server = server(router).idle_timeout(LIMIT).drain(ends_within(LIMIT));
    let (server, dial) = run_inside(server);
    let (mut client, connection) = h2::client::handshake(dial.connect())
        .await
        .expect("a handshake");
    tokio::spawn(connection);
    // That it may is told in the server's settings.
    eventually_extended(&mut client).await;
    let mut request = http::Request::builder()
        .method(http::Method::CONNECT)
        .uri("http://a/tunnel")
        .body(())
        .expect("a request");
    let protocol = h2::ext::Protocol::from_static("test");
    request.extensions_mut().insert(protocol);
    let (answer, mut sending) = client.send_request(request, false).expect("sent");
    let answer = answer.await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    let mut body = answer.into_body();
    let hello = bytes::Bytes::from_static(b"hello");
    sending.send_data(hello.clone(), false).expect("sent");
    assert_eq!(
        body.data().await.expect("an echo").expect("no reset"),
        hello
    );
    // sleeps: on the paused clock, longer than a connection may rest
    tokio::time::sleep(LIMIT * 2).await;
    assert_eq!(server.connections.open(), 1, "it does not rest");
    sending.send_data(hello.clone(), false).expect("sent");
    assert_eq!(
        body.data().await.expect("an echo").expect("no reset"),
        hello
    );
    let report = server.end().await;
    assert_eq!(report.connections_cut, 1);
    let ended = tokio::time::timeout(BOUND, body.data())
        .await
        .expect("in time");
    assert!(ended.is_none_or(|data| data.is_err()));
    let fate = fates.lock().await.recv().await.expect("it ended");
    assert!(
        fate.is_err() || fate == Ok(b"hellohello".to_vec()),
        "{fate:?}"
    );
}

async fn eventually_extended(client: &mut h2::client::SendRequest<bytes::Bytes>) {
    let settled = async {
        while !client.is_extended_connect_protocol_enabled() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(BOUND, settled)
        .await
        .expect("it is told");
}
