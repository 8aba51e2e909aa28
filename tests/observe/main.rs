//! The shared future and body: an observer hears the true end of each call once, and the caller never a better one.

mod bodies;
#[path = "../common/mod.rs"]
mod common;
mod drops;
mod grpc;
mod rejected;

use std::{
    convert::Infallible,
    error::Error,
    fmt,
    future::{Future, poll_fn},
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use common::{
    Script, Yield,
    body::{Got, Step, map, read},
    get, header, post,
};
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use plimsoll::{
    context::Scope,
    observe::{BoxError, End, Observer, ResponseBody, ResponseFuture},
};
use tower::{Layer, Service, ServiceExt as _, service_fn};

/// What observers were told, in order.
#[derive(Clone, Default)]
struct Ends(Arc<Mutex<Vec<String>>>);

impl Ends {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Watch(Ends);

impl Observer for Watch {
    fn on_end(self, end: End<'_>) {
        let text = match end {
            End::Complete { trailers: None } => "complete".to_owned(),
            End::Complete {
                trailers: Some(trailers),
            } => {
                let status = trailers.get("grpc-status");
                let status = status.map_or("none", |status| status.to_str().expect("ASCII"));
                format!("complete, status {status}")
            }
            End::Failed(fault) => format!("failed: {fault}"),
            End::Dropped => "dropped".to_owned(),
            End::Panicked => "panicked".to_owned(),
            other => format!("{other:?}"),
        };
        let mut ends = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        ends.push(text);
    }
}

/// A layer as somebody outside of plimsoll writes one.
#[derive(Clone, Default)]
struct WatchLayer(Ends);

impl<S> Layer<S> for WatchLayer {
    type Service = Watched<S>;

    fn layer(&self, inner: S) -> Watched<S> {
        Watched(inner, self.0.clone())
    }
}

#[derive(Clone)]
struct Watched<S>(S, Ends);

impl<S, A, B> Service<Request<A>> for Watched<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Error: fmt::Display + 'static,
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<B, Watch>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, Watch>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        let scope = Scope::open(&mut request);
        ResponseFuture::call(&mut self.0, request, Watch(self.1.clone()), scope)
    }
}

/// Answers this request with that response, watched.
async fn answer(
    request: Request<Body>,
    response: Response<Script>,
) -> (Response<ResponseBody<Script, Watch>>, Ends) {
    let layer = WatchLayer::default();
    let mut response = Some(response);
    let service = service_fn(move |_| {
        let response = response.take().expect("asked once");
        async { Ok::<_, Infallible>(response) }
    });
    let response = layer.layer(service).oneshot(request).await;
    (response.expect("infallible"), layer.0)
}

/// The same, read to its end as a server does and dropped.
async fn answer_read(request: Request<Body>, response: Response<Script>) -> (Got, Vec<String>) {
    let (response, ends) = answer(request, response).await;
    let got = read(response.into_body()).await;
    (got, ends.take())
}

/// The same, dropped without a look at its body.
async fn answer_unread(request: Request<Body>, response: Response<Script>) -> Vec<String> {
    let (response, ends) = answer(request, response).await;
    assert_eq!(ends.take(), [""; 0], "told before its end");
    drop(response);
    ends.take()
}

fn response(steps: impl IntoIterator<Item = Step>) -> Response<Script> {
    Response::new(Script::of(steps))
}

fn with_length(length: &str, mut response: Response<Script>) -> Response<Script> {
    let length = length.parse().expect("a value");
    response.headers_mut().insert("content-length", length);
    response
}

fn with_status(status: u16, mut response: Response<Script>) -> Response<Script> {
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response
}

fn head() -> Request<Body> {
    let mut request = get("/");
    *request.method_mut() = http::Method::HEAD;
    request
}

fn oh() -> Step {
    Step::Fail("oh".into())
}

#[test]
fn futures_and_bodies_are_send_and_sync_when_the_inner_ones_are() {
    fn is_send_and_sync<T: Send + Sync>() {}
    is_send_and_sync::<ResponseFuture<std::future::Ready<()>, ()>>();
    is_send_and_sync::<ResponseBody<http_body_util::Full<Bytes>, ()>>();
    is_send_and_sync::<
        ResponseBody<http_body_util::Full<Bytes>, plimsoll::server::access_log::Record>,
    >();
}

#[tokio::test]
async fn a_head_may_be_added_to() {
    struct Sign;

    impl Observer for Sign {
        fn on_head<B: http_body::Body>(&mut self, response: &mut Response<B>) {
            let value = http::HeaderValue::from_static("here");
            response.headers_mut().insert("x-sign", value);
        }
    }

    let mut request = get("/");
    let scope = Scope::open(&mut request);
    let mut service = service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(response([])) });
    let response = ResponseFuture::call(&mut service, request, Sign, scope)
        .await
        .expect("infallible");
    assert_eq!(header(&response, "x-sign"), Some("here"));
}
