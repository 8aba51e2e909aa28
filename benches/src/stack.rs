//! The layers together: request id, access log, catch panic, in one `Router::layer`.

use axum::{Router, body::Body};
use http::Request;
use tower_http::{
    catch_panic::CatchPanicLayer,
    request_id::RequestId,
    trace::{DefaultOnResponse, TraceLayer},
};
use tracing::{Level, Span, info_span};

use crate::{
    bases::{BARE_ROUTER, router},
    harness::{
        Case,
        loopback::Server,
        traffic::{Subject, Traffic},
    },
    request_id::ids,
    subscribers::{self, Spans},
};

pub(crate) const CASES: &[Case] = &[
    Case::peer("stack/tower-http/tracing-subscriber", BARE_ROUTER, || {
        subscribers::tracing_subscriber(Spans::Full);
        stacked(peers())
    }),
    Case::peer("stack/tower-http/json-subscriber/lean", BARE_ROUTER, || {
        subscribers::json_subscriber(Spans::Lean);
        stacked(peers())
    }),
];

/// What is served over HTTP.
pub(crate) const SERVERS: &[Server] = &[
    Server {
        name: "bare Router",
        make: router,
    },
    Server {
        name: "tower-http + tracing-subscriber",
        make: || {
            subscribers::tracing_subscriber(Spans::Full);
            peers()
        },
    },
    Server {
        name: "tower-http + json-subscriber, lean",
        make: || {
            subscribers::json_subscriber(Spans::Lean);
            peers()
        },
    },
];

fn stacked(router: Router) -> Subject {
    Subject::service(router.with_state(()), Traffic::menu().logged())
}

/// tower-http's layers for the same jobs; the span bears the id, so that the line does.
fn peers() -> Router {
    let trace = TraceLayer::new_for_http()
        .make_span_with(span_with_id)
        .on_response(DefaultOnResponse::new().level(Level::INFO));
    router().layer((ids(), trace, CatchPanicLayer::new()))
}

fn span_with_id(request: &Request<Body>) -> Span {
    let id = request.extensions().get::<RequestId>();
    let request_id = id.and_then(|id| id.header_value().to_str().ok());
    info_span!(
        "request",
        request_id,
        method = %request.method(),
        uri = %request.uri(),
        version = ?request.version(),
    )
}
