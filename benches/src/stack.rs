//! The layers together: request id, access log, catch panic, in one `Router::layer`; *chained* in one each.

use axum::{Router, body::Body};
use http::Request;
use plimsoll::server::{
    access_log::AccessLogLayer, catch_panic::CatchPanicLayer, request_id::RequestIdLayer,
};
use tower_http::{
    catch_panic::CatchPanicLayer as PeerCatchPanic,
    request_id::RequestId,
    trace::{DefaultOnResponse, TraceLayer},
};
use tower_layer::Layer;
use tracing::{Level, Span, info_span};

use crate::{
    bases::{BARE_ROUTER, BARE_SERVICE, router, service},
    harness::{
        Case,
        loopback::Server,
        traffic::{Subject, Traffic},
    },
    request_id::ids,
    subscribers::{self, Spans},
};

pub(crate) const CASES: &[Case] = &[
    Case::ours("stack/admitted", BARE_ROUTER, || {
        subscribers::plimsoll();
        stacked(router().layer(ours()))
    }),
    Case::ours("stack/admitted/sf", BARE_SERVICE, || {
        subscribers::plimsoll();
        Subject::service(ours().layer(service()), Traffic::menu().logged())
    }),
    Case::ours("stack/chained", BARE_ROUTER, || {
        subscribers::plimsoll();
        let (outer, middle, inner) = ours();
        stacked(router().layer(inner).layer(middle).layer(outer))
    }),
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
        name: "plimsoll",
        make: || {
            subscribers::plimsoll();
            router().layer(ours())
        },
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

/// In the order recommended, the outermost first.
fn ours() -> (RequestIdLayer, AccessLogLayer, CatchPanicLayer) {
    (
        RequestIdLayer::new(),
        AccessLogLayer::new(),
        CatchPanicLayer::new(),
    )
}

/// tower-http's layers for the same jobs; the span bears the id, so that the line does.
fn peers() -> Router {
    let trace = TraceLayer::new_for_http()
        .make_span_with(span_with_id)
        .on_response(DefaultOnResponse::new().level(Level::INFO));
    router().layer((ids(), trace, PeerCatchPanic::new()))
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
