use std::{num::NonZeroUsize, time::Duration};

use http::StatusCode;
use plimsoll::{
    gauge::Gauges,
    server::rate_limit::{InvalidChange, Key, RateLimitLayer, ShownKey},
};
use tokio::time::advance;

use crate::lines::Lines;
use crate::support::{api_key, header, limited, quota, quotas, request, request_from};

#[tokio::test(start_paused = true)]
async fn a_storm_of_rejections_is_a_few_lines_with_every_one_counted() {
    let lines = Lines::keep();
    let layer = RateLimitLayer::new(api_key(), quota("1/h")).named("per_key");
    let service = limited(&layer);
    assert_eq!(service.admitted(1, || request("s3cret-ann")).await, 1);
    assert!(lines.text().is_empty());
    for _ in 0..250 {
        service.admitted(4, || request("s3cret-ann")).await;
        advance(Duration::from_millis(100)).await;
    }
    let told = lines.with("event=\"rate_limited\"");
    assert_eq!(
        told.len(),
        3,
        "at once, after 10 s and after 20 s: {}",
        lines.text()
    );
    assert!(told.iter().all(|line| line.contains("policy=\"per_key\"")));
    // The end of the storm is told by whoever comes next, admitted or not.
    advance(Duration::from_secs(30)).await;
    assert_eq!(service.admitted(1, || request("s3cret-bob")).await, 1);
    let told = lines.with("event=\"rate_limited\"");
    let calls = told.iter().map(|line| {
        let calls = line
            .split(" calls=")
            .nth(1)
            .expect("a number")
            .split(' ')
            .next();
        calls.expect("a number").parse::<u64>().expect("a number")
    });
    assert_eq!(calls.sum::<u64>(), 1_000);
    assert!(!lines.text().contains("s3cret"), "no key is logged");
}

#[tokio::test(start_paused = true)]
async fn what_no_line_has_told_is_told_when_the_layer_goes() {
    let lines = Lines::keep();
    let service = {
        let layer = RateLimitLayer::new(api_key(), quota("1/h"));
        limited(&layer)
    };
    assert_eq!(service.admitted(6, || request("ann")).await, 1);
    drop(service);
    let told = lines.with("event=\"rate_limited\"");
    assert_eq!(told.len(), 2, "{}", lines.text());
    assert!(
        told.last().expect("a line").contains(" calls=4 "),
        "{}",
        lines.text()
    );
}

#[tokio::test(start_paused = true)]
async fn the_worst_offenders_are_known_and_no_secret_is_shown() {
    let by_key = RateLimitLayer::new(api_key(), quota("1/h"));
    let service = limited(&by_key);
    for (who, calls) in [("s3cret-ann", 31), ("s3cret-bob", 11), ("s3cret-cid", 2)] {
        service.admitted(calls, || request(who)).await;
    }
    let offenders = by_key.handle().top_offenders(2);
    let rejected: Vec<u64> = offenders.iter().map(|offender| offender.rejected).collect();
    assert_eq!(rejected, [30, 10]);
    assert!(!format!("{:?} {offenders:?} {:?}", by_key, by_key.handle()).contains("s3cret"));

    let by_peer = RateLimitLayer::new(Key::peer().and(api_key()), quota("1/h"));
    let service = limited(&by_peer);
    let from = || {
        let mut request = request_from("192.0.2.1");
        request
            .headers_mut()
            .extend(crate::support::request("ann").headers().clone());
        request
    };
    service.admitted(3, from).await;
    let offenders = by_peer.handle().top_offenders(9);
    let address = "192.0.2.1".parse().expect("an address");
    assert_eq!(
        offenders.first().map(|offender| offender.key),
        Some(ShownKey::Address(address))
    );
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_refuses_nothing_and_counts_what_it_would() {
    let layer = RateLimitLayer::new(api_key(), quota("3/h")).dry_run();
    let (service, handle) = (limited(&layer), layer.handle());
    for _ in 0..10 {
        let answer = service.call(request("ann")).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(header(&answer, "ratelimit"), None);
    }
    let told = handle.decisions()[0];
    assert_eq!((told.admitted, told.rejected, told.would_reject), (3, 0, 7));
    handle.set_dry_run(false);
    assert_eq!(service.admitted(5, || request("ann")).await, 0);
    assert_eq!(handle.decisions()[0].rejected, 5);
}

#[tokio::test(start_paused = true)]
async fn quotas_change_while_it_runs_and_nobody_starts_afresh() {
    let layer = RateLimitLayer::new(api_key(), quota("10/h"));
    let (service, handle) = (limited(&layer), layer.handle());
    assert_eq!(service.admitted(20, || request("ann")).await, 10);
    handle
        .set_quotas("default", quota("20/h"))
        .expect("a policy");
    assert_eq!(
        service.admitted(1, || request("ann")).await,
        0,
        "what is spent stays spent"
    );
    advance(Duration::from_secs(180)).await;
    assert_eq!(
        service.admitted(9, || request("ann")).await,
        1,
        "one in three minutes now"
    );
    assert_eq!(service.admitted(50, || request("bob")).await, 20);
    assert_eq!(handle.quotas("default"), Some(quotas("20/h")));
    let answer = service.call(request("cid")).await;
    assert_eq!(
        header(&answer, "ratelimit-policy"),
        Some(r#""hour";q=20;w=3600"#)
    );

    assert_eq!(
        handle.set_quotas("paid", quota("1/s")),
        Err(InvalidChange::NoSuchPolicy)
    );
    let two = handle.set_quotas("default", quotas("1/s and 5/h"));
    assert_eq!(two, Err(InvalidChange::TooMany { most: 1 }));
    let weighed = RateLimitLayer::new(api_key(), quota("10/h")).weigh_routes([("/reports", 5)]);
    let handle = weighed.expect("5 of 10").handle();
    assert_eq!(
        handle.set_quotas("default", quota("4/h")),
        Err(InvalidChange::TooLittle { weight: 5 })
    );
}

#[tokio::test(start_paused = true)]
async fn a_tier_that_is_not_there_is_told_and_counted() {
    let lines = Lines::keep();
    let layer = RateLimitLayer::new(api_key(), quota("3/h")).tier_of(|_| Some("platinum"));
    let (service, handle) = (limited(&layer), layer.handle());
    assert_eq!(
        service.admitted(5, || request("ann")).await,
        3,
        "the layer's own policy holds"
    );
    assert_eq!(handle.unknown_tiers(), 5);
    let told = lines.with("event=\"rate_limit_unknown_tier\"");
    assert_eq!(told.len(), 1, "{}", lines.text());
    assert!(
        told[0].contains("tier=\"platinum\"") && told[0].contains("WARN plimsoll::rate_limit"),
        "{told:?}"
    );
    drop((service, handle, layer));
    let told = lines.with("event=\"rate_limit_unknown_tier\"");
    assert!(told[1].contains(" calls=4 "), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_full_table_is_told_at_once_and_then_every_ten_seconds() {
    let lines = Lines::keep();
    let layer = RateLimitLayer::new(api_key(), quota("100/d burst 1"));
    let layer = layer.max_keys(NonZeroUsize::new(10).expect("above 0"));
    let service = limited(&layer);
    for second in 0..25 {
        service
            .admitted(1, || request(&format!("made-up-{second}")))
            .await;
        advance(Duration::from_secs(1)).await;
    }
    let told = lines.with("event=\"rate_limit_no_room\"");
    let calls: Vec<bool> = [" calls=1 ", " calls=10 "]
        .iter()
        .zip(&told)
        .map(|(calls, line)| line.contains(calls) && line.contains("max_keys=10"))
        .collect();
    assert_eq!(calls, [true, true], "{}", lines.text());
    assert_eq!(told.len(), 2);
    assert_eq!(layer.handle().overflowed(), 15);
}

#[tokio::test(start_paused = true)]
async fn what_has_no_key_is_told_how_to_have_one() {
    let lines = Lines::keep();
    let service = limited(&RateLimitLayer::new(Key::peer(), quota("5/h")));
    service.call(request("ann")).await;
    let told = lines.with("event=\"rate_limit_missing_key\"");
    for part in [
        "ERROR plimsoll::rate_limit",
        "`axum`",
        "`tonic`",
        "into_make_service_with_connect_info",
    ] {
        assert!(told[0].contains(part), "{part}: {told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handle_tells_metrics() {
    let layer = RateLimitLayer::new(api_key(), quota("2/h"))
        .named("per_key")
        .tier("paid", quota("5/h"))
        .expect("no route weighs anything")
        .tier_of(|call| (call.headers.get("x-api-key")? == "paid").then_some("paid"));
    let (service, handle) = (limited(&layer), layer.handle());
    assert_eq!(service.admitted(3, || request("ann")).await, 2);
    assert_eq!(service.admitted(4, || request("paid")).await, 4);
    service.call(request_from("192.0.2.1")).await;
    let mut told = Vec::new();
    handle.read(&mut |reading| {
        let attributes: Vec<_> = reading
            .attributes()
            .iter()
            .map(|told| format!("{}={}", told.0, told.1))
            .collect();
        let name = reading.metric().strip_prefix("plimsoll.rate_limit.");
        let name = name.expect("a metric of this layer");
        if reading.value() > 0 {
            told.push(format!(
                "{name} {} {}",
                attributes.join(","),
                reading.value()
            ));
        }
    });
    assert_eq!(
        told,
        [
            "decisions policy=per_key,decision=admitted 2",
            "decisions policy=per_key,decision=rejected 1",
            "decisions policy=paid,decision=admitted 4",
            "keys policy=per_key 2",
            "faults policy=per_key,kind=missing_key 1",
        ]
    );
    let names: Vec<_> = handle
        .metrics()
        .iter()
        .map(|metric| metric.name())
        .collect();
    assert_eq!(
        names,
        [
            "plimsoll.rate_limit.decisions",
            "plimsoll.rate_limit.keys",
            "plimsoll.rate_limit.faults"
        ]
    );
}
