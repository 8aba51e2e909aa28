//! `cargo run --example body_limit --features access-log,axum,body-limit`: bodies of requests have at most 1 KiB.
//!
//! ```sh
//! curl -i localhost:3000/orders -d 'one cappuccino'
//! head -c 2000 /dev/zero | curl -i localhost:3000/orders --data-binary @-                                  # 413, unread
//! head -c 2000 /dev/zero | curl -i localhost:3000/orders --data-binary @- -H 'transfer-encoding: chunked'  # 413
//! ```

use axum::{Router, routing::post};
use plimsoll::server::{access_log::AccessLogLayer, body_limit::BodyLimitLayer};
use tower::ServiceBuilder;

async fn order(order: String) -> String {
    format!("ordered: {} bytes\n", order.len())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let _log = plimsoll::log::init()?;
    let app: Router = Router::new().route("/orders", post(order)).layer(
        ServiceBuilder::new()
            .layer(AccessLogLayer::new())
            .layer(BodyLimitLayer::new(1024)),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    Ok(axum::serve(listener, app).await?)
}
