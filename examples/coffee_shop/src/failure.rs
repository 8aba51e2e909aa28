//! What can go wrong at reception, and what the caller sees of it.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use plimsoll::context::{Failure, RequestId};
use serde_json::json;
use tonic::Code;

/// Why a call has no good answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("{0:?} is not on the menu")]
    NotOnTheMenu(String),
    #[error("no such order")]
    NoSuchOrder(#[from] PathRejection),
    #[error("not an order")]
    NotAnOrder(#[from] JsonRejection),
    #[error("no such page")]
    NoSuchPage,
    #[error("not a way to ask for this page")]
    WrongMethod,
    #[error("the barista has no answer")]
    Barista(#[from] tonic::Status),
    #[error("the grinder is broken")]
    Grinder(#[source] std::io::Error),
}

impl CallError {
    /// The status and what the caller is told. Of our own faults he learns only that they are ours.
    fn answer(&self) -> (StatusCode, String) {
        match self {
            Self::NotOnTheMenu(_) => (StatusCode::UNPROCESSABLE_ENTITY, self.to_string()),
            Self::NoSuchOrder(_) | Self::NoSuchPage => (StatusCode::NOT_FOUND, self.to_string()),
            Self::NotAnOrder(rejection) => (rejection.status(), rejection.body_text()),
            Self::WrongMethod => (StatusCode::METHOD_NOT_ALLOWED, self.to_string()),
            Self::Barista(status) => from_barista(status),
            Self::Grinder(_) => (StatusCode::INTERNAL_SERVER_ERROR, ours()),
        }
    }
}

/// The HTTP status that says the same as the barista's.
fn from_barista(status: &tonic::Status) -> (StatusCode, String) {
    match status.code() {
        Code::NotFound => (StatusCode::NOT_FOUND, "no such order".to_owned()),
        Code::ResourceExhausted | Code::Unavailable => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the barista is busy, try again in a moment".to_owned(),
        ),
        Code::DeadlineExceeded | Code::Cancelled => (
            StatusCode::GATEWAY_TIMEOUT,
            "the barista takes too long".to_owned(),
        ),
        _ => (StatusCode::BAD_GATEWAY, ours()),
    }
}

fn ours() -> String {
    "this is our fault".to_owned()
}

/// A problem of RFC 9457. If it is our fault, the response carries the cause: the access line tells it.
impl IntoResponse for CallError {
    fn into_response(self) -> Response {
        let (status, detail) = self.answer();
        let problem = json!({
            "type": "about:blank",
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "detail": detail,
            "request_id": RequestId::current().as_ref().map(RequestId::as_str),
        });
        let mut response = (
            status,
            [
                (CONTENT_TYPE, "application/problem+json"),
                (CACHE_CONTROL, "no-store"),
            ],
            Json(problem).into_response().into_body(),
        )
            .into_response();
        if status.is_server_error() {
            response.extensions_mut().insert(Failure::new(self));
        }
        response
    }
}
