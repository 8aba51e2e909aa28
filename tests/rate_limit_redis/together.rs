use std::time::{Duration, Instant};

use http::StatusCode;
use plimsoll::server::rate_limit::{InvalidRedisUrl, Redis, WhenAway};

use crate::{SECRET, admitted, call, header, limit, redis, server::Server, soon};

#[tokio::test]
async fn three_replicas_hold_a_caller_to_one_quota() {
    let server = Server::start();
    let replicas = [(); 3].map(|()| limit("20/h", &redis(&server.url()), WhenAway::Closed));
    let mut sum = 0;
    for _ in 0..20 {
        for replica in &replicas {
            sum += admitted(replica, 1, SECRET).await;
        }
    }
    assert_eq!(sum, 20);
    let refused = call(&replicas[0], SECRET).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(
        header(&refused, "ratelimit-policy"),
        Some(r#""hour";q=20;w=3600"#)
    );
    let told = header(&refused, "ratelimit").expect("it is told");
    assert!(told.starts_with(r#""hour";r=0;t=1"#), "{told}");
    let wait: u64 = header(&refused, "retry-after")
        .expect("a hint")
        .parse()
        .expect("seconds");
    assert!((170..=180).contains(&wait), "{wait}");
    assert_eq!(header(&refused, "x-plimsoll-degraded"), None);
    // Another caller is another key.
    let other = call(&replicas[1], "bob").await;
    assert_eq!(header(&other, "ratelimit"), Some(r#""hour";r=19;t=180"#));

    let decisions = replicas.map(|replica| replica.handle().decisions()[0]);
    let all: u64 = decisions.iter().map(|told| told.admitted).sum();
    assert_eq!(all, 21);
    assert!(decisions.iter().all(|told| told.degraded == 0));
}

#[tokio::test]
async fn keys_are_hashed_short_and_end_by_themselves() {
    let server = Server::start();
    let layer = limit("20/s", &redis(&server.url()), WhenAway::Closed);
    for caller in 0..50 {
        assert_eq!(admitted(&layer, 1, &format!("{SECRET}-{caller}")).await, 1);
    }
    let keys = server.keys().await;
    for key in &keys {
        assert!(key.len() <= 64 && !key.contains(SECRET), "{key}");
        let left = server.command(&["PTTL", key]).await;
        // -2: it has ended already.
        assert!(
            matches!(left, redis::Value::Int(0..=1_001 | -2)),
            "{key} {left:?}"
        );
    }
    assert!(keys.len() <= 51);
    soon(async || server.keys().await.is_empty()).await;
}

#[tokio::test]
async fn a_quota_refilled_by_the_clock_of_redis_is_kept_and_used() {
    let server = Server::start();
    let (rate, burst) = (200_u32, 20_u32);
    let text = format!("{rate}/s burst {burst}");
    let run = Duration::from_millis(1_500);
    let began = Instant::now();
    let replicas = [(); 3].map(|()| {
        let layer = limit(&text, &redis(&server.url()), WhenAway::Closed);
        tokio::spawn(async move {
            let mut sum = 0;
            while began.elapsed() < run {
                sum += admitted(&layer, 1, SECRET).await;
            }
            sum
        })
    });
    let mut sum = 0;
    for replica in replicas {
        sum += replica.await.expect("no panic");
    }
    let elapsed = began.elapsed().as_secs_f64();
    let most = f64::from(burst) + f64::from(rate) * elapsed;
    assert!(f64::from(sum) <= most * 1.01 + 1.0, "{sum} of {most}");
    assert!(f64::from(sum) >= most * 0.80, "{sum} of {most}");
}

#[test]
fn no_url_is_repeated_that_may_hold_a_password() {
    assert_eq!(Redis::new("redis://:hunter2@").err(), Some(InvalidRedisUrl));
    assert_eq!(
        Redis::new("http://:hunter2@host/").err(),
        Some(InvalidRedisUrl)
    );
    let redis = Redis::new("redis://ann:hunter2@127.0.0.1:6379/1").expect("a URL");
    let shown = format!("{redis:?} {:?}", limit("1/s", &redis, WhenAway::Open));
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("127.0.0.1:6379"), "{shown}");
}
