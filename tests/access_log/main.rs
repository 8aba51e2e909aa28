//! One line for each call, at its true end, that tells how it ended.

mod asked;
#[path = "../common/mod.rs"]
mod common;
mod ends;
mod fields;
mod whole;

use std::{
    convert::Infallible,
    future::{Future as _, poll_fn},
    num::NonZeroU32,
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    routing::{get as on_get, post as on_post},
};
use bytes::Bytes;
use common::{
    Dice, Lines, Script, Yield,
    body::{Step, map},
    get, header,
    lines::Line,
    post,
};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use plimsoll::{
    context::{Failure, RequestId, in_current_call},
    observe::BoxError,
    rejection::{Reason, Rejection},
    server::{
        access_log::{self, AccessLogLayer},
        catch_panic::CatchPanicLayer,
        request_id::RequestIdLayer,
    },
};
use tower::{Layer as _, Service as _, ServiceBuilder, ServiceExt as _, service_fn};
use tracing::Level;

/// The line of one call that is answered so, read to its end.
async fn line_of(request: Request<Body>, response: Response<Script>) -> Line {
    line_by(AccessLogLayer::new(), request, response).await
}

async fn line_by(
    layer: AccessLogLayer,
    request: Request<Body>,
    response: Response<Script>,
) -> Line {
    let lines = Lines::listen();
    let mut response = Some(response);
    let service = service_fn(move |_: Request<Body>| {
        let response = response.take().expect("asked once");
        async { Ok::<_, Infallible>(response) }
    });
    let answer = layer
        .layer(service)
        .oneshot(request)
        .await
        .expect("infallible");
    assert_eq!(lines.take_access(), [], "before its end");
    common::body::read(answer.into_body()).await;
    lines.one()
}

fn response(status: u16, steps: impl IntoIterator<Item = Step>) -> Response<Script> {
    let mut response = Response::new(Script::of(steps));
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response
}

fn with(
    mut response: Response<Script>,
    pairs: &[(&'static str, &'static str)],
) -> Response<Script> {
    response.headers_mut().extend(map(pairs));
    response
}

/// These fields of a line, `-` for one that it has not.
fn fields<'a, const N: usize>(line: &'a Line, names: [&str; N]) -> [&'a str; N] {
    names.map(|name| line.get(name).map_or("-", String::as_str))
}

fn grpc() -> Request<Body> {
    post("application/grpc")
}

fn status(code: &'static str) -> Step {
    Step::Trailers(map(&[
        ("grpc-status", code),
        ("grpc-message", "no%20beans"),
    ]))
}

fn oh() -> Step {
    Step::Fail("oh".into())
}
