//! `cargo run --example health --features health,access-log`: liveness, readiness and start-up, and a check that fails.
//!
//! ```sh
//! curl -i localhost:9090/readyz        # degraded: nobody delivers milk
//! curl localhost:9090/health
//! curl -X POST localhost:3000/break    # and ask again: unavailable
//! ```

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    routing::{get, post},
};
use plimsoll::ops::health::{Check, Health};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let _log = plimsoll::log::init()?;
    let broken = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&broken);
    let machine = Check::new("espresso_machine", move || {
        let broken = asked.load(Ordering::Relaxed);
        async move { if broken { Err("no pressure") } else { Ok(()) } }
    });
    let health = Health::new()
        .check(machine.keep(Duration::from_secs(1)))
        .check(Check::http("milk_delivery", "http://127.0.0.1:1/livez")?.not_critical())
        .check(Check::disk("receipts", ".", 100 << 20))
        .check(Check::memory("memory", 0.9));

    let app: Router = Router::new()
        .route("/", get(|| async { "espresso\n" }))
        .route(
            "/break",
            post(async move || broken.store(true, Ordering::Relaxed)),
        );
    let calls = TcpListener::bind("127.0.0.1:3000").await?;
    let probes = TcpListener::bind("127.0.0.1:9090").await?;
    tokio::try_join!(
        axum::serve(calls, app).into_future(),
        axum::serve(probes, health.routes().merge(health.details())).into_future(),
    )?;
    Ok(())
}
