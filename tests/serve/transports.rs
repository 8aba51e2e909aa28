//! TCP, Unix sockets, TLS; HTTP/1.1, HTTP/2, gRPC: on each the same holds.

use std::time::Instant;

use http::StatusCode;
use http_body_util::BodyExt as _;
use plimsoll::{serve::Closed, server::access_log::AccessLogLayer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{
    callers::{PROTOCOLS, Protocol, Transport, certified, serve, ways},
    common::lines::Lines,
    peers::BEGIN_H2,
    support::{
        BOUND, Doors, FAR, LIMIT, app, ends_within, eventually, run, send, server, until_closed,
    },
};

#[tokio::test]
async fn handlers_know_the_peer() {
    let server = run(server(app(&Doors::default()))).await;
    assert!(server.ask("/peer").await.ends_with("127.0.0.1"));
}

#[tokio::test]
async fn each_protocol_is_served_on_each_transport() {
    for (transport, protocol) in ways() {
        let server = serve(server(app(&Doors::default())), transport).await;
        let mut caller = server.caller(protocol).await;
        let answer = caller.call("/ok").await.expect("an answer");
        assert_eq!(
            answer.status(),
            StatusCode::OK,
            "{transport:?} {protocol:?}"
        );
        let body = answer.into_body().collect().await.expect("a body");
        assert_eq!(body.to_bytes(), "ok", "{transport:?} {protocol:?}");
        drop(caller);
        let connections = server.connections.clone();
        assert_eq!(server.end().await.exit_code(), 0);
        assert_eq!(connections.open(), 0);
    }
}

#[tokio::test]
async fn a_call_that_runs_ends_while_the_server_drains() {
    for (transport, protocol) in ways() {
        let doors = Doors::default();
        let server = serve(server(app(&doors)), transport).await;
        let mut caller = server.caller(protocol).await;
        let answer = caller.call("/wait");
        doors.begun.notified().await;
        let answer = tokio::spawn(answer);
        server.control.drain();
        eventually(|| server.refuses()).await;
        doors.go.notify_one();
        let answer = answer.await.expect("no panic").expect("an answer");
        let body = answer.into_body().collect().await.expect("a body");
        assert_eq!(body.to_bytes(), "waited", "{transport:?} {protocol:?}");
        let report = server.end().await;
        assert_eq!(
            (report.drained, report.cut, report.connections_cut),
            (1, 0, 0),
            "{transport:?} {protocol:?}"
        );
    }
}

#[tokio::test]
async fn a_call_that_does_not_end_is_cut_and_told_so() {
    for (transport, protocol) in ways() {
        let doors = Doors::default();
        let lines = Lines::listen();
        let server = server(app(&doors).layer(AccessLogLayer::new())).drain(
            plimsoll::serve::Drain::new()
                .notice(LIMIT / 10)
                .deadline(LIMIT),
        );
        let server = serve(server, transport).await;
        let mut caller = server.caller(protocol).await;
        let answer = caller.call("/wait");
        doors.begun.notified().await;
        let began = Instant::now();
        let (report, answer) = tokio::join!(server.end(), answer);
        assert!(began.elapsed() < BOUND / 2);
        let answer = answer.expect("an answer");
        assert_eq!(answer.headers()["plimsoll-reason"], "drained");
        match protocol {
            Protocol::Grpc => assert_eq!(answer.headers()["grpc-status"], "14"),
            Protocol::Http1 | Protocol::Http2 => assert_eq!(answer.status(), 503),
        }
        assert_eq!((report.cut, report.exit_code()), (1, 3));
        assert_eq!(lines.access(1).await[0]["outcome"], "drained");
    }
}

#[tokio::test]
async fn half_a_head_is_closed_and_holds_up_no_end_over_tls() {
    let halves: [(Protocol, &[u8]); 5] = [
        (Protocol::Http1, b""),
        (Protocol::Http1, b"GET / HTTP/1.1\r\nhost: a\r\n"),
        (Protocol::Http2, b""),
        (Protocol::Http2, b"PRI * HTTP/2.0\r\n"),
        (Protocol::Grpc, b"\0\0\x01\x01\0\0\0\0\x01\x82"),
    ];
    for ends in [false, true] {
        // Handshakes are made within it, too.
        let head = if ends { FAR } else { LIMIT * 10 };
        let server = server(app(&Doors::default())).head_timeout(head);
        let server = serve(server.drain(ends_within(LIMIT * 10)), Transport::Tls).await;
        let mut streams = Vec::new();
        for (protocol, half) in halves {
            let mut stream = server.connect(protocol).await;
            if protocol == Protocol::Grpc {
                stream.write_all(BEGIN_H2).await.expect("sent");
            }
            stream.write_all(half).await.expect("sent");
            stream.flush().await.expect("sent");
            streams.push(stream);
        }
        eventually(|| server.connections.open() == halves.len() || !ends).await;
        let began = Instant::now();
        let connections = server.connections.clone();
        if ends {
            let report = server.end().await;
            assert!(began.elapsed() < BOUND / 2);
            assert_eq!(report.cut, 0);
        } else {
            eventually(|| connections.closed(Closed::HeadTimeout) == 5).await;
        }
        assert_eq!(connections.open(), 0);
        for mut stream in streams {
            let mut rest = Vec::new();
            // A reset is an end as well.
            let _ended = timeout(BOUND, stream.read_to_end(&mut rest))
                .await
                .expect("closed");
        }
    }
}

#[tokio::test]
async fn a_peer_that_takes_nothing_is_closed_over_each_transport() {
    for (transport, protocol) in ways() {
        let server = server(app(&Doors::default())).write_stall(LIMIT);
        let server = serve(server, transport).await;
        let mut caller = server.caller(protocol).await;
        let answer = caller.call("/endless").await.expect("a head");
        // It is held, and nothing of it is read.
        eventually(|| server.connections.calls() == 0).await;
        drop(answer);
        if protocol == Protocol::Http1 {
            eventually(|| server.connections.closed(Closed::WriteStalled) == 1).await;
        }
        drop(caller);
        server.end().await;
    }
}

#[tokio::test]
async fn a_handshake_that_fails_or_stalls_is_counted_and_told_with_its_cause() {
    let lines = Lines::listen();
    let (config, _) = certified();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = server(app(&Doors::default())).head_timeout(LIMIT * 10);
    let server = server.listen_tls(listener, config);
    let (connections, control) = (server.connections(), server.control());
    let ended = tokio::spawn(server.run());
    // Who speaks something else, or nothing.
    for (count, begin) in (1..).zip([&b"GET /ok HTTP/1.1\r\n\r\n"[..], b""]) {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        send(&mut stream, begin).await;
        until_closed(&mut stream).await;
        eventually(|| connections.closed(Closed::TlsFailed) == count).await;
    }
    let told = lines.take_of("plimsoll::serve");
    let line = told.iter().find(|line| line["level"] == "WARN");
    let line = line.expect("a line");
    assert_eq!(
        (&*line["event"], &*line["reason"]),
        ("conn_closed", "tls_failed")
    );
    assert!(line["error"].contains("corrupt"), "{line:?}");
    control.drain();
    ended.await.expect("no panic");
    // The second one came within 10 s of the first line: it is told at the end.
    let told = lines.take_of("plimsoll::serve");
    let line = told.iter().find(|line| line["level"] == "WARN");
    let line = line.expect("a line");
    assert_eq!(line["connections"], "1");
    assert!(line["error"].contains("elapsed"), "{line:?}");
}

#[tokio::test]
async fn all_protocols_come_on_one_listener() {
    let server = serve(server(app(&Doors::default())), Transport::Tcp).await;
    for protocol in PROTOCOLS {
        let mut caller = server.caller(protocol).await;
        assert_eq!(caller.call("/ok").await.expect("an answer").status(), 200);
    }
    server.end().await;
}
