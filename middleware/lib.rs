//! Tower layers that keep axum and tonic services upright under load and tell their operators what happened.
//!
//! Each layer works alone and in any stack. It keeps the error type of the service: to reject is to answer, in the
//! caller's protocol (HTTP, gRPC, gRPC-Web). A call is in flight until the last byte of its response, and every layer
//! follows it until then.
//!
//! ```
//! # #[cfg(all(feature = "request-id", feature = "access-log", feature = "catch-panic"))]
//! # fn app() -> axum::Router {
//! use axum::{Router, routing::get};
//! use plimsoll::server::{
//!     access_log::AccessLogLayer, catch_panic::CatchPanicLayer, request_id::RequestIdLayer,
//! };
//! use tower::ServiceBuilder;
//!
//! Router::new().route("/", get(|| async { "hello" })).layer(
//!     ServiceBuilder::new()
//!         .layer(RequestIdLayer::new())
//!         .layer(AccessLogLayer::new())
//!         .layer(CatchPanicLayer::new()),
//! )
//! # }
//! ```
//!
//! # Features
//!
//! None is on by default. One layer is one feature:
//!
//! | feature | module | what it does |
//! |---|---|---|
//! | `request-id` | [`server::request_id`] | an id for each call, on every line and every answer |
//! | `access-log` | [`server::access_log`], [`log`] | one line for each call, when it has really ended; the program's log as JSON |
//! | `catch-panic` | [`server::catch_panic`] | panics are answers, lines and counts |
//! | `metrics` | [`server::metrics`] | calls counted and timed by how they really ended, for OpenTelemetry |
//! | `trace-context` | [`server::trace_context`], [`client::trace_context`] | a span for each call and each outbound call |
//! | `timeout` | [`server::timeout`] | calls end in time, to their last byte |
//! | `body-limit` | [`server::body_limit`] | requests whose body is too large are refused |
//! | `rate-limit` | [`server::rate_limit`] | quotas per caller |
//! | `load-shed` | [`server::load_shed`], [`limit`] | calls above what the service can bear are rejected |
//! | `back-pressure` | [`server::back_pressure`], [`limit`] | they wait a little first |
//! | `propagate` | [`client::propagate`] | id, trace, deadline and priority go along on outbound calls |
//! | `deadline` | [`client::deadline`] | outbound calls whose time is up are not sent |
//! | `health` | [`ops::health`] | liveness, readiness and start-up |
//! | `ops` | [`ops`] | a page that shows the service as it runs, and controls; brings the features that it shows |
//! | `serve` | [`serve`] | a serve loop that hostile peers cannot stall, and that drains |
//! | `preset` | [`preset`] | the whole stack in its order, from code, a file, or both |
//! | `telemetry` | [`telemetry`] | exporters: OTLP, and Prometheus' text |
//!
//! What they need from outside has features of its own: `axum` and `tonic` (the matched route, the peer's address, the
//! bytes of a request's body), `health-grpc`, `health-redis`, `rate-limit-redis`, `reqwest` (for `propagate`), `serve-tls`, `tower-http`
//! (its `RequestId` is set too), `tracing-opentelemetry` (spans of `tracing`). `full` is all of them.
//!
//! # For all layers
//!
//! These modules are always there, and layers of your own may use them.
//!
//! | module | what it holds |
//! |---|---|
//! | [`context`] | the facts of a call that layers, handlers and the log share |
//! | [`outcome`], [`rejection`] | how a call ended, and why plimsoll answered instead of the service: two closed sets |
//! | [`protocol`] | what a call speaks, and the values of gRPC |
//! | [`caller`] | by what callers are told apart, and which proxies are believed |
//! | [`observe`] | a future and a body that tell how a call really ended, for layers of your own |
//! | [`gauge`] | what handles tell `metrics`, also those of your own |
//! | [`task`] | background tasks whose death is seen |
//! | [`clock`] | the time, which paused tests can drive |
//!
//! The README says in which order to adopt the layers and to stack them; each has a page in `docs/`.

#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]
// The gates: what swallows an error, what can panic, what reads the time or spawns in private.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::dbg_macro,
        clippy::disallowed_methods,
        clippy::exit,
        clippy::indexing_slicing,
        clippy::let_underscore_future,
        clippy::let_underscore_must_use,
        clippy::map_err_ignore,
        clippy::print_stderr,
        clippy::print_stdout,
        clippy::string_slice,
        clippy::todo,
        clippy::unimplemented,
        clippy::unused_result_ok,
        clippy::unwrap_used
    )
)]
// The core serves all layers: what only a layer that is switched off would use is no dead code.
#![cfg_attr(not(feature = "full"), allow(dead_code, unused_imports, unused_macros))]

pub mod caller;
pub mod client;
pub mod clock;
pub mod context;
pub mod gauge;
#[cfg(all(doctest, feature = "full"))]
mod guide;
#[cfg(any(feature = "load-shed", feature = "back-pressure", feature = "serve"))]
pub mod limit;
#[cfg(feature = "access-log")]
pub mod log;
mod memory;
pub mod observe;
#[cfg(feature = "health")]
pub mod ops;
pub mod outcome;
mod panics;
#[cfg(feature = "preset")]
pub mod preset;
pub mod protocol;
pub mod rejection;
mod report;
#[cfg(feature = "serve")]
pub mod serve;
pub mod server;
#[cfg(feature = "trace-context")]
mod spans;
pub mod task;
#[cfg(feature = "telemetry")]
pub mod telemetry;
