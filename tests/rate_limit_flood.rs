//! A million made-up keys, in a process of their own: what the memory of the process does is seen best there.

use std::{convert::Infallible, fs, num::NonZeroUsize};

use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::Empty;
use plimsoll::server::rate_limit::{Key, QuotaHeaders, RateLimitLayer};
use tower::{Layer, Service, service_fn};

const KEYS: u32 = 1_000_000;
const CAP: usize = 100_000;

/// What is resident of this process, in bytes; `None` where that is not to be had.
fn resident() -> Option<usize> {
    let pages = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: usize = pages.split(' ').nth(1)?.parse().ok()?;
    Some(pages * 4_096)
}

#[tokio::test(start_paused = true)]
async fn a_million_keys_stay_within_the_cap_and_free_nobody() {
    let before = resident();
    let layer = RateLimitLayer::new(
        Key::header(HeaderName::from_static("x-api-key")),
        "2/h"
            .parse::<plimsoll::server::rate_limit::Quota>()
            .expect("a quota"),
    )
    .headers(QuotaHeaders::None)
    .max_keys(NonZeroUsize::new(CAP).expect("above 0"));
    let handle = layer.handle();
    let mut service = layer.layer(service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(Empty::new()))
    }));
    let mut call = async |key: u32| {
        let mut request = Request::new(());
        request
            .headers_mut()
            .insert("x-api-key", HeaderValue::from(key));
        service.call(request).await.expect("infallible").status()
    };

    for expected in [
        StatusCode::OK,
        StatusCode::OK,
        StatusCode::TOO_MANY_REQUESTS,
    ] {
        assert_eq!(call(u32::MAX).await, expected);
    }
    let mut admitted = 0;
    for key in 0..KEYS {
        admitted += usize::from(call(key).await == StatusCode::OK);
    }
    assert_eq!(
        call(u32::MAX).await,
        StatusCode::TOO_MANY_REQUESTS,
        "still limited"
    );
    assert_eq!(handle.keys(), CAP);
    assert_eq!(
        admitted,
        CAP - 1 + 2,
        "one each while there was room, then 2 for all others"
    );
    if let (Some(before), Some(after)) = (before, resident()) {
        let grown = after.saturating_sub(before);
        println!("{CAP} of {KEYS} keys took {grown} bytes");
        assert!(grown < 24 << 20, "{grown} bytes");
    }
}
