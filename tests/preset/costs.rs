//! What the stack costs beyond its layers: nothing.

use std::{convert::Infallible, future::Future, time::Duration};

use axum::body::Body;
use futures_util::FutureExt as _;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use plimsoll::{
    caller::Key,
    limit::Limit,
    preset,
    server::{
        access_log::AccessLogLayer,
        back_pressure::BackPressureLayer,
        body_limit::BodyLimitLayer,
        catch_panic::CatchPanicLayer,
        metrics::MetricsLayer,
        rate_limit::{Quota, RateLimitLayer},
        request_id::RequestIdLayer,
        timeout::TimeoutLayer,
        trace_context::TraceContextLayer,
    },
};
use tower::{Layer, Service, ServiceBuilder, service_fn};

use crate::common::get;

async fn hello(_: Request<Body>) -> Result<Response<Body>, Infallible> {
    Ok(Response::new(Body::from("hello")))
}

/// Allocations of a call of each of these services, once all is warm.
fn allocations<S, B>(mut service: S) -> u64
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible>,
    B: http_body::Body,
{
    let mut call = || {
        let answer = service.call(get("/")).now_or_never().expect("nobody waits");
        let body = answer.expect("an answer").into_body();
        assert!(body.collect().now_or_never().expect("nobody waits").is_ok());
    };
    for _ in 0..100 {
        call();
    }
    // Ids are made in batches.
    let counts = (0..64).map(|_| allocation_counter::measure(&mut call).count_total);
    counts.min().expect("there were some")
}

fn quota() -> Quota {
    Quota::per_second(1_000_000).whole().expect("a quota")
}

fn by_hand() -> impl Layer<
    Inner,
    Service: Service<Request<Body>, Response = Response<impl http_body::Body>, Error = Infallible>,
> {
    let head = Duration::from_secs(30);
    ServiceBuilder::new()
        .layer(RequestIdLayer::new())
        .layer(TraceContextLayer::global())
        .layer(AccessLogLayer::new())
        .layer(MetricsLayer::global())
        .layer(TimeoutLayer::new().head(head))
        .layer(RateLimitLayer::new(Key::everyone(), quota()))
        .layer(BackPressureLayer::new(Limit::adaptive()))
        .layer(BodyLimitLayer::default())
        .layer(CatchPanicLayer::new())
        .into_inner()
}

type Answer = std::pin::Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;
type Inner = tower::util::ServiceFn<fn(Request<Body>) -> Answer>;

fn inner() -> Inner {
    service_fn(|request| Box::pin(hello(request)))
}

#[test]
fn a_call_allocates_as_much_as_in_layers_put_together_by_hand() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _entered = runtime.enter();
    let none: [(&str, &str); 0] = [];
    let setup = preset::server("shop").variables(none);
    let stack = setup.rate_limit(Key::everyone(), quota()).build();
    let stack = stack.expect("nothing is wrong with it");
    let own = allocations(by_hand().layer(inner()));
    assert!(own > 0, "it counts");
    assert_eq!(allocations(stack.layer().layer(inner())), own);
    let off = preset::server("shop").variables([
        ("PLIMSOLL_REQUEST_ID_ENABLED", "false"),
        ("PLIMSOLL_TRACE_CONTEXT_ENABLED", "false"),
        ("PLIMSOLL_ACCESS_LOG_ENABLED", "false"),
        ("PLIMSOLL_METRICS_ENABLED", "false"),
        ("PLIMSOLL_TIMEOUT_ENABLED", "false"),
        ("PLIMSOLL_BACK_PRESSURE_ENABLED", "false"),
        ("PLIMSOLL_BODY_LIMIT_ENABLED", "false"),
        ("PLIMSOLL_CATCH_PANIC_ENABLED", "false"),
    ]);
    let off = off.build().expect("nothing is wrong with it");
    let bare = allocations(inner());
    assert_eq!(allocations(off.layer().layer(inner())), bare);
}
