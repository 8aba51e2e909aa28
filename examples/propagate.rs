//! `cargo run --example propagate --features request-id,propagate,reqwest`: the id of a call goes along.
//!
//! The shop asks its own kitchen, which hears the same id.
//!
//! ```sh
//! curl localhost:3000 -H 'x-request-id: my-id'
//! ```

use axum::{Extension, Router, extract::State, http::StatusCode, routing::get};
use plimsoll::{
    client::propagate::{Propagate, PropagateLayer},
    context::RequestId,
    server::request_id::RequestIdLayer,
};
use tower::{Layer, ServiceExt};

type Client = Propagate<reqwest::Client>;

async fn shop(State(client): State<Client>) -> Result<String, StatusCode> {
    let url = "http://127.0.0.1:3000/kitchen".parse().expect("a URL");
    let request = reqwest::Request::new(reqwest::Method::GET, url);
    let answer = async { client.oneshot(request).await?.text().await }.await;
    answer.map_err(|_: reqwest::Error| StatusCode::BAD_GATEWAY)
}

async fn kitchen(Extension(id): Extension<RequestId>) -> String {
    format!("the kitchen heard of {id}\n")
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = PropagateLayer::new().layer(reqwest::Client::new());
    let app = Router::new()
        .route("/", get(shop))
        .route("/kitchen", get(kitchen))
        .layer(RequestIdLayer::new())
        .with_state(client);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    Ok(axum::serve(listener, app).await?)
}
