//! The layers under test, in the one place where they are put on.

use std::time::Duration;

use axum::Router;
use opentelemetry_sdk::trace::SdkTracer;
use plimsoll::client::deadline::{DeadlineLayer, WithinDeadline};
use plimsoll::client::propagate::{Propagate, PropagateLayer};
use plimsoll::client::trace_context::{TraceContextLayer as TraceContext, WithSpan};
use plimsoll::log::Writer;
use plimsoll::ops::health::Health;
use plimsoll::serve::Connections;
use plimsoll::server::access_log::AccessLogLayer;
use plimsoll::server::body_limit::BodyLimitLayer;
use plimsoll::server::catch_panic::CatchPanicLayer;
use plimsoll::server::metrics::{MetricsLayer, Objective};
use plimsoll::server::request_id::RequestIdLayer;
use plimsoll::server::timeout::TimeoutLayer;
use plimsoll::server::trace_context::TraceContextLayer;
use plimsoll::task::Deaths;
use plimsoll::telemetry::Telemetry;
use tower::Layer;
use tower::util::MapRequestLayer;

use crate::admission::AdmissionLayer;
use crate::limited::Limiters;
use crate::panics;
use crate::settings::Settings;

/// The layers of a server, outermost first.
pub(crate) type Incoming = (
    RequestIdLayer,
    TraceContextLayer,
    AccessLogLayer,
    MetricsLayer,
    TimeoutLayer,
    AdmissionLayer,
    BodyLimitLayer,
    CatchPanicLayer,
);

/// The layers, with one set of books for both servers.
pub(crate) fn incoming(
    settings: &Settings,
    telemetry: &Telemetry,
    log: &Writer,
    limiters: &Limiters,
    connections: &Connections,
    health: &Health,
) -> Incoming {
    let methods = ["Echo", "Sleep", "Panic", "Stream", "Upload", "Up"]
        .map(|name| format!("plimsoll.testbed.v1.Testbed/{name}"));
    let panics = CatchPanicLayer::new();
    let mut timeout = TimeoutLayer::new()
        .total(settings.timeout)
        .deadline_from(settings.trusted.clone());
    if let Some(rate) = settings.body_min_bps {
        timeout = timeout.min_rate(rate, Duration::from_secs(1));
    }
    let limit = settings.admission.limit();
    let traces = TraceContextLayer::new(telemetry.tracer().clone()).rpc_methods(methods.clone());
    let metrics = MetricsLayer::new(telemetry.meter())
        .rpc_methods(methods)
        .objective(Objective::new("ok", Duration::from_millis(300)).route("/ok"))
        .watch(panics.clone())
        .watch(timeout.clone())
        .watch(traces.clone())
        .watch(log.clone())
        .watch(connections.clone())
        .watch(limit.handle())
        .watch(health.clone())
        .watch(Deaths);
    let metrics = limiters.handles().fold(metrics, MetricsLayer::watch);
    (
        RequestIdLayer::new(),
        traces,
        AccessLogLayer::new(),
        metrics,
        timeout,
        settings.admission.layer(limit, &settings.trusted),
        BodyLimitLayer::new(settings.body_max),
        panics,
    )
}

/// Puts the layers around all routes of a listener.
pub(crate) fn around(routes: Router, incoming: Incoming) -> Router {
    // One `layer`, not two: between two of them the router would put a future of its own.
    routes.layer((incoming, MapRequestLayer::new(panics::in_call)))
}

/// A client with the layers around it.
pub(crate) type Outgoing<S> = WithinDeadline<WithSpan<Propagate<S>>>;

/// Puts the layers around a client.
pub(crate) fn outgoing<S>(client: S, tracer: &SdkTracer) -> Outgoing<S> {
    let sent = TraceContext::new(tracer.clone()).layer(PropagateLayer::new().layer(client));
    DeadlineLayer::new().layer(sent)
}
