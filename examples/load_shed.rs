//! `cargo run --example load_shed --features full`: shedding load on an axum server, the least important calls first.
//!
//! ```sh
//! seq 200 | xargs -P 100 -I{} curl -so /dev/null -w '%{http_code}\n' localhost:3000/report | sort | uniq -c
//! seq 200 | xargs -P 100 -I{} curl -so /dev/null -w '%{http_code}\n' localhost:3000/order | sort | uniq -c
//! curl -s localhost:3000/limit
//! ```

use std::{error::Error, num::NonZeroUsize, time::Duration};

use axum::{Router, extract::State, routing::get};
use plimsoll::{
    context::Priority,
    limit::{Limit, LimitHandle, MemoryGate},
    server::load_shed::LoadShedLayer,
};
use tokio::{net::TcpListener, time::sleep};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().init();

    // Known by measuring. `Limit::adaptive()` finds out by itself.
    let limit = Limit::fixed(NonZeroUsize::new(20).expect("above 0")).named("shop");
    let handle = limit.handle();
    let shed = LoadShedLayer::new(limit)
        .priority_of_routes([
            ("/order", Priority::Critical),
            ("/report", Priority::Sheddable),
        ])
        .gate(MemoryGate::new()?);

    let operators = Router::new().route("/limit", get(told)).with_state(handle);
    let app = Router::new()
        .route("/order", get(|| brew(50)))
        .route("/report", get(|| brew(200)))
        .layer(shed)
        .merge(operators);

    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    Ok(axum::serve(listener, app).await?)
}

async fn brew(millis: u64) -> &'static str {
    sleep(Duration::from_millis(millis)).await;
    "espresso\n"
}

async fn told(State(limit): State<LimitHandle>) -> String {
    let (in_flight, most) = (limit.in_flight(), limit.limit());
    let mut text = format!("{in_flight} of {most}, {} admitted\n", limit.admitted());
    for rejected in limit.rejected() {
        let (reason, priority) = (rejected.reason.label(), rejected.priority);
        text += &format!("{} {priority} {reason}\n", rejected.calls);
    }
    text
}
