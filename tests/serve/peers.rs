//! Peers that owe, rest, or take nothing.

use std::{num::NonZeroUsize, time::Instant};

use plimsoll::serve::Closed;
use tokio::io::AsyncReadExt as _;

use crate::support::{
    BOUND, Doors, LIMIT, app, eventually, run, run_inside, send, server, until_closed,
};

/// How HTTP/2 begins: the preface and empty settings.
pub(crate) const BEGIN_H2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

#[tokio::test]
async fn half_a_head_is_closed_in_time_whatever_half_it_is() {
    let halves: &[(&str, &[u8])] = &[
        ("nothing", b""),
        ("a request line", b"GET / HTTP/1.1\r\n"),
        ("a header", b"GET / HTTP/1.1\r\nhost: a\r\nx-slow: "),
        ("half a preface", b"PRI * HTTP/2.0\r\n"),
        ("a preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0"),
    ];
    let server = run(server(app(&Doors::default())).head_timeout(LIMIT)).await;
    for (count, (name, half)) in (1..).zip(halves) {
        let began = Instant::now();
        let mut stream = server.connect().await;
        send(&mut stream, half).await;
        until_closed(&mut stream).await;
        assert!(began.elapsed() >= LIMIT, "{name}: not before its time");
        server.closes(Closed::HeadTimeout, count).await;
    }
    // Headers of HTTP/2 without an end: 1 byte of a block that goes on.
    let mut stream = server.connect().await;
    let headers = b"\0\0\x01\x01\0\0\0\0\x01\x82";
    send(&mut stream, &[BEGIN_H2, headers].concat()).await;
    until_closed(&mut stream).await;
    server.closes(Closed::HeadTimeout, 6).await;
    assert_eq!(server.connections.open(), 0);
}

#[tokio::test]
async fn a_head_that_drips_is_closed_all_the_same() {
    let server = run(server(app(&Doors::default())).head_timeout(LIMIT)).await;
    let mut stream = server.connect().await;
    let (mut read, mut write) = stream.split();
    let drip = async {
        send_slowly(&mut write).await;
        std::future::pending::<()>().await;
    };
    let mut answer = Vec::new();
    let closed = async {
        tokio::select! {
            _closed = read.read_to_end(&mut answer) => {}
            () = drip => {}
        }
    };
    tokio::time::timeout(BOUND, closed)
        .await
        .expect("it is closed");
    server.closes(Closed::HeadTimeout, 1).await;
}

/// A byte each 20 ms: never silent for long, never done.
async fn send_slowly(write: &mut (impl tokio::io::AsyncWriteExt + Unpin)) {
    for byte in b"GET / HTTP/1.1\r\nhost: a\r\nx: "
        .iter()
        .chain([b'y'; 500].iter())
    {
        if write.write_all(&[*byte]).await.is_err() {
            return;
        }
        // sleeps: what the peer does here is to be slow
        tokio::time::sleep(LIMIT / 10).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_rests_is_closed_and_one_that_works_is_not() {
    let doors = Doors::default();
    let (server, dial) = run_inside(server(app(&doors)).idle_timeout(LIMIT));
    let mut stream = dial.connect();
    send(&mut stream, b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await;
    doors.begun.notified().await;
    // sleeps: on the paused clock, longer than the limit for those that rest
    tokio::time::sleep(LIMIT * 2).await;
    assert_eq!(server.connections.open(), 1);
    doors.go.notify_one();
    let answer = until_closed(&mut stream).await;
    assert!(answer.ends_with("waited"), "{answer}");
    server.closes(Closed::Idle, 1).await;
}

#[tokio::test]
async fn a_peer_that_takes_nothing_is_closed() {
    let server = run(server(app(&Doors::default())).write_stall(LIMIT)).await;
    let mut stream = server.connect().await;
    send(&mut stream, b"GET /endless HTTP/1.1\r\nhost: a\r\n\r\n").await;
    server.closes(Closed::WriteStalled, 1).await;
    eventually(|| server.connections.calls() == 0).await;
    drop(stream);
}

#[tokio::test]
async fn a_stream_whose_window_stays_shut_is_ended_alone() {
    let doors = Doors::default();
    let server = run(server(app(&doors)).write_stall(LIMIT)).await;
    let (mut client, connection) = h2::client::Builder::new()
        .initial_window_size(0)
        .handshake::<_, bytes::Bytes>(server.connect().await)
        .await
        .expect("a handshake");
    let connection = tokio::spawn(connection);
    let request = |path: &str| {
        let uri = format!("http://{}{path}", server.address);
        http::Request::get(uri).body(()).expect("a request")
    };
    let (stuck, _) = client
        .send_request(request("/endless"), true)
        .expect("sent");
    let stuck = stuck.await.expect("a head");
    let (other, _) = client.send_request(request("/wait"), true).expect("sent");
    let mut body = stuck.into_body();
    let ended = tokio::time::timeout(BOUND, body.data())
        .await
        .expect("in time");
    assert!(ended.is_none_or(|data| data.is_err()), "it was reset");
    eventually(|| server.connections.calls() == 1).await;
    doors.go.notify_one();
    let head = tokio::time::timeout(BOUND, other).await.expect("in time");
    assert_eq!(
        head.expect("an answer").status(),
        200,
        "the other one lives"
    );
    assert_eq!(server.connections.open(), 1);
    connection.abort();
}

#[tokio::test]
async fn there_are_as_many_connections_as_there_may_be() {
    let server = server(app(&Doors::default())).max_connections(NonZeroUsize::MIN);
    let server = run(server).await;
    let first = server.connect().await;
    eventually(|| server.connections.open() == 1).await;
    let mut second = server.connect().await;
    assert_eq!(until_closed(&mut second).await, "");
    server.closes(Closed::ConnCap, 1).await;
    drop(first);
    server.closes(Closed::Eof, 1).await;
    assert!(server.ask("/ok").await.ends_with("ok"));
}

#[tokio::test]
async fn what_is_no_http_is_a_protocol_error() {
    let server = run(server(app(&Doors::default()))).await;
    let mut stream = server.connect().await;
    send(&mut stream, b"\x16\x03\x01 what is this\r\n\r\n").await;
    until_closed(&mut stream).await;
    server.closes(Closed::ProtocolError, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_when_it_is_old() {
    let server = server(app(&Doors::default())).max_connection_age(LIMIT);
    let (server, dial) = run_inside(server);
    let mut stream = dial.connect();
    send(&mut stream, b"GET /ok HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let answer = until_closed(&mut stream).await;
    assert!(answer.ends_with("ok"), "{answer}");
    server.closes(Closed::Aged, 1).await;
}
