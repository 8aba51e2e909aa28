//! The routes for operators.

use axum::Json;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// `/livez` says that the process runs, `/readyz` that it takes calls: not any more once `stopping`.
pub(crate) fn routes(stopping: CancellationToken) -> Router {
    let ready = move || {
        let stopping = stopping.is_cancelled();
        async move {
            if stopping {
                return (StatusCode::SERVICE_UNAVAILABLE, status("draining"));
            }
            (StatusCode::OK, status("ok"))
        }
    };
    Router::new()
        .route("/livez", get(|| async { status("ok") }))
        .route("/readyz", get(ready))
}

fn status(status: &str) -> Json<Value> {
    Json(json!({ "status": status }))
}
