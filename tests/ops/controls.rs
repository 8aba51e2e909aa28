//! What operators may change, and who may not.

use std::{
    num::NonZeroUsize,
    pin::Pin,
    sync::atomic::Ordering,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Body, Bytes};
use http::{HeaderName, HeaderValue, Request, StatusCode, header::AUTHORIZATION};
use http_body::Frame;
use plimsoll::{
    context::PeerAddr,
    limit::Limit,
    ops::{Controls, Ops},
};
use serde_json::json;
use tokio::time::sleep;

use crate::support::*;

const LIMIT: &str = "/control/limit";
const RATE: &str = "/control/rate_limit";
const DRAIN: &str = "/control/drain";

#[tokio::test(start_paused = true)]
async fn each_change_is_made_answered_and_written_with_who_and_what() {
    let log = Log::listen();
    let shop = open();
    let changes = [
        (
            LIMIT,
            r#"{"limit":"orders","set":3}"#,
            "limit.orders",
            "adaptive 16",
            "fixed 3",
        ),
        (
            LIMIT,
            r#"{"limit":"orders","set":"adaptive"}"#,
            "limit.orders",
            "fixed 3",
            "adaptive 3",
        ),
        (
            LIMIT,
            r#"{"limit":"orders","dry_run":true}"#,
            "limit.orders.dry_run",
            "false",
            "true",
        ),
        (
            LIMIT,
            r#"{"limit":"orders","dry_run":false}"#,
            "limit.orders.dry_run",
            "true",
            "false",
        ),
        (
            RATE,
            r#"{"policy":"default","quotas":"5/s, 100/h"}"#,
            "rate_limit.default.quotas",
            "10/s burst 20",
            "5/s and 100/h",
        ),
        (
            RATE,
            r#"{"policy":"default","dry_run":true}"#,
            "rate_limit.default.dry_run",
            "false",
            "true",
        ),
        (DRAIN, "{}", "drain", "false", "true"),
    ];
    // Two quotas need room for two from the start.
    for (path, asked, setting, from, to) in &changes {
        let (status, told) = shop.change(path, asked).await;
        if setting.ends_with("quotas") {
            assert_eq!(status, StatusCode::CONFLICT, "{told}");
            let (status, told) = shop
                .change(RATE, r#"{"policy":"default","quotas":"5/s burst 9"}"#)
                .await;
            assert_eq!(status, StatusCode::OK, "{told}");
            assert_eq!(
                told,
                json!({ "setting": setting, "from": from, "to": "5/s burst 9" })
            );
            continue;
        }
        assert_eq!(status, StatusCode::OK, "{told}");
        assert_eq!(told, json!({ "setting": setting, "from": from, "to": to }));
        match *setting {
            "limit.orders" => assert_eq!(
                (shop.limit.limit(), shop.limit.is_adaptive()),
                (3, to.starts_with('a'))
            ),
            "limit.orders.dry_run" => assert_eq!(shop.limit.is_dry_run().to_string(), *to),
            "rate_limit.default.dry_run" => assert!(shop.rate_limit.is_dry_run()),
            _ => assert_eq!(shop.drained.load(Ordering::Relaxed), 1),
        }
    }
    let quotas = shop.rate_limit.quotas("default").expect("a policy");
    assert_eq!(quotas.to_string(), "5/s burst 9");
    let lines = log.lines("setting_changed");
    assert_eq!(lines.len(), changes.len());
    for line in &lines {
        assert_eq!(
            (&line["level"], &line["target"]),
            (&json!("INFO"), &json!("plimsoll::ops"))
        );
        // The peer, not whom it says that it asks for.
        assert_eq!(line["by"], "192.0.2.7:4711");
    }
    assert_eq!(lines[0]["setting"], "limit.orders");
    assert_eq!(
        (&lines[0]["from"], &lines[0]["to"]),
        (&json!("adaptive 16"), &json!("fixed 3"))
    );
    assert_eq!(shop.scraped("plimsoll_ops_changes_total").await, Some(7));
    assert_eq!(shop.status().await["service"]["draining"], true);
    assert!(!format!("{lines:?}").contains(TOKEN));
}

#[tokio::test(start_paused = true)]
async fn a_held_limit_holds_and_one_that_is_given_back_moves() {
    let shop = open();
    shop.change(LIMIT, r#"{"limit":"orders","set":2}"#).await;
    for _ in 0..400 {
        shop.call("/menu", "acme").await;
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(shop.limit.limit(), 2, "held");
    let status = shop.status().await;
    let limit = &status["limits"][0];
    assert_eq!(
        (&limit["adaptive"], &limit["can_adapt"]),
        (&json!(false), &json!(true))
    );
    shop.change(LIMIT, r#"{"limit":"orders","set":"adaptive"}"#)
        .await;
    assert!(shop.limit.is_adaptive());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_done_changes_nothing_and_says_why() {
    let log = Log::listen();
    let shop = open();
    let huge = format!(
        r#"{{"limit":"orders","set":3,"x":"{}"}}"#,
        "x".repeat(100_000)
    );
    let deep = "[".repeat(4_000);
    let cases = [
        (LIMIT, "", 400, "no JSON"),
        (LIMIT, "null", 400, "no object"),
        (LIMIT, "{", 400, "no JSON"),
        (LIMIT, &deep, 400, "no JSON"),
        (LIMIT, &huge, 413, "longer than 4096"),
        (LIMIT, "{}", 400, "\"limit\" is missing"),
        (LIMIT, r#"{"limit":7,"set":3}"#, 400, "\"limit\" is missing"),
        (LIMIT, r#"{"limit":"orders"}"#, 400, "exactly one"),
        (
            LIMIT,
            r#"{"limit":"orders","set":3,"dry_run":true}"#,
            400,
            "exactly one",
        ),
        (LIMIT, r#"{"limit":"orders","sett":3}"#, 400, "exactly one"),
        (
            LIMIT,
            r#"{"limit":"<b>","set":3}"#,
            404,
            "no limit of the name \"<b>\"",
        ),
        (LIMIT, r#"{"limit":"orders","set":0}"#, 400, "whole number"),
        (LIMIT, r#"{"limit":"orders","set":-1}"#, 400, "whole number"),
        (
            LIMIT,
            r#"{"limit":"orders","set":1.5}"#,
            400,
            "whole number",
        ),
        (
            LIMIT,
            r#"{"limit":"orders","set":18446744073709551615}"#,
            400,
            "whole number",
        ),
        (
            LIMIT,
            r#"{"limit":"orders","set":"3"}"#,
            400,
            "whole number",
        ),
        (
            LIMIT,
            r#"{"limit":"orders","dry_run":"yes"}"#,
            400,
            "true or false",
        ),
        (
            RATE,
            r#"{"policy":"nobody","quotas":"1/s"}"#,
            404,
            "no policy",
        ),
        (
            RATE,
            r#"{"policy":"nobody","dry_run":true}"#,
            404,
            "no rate limit",
        ),
        (
            RATE,
            r#"{"policy":"default","quotas":"a lot"}"#,
            400,
            "expected",
        ),
        (RATE, r#"{"policy":"default","quotas":5}"#, 400, ""),
        (
            RATE,
            r#"{"policy":"default","quotas":"1/s, 2/m, 3/h, 4/d, 5/7d"}"#,
            400,
            "",
        ),
        (DRAIN, r#"{"now":true}"#, 400, "nothing to choose"),
    ];
    let number = u64::try_from(cases.len()).expect("few");
    for (path, asked, code, why) in cases {
        let (status, told) = shop.change(path, asked).await;
        assert_eq!(status, code, "{asked}: {told}");
        let error = told["error"].as_str().expect("why");
        assert!(error.contains(why), "{asked}: {error}");
    }
    let mut plain = posted(LIMIT, r#"{"limit":"orders","set":3}"#);
    plain
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("text/plain"));
    assert_eq!(shop.send(plain).await.0, StatusCode::UNSUPPORTED_MEDIA_TYPE);

    assert_eq!(
        (
            shop.limit.limit(),
            shop.limit.is_adaptive(),
            shop.limit.is_dry_run()
        ),
        (16, true, false)
    );
    assert!(!shop.rate_limit.is_dry_run());
    assert_eq!(
        shop.rate_limit
            .quotas("default")
            .expect("a policy")
            .to_string(),
        "10/s burst 20"
    );
    assert_eq!(shop.drained.load(Ordering::Relaxed), 0);
    assert!(log.lines("setting_changed").is_empty());
    let refused = shop
        .scraped("plimsoll_ops_refused_total{reason=\"request\"}")
        .await;
    assert_eq!(refused, Some(number + 1));
    // The first at once, the others as a sum.
    sleep(Duration::from_secs(11)).await;
    let lines = log.lines("change_refused");
    let times = lines
        .iter()
        .map(|line| line["times"].as_u64().expect("a number"));
    assert_eq!((lines.len(), times.sum::<u64>()), (2, number + 1));
    assert_eq!(
        (&lines[0]["level"], &lines[0]["reason"]),
        (&json!("WARN"), &json!("request"))
    );
}

#[tokio::test(start_paused = true)]
async fn who_may_not_changes_nothing() {
    let log = Log::listen();
    let shop = open();
    let with = |pairs: &[(&'static str, &str)]| {
        let mut request = posted(LIMIT, r#"{"limit":"orders","set":3}"#);
        for (name, value) in pairs {
            let name = HeaderName::from_static(name);
            match *value {
                "" => drop(request.headers_mut().remove(name)),
                value => drop(
                    request
                        .headers_mut()
                        .insert(name, value.parse().expect("a value")),
                ),
            }
        }
        request
    };
    let bare = &TOKEN.to_owned();
    let basic = &format!("Basic {TOKEN}");
    let cut = &format!("Bearer {}", &TOKEN[1..]);
    for (pairs, code, reason) in [
        (vec![("authorization", "")], 401, "token"),
        (vec![("authorization", bare.as_str())], 401, "token"),
        (vec![("authorization", basic)], 401, "token"),
        (vec![("authorization", cut)], 401, "token"),
        (vec![("authorization", "Bearer ")], 401, "token"),
        (vec![("origin", "http://evil.example")], 403, "origin"),
        (vec![("origin", "null")], 403, "origin"),
        (vec![("origin", "http://shop:9091")], 403, "origin"),
        (vec![("sec-fetch-site", "cross-site")], 403, "origin"),
        (
            vec![("origin", ""), ("sec-fetch-site", "same-site")],
            403,
            "origin",
        ),
        (vec![("host", "")], 403, "origin"),
    ] {
        let series = format!("plimsoll_ops_refused_total{{reason=\"{reason}\"}}");
        let before = shop.scraped(&series).await;
        let (status, told) = shop.send(with(&pairs)).await;
        assert_eq!(status, code, "{pairs:?}: {told}");
        assert_eq!(shop.scraped(&series).await, before.map(|before| before + 1));
        assert!(!told.to_string().contains(TOKEN));
    }
    assert_eq!((shop.limit.limit(), shop.limit.is_adaptive()), (16, true));
    let lines = log.lines("change_refused");
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(
        (&lines[0]["by"], &lines[0]["path"]),
        (&json!("192.0.2.7:4711"), &json!(LIMIT))
    );
    assert!(!format!("{lines:?}").contains(&TOKEN[1..]));
    // A program that is no browser tells nothing of where it comes from.
    let let_in = with(&[("origin", ""), ("sec-fetch-site", "")]);
    let refused = with(&[("authorization", "")]);
    for (request, code) in [(let_in, 200), (refused, 401)] {
        let response = ask(&shop.operators, request).await;
        assert_eq!(response.status(), code);
        let headers = response.headers();
        assert_eq!(headers["cross-origin-resource-policy"], "same-origin");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["referrer-policy"], "no-referrer");
    }
}

#[tokio::test(start_paused = true)]
async fn guessing_locks_an_address_out_and_nobody_else() {
    let shop = open();
    let guess = |token: &str, peer: &str| {
        let mut request = posted(DRAIN, "{}");
        let token = format!("Bearer {token}").parse().expect("a value");
        request.headers_mut().insert(AUTHORIZATION, token);
        request
            .extensions_mut()
            .insert(PeerAddr(peer.parse().expect("an address")));
        request
    };
    let mut looked_at = 0;
    for number in 0..1_000 {
        let token = format!("guess-number-{number:08}");
        let (status, _) = shop.send(guess(&token, "198.51.100.1:1")).await;
        looked_at += u32::from(status == StatusCode::UNAUTHORIZED);
    }
    assert_eq!(looked_at, 5);
    let locked = ask(&shop.operators, guess(TOKEN, "198.51.100.1:2")).await;
    assert_eq!(locked.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(locked.headers()["retry-after"], "60");
    assert_eq!(shop.drained.load(Ordering::Relaxed), 0);
    let (status, _) = shop.send(guess(TOKEN, "198.51.100.2:1")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        shop.scraped("plimsoll_ops_refused_total{reason=\"locked\"}")
            .await,
        Some(996)
    );
}

#[tokio::test(start_paused = true)]
async fn without_a_token_set_there_are_no_controls() {
    let shop = open_with(None);
    for path in [LIMIT, RATE, DRAIN] {
        let (status, told) = shop.change(path, "{}").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert_eq!(told["error"], "the controls are off");
    }
    assert_eq!(
        shop.scraped("plimsoll_ops_refused_total{reason=\"off\"}")
            .await,
        Some(3)
    );
    assert_eq!(
        shop.status().await["controls"],
        json!({ "on": false, "drain": false })
    );
}

/// A body that never ends.
struct Endless;

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Pending
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let shop = open();
    let (head, _) = posted(LIMIT, "").into_parts();
    let (status, _) = shop
        .send(Request::from_parts(head, Body::new(Endless)))
        .await;
    assert_eq!(status, StatusCode::REQUEST_TIMEOUT);
    // Whoever has no token is not even read.
    let (mut head, _) = posted(LIMIT, "").into_parts();
    head.headers.remove(AUTHORIZATION);
    let asked = shop.send(Request::from_parts(head, Body::new(Endless)));
    let (status, _) = tokio::time::timeout(Duration::from_millis(1), asked)
        .await
        .expect("at once");
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(start_paused = true)]
async fn limits_that_cannot_be_told_apart_are_left_alone() {
    let two = [7, 8].map(|calls| Limit::fixed(NonZeroUsize::new(calls).expect("above 0")));
    let handles = two.each_ref().map(Limit::handle);
    let operators = Ops::new()
        .limit(&handles[0])
        .limit(&handles[1])
        .limit(&two[0].clone().named("other").handle())
        .controls(Controls::with_token(TOKEN).expect("long"))
        .routes();
    let status = async |path, json| ask(&operators, posted(path, json)).await.status();
    assert_eq!(
        status(LIMIT, r#"{"limit":"default","set":3}"#).await,
        StatusCode::CONFLICT
    );
    assert_eq!(handles.each_ref().map(|limit| limit.limit()), [7, 8]);
    // Fixed ones stay fixed.
    assert_eq!(
        status(LIMIT, r#"{"limit":"other","set":"adaptive"}"#).await,
        StatusCode::CONFLICT
    );
    assert_eq!(
        status(LIMIT, r#"{"limit":"other","set":3}"#).await,
        StatusCode::OK
    );
    assert_eq!(
        status(DRAIN, "{}").await,
        StatusCode::CONFLICT,
        "there is nothing to drain"
    );
}
