//! `cargo run --example deadline --features access-log,axum,deadline,propagate,timeout`: too late is not sent.
//!
//! ```sh
//! curl -i localhost:3000/order                                 # the kitchen hears how long it has
//! curl -i localhost:3000/order -H 'x-request-deadline: 100m'   # grinding took longer: nothing is sent
//! curl localhost:3000/unsent
//! ```

use std::{net::SocketAddr, thread, time::Duration};

use axum::{Router, body::Body, extract::State, response::IntoResponse, routing::get};
use http::{Request, Response, StatusCode};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use plimsoll::{
    client::{deadline::DeadlineLayer, propagate::PropagateLayer},
    context::Deadline,
    server::{access_log::AccessLogLayer, timeout::TimeoutLayer},
};
use tokio::net::TcpListener;
use tower::{ServiceBuilder, ServiceExt, util::BoxCloneSyncService};

type Kitchen = BoxCloneSyncService<Request<Body>, Response<Body>, StatusCode>;

async fn order(State(kitchen): State<Kitchen>) -> Result<impl IntoResponse, StatusCode> {
    // Grinding keeps the thread: nothing can end the call meanwhile.
    thread::sleep(Duration::from_millis(300));
    let request = Request::get("http://127.0.0.1:3000/kitchen");
    let request = request.body(Body::empty()).expect("a request");
    kitchen.oneshot(request).await
}

async fn kitchen() -> String {
    format!("{:?} left\n", Deadline::current().map(Deadline::remaining))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let _log = plimsoll::log::init()?;
    let deadline = DeadlineLayer::new();
    let unsent = deadline.clone();
    let client = ServiceBuilder::new()
        .layer(deadline)
        .layer(PropagateLayer::new())
        .service(Client::builder(TokioExecutor::new()).build_http())
        .map_response(|answer| answer.map(Body::new))
        .map_err(|_| StatusCode::BAD_GATEWAY);
    let timeout = TimeoutLayer::new()
        .total(Duration::from_secs(2))
        .deadline_from("127.0.0.1".parse()?);
    let app = Router::new()
        .route("/order", get(order))
        .route("/kitchen", get(kitchen))
        .route("/unsent", get(async move || unsent.unsent().to_string()))
        .layer((AccessLogLayer::new(), timeout))
        .with_state(BoxCloneSyncService::new(client))
        .into_make_service_with_connect_info::<SocketAddr>();
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    Ok(axum::serve(listener, app).await?)
}
