//! The id of a call goes along on outbound calls: the shop asks its own kitchen, which hears the same id.
//!
//! ```sh
//! cargo run --example propagate --features request-id,propagate
//! curl localhost:3000 -H 'x-request-id: my-id'
//! ```

use axum::{Extension, Router, body::Body, extract::State, http::Request, routing::get};
use plimsoll::{
    client::propagate::{Propagate, PropagateLayer},
    context::RequestId,
    server::request_id::RequestIdLayer,
};
use tower::{Layer, Service, ServiceExt};

type Client = Propagate<reqwest::Client>;

async fn shop(State(mut kitchen): State<Client>) -> Result<String, String> {
    let request =
        Request::get("http://127.0.0.1:3000/kitchen").body(reqwest::Body::from(Vec::new()));
    let request = request.map_err(|error| error.to_string())?;
    let kitchen = kitchen.ready().await.map_err(|error| error.to_string())?;
    let response = kitchen
        .call(request)
        .await
        .map_err(|error| error.to_string())?;
    let said = axum::body::to_bytes(Body::new(response.into_body()), 1_024).await;
    said.map(|said| String::from_utf8_lossy(&said).into_owned())
        .map_err(|error| error.to_string())
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
