//! Whoever hears of a limit may panic, and wakers may hold what waits for the limit themselves.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Mutex, mpsc},
    task::{Context, Wake, Waker},
    time::Duration,
};

use plimsoll::rejection::Reason;
use tower::{Service as _, ServiceExt as _};
use tracing::{Event, Metadata, Subscriber, span};

use crate::support::*;

/// Panics at each line of a limit.
struct Touchy;

impl Subscriber for Touchy {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "plimsoll::limit"
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &Event<'_>) {
        panic!("the log is full");
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn a_log_that_panics_keeps_no_permit() {
    crate::common::lines::others_may_listen();
    let (till, limit) = (Till::closed(), fixed(1));
    let handle = limit.handle();
    let mut service = till.behind(shedding(&limit));
    let first = spawn(&service, request());
    settle().await;
    // The first is told at once, the second is told by a call that comes later.
    for _ in 0..2 {
        let no = ask(&service, request()).await;
        assert_rejected(&no, Reason::Shed);
    }
    till.serve(1);
    first.await.expect("served");
    tokio::time::advance(ms(11_000)).await;
    service.ready().await.expect("infallible");
    let call = || drop(service.call(request()));
    let touched =
        tracing::subscriber::with_default(Touchy, || catch_unwind(AssertUnwindSafe(call)));
    assert!(touched.is_err(), "it was told");
    assert_eq!(handle.in_flight(), 0);
}

type Room = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A task that lives as long as its wakers.
struct Held(#[expect(dead_code, reason = "it is only held")] Mutex<Option<Room>>);

impl Wake for Held {
    fn wake(self: Arc<Self>) {}
}

#[tokio::test]
async fn a_waker_may_be_the_last_that_holds_another_who_waits() {
    let limit = fixed(1).max_waiting(0);
    let (_, _, _first) = occupied(queueing(&limit)).await;
    let handle = limit.handle();
    assert!(!handle.has_room());
    let room = move || {
        let handle = handle.clone();
        let room: Room = Box::pin(async move { handle.room().await });
        room
    };
    let (done, is_done) = mpsc::channel();
    std::thread::spawn(move || {
        for replaced in [true, false] {
            let mut other = room();
            let mut noop = Context::from_waker(Waker::noop());
            assert!(other.as_mut().poll(&mut noop).is_pending());
            let waker = Waker::from(Arc::new(Held(Mutex::new(Some(other)))));
            let mut one = room();
            let mut context = Context::from_waker(&waker);
            assert!(one.as_mut().poll(&mut context).is_pending());
            // Now only the bell holds it.
            drop(waker);
            if replaced {
                assert!(one.as_mut().poll(&mut noop).is_pending());
            }
            drop(one);
        }
        done.send(()).expect("it is waited for");
    });
    let ended = is_done.recv_timeout(Duration::from_secs(10));
    ended.expect("nobody waits for a lock that it holds");
}
