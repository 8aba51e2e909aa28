//! What the heap is asked for.

use std::convert::Infallible;

use axum::{Router, body::Body, routing::get};
use futures_util::FutureExt as _;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use plimsoll::{caller::Key, limit::Limit, server::catch_panic::CatchPanicLayer};
use tower::{Layer, Service, ServiceExt};

use crate::support::{by_header, fixed, queueing, shedding};

const CALLS: u64 = 1_000;

/// Calls so often, one after another, each to the end of its body; what all that asks of the heap.
fn allocations<S, B>(service: S) -> u64
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone,
    B: http_body::Body<Data = bytes::Bytes>,
    B::Error: std::fmt::Debug,
{
    let call = || {
        let answer = service.clone().oneshot(Request::new(Body::empty()));
        let answer = answer
            .now_or_never()
            .expect("it is ready")
            .expect("infallible");
        let body = answer.into_body().collect().now_or_never();
        body.expect("it is ready").expect("a whole body");
    };
    // Until all has its size.
    for _ in 0..CALLS {
        call();
    }
    allocation_counter::measure(|| (0..CALLS).for_each(|_| call())).count_total
}

fn bare()
-> impl Service<Request<Body>, Response = Response<String>, Error = Infallible, Future: Send> + Clone
{
    tower::service_fn(|_: Request<Body>| async { Ok(Response::new(String::new())) })
}

/// Nothing for each call. What an adaptive limit knows of the past grows now and then, as time passes.
fn assert_none(allocations: u64, base: u64) {
    let more = allocations.saturating_sub(base);
    assert!(more < CALLS / 100, "{more} more than {base}");
}

/// Neither alone nor within a stack.
#[test]
fn a_call_that_is_let_in_costs_no_allocation() {
    let stack = CatchPanicLayer::new();
    let base = allocations(stack.layer(bare()));
    for limit in [Limit::adaptive(), fixed(9)] {
        assert_none(
            allocations(stack.layer(shedding(&limit).layer(bare()))),
            base,
        );
        assert_none(
            allocations(stack.layer(queueing(&limit).layer(bare()))),
            base,
        );
        let ruled = shedding(&limit)
            .fair_share(Key::everyone())
            .priority_by(by_header);
        assert_none(allocations(stack.layer(ruled.layer(bare()))), base);
        let base = allocations(bare());
        assert_none(allocations(shedding(&limit).layer(bare())), base);
        assert_none(allocations(queueing(&limit).layer(bare())), base);
    }
}

/// Nor does a rejection ask the heap for more than a route that answers at once.
#[tokio::test]
async fn a_rejection_costs_no_more_allocations_than_a_call() {
    for never in [false, true] {
        let limit = fixed(1);
        let layer = shedding(&limit);
        let layer = if never { layer.never_retry() } else { layer };
        let app: Router = Router::new()
            .route("/", get(async || "fine"))
            .layer((CatchPanicLayer::new(), layer));
        let base = allocations(app.clone());
        let first = app.clone().oneshot(Request::new(Body::empty())).await;
        assert_eq!(limit.handle().in_flight(), 1, "its body is not read");
        let rejected = allocations(app);
        drop(first);
        assert!(limit.handle().rejected()[0].calls >= 2 * CALLS);
        println!("{rejected} of a rejection, {base} of a call, in {CALLS}");
        assert!(
            rejected <= base,
            "{rejected} of a rejection, {base} of a call"
        );
    }
}
