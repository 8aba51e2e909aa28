//! The answers over HTTP.

use axum::{
    Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{
    HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use serde_json::{Map, Value, json};

use super::{Health, Item, Report, Status};
use crate::clock;

const JSON: &str = "application/json";
/// Health Check Response Format for HTTP APIs (draft-inadarei-api-health-check-06).
const HEALTH_JSON: &str = "application/health+json";

impl Health {
    /// `/livez`, `/readyz` and `/startupz`: 200 or 503, and a body `{"status":"ok"}` that says no more than the word.
    ///
    /// Serve them on a listener of their own, or merge them after the last `.layer(..)`: a probe that a limiter rejects
    /// gets a healthy process restarted.
    pub fn routes(&self) -> Router {
        Router::new()
            .route("/livez", get(live))
            .route("/readyz", get(ready))
            .route("/startupz", get(started))
            .with_state(self.clone())
    }

    /// `/health`: the status, each check and why it fails, as `application/health+json`. For a listener that only
    /// operators reach: causes name hosts.
    pub fn details(&self) -> Router {
        Router::new()
            .route("/health", get(details))
            .with_state(self.clone())
    }
}

async fn live() -> Response {
    answer(Status::Ok)
}

async fn ready(State(health): State<Health>) -> Response {
    answer(health.status().await)
}

async fn started(State(health): State<Health>) -> Response {
    answer(if health.has_started() {
        Status::Ok
    } else {
        Status::Starting
    })
}

async fn details(State(health): State<Health>) -> Response {
    let report = health.report().await;
    respond(report.status, HEALTH_JSON, &told(&report))
}

fn answer(status: Status) -> Response {
    respond(status, JSON, &json!({ "status": status.label() }))
}

fn respond(status: Status, content_type: &'static str, body: &Value) -> Response {
    let code = if status.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (code, headers, body.to_string()).into_response()
}

fn told(report: &Report) -> Value {
    let checks: Map<String, Value> = report
        .items
        .iter()
        .map(|item| (item.name.to_owned(), json!([told_of(item)])))
        .collect();
    json!({ "status": verdict(report.status), "output": report.status.label(), "checks": checks })
}

fn told_of(item: &Item) -> Value {
    let mut told = Map::new();
    told.insert("status".to_owned(), verdict(item.status).into());
    if let Some(finding) = &item.finding {
        let age = clock::now().saturating_duration_since(finding.at);
        told.insert("observedValue".to_owned(), millis(finding.took));
        told.insert("observedUnit".to_owned(), "ms".into());
        told.insert("ageMs".to_owned(), millis(age));
        if let Some(error) = &finding.error {
            told.insert("output".to_owned(), error.as_str().into());
        }
    }
    Value::Object(told)
}

fn millis(duration: std::time::Duration) -> Value {
    Value::from(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// The draft's three words.
fn verdict(status: Status) -> &'static str {
    match status {
        Status::Ok => "pass",
        Status::Degraded => "warn",
        Status::Starting | Status::Draining | Status::Unavailable => "fail",
    }
}
