//! What stands around a client, whatever the order in which it is set.

use std::convert::Infallible;

use axum::body::Body;
use http::{HeaderMap, Request, Response};
use plimsoll::{
    preset::{self, Client},
    telemetry::{self, Telemetry},
};
use tower::{Layer as _, ServiceExt as _, service_fn};

use crate::common::get;

fn exporters() -> Telemetry {
    let setup = telemetry::Setup::new().service("shop");
    setup.init().expect("nothing is wrong with it")
}

/// What a client sends.
async fn sent(client: Client) -> HeaderMap {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let asked = service_fn(move |request: Request<Body>| {
        let told = tell.send(request.headers().clone());
        told.expect("somebody looks");
        async { Ok::<_, Infallible>(Response::new(Body::empty())) }
    });
    let answer = client.layer(asked).oneshot(get("/")).await;
    drop(answer.expect("an answer"));
    told.recv().await.expect("it was sent")
}

#[tokio::test]
async fn exporters_change_nothing_else() {
    let telemetry = exporters();
    let client = preset::client;
    for (setup, on) in [
        (client().telemetry(&telemetry), true),
        (client().telemetry(&telemetry).trace_context(false), false),
        (client().trace_context(false).telemetry(&telemetry), false),
    ] {
        let headers = sent(setup).await;
        assert_eq!(headers.contains_key("traceparent"), on, "{headers:?}");
    }
    for setup in [
        client().telemetry(&telemetry).server("barista", 50_051),
        client().server("barista", 50_051).telemetry(&telemetry),
    ] {
        let shown = format!("{setup:?}");
        assert!(shown.contains("\"barista\", 50051"), "{shown}");
    }
}
