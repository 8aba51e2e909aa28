//! `PLIMSOLL_OPS_TOKEN=a-token-of-16-bytes-or-more cargo run --example ops --features full`: the page for operators.
//!
//! ```sh
//! # open http://localhost:9090/status, then:
//! for i in $(seq 1000); do curl -s localhost:3000/ & sleep 0.02; done
//! curl localhost:9090/control/limit -H 'authorization: Bearer a-token-of-16-bytes-or-more' \
//!     -H 'content-type: application/json' -d '{"limit":"kitchen","set":2}'
//! ```

use std::time::Duration;

use axum::{Router, routing::get};
use plimsoll::{
    limit::Limit,
    ops::{Controls, Ops, health::Health},
    serve::Server,
    server::{
        access_log::{AccessLogLayer, Failures},
        back_pressure::BackPressureLayer,
        metrics::MetricsLayer,
        request_id::RequestIdLayer,
    },
};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let _log = plimsoll::log::init()?;
    let telemetry = plimsoll::telemetry::Setup::new()
        .service("kitchen")
        .init()?;
    let (limit, failures) = (Limit::adaptive().named("kitchen"), Failures::new());
    let cook = get(|| tokio::time::sleep(Duration::from_millis(200)));
    let app = Router::new().route("/", cook).layer((
        RequestIdLayer::new(),
        AccessLogLayer::new().recent(&failures),
        MetricsLayer::new(telemetry.meter()).watch(limit.handle()),
        BackPressureLayer::new(limit.clone()),
    ));
    let server = Server::new(app).listen(TcpListener::bind("127.0.0.1:3000").await?);
    let control = server.control();
    let operators = Ops::new()
        .telemetry(&telemetry)
        .health(&Health::new())
        .limit(&limit.handle())
        .connections(&server.connections())
        .failures(&failures)
        .on_drain(move || control.drain())
        .controls(Controls::from_env()?);
    let admin = TcpListener::bind("127.0.0.1:9090").await?;
    server
        .admin(admin, operators.routes())
        .run_until_signalled()
        .await?;
    Ok(())
}
