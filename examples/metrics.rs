//! `cargo run --example metrics --features telemetry,catch-panic,rate-limit`: calls by how they really ended.
//!
//! ```sh
//! curl localhost:3000/orders/7; curl localhost:3000/cut; curl -m 1 localhost:3000/slow; curl localhost:3000/panic
//! for n in 1 2 3 4 5; do curl -s localhost:3000/limited; done
//! curl -s localhost:9090/metrics | grep -e plimsoll_requests -e plimsoll_slo -e duration_seconds_count -e rate_limit
//! ```

use std::{error::Error, io, time::Duration};

use axum::{Router, body::Body, routing::get};
use plimsoll::{
    server::{
        catch_panic::CatchPanicLayer,
        metrics::{MetricsLayer, Objective},
        rate_limit::{Key, Quota, RateLimitLayer},
    },
    task::Deaths,
    telemetry,
};
use tokio::net::TcpListener;

/// The head says 200; the count says `body_error`.
async fn cut() -> Body {
    let chunks = [Ok("half of it"), Err(io::Error::other("cable cut"))];
    Body::from_stream(tokio_stream::iter(chunks))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let telemetry = telemetry::init()?;
    let panics = CatchPanicLayer::new();
    let limit = RateLimitLayer::new(Key::peer(), Quota::per_second(1).burst(3)?);
    let metrics = MetricsLayer::new(telemetry.meter())
        // "99.9 % of the orders in 300 ms and without our fault": the 99.9 % stand in docs/alerts.yml.
        .objective(Objective::new("orders", Duration::from_millis(300)).route("/orders/{id}"))
        .watch(panics.clone())
        .watch(limit.handle())
        .watch(Deaths);
    let slow = || tokio::time::sleep(Duration::from_secs(5));
    let app = Router::new()
        .route("/orders/{id}", get(|| async { "on its way\n" }))
        .route("/cut", get(cut))
        .route("/slow", get(slow))
        .route("/panic", get(|| async { panic!("oh") as &'static str }))
        .route("/limited", get(|| async { "one of few\n" }).layer(limit))
        .layer((metrics, panics));

    // Operators have a port of their own: routes are nobody else's business.
    let operators = TcpListener::bind("127.0.0.1:9090").await?;
    let operators = axum::serve(operators, telemetry.metrics_route()).into_future();
    let calls = TcpListener::bind("127.0.0.1:3000").await?;
    let app = app.into_make_service_with_connect_info::<std::net::SocketAddr>();
    let calls = axum::serve(calls, app).into_future();
    tokio::try_join!(operators, calls).map(drop)?;
    Ok(())
}
