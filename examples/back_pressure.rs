//! `cargo run --example back_pressure --features full`: a burst waits a little, and no call is begun too late.
//!
//! A service that nobody tuned, in front of a database with a few connections.
//!
//! ```sh
//! seq 2000 | xargs -P 200 -I{} curl -so /dev/null -w '%{http_code}\n' localhost:3000/order | sort | uniq -c
//! curl -is localhost:3000/order
//! ```

use std::{error::Error, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::State, routing::get};
use plimsoll::{
    caller::Key,
    limit::Limit,
    log,
    server::{
        access_log::AccessLogLayer, back_pressure::BackPressureLayer, request_id::RequestIdLayer,
        timeout::TimeoutLayer,
    },
};
use tokio::{net::TcpListener, sync::Semaphore, time::sleep};
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let _log = log::init()?;

    // The limit finds out that there are 16 of them, and 40 ms each.
    let database = Arc::new(Semaphore::new(16));
    let limit = Limit::adaptive().named("orders");
    let stack = ServiceBuilder::new()
        .layer(RequestIdLayer::new())
        .layer(AccessLogLayer::new())
        // Sets the deadline that the waiting room looks at.
        .layer(TimeoutLayer::new().total(Duration::from_secs(1)))
        .layer(BackPressureLayer::new(limit).fair_share(Key::peer()));
    let app = Router::new()
        .route("/order", get(order))
        .layer(stack)
        .with_state(database);

    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    Ok(axum::serve(listener, app).await?)
}

async fn order(State(database): State<Arc<Semaphore>>) -> &'static str {
    let _connection = database.acquire().await;
    sleep(Duration::from_millis(40)).await;
    "espresso\n"
}
