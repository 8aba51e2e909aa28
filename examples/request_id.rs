//! `cargo run --example request_id --features request-id,access-log`: an id for each call, kept or made.
//!
//! ```sh
//! curl -i localhost:3000 -H 'x-request-id: my-id'
//! curl -i localhost:3000 -H 'x-request-id: not "safe"'
//! ```

use axum::{Extension, Router, routing::get};
use plimsoll::{context::RequestId, server::request_id::RequestIdLayer, task};

async fn hello(Extension(id): Extension<RequestId>) -> String {
    tracing::info!("a line with the id");
    task::spawn("greet", async {
        tracing::info!("a line of another task, with the same id");
    });
    format!("hello, {id}\n")
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let _log = plimsoll::log::init()?;
    let app: Router = Router::new()
        .route("/", get(hello))
        .layer(RequestIdLayer::new());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    Ok(axum::serve(listener, app).await?)
}
