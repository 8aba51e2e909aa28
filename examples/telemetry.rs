//! `cargo run --example telemetry --features telemetry,access-log`: exporters that say what they lose, and an end in order.
//!
//! ```sh
//! curl localhost:3000/orders/7; curl -s localhost:9090/metrics | grep -e duration_seconds_count -e export -e spans
//! OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:9 cargo run --example telemetry --features telemetry,access-log
//! ```
//!
//! With the second command nobody is there who takes the spans: after a call and Ctrl-C the log says how many were lost.

use std::{error::Error, time::Duration};

use axum::{Router, routing::get};
use plimsoll::{
    log,
    server::{metrics::MetricsLayer, trace_context::TraceContextLayer},
    telemetry::Setup,
};
use tokio::{net::TcpListener, signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // First the log, since it tells what becomes of the rest. What is not set here comes from the `OTEL_*` variables.
    let log = log::Setup::new().service("shop").init()?;
    let telemetry = Setup::new()
        .service("shop")
        .attribute("service.version", env!("CARGO_PKG_VERSION"))
        .export_interval(Duration::from_secs(15))
        .init()?;

    let app = Router::new()
        .route("/orders/{id}", get(|| async { "on its way\n" }))
        .layer((
            TraceContextLayer::new(telemetry.tracer().clone()),
            MetricsLayer::new(telemetry.meter()),
        ));
    let closed = async { signal::ctrl_c().await.expect("a signal can be waited for") };
    let calls = TcpListener::bind("127.0.0.1:3000").await?;
    let calls = axum::serve(calls, app).with_graceful_shutdown(closed);
    let operators = TcpListener::bind("127.0.0.1:9090").await?;
    let operators = axum::serve(operators, telemetry.metrics_route());
    tokio::select! {
        ended = calls.into_future() => ended?,
        ended = operators.into_future() => ended?,
    }

    // After the last call: what is left is exported, for as long as this and no longer. Then the log ends.
    if let Err(error) = telemetry.shutdown(Duration::from_secs(5)).await {
        tracing::warn!(%error, "not all was exported");
    }
    drop(log);
    Ok(())
}
