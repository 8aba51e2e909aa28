use std::{
    future::pending,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body};
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::{Check, Health, Status};
use crate::{gauge::Gauges as _, task::supervise};

/// A dependency that counts how often it is asked.
#[derive(Clone, Default)]
struct Dependency {
    away: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl Dependency {
    fn check(&self, name: &'static str) -> Check {
        let this = self.clone();
        Check::new(name, move || {
            let this = this.clone();
            async move {
                this.asked.fetch_add(1, Ordering::Relaxed);
                // sleeps: on the paused clock
                tokio::time::sleep(Duration::from_millis(10)).await;
                if this.away.load(Ordering::Relaxed) {
                    return Err(io::Error::other("postgres://user:hunter2@db refused"));
                }
                Ok(())
            }
        })
    }

    fn leaves(&self) {
        self.away.store(true, Ordering::Relaxed);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

async fn get(router: Router, path: &str) -> (StatusCode, String) {
    let request = Request::get(path).body(Body::empty()).expect("a request");
    let response = router.oneshot(request).await.expect("an answer");
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    let body = String::from_utf8(body.to_vec()).expect("text");
    (head.status, body)
}

async fn later(time: Duration) {
    // sleeps: on the paused clock
    tokio::time::sleep(time).await;
}

#[tokio::test(start_paused = true)]
async fn a_critical_failure_makes_it_unavailable_and_any_other_degraded() {
    let (database, mailer) = (Dependency::default(), Dependency::default());
    let health = Health::new()
        .check(database.check("database"))
        .check(mailer.check("mailer").not_critical());
    assert_eq!(health.status().await, Status::Ok);
    mailer.leaves();
    assert_eq!(health.status().await, Status::Ok, "the result still counts");
    later(Duration::from_secs(5)).await;
    assert_eq!(health.status().await, Status::Degraded);
    assert!(health.status().await.is_ready());
    database.leaves();
    later(Duration::from_secs(5)).await;
    assert_eq!(health.status().await, Status::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_probes_asks_once() {
    let database = Dependency::default();
    let health = Health::new().check(database.check("database"));
    for second in 0..10 {
        let probes: Vec<_> = (0..1_000)
            .map(|_| {
                let health = health.clone();
                tokio::spawn(async move { health.status().await })
            })
            .collect();
        for probe in probes {
            assert_eq!(probe.await.expect("no panic"), Status::Ok);
        }
        assert!(database.asked() <= second / 5 + 1, "once in five seconds");
        later(Duration::from_secs(1)).await;
    }
    assert_eq!(database.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_prober_that_leaves_does_not_make_it_ask_again() {
    let database = Dependency::default();
    let health = Health::new().check(database.check("database"));
    for _ in 0..5 {
        let gone = tokio::time::timeout(Duration::from_micros(100), health.status());
        assert!(gone.await.is_err());
    }
    assert_eq!(health.status().await, Status::Ok);
    assert_eq!(database.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_result_that_nobody_fetched_in_time_does_not_count() {
    let database = Dependency::default();
    let health = Health::new().check(database.check("database"));
    let gone = tokio::time::timeout(Duration::from_micros(100), health.status());
    assert!(gone.await.is_err());
    // It ends well while nobody asks, and then all is different.
    later(Duration::from_secs(60)).await;
    database.leaves();
    assert_eq!(health.status().await, Status::Unavailable);
    assert_eq!(database.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn those_who_ask_while_it_is_asked_share_the_answer() {
    let database = Dependency::default();
    let check = database.check("database").keep(Duration::ZERO);
    let health = Health::new().check(check);
    let (one, other) = tokio::join!(health.status(), health.status());
    assert_eq!((one, other), (Status::Ok, Status::Ok));
    assert_eq!(database.asked(), 1);
    assert_eq!(health.status().await, Status::Ok);
    assert_eq!(database.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_drains_meanwhile_is_not_ready() {
    let database = Dependency::default();
    let health = Health::new().check(database.check("database"));
    let asked = async {
        later(Duration::from_millis(5)).await;
        health.drain();
    };
    let (status, ()) = tokio::join!(health.status(), asked);
    assert_eq!(status, Status::Draining);
}

#[tokio::test(start_paused = true)]
async fn a_check_that_hangs_or_panics_has_failed() {
    let hung = Health::new()
        .check(Check::new("hung", pending::<Result<(), io::Error>>).timeout(Duration::from_secs(1)))
        .check(Check::new("hung_too", pending::<Result<(), io::Error>>));
    let began = tokio::time::Instant::now();
    assert_eq!(hung.status().await, Status::Unavailable);
    let took = began.elapsed();
    assert!(
        took <= Duration::from_millis(1_010),
        "both at once, not one by one: {took:?}"
    );
    let report = hung.report().await;
    let errors: Vec<_> = report
        .items
        .iter()
        .filter_map(|item| item.finding.as_ref()?.error.clone())
        .collect();
    assert_eq!(
        errors,
        ["no answer within 1000 ms", "no answer within 800 ms"]
    );

    let panics = Health::new().check(Check::new("panics", move || async move {
        assert!(tokio::time::Instant::now() < began, "oh");
        Ok::<_, io::Error>(())
    }));
    assert_eq!(panics.status().await, Status::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn it_starts_runs_and_drains_for_good() {
    let database = Dependency::default();
    let health = Health::new().check(database.check("database")).starting();
    assert_eq!(health.status().await, Status::Starting);
    assert_eq!(
        get(health.routes(), "/startupz").await.0,
        StatusCode::SERVICE_UNAVAILABLE
    );
    health.started();
    assert_eq!(health.status().await, Status::Ok);
    assert_eq!(get(health.routes(), "/startupz").await.0, StatusCode::OK);
    health.drain();
    health.started();
    assert_eq!(health.status().await, Status::Draining);
    assert_eq!(
        get(health.routes(), "/readyz").await.0,
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(
        get(health.routes(), "/livez").await,
        (StatusCode::OK, r#"{"status":"ok"}"#.into())
    );
}

#[tokio::test(start_paused = true)]
async fn the_public_is_told_one_word_and_operators_the_cause() {
    let database = Dependency::default();
    database.leaves();
    let health = Health::new().check(database.check("database"));
    let (status, body) = get(health.routes(), "/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(body, r#"{"status":"unavailable"}"#);

    let (status, body) = get(health.details(), "/health").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let told: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(told["status"], "fail");
    let check = &told["checks"]["database"][0];
    assert_eq!(check["status"], "fail");
    assert_eq!(check["observedValue"], 10);
    assert!(
        check["output"]
            .as_str()
            .expect("a cause")
            .contains("refused")
    );

    // Liveness asks nobody.
    let asked = database.asked();
    later(Duration::from_secs(60)).await;
    assert_eq!(get(health.routes(), "/livez").await.0, StatusCode::OK);
    assert_eq!(database.asked(), asked);
}

#[tokio::test(start_paused = true)]
async fn a_dead_task_makes_it_unavailable_until_it_is_back() {
    let health = Health::new().task("bakes_for_a_second");
    let task = supervise("bakes_for_a_second", || later(Duration::from_secs(1)));
    let mut found = Vec::new();
    // It returns after a second, and is started again 100 ms later.
    for millis in [500, 550, 100] {
        later(Duration::from_millis(millis)).await;
        found.push(health.status().await);
    }
    assert_eq!(found, [Status::Ok, Status::Unavailable, Status::Ok]);
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn signals_and_failures_are_told() {
    let full = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&full);
    let database = Dependency::default();
    database.leaves();
    let health = Health::new()
        .signal("queue", move || {
            if asked.load(Ordering::Relaxed) {
                Status::Degraded
            } else {
                Status::Ok
            }
        })
        .check(
            database
                .check("database")
                .not_critical()
                .keep(Duration::ZERO),
        );
    for _ in 0..3 {
        assert_eq!(health.status().await, Status::Degraded);
    }
    let mut failures = 0;
    health.read(&mut |reading| failures = reading.value());
    assert_eq!(failures, 3);
    database.away.store(false, Ordering::Relaxed);
    assert_eq!(health.status().await, Status::Ok);
    full.store(true, Ordering::Relaxed);
    assert_eq!(health.status().await, Status::Degraded);
}
