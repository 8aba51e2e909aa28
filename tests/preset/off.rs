//! A layer that is switched off changes nothing.

use std::{convert::Infallible, num::NonZeroUsize, panic::AssertUnwindSafe, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::BodyExt as _;
use opentelemetry::{metrics::MeterProvider as _, trace::TracerProvider as _};
use opentelemetry_sdk::{metrics::SdkMeterProvider, trace::SdkTracerProvider};
use plimsoll::{
    client,
    context::{Deadline, RequestId},
    limit::Limit,
    observe::BoxError,
    server::{
        access_log::AccessLogLayer,
        back_pressure::BackPressureLayer,
        body_limit::BodyLimitLayer,
        catch_panic::CatchPanicLayer,
        load_shed::LoadShedLayer,
        metrics::MetricsLayer,
        rate_limit::{Key, Quota, RateLimitLayer},
        request_id::RequestIdLayer,
        timeout::TimeoutLayer,
        trace_context::TraceContextLayer,
    },
};
use tower::{Layer, Service, ServiceExt as _, service_fn};

use crate::common::{Lines, Script, body::Step};

/// Sent by a caller of gRPC, with an id that is not kept and a body over every cap.
fn request() -> Request<Body> {
    Request::post("/shop/Order?secret=1")
        .header("content-type", "application/grpc")
        .header("x-request-id", "not an id")
        .header("traceparent", "malformed")
        .header("grpc-timeout", "malformed")
        .body(Body::from(vec![7; 4_096]))
        .expect("a request")
}

/// What a service got and gave, seen from outside of a layer.
#[derive(Debug, PartialEq)]
struct Seen {
    asked: HeaderMap,
    in_call: bool,
    extensions: usize,
    read: usize,
    answered: HeaderMap,
    size: (u64, Option<u64>),
    frames: Vec<String>,
    lines: usize,
}

/// One call of a service that answers with trailers in which the status of gRPC is missing, or breaks off before them.
async fn see<L, S, B>(layer: L, broken: bool) -> Seen
where
    L: FnOnce(Inner) -> S,
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible>,
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let lines = Lines::listen();
    let (tell, told) = std::sync::mpsc::channel();
    let inner = Inner::new(service_fn(move |request: Request<Body>| {
        let tell = tell.clone();
        async move {
            let (head, body) = request.into_parts();
            let in_call = RequestId::current().is_some() || Deadline::current().is_some();
            let read = body.collect().await.expect("all of it").to_bytes().len();
            tell.send((head.headers, in_call, head.extensions.len(), read))
                .expect("somebody looks");
            let mut trailers = HeaderMap::new();
            trailers.insert("x-last", HeaderValue::from_static("1"));
            let last = match broken {
                true => Step::Fail(BoxError::from("cut off")),
                false => Step::Trailers(trailers),
            };
            let body = Script::of([Step::Data(b"one"), Step::Wait, Step::Data(b"two"), last]);
            let mut response = Response::new(body);
            let kind = HeaderValue::from_static("application/grpc");
            response.headers_mut().insert("content-type", kind);
            Ok(response)
        }
    }));
    let response = layer(inner).oneshot(request()).await.expect("an answer");
    let (asked, in_call, extensions, read) = told.recv().expect("it was called");
    let (head, mut body) = response.into_parts();
    let hint = body.size_hint();
    let mut frames = Vec::new();
    while let Some(frame) = body.frame().await {
        frames.push(match frame {
            Ok(frame) => format!("{frame:?}"),
            Err(error) => format!("error: {}", error.into()),
        });
    }
    assert!(body.frame().await.is_none(), "it stays at its end");
    drop(body);
    Seen {
        asked,
        in_call,
        extensions,
        read,
        answered: head.headers,
        size: (hint.lower(), hint.upper()),
        frames,
        lines: lines.take().len(),
    }
}

type Inner = tower::util::BoxCloneSyncService<Request<Body>, Response<Script>, Infallible>;

macro_rules! changes_nothing {
    ($($name:ident: $layer:expr,)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                for broken in [false, true] {
                    let bare = see(|inner| inner, broken).await;
                    assert_eq!(bare.frames.len(), 3, "{bare:?}");
                    let off = see(|inner| $layer.enabled(false).layer(inner), broken).await;
                    assert_eq!(off, bare);
                    let on = see(|inner| $layer.enabled(false).enabled(true).layer(inner), broken);
                    // A layer that is on shows: in what it says, or in the honest end of the call.
                    let on = AssertUnwindSafe(on).catch_unwind().await;
                    if DIFFERS.contains(&stringify!($name)) {
                        assert!(on.map_or(true, |on| on != bare), "the test would not see it");
                    }
                }
            }
        )*
    };
}

/// Those that show in a call that goes well.
const DIFFERS: [&str; 9] = [
    "request_id",
    "trace_context",
    "access_log",
    "metrics",
    "timeout",
    "rate_limit",
    "back_pressure",
    "load_shed",
    "catch_panic",
];

changes_nothing! {
    request_id: RequestIdLayer::new(),
    trace_context: TraceContextLayer::new(SdkTracerProvider::default().tracer("test")),
    access_log: AccessLogLayer::new().call_span(),
    metrics: MetricsLayer::new(&SdkMeterProvider::default().meter("test")),
    timeout: TimeoutLayer::new().total(Duration::from_secs(60)),
    rate_limit: RateLimitLayer::new(Key::everyone(), Quota::per_second(1).whole().expect("valid")),
    back_pressure: BackPressureLayer::new(Limit::fixed(NonZeroUsize::MIN)).hold_connections(),
    load_shed: LoadShedLayer::new(Limit::fixed(NonZeroUsize::MIN)),
    body_limit: BodyLimitLayer::new(10),
    catch_panic: CatchPanicLayer::new(),
    client_deadline: client::deadline::DeadlineLayer::new(),
    client_propagate: client::propagate::PropagateLayer::new(),
    client_trace_context:
        client::trace_context::TraceContextLayer::new(SdkTracerProvider::default().tracer("test")),
}

#[tokio::test]
async fn a_body_over_the_cap_is_read_whole() {
    let off = see(
        |inner| BodyLimitLayer::new(10).enabled(false).layer(inner),
        false,
    )
    .await;
    assert_eq!(off.read, 4_096);
}

#[tokio::test]
async fn a_panic_passes_through_a_catcher_that_is_off() {
    for place in ["call", "response"] {
        let service = service_fn(move |_: Request<Body>| {
            assert_ne!(place, "call", "panics in call");
            async { panic!("panics in the future") }
        });
        let service = service
            .map_result(|result: Result<Response<Script>, Infallible>| result)
            .map_err(|never: Infallible| never);
        let layer = CatchPanicLayer::new().enabled(false);
        let call = layer.layer(service).oneshot(Request::new(Body::empty()));
        let caught = AssertUnwindSafe(call).catch_unwind().await;
        assert!(caught.is_err(), "{place}");
        assert_eq!(layer.counts(), Default::default());
    }
}

/// What is configured after it was switched off does not switch it on.
#[tokio::test]
async fn it_stays_off_when_it_is_configured_further() {
    let second = Duration::from_secs(1);
    let bare = see(|inner| inner, false).await;
    let timeout = TimeoutLayer::new().enabled(false).total(second);
    assert_eq!(see(|inner| timeout.layer(inner), false).await, bare);
    let quota = Quota::per_second(1).whole().expect("valid");
    let limit = RateLimitLayer::new(Key::everyone(), quota);
    let limit = limit.enabled(false).named("other");
    assert_eq!(see(|inner| limit.layer(inner), false).await, bare);
    let limit = Limit::fixed(NonZeroUsize::MIN);
    let shed = LoadShedLayer::new(limit.clone()).enabled(false);
    let shed = shed.streams(["/"]);
    assert_eq!(see(|inner| shed.layer(inner), false).await, bare);
    assert_eq!(limit.handle().admitted(), 0);
}
