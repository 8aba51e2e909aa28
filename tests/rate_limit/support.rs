use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use plimsoll::{
    context::PeerAddr,
    server::rate_limit::{Key, Quota, Quotas, RateLimitLayer},
};
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneService};

pub(crate) fn quotas(text: &str) -> Quotas {
    text.parse().expect("quotas")
}

pub(crate) fn quota(text: &str) -> Quota {
    text.parse().expect("a quota")
}

pub(crate) fn api_key() -> Key {
    Key::header(HeaderName::from_static("x-api-key"))
}

/// A request of somebody.
pub(crate) fn request(who: &str) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    let who = HeaderValue::from_str(who).expect("a header");
    request.headers_mut().insert("x-api-key", who);
    request
}

pub(crate) fn request_from(peer: &str) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    let peer = SocketAddr::new(peer.parse().expect("an address"), 4_711);
    request.extensions_mut().insert(PeerAddr(peer));
    request
}

pub(crate) fn grpc(mut request: Request<Body>) -> Request<Body> {
    let media_type = HeaderValue::from_static("application/grpc");
    request.headers_mut().insert("content-type", media_type);
    request
}

/// A service behind the layer, and how often it was called.
#[derive(Clone)]
pub(crate) struct Limited {
    service: BoxCloneService<Request<Body>, Response<Body>, Infallible>,
    served: Arc<AtomicU32>,
}

pub(crate) fn limited(layer: &RateLimitLayer) -> Limited {
    let served = Arc::<AtomicU32>::default();
    let counted = Arc::clone(&served);
    let service = service_fn(move |request: Request<Body>| {
        counted.fetch_add(1, Ordering::Relaxed);
        let grpc = request.headers().contains_key("content-type");
        async move {
            let mut response = Response::new(Body::from("espresso"));
            if grpc {
                let ok = HeaderValue::from_static("0");
                response.headers_mut().insert("grpc-status", ok);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let service = layer
        .layer(service)
        .map_response(|response| response.map(Body::new));
    Limited {
        service: BoxCloneService::new(service),
        served,
    }
}

impl Limited {
    /// The whole response.
    pub(crate) async fn call(&self, request: Request<Body>) -> Response<Bytes> {
        let answer = self.service.clone().oneshot(request).await;
        let (head, body) = answer.expect("infallible").into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        Response::from_parts(head, body)
    }

    /// How many of so many calls are admitted, all at once.
    pub(crate) async fn admitted(&self, calls: u32, request: impl Fn() -> Request<Body>) -> u32 {
        let mut admitted = 0;
        for _ in 0..calls {
            let answer = self.call(request()).await;
            match answer.status() {
                StatusCode::OK => admitted += 1,
                status => assert_eq!(status, StatusCode::TOO_MANY_REQUESTS),
            }
        }
        admitted
    }

    pub(crate) fn served(&self) -> u32 {
        self.served.load(Ordering::Relaxed)
    }
}

pub(crate) fn header<'a, B>(response: &'a Response<B>, name: &str) -> Option<&'a str> {
    let value = response.headers().get(name)?;
    Some(value.to_str().expect("text"))
}
