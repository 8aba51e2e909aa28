//! `cargo run --example rate_limit_redis --features full`: three replicas, one quota.
//!
//! ```sh
//! redis-server --port 6379 &
//! for port in 3001 3002 3003 3001 3002 3003; do curl -is localhost:$port/menu | grep -i -e '^http' -e '^ratelimit:' -e degraded; done
//! ```
//!
//! Stop Redis and call again: each replica holds callers to a third of the quota, and says so in `x-plimsoll-degraded`.
//! Start it again, and within a few seconds the quota is one for all.

use std::{env, error::Error, net::SocketAddr, num::NonZeroU32};

use axum::{Router, routing::get};
use plimsoll::server::rate_limit::{Key, Quota, RateLimitLayer, Redis, WhenAway};
use tokio::net::TcpListener;

const REPLICAS: NonZeroU32 = NonZeroU32::new(3).expect("above 0");

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379/".to_owned());
    let quota: Quota = "6/m".parse()?;

    // In your service each of these is a process of its own.
    let (first, second, third) = tokio::join!(
        replica(3001, &url, quota),
        replica(3002, &url, quota),
        replica(3003, &url, quota),
    );
    first.and(second).and(third)
}

async fn replica(port: u16, url: &str, quota: Quota) -> Result<(), Box<dyn Error>> {
    let when_away = WhenAway::Local { replicas: REPLICAS };
    let limit = RateLimitLayer::new(Key::peer(), quota).in_redis(Redis::new(url)?, when_away);
    let app = Router::new()
        .route(
            "/menu",
            get(move || async move { format!("espresso from {port}\n") }),
        )
        .layer(limit);
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    Ok(axum::serve(listener, app).await?)
}
