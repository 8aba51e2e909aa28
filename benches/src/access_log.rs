//! One JSON line for each call.

use axum::{Router, body::Body};
use http::Request;
use plimsoll::server::access_log::{self, AccessLogLayer};
use tower::util::MapRequestLayer;
use tower_http::{
    classify::{ServerErrorsAsFailures, SharedClassifier},
    trace::{DefaultMakeSpan, DefaultOnResponse, TraceLayer},
};
use tower_layer::Layer;
use tracing::Level;

use crate::{
    bases::{BARE_ROUTER, BARE_SERVICE, router, service},
    harness::{
        Case,
        traffic::{Subject, Traffic},
    },
    subscribers::{self, Spans},
};

pub(crate) const CASES: &[Case] = &[
    Case::ours("access_log/admitted", BARE_ROUTER, || {
        logged(router().layer(AccessLogLayer::new()))
    }),
    Case::ours("access_log/admitted/sf", BARE_SERVICE, || {
        subscribers::plimsoll();
        let service = AccessLogLayer::new().layer(service());
        Subject::service(service, Traffic::menu().logged())
    }),
    Case::ours("access_log/call_span", BARE_ROUTER, || {
        logged(router().layer(AccessLogLayer::new().call_span()))
    }),
    Case::ours("access_log/field", BARE_ROUTER, || {
        let tenant = MapRequestLayer::new(|request: Request<Body>| {
            access_log::field("tenant", "acme");
            request
        });
        logged(router().layer((AccessLogLayer::new(), tenant)))
    }),
    Case::ours("access_log/tower-http/plimsoll", BARE_ROUTER, || {
        logged(router().layer(trace()))
    }),
    Case::peer(
        "access_log/tower-http/tracing-subscriber",
        BARE_ROUTER,
        || {
            subscribers::tracing_subscriber(Spans::Full);
            traced_router()
        },
    ),
    Case::peer(
        "access_log/tower-http/tracing-subscriber/lean",
        BARE_ROUTER,
        || {
            subscribers::tracing_subscriber(Spans::Lean);
            traced_router()
        },
    ),
    Case::peer("access_log/tower-http/json-subscriber", BARE_ROUTER, || {
        subscribers::json_subscriber(Spans::Full);
        traced_router()
    }),
    Case::peer(
        "access_log/tower-http/json-subscriber/lean",
        BARE_ROUTER,
        || {
            subscribers::json_subscriber(Spans::Lean);
            traced_router()
        },
    ),
    Case::peer(
        "access_log/tower-http/json-subscriber/lean/sf",
        BARE_SERVICE,
        || {
            subscribers::json_subscriber(Spans::Lean);
            Subject::service(trace().layer(service()), Traffic::menu().logged())
        },
    ),
];

/// A Router whose lines go into our log.
fn logged(router: Router) -> Subject {
    subscribers::plimsoll();
    Subject::service(router.with_state(()), Traffic::menu().logged())
}

fn traced_router() -> Subject {
    let router = router().layer(trace());
    Subject::service(router.with_state(()), Traffic::menu().logged())
}

/// tower-http's layer as it comes, its span and its line after the response raised to INFO.
fn trace() -> TraceLayer<SharedClassifier<ServerErrorsAsFailures>> {
    TraceLayer::new_for_http()
        .make_span_with(DefaultMakeSpan::new().level(Level::INFO))
        .on_response(DefaultOnResponse::new().level(Level::INFO))
}
