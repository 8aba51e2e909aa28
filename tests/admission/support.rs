use std::{
    convert::Infallible,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use http::{Request, Response, StatusCode};
use plimsoll::{
    caller::Key,
    context::Priority,
    limit::{Limit, LimitHandle},
    rejection::{PLIMSOLL_REASON, Reason},
    server::{back_pressure::BackPressureLayer, load_shed::LoadShedLayer},
};
use tokio::{sync::Semaphore, task::JoinHandle};
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneService};

pub(crate) type Boxed = BoxCloneService<Request<Body>, Response<Body>, Infallible>;

pub(crate) fn calls(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).expect("above 0")
}

pub(crate) fn fixed(count: usize) -> Limit {
    Limit::fixed(calls(count))
}

pub(crate) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A service that answers when it is told to, and counts.
#[derive(Clone)]
pub(crate) struct Till {
    open: Arc<Semaphore>,
    started: Arc<AtomicUsize>,
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

/// Counts down when it is dropped.
struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Till {
    pub(crate) fn closed() -> Self {
        Self {
            open: Arc::new(Semaphore::new(0)),
            started: Arc::default(),
            running: Arc::default(),
            most: Arc::default(),
        }
    }

    /// Lets so many calls end.
    pub(crate) fn serve(&self, calls: usize) {
        self.open.add_permits(calls);
    }

    /// How often the service was called.
    pub(crate) fn started(&self) -> usize {
        self.started.load(Ordering::SeqCst)
    }

    /// The most calls that ran at once.
    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    async fn ring_up(self) -> Response<Body> {
        self.started.fetch_add(1, Ordering::SeqCst);
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        let _running = Running(Arc::clone(&self.running));
        let permit = self.open.acquire().await.expect("never closed");
        permit.forget();
        Response::new(Body::from("espresso"))
    }

    pub(crate) fn behind<L>(&self, layer: L) -> Boxed
    where
        L: Layer<Boxed>,
        L::Service: tower::Service<Request<Body>, Error = Infallible> + Clone + Send + 'static,
        <L::Service as tower::Service<Request<Body>>>::Future: Send,
        L::Service: AnyBody,
    {
        let till = self.clone();
        let inner = service_fn(move |_: Request<Body>| {
            let till = till.clone();
            async move { Ok(till.ring_up().await) }
        });
        AnyBody::any(layer.layer(BoxCloneService::new(inner)))
    }
}

/// A service of whatever body.
pub(crate) trait AnyBody {
    fn any(self) -> Boxed;
}

impl<S, B> AnyBody for S
where
    S: tower::Service<Request<Body>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    fn any(self) -> Boxed {
        BoxCloneService::new(self.map_response(|response| response.map(Body::new)))
    }
}

pub(crate) fn shedding(limit: &Limit) -> LoadShedLayer {
    LoadShedLayer::new(limit.clone())
}

pub(crate) fn queueing(limit: &Limit) -> BackPressureLayer {
    BackPressureLayer::new(limit.clone())
}

/// A request whose priority stands in a header that is taken as it is: see [`by_header`].
pub(crate) fn of(priority: Priority) -> Request<Body> {
    Request::builder()
        .header("x-test-priority", priority.label())
        .body(Body::empty())
        .expect("a request")
}

pub(crate) fn by_header(call: &plimsoll::caller::Call<'_>) -> Option<Priority> {
    let header = call.headers.get("x-test-priority")?;
    header.to_str().ok()?.parse().ok()
}

pub(crate) fn request() -> Request<Body> {
    Request::new(Body::empty())
}

pub(crate) fn from_user(user: &'static str) -> Request<Body> {
    let mut request = request();
    let user = http::HeaderValue::from_static(user);
    request.headers_mut().insert("x-user", user);
    request
}

/// Tells those of [`from_user`] apart.
pub(crate) fn by_user() -> Key {
    Key::header(http::HeaderName::from_static("x-user"))
}

/// Calls, until the head is there.
pub(crate) async fn ask(service: &Boxed, request: Request<Body>) -> Response<Body> {
    let answer = service.clone().oneshot(request).await;
    answer.expect("infallible")
}

/// A service behind this layer, and a first call that is in.
pub(crate) async fn occupied<L>(layer: L) -> (Till, Boxed, JoinHandle<Response<bytes::Bytes>>)
where
    L: Layer<Boxed>,
    L::Service: tower::Service<Request<Body>, Error = Infallible> + Clone + Send + 'static,
    <L::Service as tower::Service<Request<Body>>>::Future: Send,
    L::Service: AnyBody,
{
    let till = Till::closed();
    let service = till.behind(layer);
    let first = spawn(&service, request());
    settle().await;
    (till, service, first)
}

/// Calls in a task of its own, and reads the body to its end.
pub(crate) fn spawn(service: &Boxed, request: Request<Body>) -> JoinHandle<Response<bytes::Bytes>> {
    let call = service.clone().oneshot(request);
    tokio::spawn(async move {
        let (head, body) = call.await.expect("infallible").into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await;
        Response::from_parts(head, bytes.expect("a whole body"))
    })
}

pub(crate) fn reason<B>(response: &Response<B>) -> Option<&str> {
    let reason = response.headers().get(PLIMSOLL_REASON)?;
    Some(reason.to_str().expect("ASCII"))
}

#[track_caller]
pub(crate) fn assert_rejected<B>(response: &Response<B>, expected: Reason) {
    assert_eq!(reason(response), Some(expected.label()));
    assert_eq!(response.status(), expected.status());
}

#[track_caller]
pub(crate) fn assert_served<B>(response: &Response<B>) {
    assert_eq!(
        (response.status(), reason(response)),
        (StatusCode::OK, None)
    );
}

/// How many calls were rejected for this.
pub(crate) fn rejected(handle: &LimitHandle, reason: Reason) -> u64 {
    let all = handle.rejected().into_iter();
    all.filter(|rejected| rejected.reason == reason)
        .map(|rejected| rejected.calls)
        .sum()
}

/// Lets everything that is ready run. The clock stands.
pub(crate) async fn settle() {
    for _ in 0..32 {
        tokio::task::yield_now().await;
    }
}
