//! `cargo run --example trace_context --features telemetry,access-log`: one trace through two services.
//!
//! The shop asks its own kitchen over HTTP. The lines of both bear the caller's `trace_id`, each with the `span_id` of its own
//! span. With `OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318` the three spans go to a collector.
//!
//! ```sh
//! curl localhost:3000 -H 'traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
//! ```

use axum::{Router, body::Body, extract::State, http::StatusCode, routing::get};
use http::Request;
use http_body_util::BodyExt;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use plimsoll::{
    client::trace_context::{TraceContextLayer as OutboundSpans, WithSpan},
    context::TraceContext,
    server::{access_log::AccessLogLayer, trace_context::TraceContextLayer},
    telemetry,
};
use tower::{Layer, ServiceExt};

type Kitchen = WithSpan<Client<HttpConnector, Body>>;

async fn shop(State(kitchen): State<Kitchen>) -> Result<Vec<u8>, StatusCode> {
    let request = Request::get("http://127.0.0.1:3000/kitchen").body(Body::empty());
    let answer = kitchen.oneshot(request.expect("a request")).await;
    let body = answer.map_err(|_| StatusCode::BAD_GATEWAY)?.into_body();
    let body = body.collect().await.map_err(|_| StatusCode::BAD_GATEWAY)?;
    Ok(body.to_bytes().to_vec())
}

async fn kitchen() -> String {
    let trace = TraceContext::current().expect("the layer sees to it");
    format!("trace {}, span {}\n", trace.trace_id(), trace.span_id())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let _log = plimsoll::log::init()?;
    let telemetry = telemetry::init()?;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let app = Router::new()
        .route("/", get(shop))
        .route("/kitchen", get(kitchen))
        .layer((
            TraceContextLayer::new(telemetry.tracer().clone()),
            AccessLogLayer::new(),
        ))
        .with_state(OutboundSpans::new(telemetry.tracer().clone()).layer(client));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    Ok(axum::serve(listener, app).await?)
}
