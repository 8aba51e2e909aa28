//! A thousand calls at once on a few threads: each is in its own trace, wherever it goes on.

use axum::{Router, body::Body, extract::Path, routing::get};
use futures_util::StreamExt;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use opentelemetry::{Context, trace::TraceContextExt};
use plimsoll::{context::TraceContext, task};
use tower::ServiceExt;

use crate::{Failure, Spans, request};

const CALLS: u32 = 1_000;

fn trace_of(call: u32) -> String {
    format!("{:032x}", call + 1)
}

/// What plimsoll and OpenTelemetry say, which must be the same.
fn told() -> (String, String) {
    let ours = TraceContext::current().expect("in a trace");
    let theirs = Context::map_current(|context| context.span().span_context().trace_id());
    (ours.trace_id().to_owned(), theirs.to_string())
}

async fn goes_on(Path(call): Path<u32>) -> Body {
    let own = (trace_of(call), trace_of(call));
    for _ in 0..call % 7 {
        assert_eq!(told(), own);
        tokio::task::yield_now().await;
    }
    let ids = task::spawn("of_a_call", async {
        tokio::task::yield_now().await;
        TraceContext::current().map(|trace| trace.trace_id().to_owned())
    });
    assert_eq!(ids.await.expect("it lives").as_ref(), Some(&own.0));
    let chunks = tokio_stream::iter(0..3).then(move |_| {
        let own = own.clone();
        async move {
            tokio::task::yield_now().await;
            assert_eq!(told(), own);
            Ok::<_, Failure>(Frame::data("x".into()))
        }
    });
    Body::new(StreamBody::new(chunks))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_thousand_calls_at_once_stay_in_their_traces() {
    let spans = Spans::new();
    let app: Router = Router::new()
        .route("/{call}", get(goes_on))
        .layer(spans.layer());
    let mut calls = tokio::task::JoinSet::new();
    for call in 0..CALLS {
        let parent = format!("00-{}-00f067aa0ba902b7-01", trace_of(call));
        let request = request(&format!("/{call}"), &[("traceparent", &parent)]);
        let answer = app.clone().oneshot(request);
        calls.spawn(async move {
            let answer = answer.await.expect("infallible");
            let body = answer.into_body().collect().await;
            assert_eq!(body.expect("a whole body").to_bytes(), "xxx");
        });
    }
    while let Some(call) = calls.join_next().await {
        call.expect("in its own trace");
    }
    let mut traces: Vec<String> = spans
        .read()
        .iter()
        .map(|span| span.span_context.trace_id().to_string())
        .collect();
    traces.sort();
    assert_eq!(traces, (0..CALLS).map(trace_of).collect::<Vec<_>>());
}
