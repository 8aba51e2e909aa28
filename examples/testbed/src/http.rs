//! The HTTP routes.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::error_handling::HandleError;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, RawQuery, Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use plimsoll::clock;
use serde_json::{Value, json};
use tower::service_fn;

use crate::failure::{bad_request, failed};
use crate::panics::PanicSpec;
use crate::stream::StreamSpec;
use crate::upstream::Upstream;

/// What `/echo` takes at most.
const MAX_ECHO: usize = 16 * 1024 * 1024;

/// The error of the service behind `/err`.
#[derive(Debug, thiserror::Error)]
#[error("the inner service failed")]
struct InnerError(#[source] std::io::Error);

/// All routes of HTTP. Services of gRPC are added by the caller.
pub(crate) fn routes(upstream: Upstream) -> Router {
    Router::new()
        .route("/ok", get(|| async { "ok" }))
        .route("/sleep/{ms}", get(sleep))
        .route("/spin/{us}", get(spin))
        .route("/echo", post(echo))
        .route("/items/{id}", get(item))
        .route("/stream", get(stream))
        .route("/panic", get(panic))
        .route_service("/err", HandleError::new(service_fn(inner), inner_failed))
        .route("/up/{*path}", get(up).post(up))
        .with_state(upstream)
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(MAX_ECHO))
}

async fn sleep(Path(ms): Path<u64>) -> &'static str {
    tokio::time::sleep(Duration::from_millis(ms)).await;
    "slept"
}

/// Keeps a core busy, without a pause.
async fn spin(Path(us): Path<u64>) -> &'static str {
    let start = clock::now();
    let time = Duration::from_micros(us);
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
    "spun"
}

async fn echo(headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return failed(rejection.status(), rejection),
    };
    match headers.get(CONTENT_TYPE) {
        Some(kind) => ([(CONTENT_TYPE, kind.clone())], body).into_response(),
        None => body.into_response(),
    }
}

async fn item(Path(id): Path<String>) -> Json<Value> {
    Json(json!({ "id": id }))
}

async fn stream(RawQuery(query): RawQuery) -> Response {
    let spec = match StreamSpec::parse(&query.unwrap_or_default()) {
        Ok(spec) => spec,
        Err(error) => return bad_request(error),
    };
    let length = spec.content_length();
    let mut response = Body::from_stream(spec.chunks()).into_response();
    if let Some(length) = length {
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    response
}

async fn panic(RawQuery(query): RawQuery) -> Response {
    match PanicSpec::parse(&query.unwrap_or_default()) {
        Ok(spec) => {
            spec.in_future().await;
            "no panic in this call".into_response()
        }
        Err(error) => bad_request(error),
    }
}

/// A service that knows only failure, as a tower service may.
async fn inner(_: Request) -> Result<Response, InnerError> {
    Err(InnerError(std::io::Error::other("failed on demand")))
}

async fn inner_failed(error: InnerError) -> Response {
    failed(StatusCode::INTERNAL_SERVER_ERROR, error)
}

async fn up(State(upstream): State<Upstream>, request: Request) -> Result<Response, Infallible> {
    Ok(match upstream.forward(request).await {
        Ok(response) => response,
        Err(error) => failed(StatusCode::BAD_GATEWAY, error),
    })
}

/// One listener serves both protocols, so an unknown path is answered in the caller's.
async fn not_found(headers: HeaderMap) -> Response {
    let kind = headers.get(CONTENT_TYPE).map(|kind| kind.as_bytes());
    if kind.is_some_and(|kind| kind.starts_with(b"application/grpc")) {
        return tonic::Status::unimplemented("").into_http();
    }
    StatusCode::NOT_FOUND.into_response()
}
