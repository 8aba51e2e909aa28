//! Answers that say "it went wrong" and carry the cause for the access line.

use std::error::Error;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use plimsoll::context::Failure;

/// An answer with `status`; the cause goes to the log, not to the client.
pub(crate) fn failed(status: StatusCode, cause: impl Error + Send + Sync + 'static) -> Response {
    let mut response = status.into_response();
    response.extensions_mut().insert(Failure::new(cause));
    response
}

/// A 400 that says what is wrong with the request.
pub(crate) fn bad_request(error: impl Error) -> Response {
    (StatusCode::BAD_REQUEST, chain(&error)).into_response()
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
