//! One quota for many replicas, with a real Redis that each test starts and breaks in its own way.

mod faults;
#[path = "../rate_limit/lines.rs"]
mod lines;
mod nearby;
mod server;
mod together;

use std::{convert::Infallible, time::Duration};

use axum::body::Body;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use plimsoll::server::rate_limit::{
    Key, Quota, QuotaHeaders, RateLimitLayer, Redis, RedisRateLimitLayer, WhenAway,
};
use tower::{Layer, ServiceExt, service_fn};

const SECRET: &str = "s3cret-of-ann";
/// Longer than anything here takes that is not a matter of time.
const PATIENCE: Duration = Duration::from_secs(30);
/// For what is to be waited for in vain.
const BUDGET: Duration = Duration::from_millis(250);

fn limit(quota: &str, redis: &Redis, when_away: WhenAway) -> RedisRateLimitLayer {
    let quota: Quota = quota.parse().expect("a quota");
    let key = Key::header(HeaderName::from_static("x-api-key"));
    RateLimitLayer::new(key, quota)
        .headers(QuotaHeaders::Draft10)
        .in_redis(redis.clone(), when_away)
}

/// One that answers or is gone: that a machine stands still for a moment is no fault of it.
fn redis(url: &str) -> Redis {
    Redis::new(url).expect("a URL").budget(PATIENCE)
}

/// A call of somebody through one replica.
async fn call(layer: &RedisRateLimitLayer, who: &str) -> Response<()> {
    let mut request = Request::new(Body::empty());
    let who = HeaderValue::from_str(who).expect("a header");
    request.headers_mut().insert("x-api-key", who);
    send(layer, request).await
}

async fn send(layer: &RedisRateLimitLayer, request: Request<Body>) -> Response<()> {
    let service = layer.layer(service_fn(|_: Request<Body>| async {
        Ok::<_, Infallible>(Response::new(Body::empty()))
    }));
    let answer = service.oneshot(request).await.expect("infallible");
    answer.map(|_| ())
}

async fn status(layer: &RedisRateLimitLayer, who: &str) -> StatusCode {
    call(layer, who).await.status()
}

async fn admitted(layer: &RedisRateLimitLayer, calls: u32, who: &str) -> u32 {
    let mut admitted = 0;
    for _ in 0..calls {
        admitted += u32::from(status(layer, who).await == StatusCode::OK);
    }
    admitted
}

fn header<'a>(answer: &'a Response<()>, name: &str) -> Option<&'a str> {
    answer.headers().get(name)?.to_str().ok()
}

/// Asks again and again until it is so.
async fn soon(mut is_so: impl AsyncFnMut() -> bool) {
    let asking = async {
        let mut turns = tokio::time::interval(Duration::from_millis(20));
        while !is_so().await {
            turns.tick().await;
        }
    };
    let within = tokio::time::timeout(PATIENCE, asking).await;
    within.expect("it is so soon");
}
