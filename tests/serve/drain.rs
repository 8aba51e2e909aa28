//! The end of a server: no call is lost that could end.

use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use plimsoll::{
    ops::health::Health,
    serve::{Closed, Drain},
    server::access_log::AccessLogLayer,
};
use tokio::{runtime::Builder, task::yield_now};

use crate::{
    common::{lines::Lines, wire::read_until},
    support::{
        BOUND, Doors, Inside, LIMIT, app, ends_within, eventually, run, run_inside, send, server,
        until_closed,
    },
};

#[tokio::test]
async fn a_call_that_runs_ends_and_nothing_new_is_taken() {
    let doors = Doors::default();
    let server = run(server(app(&doors))).await;
    let mut resting = server.connect().await;
    send(&mut resting, b"GET /ok HTTP/1.1\r\nhost: a\r\n\r\n").await;
    read_until(&mut resting, "\r\n\r\nok").await;
    let mut stream = server.connect().await;
    send(&mut stream, b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await;
    doors.begun.notified().await;
    server.control.drain();
    // The connection that rests ends at once, and the listener is gone.
    assert_eq!(until_closed(&mut resting).await, "");
    eventually(|| std::net::TcpStream::connect(server.address).is_err()).await;
    doors.go.notify_one();
    let answer = until_closed(&mut stream).await;
    assert!(answer.ends_with("waited"), "{answer}");
    assert!(
        answer.to_lowercase().contains("connection: close"),
        "{answer}"
    );
    let report = server.end().await;
    assert_eq!((report.drained, report.cut, report.exit_code()), (1, 0, 0));
}

#[tokio::test]
async fn half_heads_and_endless_streams_do_not_hold_it_up() {
    let doors = Doors::default();
    let server = run(server(app(&doors)).drain(ends_within(LIMIT * 10))).await;
    let mut half = server.connect().await;
    send(&mut half, b"GET / HTTP/1.1\r\nhost: a\r\n").await;
    let mut endless = server.connect().await;
    send(&mut endless, b"GET /endless HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut waiting = server.connect().await;
    send(&mut waiting, b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await;
    doors.begun.notified().await;
    eventually(|| server.connections.calls() == 2).await;
    let began = Instant::now();
    let connections = server.connections.clone();
    let (report, answer) = tokio::join!(server.end(), until_closed(&mut waiting));
    assert!(began.elapsed() < BOUND / 2);
    assert_eq!((report.drained, report.cut, report.exit_code()), (0, 2, 3));
    // Who still waited for a head is told why there is none.
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("plimsoll-reason: drained"), "{answer}");
    assert_eq!(connections.open(), 0);
    assert_eq!(connections.closed(Closed::Drain), 3);
}

#[tokio::test]
async fn a_second_request_to_end_cuts_at_once() {
    let doors = Doors::default();
    let slow = Drain::new().notice(BOUND).deadline(BOUND);
    let server = run(server(app(&doors)).drain(slow)).await;
    let mut waiting = server.connect().await;
    send(&mut waiting, b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await;
    doors.begun.notified().await;
    let began = Instant::now();
    server.control.cut();
    let (report, answer) = tokio::join!(server.end(), until_closed(&mut waiting));
    assert!(began.elapsed() < BOUND / 2);
    assert_eq!(report.cut, 1);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

#[tokio::test]
async fn a_stream_of_http2_is_told_and_its_line_says_drained() {
    let doors = Doors::default();
    let lines = Lines::listen();
    let server = server(app(&doors).layer(AccessLogLayer::new()));
    let server = run(server.drain(ends_within(LIMIT))).await;
    let (mut client, connection) = h2::client::handshake(server.connect().await)
        .await
        .expect("a handshake");
    let connection = tokio::spawn(connection);
    let uri = format!("http://{}/wait", server.address);
    let request = http::Request::get(uri).body(()).expect("a request");
    let (head, _) = client.send_request(request, true).expect("sent");
    doors.begun.notified().await;
    drop::<h2::client::SendRequest<bytes::Bytes>>(client);
    let (report, head) = tokio::join!(server.end(), head);
    let head = head.expect("an answer");
    assert_eq!(head.status(), 503);
    assert_eq!(head.headers()["plimsoll-reason"], "drained");
    assert_eq!(report.cut, 1);
    connection.await.expect("no panic").expect("a clean end");
    assert_eq!(lines.access(1).await[0]["outcome"], "drained");
}

#[tokio::test]
async fn a_caller_of_grpc_is_told_in_its_own_words() {
    let doors = Doors::default();
    let server = run(server(app(&doors)).drain(ends_within(LIMIT))).await;
    let (mut client, connection) = h2::client::handshake(server.connect().await)
        .await
        .expect("a handshake");
    tokio::spawn(connection);
    let mut call = |path: &str| {
        let request = http::Request::get(format!("http://{}{path}", server.address))
            .header("content-type", "application/grpc")
            .body(())
            .expect("a request");
        client.send_request(request, true).expect("sent").0
    };
    let (waiting, streaming) = (call("/wait"), call("/forever"));
    let streaming = streaming.await.expect("a head");
    doors.begun.notified().await;
    let (report, head) = tokio::join!(server.end(), waiting);
    assert_eq!(report.cut, 2);
    let head = head.expect("an answer");
    assert_eq!(
        (head.status(), &head.headers()["grpc-status"]),
        (http::StatusCode::OK, &"14".parse().expect("a value"))
    );
    let mut body = streaming.into_body();
    assert!(body.data().await.is_none(), "nothing was sent");
    let trailers = body.trailers().await.expect("no reset").expect("trailers");
    assert_eq!(trailers["grpc-status"], "14");
    assert_eq!(trailers["plimsoll-reason"], "drained");
}

/// On a paused clock: the notice lasts as long as anything is left to do.
#[tokio::test(start_paused = true)]
async fn readiness_goes_first_and_operators_are_answered_to_the_end() {
    let doors = Doors::default();
    let health = Health::new();
    let draining = health.clone();
    let (admin, probes) = Inside::new();
    let notice = Drain::new().notice(LIMIT).deadline(BOUND);
    let server = server(app(&doors))
        .drain(notice)
        .admin(admin, health.routes())
        .on_drain(move || draining.drain());
    let (server, dial) = run_inside(server);
    let mut stream = dial.connect();
    send(&mut stream, b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await;
    doors.begun.notified().await;
    let ready = || probes.ask("/readyz");
    assert!(ready().await.starts_with("HTTP/1.1 200 "));
    server.control.drain();
    eventually_not_ready(&health).await;
    assert!(ready().await.contains("draining"));
    assert!(dial.ask("/ok").await.ends_with("ok"), "it still serves");
    eventually(|| dial.is_refused()).await;
    assert!(ready().await.contains("draining"), "to the end");
    doors.go.notify_one();
    assert!(until_closed(&mut stream).await.ends_with("waited"));
    assert_eq!(server.end().await.cut, 0);
}

async fn eventually_not_ready(health: &Health) {
    while health.status().await.is_ready() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_panics_at_the_end_does_not_keep_calls_from_ending() {
    let doors = Doors::default();
    let server = run(server(app(&doors)).on_drain(|| panic!("no readiness to tell"))).await;
    let mut stream = server.connect().await;
    send(&mut stream, b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await;
    doors.begun.notified().await;
    server.control.drain();
    eventually(|| std::net::TcpStream::connect(server.address).is_err()).await;
    doors.go.notify_one();
    assert!(until_closed(&mut stream).await.ends_with("waited"));
    assert_eq!(server.end().await.cut, 0);
}

#[tokio::test]
async fn what_does_not_return_at_the_end_is_not_waited_for_at_a_second_signal() {
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let hook = move || assert!(gone.recv().is_err(), "it ends when `go` is dropped");
    let server = run(server(app(&Doors::default())).on_drain(hook)).await;
    server.control.drain();
    assert!(server.ask("/ok").await.ends_with("ok"), "it still serves");
    server.control.cut();
    assert_eq!(server.end().await.cut, 0);
    drop(go);
}

/// Something to be done that tells when it has begun, and returns when the sender is dropped.
fn hanging() -> (
    mpsc::Sender<()>,
    mpsc::Receiver<()>,
    impl FnOnce() + Send + 'static,
) {
    let (go, gone) = mpsc::channel::<()>();
    let (began, begun) = mpsc::channel();
    let hook = move || {
        began.send(()).expect("somebody waits");
        assert!(gone.recv().is_err(), "it ends when `go` is dropped");
    };
    (go, begun, hook)
}

#[test]
fn what_never_returns_keeps_neither_the_server_nor_its_runtime_from_ending() {
    let (go, begun, hook) = hanging();
    let (ended, end) = mpsc::channel();
    let program = thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let report = runtime.block_on(async {
            let server = run(server(app(&Doors::default())).on_drain(hook)).await;
            server.control.drain();
            eventually(|| begun.try_recv().is_ok()).await;
            server.control.cut();
            server.end().await
        });
        drop(runtime);
        ended.send(report.cut).expect("somebody waits");
    });
    let cut = end.recv_timeout(BOUND);
    drop(go);
    assert_eq!(cut.expect("in time"), 0);
    program.join().expect("no panic");
}

#[test]
fn readiness_is_told_though_others_hang_and_no_thread_for_what_blocks_is_free() {
    let mut runtime = Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(1).build();
    let runtime = runtime.expect("a runtime");
    let (go, gone) = mpsc::channel::<()>();
    drop(runtime.spawn_blocking(move || gone.recv()));
    let hung: Vec<_> = (0..5).map(|_| hanging()).collect();
    let (mut going, mut beginnings) = (vec![go], Vec::new());
    runtime.block_on(async {
        let mut server = server(app(&Doors::default()));
        for (go, begun, hook) in hung {
            going.push(go);
            beginnings.push(begun);
            server = server.on_drain(hook);
        }
        let health = Health::new();
        let draining = health.clone();
        let server = run(server.on_drain(move || draining.drain())).await;
        server.control.drain();
        tokio::time::timeout(BOUND, eventually_not_ready(&health))
            .await
            .expect("in time");
        server.control.cut();
        server.end().await;
    });
    drop(going);
}

#[tokio::test(start_paused = true)]
async fn the_notice_is_no_longer_for_what_is_done_meanwhile() {
    const SECOND: Duration = Duration::from_secs(1);
    for (seconds, late) in [(4, false), (5, true)] {
        let lines = Lines::listen();
        let (go, begun, hook) = hanging();
        let notice = Drain::new().notice(SECOND * 10);
        let server = run(server(app(&Doors::default())).drain(notice).on_drain(hook)).await;
        server.control.drain();
        while begun.try_recv().is_err() {
            yield_now().await;
        }
        let asked = tokio::time::Instant::now();
        tokio::time::advance(SECOND * seconds).await;
        let go = late.then_some(go);
        assert_eq!(server.end().await.cut, 0);
        let took = asked.elapsed();
        assert!(took >= SECOND * 10 && took < SECOND * 11, "{took:?}");
        drop(go);
        let told = lines.take_of("plimsoll::serve");
        let told: Vec<_> = told.iter().map(|line| line["event"].as_str()).collect();
        let all = ["drain_hook_late", "draining", "drained"];
        assert_eq!(told, all[usize::from(!late)..]);
    }
}

#[tokio::test]
async fn a_server_that_cannot_accept_any_more_ends() {
    let room = || async { panic!("who asks?") };
    let server = run(server(app(&Doors::default())).accept_when(room)).await;
    // Nobody asked it to.
    let report = tokio::time::timeout(BOUND, server.ended).await;
    assert_eq!(report.expect("in time").expect("no panic").cut, 0);
}
