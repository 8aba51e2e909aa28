//! `cargo run --example access_log --features request-id,access-log,axum`: one line for each call, at its true end.
//!
//! ```sh
//! curl 'localhost:3000/orders/7?token=secret'
//! curl -m 1 localhost:3000/slow
//! curl localhost:3000/broken
//! ```

use std::{io, time::Duration};

use axum::{
    Router,
    extract::Path,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use plimsoll::{
    context::Failure,
    server::{
        access_log::{self, AccessLogLayer},
        request_id::RequestIdLayer,
    },
};

async fn order(Path(id): Path<u32>) -> String {
    access_log::field("order", id);
    format!("order {id}\n")
}

/// A caller that hangs up has its line too: `client_gone`.
async fn slow() -> &'static str {
    tokio::time::sleep(Duration::from_secs(5)).await;
    "at last\n"
}

/// The caller learns nothing of the cause, the line tells all of it.
async fn broken() -> Response {
    let mut response = (StatusCode::SERVICE_UNAVAILABLE, "please try later\n").into_response();
    response
        .extensions_mut()
        .insert(Failure::new(io::Error::other("the disk is full")));
    response
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let _log = plimsoll::log::init()?;
    let app: Router = Router::new()
        .route("/orders/{id}", get(order))
        .route("/slow", get(slow))
        .route("/broken", get(broken))
        .layer((RequestIdLayer::new(), AccessLogLayer::new()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    Ok(axum::serve(listener, app).await?)
}
