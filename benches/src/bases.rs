//! What everything else is compared to: a service and a Router without layers, and what one
//! `Router::layer` costs before its layer does anything.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{Router, body::Body, routing::get};
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use http_body_util::Full;
use plimsoll::server::catch_panic::CatchPanicLayer;
use tower::{Service, service_fn};
use tower_layer::layer_fn;

use crate::harness::{
    Case,
    traffic::{Subject, Traffic},
};

pub(crate) const BARE_SERVICE: &str = "sf/bare";
pub(crate) const BARE_ROUTER: &str = "ax/bare";

/// Callers have addresses, and take turns.
pub(crate) const BARE_SERVICE_PEERS: &str = "sf/bare/peers";
pub(crate) const BARE_ROUTER_PEERS: &str = "ax/bare/peers";
/// The handler is pending once.
pub(crate) const BARE_ROUTER_YIELDS: &str = "ax/bare/yields";
/// The handler reads a body of 100 bytes.
pub(crate) const BARE_ROUTER_ORDERS: &str = "ax/bare/orders";
/// A call that a layer of plimsoll has made the frame of, which others join.
pub(crate) const FRAMED_ROUTER: &str = "ax/bare/framed";
pub(crate) const FEW_PEERS: u32 = 1_000;

pub(crate) const CASES: &[Case] = &[
    Case::bare(BARE_SERVICE, || {
        Subject::service(service(), Traffic::menu())
    }),
    Case::bare(BARE_ROUTER, || {
        Subject::service(router().with_state(()), Traffic::menu())
    }),
    Case::bare(BARE_SERVICE_PEERS, || {
        Subject::service(service(), Traffic::menu().with_peers(FEW_PEERS))
    }),
    Case::bare(BARE_ROUTER_PEERS, || {
        let traffic = Traffic::menu().with_peers(FEW_PEERS);
        Subject::service(router().with_state(()), traffic)
    }),
    Case::bare(BARE_ROUTER_YIELDS, || {
        Subject::service(router().with_state(()), Traffic::menu().yielding())
    }),
    Case::bare(BARE_ROUTER_ORDERS, || {
        Subject::service(router().with_state(()), Traffic::order())
    }),
    Case::bare(FRAMED_ROUTER, || {
        let router = router().layer(CatchPanicLayer::new());
        Subject::service(router.with_state(()), Traffic::menu())
    }),
    Case::peer("ax/noop", BARE_ROUTER, || {
        let router = router().layer(layer_fn(|inner| Noop { inner }));
        Subject::service(router.with_state(()), Traffic::menu())
    }),
    Case::peer("ax/noop-body", BARE_ROUTER, || {
        let wrap = tower::util::MapResponseLayer::new(|response: Response<Body>| {
            response.map(|inner| NoopBody { inner })
        });
        Subject::service(router().layer(wrap).with_state(()), Traffic::menu())
    }),
];

/// A plain service that answers every call.
pub(crate) fn service()
-> impl Service<Request<Body>, Response = Response<Full<Bytes>>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ 'static {
    service_fn(|_: Request<Body>| async {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"espresso"))))
    })
}

/// The Router that all `ax` cases put their layers around.
pub(crate) fn router() -> Router {
    Router::new()
        .route(
            "/menu",
            get(|| async { "espresso" }).post(|order: Bytes| async move { order }),
        )
        .route("/yields", get(yields))
        .route("/orders/{id}", get(|| async { "on its way" }))
        .route("/panic", get(panics))
}

async fn yields() -> &'static str {
    tokio::task::yield_now().await;
    "espresso"
}

async fn panics() -> &'static str {
    panic!("out of beans")
}

/// A service that passes everything on.
#[derive(Clone)]
struct Noop<S> {
    inner: S,
}

impl<S, R> Service<R> for Noop<S>
where
    S: Service<R>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        self.inner.call(request)
    }
}

/// A body that passes everything on.
struct NoopBody {
    inner: Body,
}

impl http_body::Body for NoopBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
