use std::time::{Duration, Instant};

use axum::body::Body;
use http::{Request, StatusCode};
use plimsoll::server::rate_limit::{InvalidRedisUrl, Redis, WhenAway};

use crate::{SECRET, admitted, call, header, limit, redis, send, server::Server, soon};

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
    let (rate, burst) = (5_u32, 3_u32);
    let text = format!("{rate}/s burst {burst}");
    let interval = Duration::from_secs(1) / rate;
    let replicas = [(); 3].map(|()| limit(&text, &redis(&server.url()), WhenAway::Closed));
    let mut replicas = replicas.iter().cycle();
    let began = Instant::now();
    let (mut sum, mut refused) = (0, 0);
    while refused < 8 {
        let replica = replicas.next().expect("there is always another");
        let answer = send(replica, of_grpc()).await;
        let Some(wait) = header(&answer, "grpc-retry-pushback-ms") else {
            sum += 1;
            continue;
        };
        refused += 1;
        let wait = Duration::from_millis(wait.parse().expect("milliseconds"));
        assert!(wait <= interval, "the next one is not far: {wait:?}");
        // sleeps: as it was told to, whatever else has held it up
        tokio::time::sleep(wait).await;
        let another = replicas.next().expect("there is always another");
        let answer = send(another, of_grpc()).await;
        assert_eq!(header(&answer, "grpc-retry-pushback-ms"), None);
        sum += 1;
    }
    let most = f64::from(burst) + f64::from(rate) * began.elapsed().as_secs_f64();
    assert!(f64::from(sum) <= most * 1.01 + 1.0, "{sum} of {most}");
}

fn of_grpc() -> Request<Body> {
    let request = Request::post("/").header("content-type", "application/grpc");
    let request = request.header("x-api-key", SECRET);
    request.body(Body::empty()).expect("a request")
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
