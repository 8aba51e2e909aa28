//! `cargo run --example rate_limit --features full`: quotas per API key, with tiers, on an axum server.
//!
//! ```sh
//! for call in 1 2 3 4 5; do curl -is localhost:3000/menu -H 'x-api-key: free-ann' | grep -i -e '^http' -e '^ratelimit:' -e '^retry'; done
//! curl -is localhost:3000/menu -H 'x-api-key: gold-bob' | grep -i ratelimit
//! curl -s localhost:3000/offenders
//! ```

use std::{error::Error, net::SocketAddr};

use axum::{Router, extract::State, http::HeaderName, routing::get};
use plimsoll::server::rate_limit::{Key, Quotas, RateLimitHandle, RateLimitLayer};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Quotas may come from your configuration: a text that is none says where it goes wrong.
    let free: Quotas = "1/s burst 3 and 100/h".parse()?;
    let gold: Quotas = "100/s burst 200".parse()?;

    // A key that nobody checked can be made up, so that those without a known one are told apart by address.
    let api_key = HeaderName::from_static("x-api-key");
    let known = Key::by(|call| {
        let api_key = call.headers.get("x-api-key")?;
        tier_of(api_key.as_bytes()).map(|_| api_key.clone())
    });
    let limit = RateLimitLayer::new(known.or(Key::peer()), free)
        .tier("gold", gold)?
        .tier_of(move |call| tier_of(call.headers.get(&api_key)?.as_bytes()))
        .weigh_routes([("/reports/{month}", 3)])?;

    let operators = Router::new()
        .route("/offenders", get(offenders))
        .with_state(limit.handle());
    let app = Router::new()
        .route("/menu", get(|| async { "espresso\n" }))
        .route("/reports/{month}", get(|| async { "a costly one\n" }))
        .layer(limit)
        .merge(operators);

    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    Ok(axum::serve(listener, app).await?)
}

/// In your service: a look into a table of customers.
fn tier_of(api_key: &[u8]) -> Option<&'static str> {
    match api_key.split(|&byte| byte == b'-').next()? {
        b"free" => Some("default"),
        b"gold" => Some("gold"),
        _ => None,
    }
}

async fn offenders(State(limit): State<RateLimitHandle>) -> String {
    let top = limit.top_offenders(10).into_iter();
    top.map(|one| format!("{} {}\n", one.key, one.rejected))
        .collect()
}
