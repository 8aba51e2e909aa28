//! All that the page shows, as JSON.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::State,
    response::{IntoResponse as _, Response},
    routing::get,
};
use http::{
    HeaderName, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use serde_json::{Value, json};

use super::{
    Parts,
    board::{Board, SAMPLES},
    numbers::{millis, rounded, unix_ms},
    page::LOCKED_DOWN,
    sampler::blocking,
};
use crate::{
    clock,
    limit::LimitHandle,
    ops::health::Report,
    outcome::{Fault, Outcome},
    serve::{Closed, Connections},
    server::{access_log::Failure, rate_limit::RateLimitHandle},
    task,
};

/// Checks of health may take longer; until they are done, what they said last is shown with its age.
const PATIENCE: Duration = Duration::from_millis(500);
/// So many offenders of each rate limit are shown.
const OFFENDERS: usize = 10;

pub(super) fn routes(parts: &Arc<Parts>) -> Router {
    Router::new()
        .route("/status.json", get(once))
        .route("/status/events", get(events))
        .with_state(Arc::clone(parts))
}

async fn once(State(parts): State<Arc<Parts>>) -> Response {
    let status = make(&parts, SAMPLES).await;
    let headers = [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, "no-store"),
    ];
    (LOCKED_DOWN, headers, status.to_string()).into_response()
}

async fn events(State(parts): State<Arc<Parts>>) -> Response {
    let status = make(&parts, SAMPLES).await;
    let headers = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-store"),
        // nginx would keep events until there are enough of them.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    match parts.viewers.sit(&status) {
        Some(events) => (LOCKED_DOWN, headers, Body::new(events)).into_response(),
        None => {
            let full = "too many are looking at this already";
            (StatusCode::SERVICE_UNAVAILABLE, LOCKED_DOWN, full).into_response()
        }
    }
}

/// The status as it is now, with so many of the last samples.
pub(super) async fn make(parts: &Arc<Parts>, samples: usize) -> Value {
    // Whoever asks without end waits for itself. Handles and layers are code of users', which may hang: then one thread does.
    let turn = Arc::clone(&parts.turn).lock_owned().await;
    let health = health(parts).await;
    let asked = Arc::clone(parts);
    let made = blocking(move || {
        let _turn = turn;
        asked.status(samples, health.as_ref())
    });
    let made = made.await;
    made.unwrap_or_else(|| json!({ "error": "the status could not be made: see the log" }))
}

async fn health(parts: &Parts) -> Option<Report> {
    let health = parts.health.as_ref()?;
    let told = tokio::time::timeout(PATIENCE, health.report()).await;
    let seen = || {
        let seen = parts.seen.lock();
        seen.unwrap_or_else(PoisonError::into_inner)
    };
    match told {
        Ok(report) => {
            *seen() = Some(report.clone());
            Some(report)
        }
        // A check hangs, which is when somebody looks.
        Err(_) => {
            let last = seen().clone();
            last.map(|last| Report {
                status: health.whole().unwrap_or(last.status),
                ..last
            })
        }
    }
}

impl Parts {
    fn status(&self, samples: usize, health: Option<&Report>) -> Value {
        // Asked before the board is held: handles may take a while, and layers are code of users'.
        let limits: Vec<Value> = self.limits.iter().map(limit).collect();
        let rate_limits: Value = self.rate_limits.iter().map(rate_limit).collect();
        let layers = self.layers.iter();
        let layers: Value = layers
            .map(|(name, tell)| json!({ "name": name, "state": tell() }))
            .collect();
        let failures = self.failures.as_ref().map(|failures| failures.last());
        let failures = failures.map(|last| last.iter().map(failure).collect::<Value>());
        let counted = self.connections.as_ref();
        let counted = counted.filter(|connections| connections.are_counted());
        let up = clock::now().saturating_duration_since(self.started);
        let board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        let [name, version] = board.service();
        let limits = limits.into_iter().zip(&self.limits);
        let limits: Value = limits
            .map(|(mut told, limit)| {
                if let Some(told) = told.as_object_mut() {
                    told.insert("wait".to_owned(), board.waits(limit.name()));
                }
                told
            })
            .collect();
        json!({
            "service": {
                "name": name,
                "version": version,
                "plimsoll": env!("CARGO_PKG_VERSION"),
                "up_ms": millis(up),
                "now_ms": unix_ms(clock::wall_clock()),
                "draining": self.draining.load(Ordering::Relaxed),
            },
            "controls": {
                "on": self.controls.is_some(),
                "drain": self.controls.is_some() && self.on_drain.is_some(),
            },
            "health": health.map(told),
            "calls": calls(&board),
            "routes": board.routes(),
            "rejections": rejections(&board),
            "limits": limits,
            "rate_limits": rate_limits,
            "connections": counted.map(connections),
            "failures": failures,
            "layers": layers,
            "tasks": tasks(),
            "trouble": trouble(&board),
            "samples": board.samples(samples),
        })
    }
}

fn calls(board: &Board) -> Value {
    let rate = |with: fn(Fault) -> bool| board.rate(with).map(rounded);
    let figures = board.calls();
    json!({
        "in_flight": figures.map(|figures| figures.in_flight),
        "rate": rate(|_| true),
        "errors_rate": rate(|fault| fault == Fault::Server),
        "rejected_rate": rate(|fault| fault == Fault::Load),
        "outcomes": figures.map(|figures| &figures.outcomes),
    })
}

fn rejections(board: &Board) -> Option<Value> {
    let figures = board.calls()?;
    let reasons = figures.outcomes.iter().filter(|(label, count)| {
        **count > 0 && matches!(Outcome::of_label(label), Some(Outcome::Rejected(_)))
    });
    let mut reasons: Vec<(&String, u64)> = reasons.map(|(label, count)| (label, *count)).collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let told = reasons.into_iter().map(|(label, count)| {
        let rate = board.recent(|figures| figures.outcomes.get(label).copied().unwrap_or_default());
        json!({ "reason": label, "rate": rate.map(rounded), "calls": count })
    });
    Some(told.collect())
}

fn limit(limit: &LimitHandle) -> Value {
    let rejected = limit.rejected().into_iter().map(|rejected| {
        json!({
            "reason": rejected.reason.label(),
            "priority": rejected.priority.label(),
            "calls": rejected.calls,
        })
    });
    json!({
        "name": limit.name(),
        "limit": limit.limit(),
        "in_flight": limit.in_flight(),
        "waiting": limit.waiting(),
        "streams": limit.streams(),
        "adaptive": limit.is_adaptive(),
        "can_adapt": limit.can_adapt(),
        "dry_run": limit.is_dry_run(),
        "admitted": limit.admitted(),
        "would_shed": limit.would_shed(),
        "rejected": rejected.collect::<Value>(),
    })
}

fn rate_limit(limit: &RateLimitHandle) -> Value {
    let policies = limit.decisions().into_iter().map(|told| {
        let quotas = limit.quotas(told.policy).map(|quotas| quotas.to_string());
        json!({
            "policy": told.policy,
            "quotas": quotas,
            "admitted": told.admitted,
            "rejected": told.rejected,
            "would_reject": told.would_reject,
            "degraded": told.degraded,
        })
    });
    let offenders = limit.top_offenders(OFFENDERS).into_iter().map(|offender| {
        json!({
            "key": offender.key.to_string(),
            "rejected": offender.rejected,
            "at_least": offender.rejected.saturating_sub(offender.error),
        })
    });
    json!({
        "name": limit.policy(),
        "dry_run": limit.is_dry_run(),
        "keys": limit.keys(),
        "policies": policies.collect::<Value>(),
        "offenders": offenders.collect::<Value>(),
    })
}

fn connections(connections: &Connections) -> Value {
    let closed = Closed::ALL.iter();
    let closed = closed.map(|reason| (reason.label(), connections.closed(*reason)));
    let closed = closed.filter(|(_, count)| *count > 0);
    json!({
        "open": connections.open(),
        "calls": connections.calls(),
        "closed": closed
            .map(|(reason, count)| json!({ "reason": reason, "connections": count }))
            .collect::<Value>(),
    })
}

fn failure(failure: &Failure) -> Value {
    json!({
        "at_ms": unix_ms(failure.at),
        "request_id": failure.request_id,
        "method": failure.method,
        "route": failure.place,
        "status": failure.status,
        "grpc_status": failure.grpc_status,
        "outcome": failure.outcome,
        "error": failure.error,
        "duration_ms": failure.duration_ms,
    })
}

fn told(report: &Report) -> Value {
    let checks = report.items.iter().map(|item| {
        let finding = item.finding.as_ref();
        let now = clock::now();
        json!({
            "name": item.name,
            "status": item.status.label(),
            "error": finding.and_then(|finding| finding.error.as_ref()).map(ToString::to_string),
            "took_ms": finding.map(|finding| millis(finding.took)),
            "age_ms": finding.map(|finding| millis(now.saturating_duration_since(finding.at))),
        })
    });
    json!({ "status": report.status.label(), "checks": checks.collect::<Value>() })
}

fn tasks() -> Value {
    let deaths = task::deaths().into_iter();
    let told = deaths
        .map(|(name, died)| json!({ "name": name, "died": died, "is_down": task::is_down(name) }));
    told.collect()
}

fn trouble(board: &Board) -> Option<Value> {
    let trouble = board.figures()?.trouble.as_slice();
    // Who counts calls also asks the parts that could have trouble: without that, none known is no good news.
    if trouble.is_empty() && board.calls().is_none() {
        return None;
    }
    let trouble = trouble.iter();
    let told = trouble.map(|trouble| {
        json!({
            "metric": trouble.metric,
            "attributes": trouble.attributes,
            "count": trouble.count,
        })
    });
    Some(told.collect())
}
