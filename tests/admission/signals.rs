//! What an adaptive limit takes for a sample, and what it does not.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::body::Body;
use futures_util::future::join_all;
use http::{Request, Response, StatusCode};
use plimsoll::limit::{Limit, LimitHandle};
use tokio::{sync::Semaphore, time::timeout};
use tower::{Layer, ServiceExt, service_fn};

use crate::{
    common::Dice,
    support::{AnyBody, Boxed, ms, queueing},
};

/// A backend of 16 workers that take 20 ms; some calls fail at once.
fn backend(limit: &Limit) -> Boxed {
    let workers = Arc::new(Semaphore::new(16));
    let service = service_fn(move |request: Request<Body>| {
        let workers = Arc::clone(&workers);
        async move {
            let status = match request.uri().path() {
                "/absent" => StatusCode::NOT_FOUND,
                "/broken" => StatusCode::INTERNAL_SERVER_ERROR,
                "/slow-broken" => {
                    // sleeps: on the paused clock
                    tokio::time::sleep(ms(2_000)).await;
                    StatusCode::BAD_GATEWAY
                }
                _ => {
                    let _worker = workers.acquire().await;
                    // sleeps: on the paused clock
                    tokio::time::sleep(ms(20)).await;
                    StatusCode::OK
                }
            };
            let mut response = Response::new(Body::empty());
            *response.status_mut() = status;
            Ok::<_, Infallible>(response)
        }
    });
    queueing(limit).layer(service).any()
}

/// Sends so many calls a second for this time; those not ended after `patience` are dropped. How many were answered 200.
async fn load(
    service: &Boxed,
    per_second: u32,
    time: Duration,
    patience: Duration,
    path: impl Fn(&mut Dice) -> &'static str,
) -> usize {
    let mut dice = Dice(7);
    let mut calls = Vec::new();
    let end = tokio::time::Instant::now() + time;
    let mut next = tokio::time::Instant::now();
    while next < end {
        // sleeps: on the paused clock
        tokio::time::sleep_until(next).await;
        let request = Request::builder().uri(path(&mut dice)).body(Body::empty());
        let call = service.clone().oneshot(request.expect("a request"));
        // Only the status is kept: the body is dropped with its end.
        calls.push(tokio::spawn(async move {
            let ended = timeout(patience, call).await.ok()?;
            Some(ended.expect("infallible").status())
        }));
        next += Duration::from_secs(1) / per_second;
    }
    let ended = join_all(calls).await.into_iter();
    ended
        .filter_map(|call| call.expect("no panic"))
        .filter(StatusCode::is_success)
        .count()
}

const LONG: Duration = Duration::from_secs(60);

async fn warmed(limit: &Limit) -> (Boxed, LimitHandle) {
    let service = backend(limit);
    let served = load(&service, 400, ms(4_000), LONG, |_| "/").await;
    assert!(served > 1_590, "{served}");
    let handle = limit.handle();
    assert_eq!(handle.in_flight(), 0);
    (service, handle)
}

#[tokio::test(start_paused = true)]
async fn nothing_grows_while_the_limit_is_not_used() {
    let limit = Limit::adaptive();
    let (service, handle) = warmed(&limit).await;
    load(&service, 100, ms(20_000), LONG, |_| "/").await;
    assert_eq!(handle.limit(), 16);
}

#[tokio::test(start_paused = true)]
async fn fast_errors_move_nothing() {
    for path in ["/absent", "/broken"] {
        let limit = Limit::adaptive();
        let (service, handle) = warmed(&limit).await;
        let before = handle.limit();
        // Nine of ten calls fail at once, for 10 s.
        let mixed = |dice: &mut Dice| if dice.roll(10) > 0 { path } else { "/" };
        load(&service, 2_000, ms(10_000), LONG, mixed).await;
        assert!(handle.limit().abs_diff(before) <= 2, "{path}: {handle:?}");
        // Had they been samples, the backend's own time would look like an overload now.
        let served = load(&service, 700, ms(4_000), LONG, |_| "/").await;
        assert!(served > 2_750, "{path}: {served} {handle:?}");
    }
}

/// While a few calls hang, they hold most permits, and the limit cannot tell them from a slow service; that is the work of
/// a circuit breaker. But it comes back.
#[tokio::test(start_paused = true)]
async fn after_calls_that_hung_all_is_as_before() {
    let limit = Limit::adaptive();
    let (service, handle) = warmed(&limit).await;
    let mixed = |dice: &mut Dice| {
        if dice.roll(100) == 0 {
            "/slow-broken"
        } else {
            "/"
        }
    };
    load(&service, 600, ms(10_000), LONG, mixed).await;
    load(&service, 700, ms(5_000), LONG, |_| "/").await;
    let served = load(&service, 700, ms(4_000), LONG, |_| "/").await;
    assert!(served > 2_750, "{served} {handle:?}");
}

#[tokio::test(start_paused = true)]
async fn calls_that_nobody_waits_for_are_no_samples() {
    let limit = Limit::adaptive();
    let (service, handle) = warmed(&limit).await;
    // All of them are dropped before they end, for 10 s.
    let served = load(&service, 1_000, ms(10_000), ms(5), |_| "/").await;
    assert_eq!(served, 0);
    assert_eq!((handle.in_flight(), handle.waiting()), (0, 0));
    assert!(handle.limit() >= 1);
    // Within 10 s all is as before.
    load(&service, 700, ms(10_000), LONG, |_| "/").await;
    let served = load(&service, 700, ms(2_000), LONG, |_| "/").await;
    assert!(served > 1_260, "{served} {handle:?}");
}

/// A deadline that passes in the service is congestion: the calls are slow, and end as errors.
#[tokio::test(start_paused = true)]
async fn the_limit_stays_within_its_bounds() {
    let bounds = |count| std::num::NonZeroUsize::new(count).expect("above 0");
    let limit = Limit::adaptive()
        .between(bounds(4), bounds(20))
        .initial(bounds(8));
    let (service, handle) = warmed(&limit).await;
    for _ in 0..10 {
        load(&service, 4_000, ms(1_000), LONG, |_| "/").await;
        assert!((4..=20).contains(&handle.limit()), "{handle:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_untuned_limit_finds_twice_the_load_its_level() {
    let limit = Limit::adaptive();
    let (service, handle) = warmed(&limit).await;
    load(&service, 1_600, ms(5_000), LONG, |_| "/").await;
    let served = load(&service, 1_600, ms(5_000), LONG, |_| "/").await;
    // 16 workers of 20 ms serve 800 a second.
    assert!((3_880..4_100).contains(&served), "{served} {handle:?}");
    assert!((16..40).contains(&handle.limit()), "{handle:?}");
}
