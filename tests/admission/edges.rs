//! What happens to a call at each point where something may come between.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use axum::body::Body;
use http::{Request, Response};
use plimsoll::{
    limit::Limit,
    rejection::Reason,
    server::{access_log::AccessLogLayer, back_pressure::BackPressureLayer},
};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, buffer::Buffer, service_fn};

use crate::{
    common::{Dice, Lines, Yield},
    support::*,
};

#[tokio::test(start_paused = true)]
async fn a_dry_run_lets_in_those_who_wait() {
    let limit = fixed(1).max_waiting(3).max_wait(ms(60_000));
    let (till, service, first) = occupied(queueing(&limit).hold_connections()).await;
    let handle = limit.handle();
    let mut calls = vec![first];
    calls.extend((0..3).map(|_| spawn(&service, request())));
    settle().await;
    assert_eq!((till.started(), handle.waiting()), (1, 3));
    let mut held = tower_test::mock::Spawn::new(service.clone());
    assert!(
        held.poll_ready::<Request<Body>>().is_pending(),
        "it is full"
    );

    handle.set_dry_run(true);
    assert_eq!((handle.waiting(), handle.in_flight()), (0, 4));
    assert!(held.is_woken() && held.poll_ready::<Request<Body>>().is_ready());
    settle().await;
    assert_eq!((till.started(), handle.would_shed()), (4, 3));
    calls.push(spawn(&service, request()));
    settle().await;
    assert_eq!((till.started(), handle.would_shed()), (5, 4));

    // And nobody more than before once it is over.
    handle.set_dry_run(false);
    let waits = spawn(&service, request());
    settle().await;
    assert_eq!((till.started(), handle.waiting()), (5, 1));
    till.serve(6);
    for call in calls.into_iter().chain([waits]) {
        assert_served(&call.await.expect("it ends"));
    }
    assert_eq!((handle.in_flight(), handle.admitted()), (0, 6));
    assert_eq!(handle.rejected(), []);
}

/// Neither takes a place before it calls.
#[tokio::test]
async fn clones_that_are_ready_and_never_call_hold_nothing() {
    let limit = fixed(1);
    let till = Till::closed();
    till.serve(9);
    for service in [
        till.behind(shedding(&limit)),
        till.behind(queueing(&limit)),
        till.behind(queueing(&limit).hold_connections()),
    ] {
        let mut idle: Vec<_> = (0..100).map(|_| service.clone()).collect();
        for clone in &mut idle {
            clone.ready().await.expect("infallible");
        }
        assert_eq!(limit.handle().in_flight(), 0);
        assert_served(&ask(&service, request()).await);
        drop(idle);
        assert_served(&ask(&service, request()).await);
    }
}

/// What a service reserves when it is asked for its readiness goes back while the call waits: else the call, when its turn
/// has come, would wait for the place that is kept for it.
#[tokio::test(start_paused = true)]
async fn who_waits_reserves_nothing_further_in() {
    let limit = fixed(1).max_wait(ms(60_000));
    let mut service = ServiceBuilder::new()
        .layer(queueing(&limit))
        .concurrency_limit(1)
        .service(service_fn(async |_: Request<Body>| {
            Ok::<_, std::convert::Infallible>(Response::new(Body::from("espresso")))
        }));
    let first = service.ready().await.expect("infallible").call(request());
    let first = first.await.expect("infallible");
    let mut second = task::spawn(service.ready().await.expect("infallible").call(request()));
    assert_pending!(second.poll());
    assert_eq!(
        limit.handle().waiting(),
        1,
        "the first one's body is not read"
    );
    drop(first);
    assert!(second.is_woken());
    assert_ready!(second.poll()).expect("infallible");
}

/// How far a call comes before it is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Until {
    Called,
    Waits,
    HasPermit,
    Served,
    Answered,
    HalfRead,
}

/// Its outcome on the line, how many calls were let in and how many reached the service, itself and the one before it.
#[tokio::test(start_paused = true)]
async fn a_call_may_be_dropped_at_every_await() {
    for (until, outcome, admitted, started) in [
        (Until::Called, "client_gone", 1, 1),
        (Until::Waits, "client_gone", 1, 1),
        // Its turn had come, and it was not told yet.
        (Until::HasPermit, "client_gone", 1, 1),
        (Until::Served, "client_gone", 2, 2),
        (Until::Answered, "client_gone_body", 2, 2),
        (Until::HalfRead, "client_gone_body", 2, 2),
    ] {
        let limit = fixed(1).max_wait(ms(60_000));
        let handle = limit.handle();
        let stack = ServiceBuilder::new()
            .layer(AccessLogLayer::new())
            .layer(queueing(&limit))
            .into_inner();
        let (till, mut service, first) = occupied(stack).await;
        let lines = Lines::listen();
        let mut call = task::spawn(service.ready().await.expect("infallible").call(request()));
        let mut answer = None;
        if until >= Until::Waits {
            assert_pending!(call.poll());
            assert_eq!(handle.waiting(), 1);
        }
        if until >= Until::HasPermit {
            till.serve(1);
            drop(first.await.expect("it ends"));
            assert_eq!((handle.waiting(), handle.in_flight()), (0, 1));
            drop(lines.take());
        }
        if until >= Until::Served {
            assert_pending!(call.poll());
        }
        if until >= Until::Answered {
            till.serve(1);
            answer = match call.poll() {
                Poll::Ready(answer) => Some(answer.expect("infallible")),
                Poll::Pending => panic!("the till is open"),
            };
        }
        if until == Until::HalfRead {
            let body = answer.as_mut().expect("it is answered").body_mut();
            let mut noop = Context::from_waker(Waker::noop());
            let frame = http_body::Body::poll_frame(Pin::new(body), &mut noop);
            assert!(frame.is_ready());
        }
        drop((call, answer));
        let line = lines.take_access();
        let told = line.last().map(|line| line["outcome"].as_str());
        // A body of which all was read has ended, whoever reads it.
        let expected = if until == Until::HalfRead {
            "ok"
        } else {
            outcome
        };
        assert_eq!(told, Some(expected), "{until:?}");
        if until < Until::HasPermit {
            assert_eq!((handle.waiting(), handle.in_flight()), (0, 1), "{until:?}");
            till.serve(1);
        }
        settle().await;
        assert_eq!((handle.waiting(), handle.in_flight()), (0, 0), "{until:?}");
        assert_eq!(
            (handle.admitted(), till.started()),
            (admitted, started),
            "{until:?}"
        );
        assert_eq!(handle.rejected(), [], "{until:?}");
    }
}

/// What stands behind the queue may be gone: everyone who waits for it is told, and nobody waits for ever.
#[tokio::test(start_paused = true)]
async fn who_waits_for_a_worker_that_dies_hears_of_it() {
    let (mut dice, mut mixed) = (Dice(3), 0);
    for run in 0..1_000 {
        let limit = fixed(2).max_wait(ms(3_600_000));
        let slow = service_fn(|_: Request<Body>| async {
            // sleeps: on the paused clock
            tokio::time::sleep(ms(10)).await;
            Ok::<_, std::convert::Infallible>(Response::new(Body::empty()))
        });
        let (buffer, worker) = Buffer::pair(slow, 64);
        let worker = tokio::spawn(worker);
        let service = queueing(&limit).layer(buffer);
        let calls: Vec<_> = (0..8)
            .map(|_| {
                let call = service.clone().oneshot(request());
                // Its body is dropped, and so its permit is back.
                tokio::spawn(async { call.await.map(|answer| answer.map(drop)) })
            })
            .collect();
        for _ in 0..dice.roll(5) {
            settle().await;
            tokio::time::advance(ms(10)).await;
        }
        worker.abort();
        let (mut served, mut told) = (0, 0);
        for call in calls {
            // sleeps: on the paused clock
            let ended = tokio::time::timeout(ms(1_000), call).await;
            match ended.unwrap_or_else(|_| {
                panic!("run {run}: it hangs, {served} {told} {:?}", limit.handle())
            }) {
                Ok(Ok(answer)) => {
                    assert_served(&answer);
                    served += 1;
                }
                Ok(Err(cause)) => {
                    assert!(cause.is::<tower::buffer::error::Closed>(), "{cause:?}");
                    told += 1;
                }
                Err(panic) => panic!("run {run}: {panic}"),
            }
        }
        mixed += u32::from(served > 0 && told > 0);
        assert_eq!(served + told, 8);
        let handle = limit.handle();
        assert_eq!((handle.in_flight(), handle.waiting()), (0, 0), "run {run}");
    }
    assert!(mixed > 500, "{mixed} died in the midst of it");
}

/// Polls a future so often, then drops it if it has not ended.
async fn within_polls<F: Future>(polls: u64, future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    let mut left = polls;
    std::future::poll_fn(|context| match (future.as_mut().poll(context), left) {
        (Poll::Ready(output), _) => Poll::Ready(Some(output)),
        (Poll::Pending, 0) => Poll::Ready(None),
        (Poll::Pending, _) => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

/// One thread ends calls while another drops those that wait. A lost wake-up is a call that never ends.
async fn drop_on_two_threads(layer: BackPressureLayer, limit: Limit, calls: u64) {
    let slow = service_fn(|_: Request<Body>| async {
        Yield::default().await;
        Ok::<_, std::convert::Infallible>(Response::new(Body::from("espresso")))
    });
    let service = layer.layer(slow).any();
    let callers = (0..16).map(|caller| {
        let service = service.clone();
        tokio::spawn(async move {
            let mut dice = Dice(caller);
            for _ in 0..calls / 16 {
                let polls = dice.roll(8);
                let call = service.clone().oneshot(request());
                // Not polled at all, dropped while it waits or is served, or to its head.
                let answer = match polls {
                    0 => continue,
                    1..4 => within_polls(polls - 1, call).await,
                    _ => Some(call.await),
                };
                if polls > 5
                    && let Some(answer) = answer
                {
                    let body = answer.expect("infallible").into_body();
                    axum::body::to_bytes(body, 100).await.expect("a whole body");
                }
            }
        })
    });
    let callers = futures_util::future::join_all(callers);
    let bound = std::time::Duration::from_secs(600);
    let ended = tokio::time::timeout(bound, callers).await;
    for caller in ended.expect("nobody hangs") {
        caller.expect("no panic");
    }
    let handle = limit.handle();
    assert_eq!((handle.in_flight(), handle.waiting()), (0, 0));
    assert_eq!(rejected(&handle, Reason::QueueTimeout), 0);
    assert!(handle.admitted() > calls / 4, "{handle:?}");
}

/// 32,000 calls, a million with `PLIMSOLL_LONG=1`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_dropped_on_another_thread_leave_nothing_behind() {
    let long = std::env::var("PLIMSOLL_LONG").is_ok_and(|long| long == "1");
    let calls = if long { 1_000_000 } else { 32_000 };
    let limit = fixed(4).max_waiting(64).max_wait(ms(3_600_000));
    drop_on_two_threads(queueing(&limit), limit, calls).await;
}
