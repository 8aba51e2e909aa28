//! `cargo run --example timeout --features access-log,axum,deadline,propagate,timeout`: calls that end in time.
//!
//! ```sh
//! curl -i localhost:3000/quick
//! curl -i localhost:3000/slow        # 504 after 2 s
//! curl -i localhost:3000/events      # cut after 2 s
//! curl -i -H 'x-request-deadline: 500m' localhost:3000/slow   # from a trusted peer: 504 after 500 ms
//! ```

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    routing::get,
};
use plimsoll::{
    context::Deadline,
    server::{access_log::AccessLogLayer, timeout::TimeoutLayer},
};

async fn quick() -> String {
    let left = Deadline::current().map(Deadline::remaining);
    format!("{left:?} left\n")
}

async fn slow() -> &'static str {
    tokio::time::sleep(Duration::from_secs(60)).await;
    "nobody reads this\n"
}

async fn events() -> Body {
    let ticks = tokio_stream::StreamExt::throttle(
        tokio_stream::iter(std::iter::repeat_with(|| {
            Ok::<_, Infallible>(Bytes::from_static(b"tick\n"))
        })),
        Duration::from_millis(300),
    );
    Body::from_stream(ticks)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let _log = plimsoll::log::init()?;
    let timeout = TimeoutLayer::new()
        .total(Duration::from_secs(2))
        .deadline_from("127.0.0.1".parse()?);
    let app: Router = Router::new()
        .route("/quick", get(quick))
        .route("/slow", get(slow))
        .route("/events", get(events))
        .layer((AccessLogLayer::new(), timeout));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    Ok(axum::serve(listener, app).await?)
}
