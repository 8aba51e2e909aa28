//! `cargo run --example serve --features serve,health,access-log,request-id`: a server that ends in order.
//!
//! Stop it with Ctrl-C while a call runs.
//!
//! ```sh
//! curl localhost:3000/slow          # and Ctrl-C: it is answered; new calls are refused
//! curl -i localhost:9090/readyz
//! ```

use std::{process::ExitCode, time::Duration};

use axum::{Router, routing::get};
use plimsoll::{
    ops::health::Health,
    serve::{Drain, Server},
    server::{access_log::AccessLogLayer, request_id::RequestIdLayer},
};
use tokio::net::TcpListener;
use tower::ServiceBuilder;

async fn slow() -> &'static str {
    tokio::time::sleep(Duration::from_secs(5)).await;
    "slow, but here\n"
}

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let _log = plimsoll::log::init()?;
    let layers = ServiceBuilder::new()
        .layer(RequestIdLayer::new())
        .layer(AccessLogLayer::new());
    let app = Router::new().route("/slow", get(slow)).layer(layers);
    let health = Health::new();
    let draining = health.clone();
    let report = Server::new(app)
        .listen(TcpListener::bind("127.0.0.1:3000").await?)
        .admin(TcpListener::bind("127.0.0.1:9090").await?, health.routes())
        .on_drain(move || draining.drain())
        .drain(Drain::new().notice(Duration::from_secs(1)))
        .run_until_signalled()
        .await?;
    Ok(report.exit_code().into())
}
