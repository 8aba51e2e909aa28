use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, channel::Channel};
use plimsoll::server::{access_log::AccessLogLayer, request_id::RequestIdLayer};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceBuilder, ServiceExt as _, service_fn, util::BoxCloneService};

use crate::common::{
    Line, Lines,
    body::{Got, read},
};

pub(crate) type App = BoxCloneService<Request<Body>, Response<Body>, Infallible>;

pub(crate) const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The layer around a handler, within a log.
pub(crate) fn app<L, F>(
    layer: L,
    handler: impl Fn(Request<Body>) -> F + Clone + Send + 'static,
) -> App
where
    F: Future<Output = Response<Body>> + Send + 'static,
    L: Layer<Handler> + Clone + Send + 'static,
    L::Service: Service<
            Request<Body>,
            Response = Response<<L::Service as Answers>::Body>,
            Error = Infallible,
            Future: Send,
        > + Answers
        + Clone
        + Send
        + 'static,
{
    let handler: Handler = BoxCloneService::new(service_fn(move |request| {
        let answer = handler(request);
        async move { Ok(answer.await) }
    }));
    let service = ServiceBuilder::new()
        .layer(RequestIdLayer::new())
        .layer(AccessLogLayer::new())
        .layer(layer)
        .service(handler);
    BoxCloneService::new(service.map_response(|answer| answer.map(Body::new)))
}

pub(crate) type Handler = BoxCloneService<Request<Body>, Response<Body>, Infallible>;

/// The body of a service's answers, to name it.
pub(crate) trait Answers {
    type Body: http_body::Body<Data = Bytes, Error: Into<plimsoll::observe::BoxError>>
        + Send
        + 'static;
}

impl<S, B> Answers for S
where
    S: Service<Request<Body>, Response = Response<B>>,
    B: http_body::Body<Data = Bytes, Error: Into<plimsoll::observe::BoxError>> + Send + 'static,
{
    type Body = B;
}

/// What a caller saw, when, and the line.
pub(crate) struct Seen {
    pub(crate) head: Response<()>,
    pub(crate) got: Got,
    pub(crate) after: Duration,
    pub(crate) line: Line,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        crate::common::header(&self.head, name)
    }

    /// The value on the line, or "".
    pub(crate) fn told(&self, name: &str) -> &str {
        self.line.get(name).map_or("", String::as_str)
    }
}

/// One call, to its end.
pub(crate) async fn call(app: &App, request: Request<Body>) -> Seen {
    let lines = Lines::listen();
    let start = Instant::now();
    let answer = app.clone().oneshot(request).await.expect("infallible");
    let (head, body) = answer.into_parts();
    let got = read(body).await;
    Seen {
        head: Response::from_parts(head, ()),
        got,
        after: start.elapsed(),
        line: lines.one(),
    }
}

pub(crate) fn with(mut request: Request<Body>, lines: &[(&'static str, &str)]) -> Request<Body> {
    for (name, value) in lines {
        let value = HeaderValue::from_str(value).expect("a header");
        request
            .headers_mut()
            .append(HeaderName::from_static(name), value);
    }
    request
}

pub(crate) fn http() -> Request<Body> {
    crate::common::get("/")
}

pub(crate) fn grpc() -> Request<Body> {
    crate::common::post("application/grpc")
}

/// A request whose body is sent bit by bit: so many bytes after each wait, and then nothing ever, unless it ends.
pub(crate) fn upload(
    mut request: Request<Body>,
    steps: Vec<(Duration, &'static [u8])>,
    ends: bool,
) -> Request<Body> {
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
    tokio::spawn(async move {
        for (wait, bytes) in steps {
            tokio::time::sleep(wait).await; // sleeps: on a paused clock
            if sender.send_data(Bytes::from_static(bytes)).await.is_err() {
                return;
            }
        }
        if !ends {
            std::future::pending::<()>().await;
        }
    });
    *request.body_mut() = Body::new(body);
    request
}

/// Reads all of the body and tells how much it was.
pub(crate) async fn read_all(request: Request<Body>) -> Response<Body> {
    match request.into_body().collect().await {
        Ok(body) => Response::new(Body::from(format!("{} bytes", body.to_bytes().len()))),
        Err(error) => {
            let mut answer = Response::new(Body::from(error.to_string()));
            *answer.status_mut() = http::StatusCode::IM_A_TEAPOT;
            answer
        }
    }
}

/// Held by what must be dropped.
#[derive(Clone, Default)]
pub(crate) struct Token(Arc<()>);

impl Token {
    pub(crate) fn held(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}
