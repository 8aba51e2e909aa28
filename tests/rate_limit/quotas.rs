use std::{num::NonZeroUsize, time::Duration};

use axum::body::Body;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use plimsoll::{
    rejection::{Reason, Rejection},
    server::rate_limit::{InvalidWeight, Key, Quota, QuotaHeaders, RateLimitLayer},
};
use tokio::time::advance;
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{api_key, grpc, header, limited, quota, quotas, request, request_from};

#[tokio::test(start_paused = true)]
async fn whoever_waits_as_long_as_told_is_admitted() {
    let service = limited(&RateLimitLayer::new(api_key(), quota("3/10s")));
    assert_eq!(service.admitted(3, || request("ann")).await, 3);
    for round in 0..100_u64 {
        advance(Duration::from_millis(37 * (round % 7))).await;
        let refused = service.call(request("ann")).await;
        assert_eq!(
            refused.status(),
            StatusCode::TOO_MANY_REQUESTS,
            "round {round}"
        );
        let wait: u64 = header(&refused, "retry-after")
            .expect("a hint")
            .parse()
            .expect("seconds");
        assert!((1..=4).contains(&wait), "{wait}");
        advance(Duration::from_secs(wait)).await;
        assert_eq!(
            service.admitted(1, || request("ann")).await,
            1,
            "round {round}"
        );
        // Back to nothing left, whatever the rounding gave away.
        while service.admitted(1, || request("ann")).await == 1 {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_of_grpc_is_told_in_its_own_way_and_to_the_millisecond() {
    let service = limited(&RateLimitLayer::new(api_key(), quota("10/s burst 1")));
    assert_eq!(
        header(&service.call(grpc(request("ann"))).await, "grpc-status"),
        Some("0")
    );
    advance(Duration::from_micros(500)).await;
    let refused = service.call(grpc(request("ann"))).await;
    assert_eq!(refused.status(), StatusCode::OK);
    assert_eq!(header(&refused, "grpc-status"), Some("8"));
    assert_eq!(header(&refused, "plimsoll-reason"), Some("rate_limited"));
    assert_eq!(header(&refused, "grpc-retry-pushback-ms"), Some("100"));
    assert_eq!(header(&refused, "retry-after"), None);
    assert_eq!(header(&refused, "ratelimit"), Some(r#""second";r=0;t=1"#));
    assert!(refused.body().is_empty());
    advance(Duration::from_millis(100)).await;
    assert_eq!(
        header(&service.call(grpc(request("ann"))).await, "grpc-status"),
        Some("0")
    );
    assert_eq!(service.served(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_rejection_says_why_and_calls_nobody() {
    let service = limited(&RateLimitLayer::new(api_key(), quota("1/h")));
    assert_eq!(service.admitted(5, || request("ann")).await, 1);
    let refused = service.call(request("ann")).await;
    assert_eq!(service.served(), 1);
    assert_eq!(
        header(&refused, "content-type"),
        Some("application/problem+json")
    );
    assert_eq!(header(&refused, "cache-control"), Some("no-store"));
    assert_eq!(header(&refused, "plimsoll-reason"), Some("rate_limited"));
    assert_eq!(header(&refused, "retry-after"), Some("3600"));
    let problem: serde_json::Value = serde_json::from_slice(refused.body()).expect("JSON");
    assert_eq!(problem["reason"], "rate_limited");
    let rejection = refused
        .extensions()
        .get::<Rejection>()
        .expect("it tells why");
    assert_eq!(rejection.reason(), Reason::RateLimited);
    assert_eq!(
        (rejection.layer(), rejection.which()),
        ("rate_limit", Some("hour"))
    );
}

#[tokio::test(start_paused = true)]
async fn what_headers_tell_is_what_happens() {
    let layer = RateLimitLayer::new(api_key(), quotas("4/s burst 2 and 5/h"));
    let service = limited(&layer.headers(QuotaHeaders::Both));
    for (remaining, line) in [
        ("1", r#""second";r=1;t=1, "hour";r=4;t=720"#),
        ("0", r#""second";r=0;t=1, "hour";r=3;t=720"#),
    ] {
        let answer = service.call(request("ann")).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(header(&answer, "ratelimit"), Some(line));
        assert_eq!(
            header(&answer, "ratelimit-policy"),
            Some(r#""second";q=2;w=1, "hour";q=5;w=3600"#)
        );
        assert_eq!(header(&answer, "x-ratelimit-remaining"), Some(remaining));
        assert_eq!(header(&answer, "x-ratelimit-limit"), Some("2"));
        assert_eq!(header(&answer, "x-ratelimit-reset"), Some("1"));
    }
    let refused = service.call(request("ann")).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(
        header(&refused, "ratelimit"),
        Some(r#""second";r=0;t=1, "hour";r=3;t=720"#)
    );
    assert_eq!(header(&refused, "retry-after"), Some("1"));
    // Another caller is told of his own.
    let other = service.call(request("bob")).await;
    assert_eq!(header(&other, "x-ratelimit-remaining"), Some("1"));

    let silent = limited(&RateLimitLayer::new(api_key(), quota("1/s")).headers(QuotaHeaders::None));
    let answer = silent.call(request("ann")).await;
    assert!(
        answer
            .headers()
            .keys()
            .all(|name| !name.as_str().contains("ratelimit"))
    );
}

#[tokio::test(start_paused = true)]
async fn several_quotas_hold_together_and_a_refusal_spends_nothing() {
    let service = limited(&RateLimitLayer::new(api_key(), quotas("10/s and 15/h")));
    // A hundred calls at once: the 90 that 10/s refuses leave 15/h alone.
    assert_eq!(service.admitted(100, || request("ann")).await, 10);
    advance(Duration::from_secs(10)).await;
    assert_eq!(service.admitted(100, || request("ann")).await, 5);
    let refused = service.call(request("ann")).await;
    let rejection = refused
        .extensions()
        .get::<Rejection>()
        .expect("it tells why");
    assert_eq!(rejection.which(), Some("hour"));
}

#[tokio::test(start_paused = true)]
async fn tiers_have_quotas_of_their_own() {
    let layer = RateLimitLayer::new(api_key(), quota("1/h"))
        .tier("paid", quota("5/h"))
        .expect("no route weighs anything")
        .tier_of(|call| {
            let paid = call
                .headers
                .get("x-api-key")?
                .as_bytes()
                .starts_with(b"paid-");
            Some(if paid { "paid" } else { "no such tier" })
        });
    let service = limited(&layer);
    assert_eq!(service.admitted(10, || request("paid-ann")).await, 5);
    assert_eq!(service.admitted(10, || request("bob")).await, 1);
    let decisions = layer.handle().decisions();
    let told: Vec<_> = decisions
        .iter()
        .map(|told| (told.policy, told.admitted, told.rejected))
        .collect();
    assert_eq!(told, [("default", 1, 9), ("paid", 5, 5)]);
}

#[tokio::test(start_paused = true)]
async fn a_costly_call_takes_what_it_weighs() {
    let by_function = RateLimitLayer::new(api_key(), quota("10/h")).weigh(|call| {
        call.headers.get("weight").map_or(1, |weight| {
            weight.to_str().expect("text").parse().expect("a weight")
        })
    });
    let service = limited(&by_function);
    let weighing = |weight: &'static str| {
        let mut request = request("ann");
        request
            .headers_mut()
            .insert("weight", http::HeaderValue::from_static(weight));
        request
    };
    assert_eq!(service.admitted(1, || weighing("6")).await, 1);
    assert_eq!(service.admitted(1, || weighing("5")).await, 0);
    assert_eq!(service.admitted(9, || weighing("1")).await, 4);
    assert_eq!(
        service.admitted(9, || weighing("0")).await,
        9,
        "what weighs nothing passes"
    );
    let never = service.call(weighing("11")).await;
    assert_eq!(never.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(
        header(&never, "retry-after"),
        None,
        "waiting would not help"
    );
    assert_eq!(
        header(
            &service.call(grpc(weighing("11"))).await,
            "grpc-retry-pushback-ms"
        ),
        Some("-1")
    );

    let layer = || RateLimitLayer::new(api_key(), quotas("10/h and 4/s"));
    let error = layer()
        .weigh_routes([("/menu", 1), ("/reports/{id}", 5)])
        .expect_err("5 are more than 4");
    let InvalidWeight {
        route,
        weight,
        burst,
        ..
    } = &error;
    assert_eq!((route.as_str(), *weight, *burst), ("/reports/{id}", 5, 4));
    let weighed = layer().weigh_routes([("/reports/{id}", 4)]);
    let weighed = weighed.expect("4 are not more than 4");
    // Tiers that come later are held to it too.
    assert!(weighed.clone().tier("small", quota("4/h")).is_ok());
    let error = weighed.tier("small", quota("3/h")).expect_err("4 are more");
    assert_eq!((error.weight, error.burst), (4, 3));
}

#[tokio::test(start_paused = true)]
async fn a_call_is_charged_for_what_it_turned_out_to_be() {
    // `espresso` has 8 bytes: 1 beforehand and 8 after.
    let layer = RateLimitLayer::new(api_key(), quota("10/h"))
        .charge_after(|answer| u32::try_from(answer.bytes).expect("few"));
    let service = limited(&layer);
    assert_eq!(service.admitted(3, || request("ann")).await, 2);
    let refused = service.call(request("ann")).await;
    // 18 spent of 10, and one more wanted: 9 x 6 minutes.
    assert_eq!(header(&refused, "retry-after"), Some("3240"));
    assert_eq!(service.admitted(1, || request("bob")).await, 1);
}

#[tokio::test(start_paused = true)]
async fn made_up_keys_share_one_quota_past_the_cap_and_free_nobody() {
    let layer = RateLimitLayer::new(api_key(), quota("2/h"))
        .max_keys(NonZeroUsize::new(100).expect("above 0"));
    let (service, handle) = (limited(&layer), layer.handle());
    assert_eq!(service.admitted(3, || request("limited")).await, 2);
    let mut admitted = 0;
    for made_up in 0..10_000 {
        admitted += service
            .admitted(1, || request(&format!("made-up-{made_up}")))
            .await;
        assert!(handle.keys() <= 100);
    }
    assert_eq!(
        admitted,
        99 + 2,
        "one each while there is room, and then 2 for all of them"
    );
    assert_eq!(handle.overflowed(), 9_901);
    assert_eq!(
        service.admitted(1, || request("limited")).await,
        0,
        "still limited"
    );
    advance(Duration::from_secs(2 * 3_600)).await;
    assert_eq!(handle.keys(), 0, "all have all of their burst again");
    assert_eq!(service.admitted(3, || request("made-up-5000")).await, 2);
}

#[tokio::test(start_paused = true)]
async fn clones_share_one_store_and_so_do_services_of_one_layer() {
    let layer = RateLimitLayer::new(Key::peer(), Quota::per_hour(4).burst(4).expect("a quota"));
    let (one, other) = (limited(&layer), limited(&layer.clone()));
    assert_eq!(one.admitted(3, || request_from("192.0.2.1")).await, 3);
    assert_eq!(other.admitted(3, || request_from("192.0.2.1")).await, 1);
    let apart = limited(&layer.named("apart"));
    assert_eq!(apart.admitted(3, || request_from("192.0.2.1")).await, 3);
}

#[test]
fn threads_together_admit_exactly_the_burst() {
    let layer = RateLimitLayer::new(api_key(), quotas("1000/d and 2000/h"));
    let service = limited(&layer);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let service = service.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                let calls = async {
                    let mut admitted = 0;
                    for who in 0..1_000 {
                        let who = if who % 2 == 0 { "ann" } else { "bob" };
                        admitted += service.admitted(1, || request(who)).await;
                    }
                    admitted
                };
                runtime.expect("a runtime").block_on(calls)
            })
        })
        .collect();
    let admitted: u32 = threads
        .into_iter()
        .map(|thread| thread.join().expect("no panic"))
        .sum();
    assert_eq!(admitted, 2_000);
    let decisions = layer.handle().decisions();
    assert_eq!(
        (decisions[0].admitted, decisions[0].rejected),
        (2_000, 2_000)
    );
}

#[tokio::test(start_paused = true)]
async fn each_admitted_call_is_charged_once_however_it_ends() {
    let (ends, told) = std::sync::mpsc::channel();
    let layer = RateLimitLayer::new(Key::everyone(), quota("4/h")).charge_after(move |answer| {
        let end = (answer.status.map(|status| status.as_u16()), answer.bytes);
        ends.send(end).expect("somebody listens");
        0
    });
    let service = layer.layer(service_fn(|request: Request<Body>| async move {
        match request.uri().path() {
            "/fails" => Err("the beans are gone"),
            _ => Ok(Response::new(Body::from("espresso"))),
        }
    }));
    let call = |path: &'static str| {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = http::Uri::from_static(path);
        service.clone().oneshot(request)
    };
    let answer = call("/menu").await.expect("it answers");
    let mut body = answer.into_body();
    assert!(told.try_recv().is_err(), "it has not ended");
    body.frame().await.expect("a frame").expect("no error");
    assert!(body.frame().await.is_none());
    assert_eq!(told.try_recv(), Ok((Some(200), 8)));
    drop(body);
    drop(call("/menu").await.expect("its body is dropped"));
    assert_eq!(told.try_recv(), Ok((Some(200), 0)));
    call("/fails").await.expect_err("the service fails");
    assert_eq!(told.try_recv(), Ok((None, 0)));
    let mut polled = tokio_test::task::spawn(call("/menu"));
    assert!(polled.poll().is_ready(), "and nobody takes the answer");
    drop(polled);
    assert_eq!(told.try_recv(), Ok((Some(200), 0)));
    let refused = call("/menu").await.expect("it answers");
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    drop(refused);
    assert!(told.try_recv().is_err(), "a rejected call is not charged");
}
