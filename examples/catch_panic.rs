//! `cargo run --example catch_panic --features catch-panic,access-log`: a panic is an answer, a line and a count.
//!
//! ```sh
//! curl -i localhost:3000/panic
//! curl localhost:3000/counts
//! ```

use axum::{Router, routing::get};
use plimsoll::server::catch_panic::CatchPanicLayer;

async fn panic() -> &'static str {
    panic!("there is no such order")
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let _log = plimsoll::log::init()?;
    let panics = CatchPanicLayer::new().backtraces();
    let counts = panics.clone();
    let app: Router = Router::new()
        .route("/panic", get(panic))
        .route(
            "/counts",
            get(async move || format!("{:?}\n", counts.counts())),
        )
        .layer(panics);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    Ok(axum::serve(listener, app).await?)
}
