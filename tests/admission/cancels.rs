//! A million calls that are dropped wherever they may be.

use std::{convert::Infallible, pin::Pin};

use axum::body::Body;
use http::{Request, Response};
use plimsoll::limit::Limit;
use tokio_test::task::{self, Spawn};
use tower::{Service, ServiceExt};

use crate::{
    common::Dice,
    support::{Till, fixed, ms, queueing, request, settle, shedding},
};

type Pending = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>>>>;

/// A call on its way.
enum Call {
    /// Waiting, or served.
    Called(Spawn<Pending>),
    /// Its head is there, its body is not read.
    Answered { _answer: Response<Body> },
}

impl Call {
    fn answered(answer: Result<Response<Body>, Infallible>) -> Self {
        Self::Answered {
            _answer: answer.expect("infallible"),
        }
    }
}

/// Does random things to random calls, and looks after each of them whether the books balance. How many were dropped.
async fn drop_at_random(
    limit: Limit,
    mut service: crate::support::Boxed,
    till: &Till,
    calls: u32,
) -> u32 {
    let handle = limit.handle();
    let mut dice = Dice(11);
    let mut running: Vec<Call> = Vec::new();
    let (mut begun, mut dropped) = (0, 0);
    while begun < calls {
        match dice.roll(16) {
            0..6 if running.len() < 48 => {
                begun += 1;
                let ready = service.ready().await.expect("infallible");
                let call: Pending = Box::pin(ready.call(request()));
                let mut call = task::spawn(call);
                // Some are dropped before they were ever polled.
                if dice.roll(8) > 0 {
                    running.push(match call.poll() {
                        std::task::Poll::Ready(answer) => Call::answered(answer),
                        std::task::Poll::Pending => Call::Called(call),
                    });
                }
            }
            6..10 => till.serve(1),
            10..15 if !running.is_empty() => {
                let place = usize::try_from(dice.roll(running.len() as u64)).expect("small");
                drop(running.swap_remove(place));
                dropped += 1;
            }
            15 if dice.roll(32) == 0 => tokio::time::advance(ms(dice.roll(90))).await,
            _ => {}
        }
        // Those that were woken are polled, and no others.
        for call in &mut running {
            if let Call::Called(called) = call
                && called.is_woken()
                && let std::task::Poll::Ready(answer) = called.poll()
            {
                *call = Call::answered(answer);
            }
        }
        let (in_flight, waiting) = (handle.in_flight(), handle.waiting());
        assert!(in_flight <= handle.limit(), "{handle:?}");
        assert!(waiting == 0 || in_flight == handle.limit(), "{handle:?}");
    }
    // The rest ends by itself: whoever waits is woken.
    till.serve(64);
    for round in 0.. {
        assert!(round < 1_000, "{} calls are never woken", running.len());
        running.retain_mut(|call| match call {
            Call::Answered { .. } => false,
            Call::Called(called) => !called.is_woken() || called.poll().is_pending(),
        });
        if running.is_empty() {
            break;
        }
        settle().await;
    }
    assert_eq!((handle.in_flight(), handle.waiting()), (0, 0));
    dropped
}

#[tokio::test(start_paused = true)]
async fn a_million_calls_leave_nothing_behind() {
    let (till, limit) = (Till::closed(), fixed(8).max_wait(ms(200)));
    let service = till.behind(queueing(&limit));
    let dropped = drop_at_random(limit, service, &till, 1_000_000).await;
    assert!(dropped > 500_000, "{dropped}");
}

#[tokio::test(start_paused = true)]
async fn calls_that_do_not_wait_leave_nothing_behind() {
    let (till, limit) = (Till::closed(), Limit::adaptive());
    let service = till.behind(shedding(&limit));
    let dropped = drop_at_random(limit, service, &till, 50_000).await;
    assert!(dropped > 10_000, "{dropped}");
}

/// Whatever becomes of them, every call was let in or rejected, and is told so.
#[tokio::test(start_paused = true)]
async fn every_call_is_counted_once() {
    let (till, limit) = (Till::closed(), fixed(2).max_waiting(3).max_wait(ms(50)));
    let service = till.behind(queueing(&limit));
    let mut calls = Vec::new();
    for round in 0..200_u64 {
        calls.push(crate::support::spawn(&service, Request::new(Body::empty())));
        if round % 3 == 0 {
            till.serve(1);
        }
        tokio::time::advance(ms(round % 7)).await;
        settle().await;
    }
    till.serve(200);
    let mut served = 0;
    for call in calls {
        served += u64::from(call.await.expect("it ends").status().is_success());
    }
    let handle = limit.handle();
    let rejected: u64 = handle
        .rejected()
        .iter()
        .map(|rejected| rejected.calls)
        .sum();
    assert_eq!((served, served + rejected), (handle.admitted(), 200));
    assert!(rejected > 0);
}
