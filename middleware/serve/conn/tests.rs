use std::{sync::atomic::AtomicUsize, task::Wake};

use tokio::time::advance;

use super::*;

fn conn() -> (Arc<Conn>, Instant) {
    let now = clock::now();
    let limits = Limits {
        head: Duration::from_secs(10),
        idle: Duration::from_secs(60),
        write_stall: Duration::from_secs(30),
        ..Limits::default()
    };
    let conn = Conn::new(Arc::new(limits), Arc::default(), Arc::default(), now);
    (Arc::new(conn), now)
}

fn after(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

/// These bytes come, and the connection is looked at.
fn came(conn: &Conn, bytes: &[u8], now: Instant) {
    conn.read(bytes);
    conn.due(now);
}

#[test]
fn half_a_head_is_due_and_a_whole_one_is_not() {
    let (conn, start) = conn();
    assert_eq!(conn.due(start), Due::At(after(start, 10)));
    came(&conn, b"GET / HTTP/1.1\r\n", after(start, 9));
    assert_eq!(conn.due(after(start, 10)), Due::Close(Closed::HeadTimeout));
    let call = conn.begin(Framing::None);
    assert_eq!(conn.due(after(start, 11)), Due::At(after(start, 41)));
    drop(call);
    assert_eq!(conn.served(), 1);
}

#[test]
fn half_a_head_behind_a_call_is_due_as_any_other() {
    let (conn, start) = conn();
    came(&conn, b"GET / HTTP/1.1\r\n\r\nGET / HT", start);
    let call = conn.begin(Framing::None);
    assert!(conn.is_calm());
    drop(call);
    assert!(!conn.is_calm());
    let now = clock::now();
    assert_eq!(conn.due(now), Due::At(now + Duration::from_secs(10)));
    assert_eq!(
        conn.due(now + Duration::from_secs(11)),
        Due::Close(Closed::HeadTimeout)
    );
}

#[test]
fn a_stream_that_was_handed_over_keeps_its_connection() {
    let (conn, start) = conn();
    came(&conn, b"GET / HTTP/1.1\r\n\r\n", start);
    drop(conn.begin(Framing::None));
    let held = conn.hold();
    let late = clock::now() + Duration::from_secs(61);
    assert!(matches!(conn.due(late), Due::At(_)));
    drop(held);
    let late = clock::now() + Duration::from_secs(61);
    assert_eq!(conn.due(late), Due::Retire(Closed::Idle));
}

#[test]
fn a_quiet_connection_is_due_when_it_was_quiet_for_long() {
    let (conn, start) = conn();
    came(&conn, b"GET / HTTP/1.1\r\n\r\n", start);
    let call = conn.begin(Framing::None);
    assert!(
        matches!(conn.due(after(start, 100)), Due::At(_)),
        "a call runs"
    );
    drop(call);
    let now = clock::now();
    assert_eq!(
        conn.due(now + Duration::from_secs(61)),
        Due::Retire(Closed::Idle)
    );
}

#[test]
fn it_is_looked_at_again_later_whatever_the_limits_are() {
    for idle in [Duration::ZERO, Duration::MAX] {
        let limits = Limits {
            idle,
            write_stall: idle,
            ..Limits::default()
        };
        let now = clock::now();
        let conn = Arc::new(Conn::new(
            Arc::new(limits),
            Arc::default(),
            Arc::default(),
            now,
        ));
        let call = conn.begin(Framing::None);
        let due = conn.due(now);
        assert!(matches!(due, Due::At(at) if at > now), "{idle:?}: {due:?}");
        drop(call);
    }
}

#[test]
fn what_nobody_takes_is_due() {
    let (conn, start) = conn();
    came(&conn, b"GET / HTTP/1.1\r\n\r\n", start);
    let _call = conn.begin(Framing::None);
    conn.wrote(true, after(start, 40));
    assert!(!conn.is_calm());
    assert_eq!(conn.due(after(start, 70)), Due::Close(Closed::WriteStalled));
    conn.wrote(false, after(start, 70));
    assert!(conn.is_calm());
    assert!(matches!(conn.due(after(start, 71)), Due::At(_)));
}

/// A connection of HTTP/2 with one stream, and its place.
fn stream() -> (Arc<Conn>, Instant, Call, usize) {
    let (conn, start) = conn();
    came(&conn, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", start);
    let call = conn.begin_stream();
    let id = conn.take_newest().expect("it has just begun");
    (conn, start, call, id)
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_its_peer_does_not_take_is_due() {
    let (conn, start, call, id) = stream();
    call.waits();
    conn.waits(id, Waker::noop());
    assert!(conn.is_calm(), "it waits for its service");
    conn.waits(id, Waker::noop());
    assert!(!conn.is_calm());
    assert_eq!(conn.due(after(start, 6)), Due::At(after(start, 30)));
    advance(Duration::from_secs(20)).await;
    conn.waits(id, Waker::noop());
    let due = conn.due(after(start, 20));
    assert_eq!(due, Due::At(after(start, 30)), "it was woken for nothing");
    call.taken();
    assert!(conn.is_calm());
    assert_eq!(conn.due(after(start, 30)), Due::At(after(start, 60)));
}

#[tokio::test(start_paused = true)]
async fn a_stream_with_a_task_is_cut_off_alone() {
    let (conn, start, call, id) = stream();
    let another = conn.begin_stream();
    conn.waits(id, Waker::noop());
    assert!(!conn.is_cut(id));
    assert!(matches!(conn.due(after(start, 30)), Due::At(_)));
    assert!(conn.is_cut(id));
    drop(call);
    assert!(conn.is_calm());
    let next = conn.begin_stream();
    assert_eq!(conn.take_newest(), Some(id), "its place is free");
    assert!(!conn.is_cut(id));
    drop((another, next));
}

#[test]
fn a_stream_whose_task_was_not_known_when_all_were_cut_off_is_woken() {
    let (conn, _, _call, id) = stream();
    let woken = Arc::new(Woken::default());
    let task = Waker::from(Arc::clone(&woken));
    conn.cut();
    conn.waits(id, &task);
    conn.waits(id, &task);
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
}

#[test]
fn a_stream_that_begins_to_wait_for_its_peer_has_its_connection_look_at_it() {
    let (conn, _, call, id) = stream();
    let woken = Arc::new(Woken::default());
    conn.runs_in(&Waker::from(Arc::clone(&woken)));
    let times = || woken.0.load(Ordering::Relaxed);
    call.waits();
    conn.waits(id, Waker::noop());
    assert_eq!(times(), 0, "it waits for its service");
    conn.waits(id, Waker::noop());
    conn.waits(id, Waker::noop());
    assert_eq!(times(), 1);
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
