//! What else a caller may do, and what is told of it.

use std::num::NonZeroUsize;

use axum::{Router, body::Bytes, routing::post};
use plimsoll::{
    serve::{Closed, Connections},
    server::timeout::TimeoutLayer,
};
use tokio::{io::AsyncReadExt as _, net::TcpListener};

use crate::{
    common::lines::Lines,
    support::{Doors, LIMIT, app, eventually, run, run_inside, send, server, until_closed},
};

#[tokio::test]
async fn who_expects_100_continue_is_told_to_go_on() {
    let server = run(server(app(&Doors::default()))).await;
    let mut stream = server.connect().await;
    let head = b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\
        expect: 100-continue\r\nconnection: close\r\n\r\n";
    send(&mut stream, head).await;
    let expected = b"HTTP/1.1 100 Continue\r\n\r\n";
    let mut told = vec![0; expected.len()];
    stream.read_exact(&mut told).await.expect("it is told");
    assert_eq!(told, expected);
    send(&mut stream, b"body").await;
    let answer = until_closed(&mut stream).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nbody"),
        "{answer}"
    );
    server.closes(Closed::Eof, 1).await;
}

#[tokio::test]
async fn head_has_a_length_and_no_body() {
    let server = run(server(app(&Doors::default()))).await;
    let mut stream = server.connect().await;
    // The connection goes on behind it.
    let heads = b"HEAD /ok HTTP/1.1\r\nhost: a\r\n\r\n\
        GET /ok HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    send(&mut stream, heads).await;
    let answer = until_closed(&mut stream).await;
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 2, "{answer}");
    assert_eq!(answer.matches("content-length: 2").count(), 2, "{answer}");
    assert_eq!(answer.matches("\r\n\r\nok").count(), 1, "{answer}");
    assert_eq!(server.end().await.cut, 0);
}

#[tokio::test(start_paused = true)]
async fn half_a_head_behind_a_call_is_closed_in_time() {
    let (server, dial) = run_inside(server(app(&Doors::default())).head_timeout(LIMIT));
    for (count, begin) in (1..).zip([
        &b"GET /ok HTTP/1.1\r\nhost: a\r\n\r\nGET /ok HTTP/1.1\r\nho"[..],
        b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nokGET /ok HT",
    ]) {
        let mut stream = dial.connect();
        send(&mut stream, begin).await;
        let answer = until_closed(&mut stream).await;
        assert!(answer.ends_with("ok"), "{answer}");
        server.closes(Closed::HeadTimeout, count).await;
    }
    // A body to its end is no half of anything.
    let mut stream = dial.connect();
    let whole = b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nok";
    send(&mut stream, whole).await;
    // sleeps: on the paused clock, longer than a head may take
    tokio::time::sleep(LIMIT * 3).await;
    assert_eq!(server.connections.open(), 1, "it rests");
}

#[tokio::test]
async fn a_body_that_is_too_slow_is_the_reason_why_its_connection_ends() {
    let rate = std::num::NonZeroU32::new(1_000).expect("above 0");
    let router = Router::new()
        .route("/echo", post(|body: Bytes| async { body }))
        .layer(TimeoutLayer::new().min_rate(rate, LIMIT));
    let server = run(server(router)).await;
    let mut stream = server.connect().await;
    let half = b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\nhalf";
    send(&mut stream, half).await;
    let answer = until_closed(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    server.closes(Closed::BodySlow, 1).await;
}

#[tokio::test]
async fn the_most_connections_hold_for_all_listeners_together() {
    let most = NonZeroUsize::new(8).expect("above 0");
    let mut server = server(app(&Doors::default())).max_connections(most);
    let mut addresses = Vec::new();
    for _ in 0..4 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        addresses.push(listener.local_addr().expect("an address"));
        server = server.listen(listener);
    }
    let server = run(server).await;
    let connect = |turn: usize| tokio::net::TcpStream::connect(addresses[turn % addresses.len()]);
    let streams = futures_util::future::join_all((0..64).map(connect)).await;
    eventually(|| server.connections.closed(Closed::ConnCap) == 56).await;
    assert_eq!(server.connections.open(), 8);
    drop(streams);
}

#[tokio::test]
async fn servers_that_count_in_one_place_end_apart() {
    let connections = Connections::new();
    let (first_doors, second_doors) = (Doors::default(), Doors::default());
    let first = run(server(app(&first_doors)).count_in(&connections)).await;
    let second = run(server(app(&second_doors))
        .count_in(&connections)
        .max_connections(NonZeroUsize::MIN))
    .await;
    let mut streams = Vec::new();
    for (server, doors) in [(&first, &first_doors), (&second, &second_doors)] {
        let mut stream = server.connect().await;
        send(&mut stream, b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await;
        doors.begun.notified().await;
        streams.push(stream);
    }
    let mut resting = first.connect().await;
    eventually(|| first.connections.open() == 2).await;
    assert_eq!((connections.open(), connections.calls()), (3, 2));
    assert_eq!(second.connections.open(), 1);
    first.control.drain();
    // Whoever rests hears of it at once. To try whether it still listens would be one more connection.
    assert_eq!(until_closed(&mut resting).await, "");
    first_doors.go.notify_one();
    let report = first.end().await;
    assert_eq!(
        (report.drained, report.cut, report.connections_cut),
        (1, 0, 0)
    );
    assert_eq!((connections.open(), connections.calls()), (1, 1));
    second_doors.go.notify_one();
    assert_eq!(second.end().await.cut, 0);
    assert_eq!(connections.closed(Closed::Drain), 3);
}

#[tokio::test]
async fn the_line_of_a_fault_tells_its_cause() {
    let lines = Lines::listen();
    let server = run(server(app(&Doors::default()))).await;
    for count in 1..=3 {
        let mut stream = server.connect().await;
        send(&mut stream, b"\x16\x03\x01 what is this\r\n\r\n").await;
        until_closed(&mut stream).await;
        server.closes(Closed::ProtocolError, count).await;
    }
    let warned = || {
        let told = lines.take_of("plimsoll::serve");
        told.into_iter()
            .filter(|line| line["level"] == "WARN")
            .collect::<Vec<_>>()
    };
    let told = warned();
    let [line] = &told[..] else {
        panic!("the first at once: {told:#?}");
    };
    assert_eq!(
        (&*line["connections"], &*line["reason"]),
        ("1", "protocol_error")
    );
    assert!(line["error"].contains("invalid HTTP"), "{line:?}");
    server.end().await;
    let told = warned();
    let [line] = &told[..] else {
        panic!("the others at the end: {told:#?}");
    };
    assert_eq!(
        (&*line["connections"], &*line["reason"]),
        ("2", "protocol_error")
    );
    assert!(line.contains_key("error"), "{line:?}");
}
