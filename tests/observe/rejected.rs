//! Calls that plimsoll answers itself.

use std::{panic, time::Duration};

use axum::body::Body;
use futures_util::FutureExt as _;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use plimsoll::{
    context::{RequestId, Scope},
    observe::{ResponseBody, ResponseFuture},
    protocol::Protocol,
    rejection::{Reason, Rejection, RetryHint},
};

use super::{Ends, Script, Watch, common::header};

type Answer = Response<ResponseBody<Script, Watch>>;
/// The future of a service that is never called.
type Never = std::future::Pending<Result<Response<Script>, std::convert::Infallible>>;

fn rejection() -> Rejection {
    let hint = RetryHint::After(Duration::from_secs(7));
    Rejection::new(Reason::Shed, "a_layer").with_retry(hint)
}

fn request(content_type: &'static str) -> Request<Body> {
    let mut request = Request::post("/orders?token=s3cr3t")
        .header("content-type", content_type)
        .header("cookie", "session=s3cr3t")
        .header("cookie", "session=t00")
        .header("retry-after", "9")
        .body(Body::from("s3cr3t"))
        .expect("a request");
    request.extensions_mut().insert("s3cr3t");
    request
}

/// The answer in memory of its own, and that in the request's.
fn both(content_type: &'static str, ends: &Ends) -> [Answer; 2] {
    let [mut one, mut other] = [request(content_type), request(content_type)];
    let id = RequestId::parse("abc-1").expect("an id");
    one.extensions_mut().insert(id.clone());
    other.extensions_mut().insert(id);
    let scope = Scope::open(&mut one);
    let new: ResponseFuture<Never, _> =
        ResponseFuture::reject(rejection(), &one, Watch(ends.clone()), scope);
    let scope = Scope::open(&mut other);
    let reused: ResponseFuture<Never, _> =
        ResponseFuture::reject_reusing(rejection(), other, Watch(ends.clone()), scope);
    [new, reused].map(|future| {
        let answer = future.now_or_never().expect("nothing to wait for");
        answer.expect("infallible")
    })
}

#[tokio::test]
async fn nothing_of_the_request_is_in_the_answer_that_takes_its_memory() {
    let ends = Ends::default();
    for content_type in ["text/plain", "application/grpc", "application/grpc-web"] {
        let [new, reused] = both(content_type, &ends);
        assert_eq!(new.status(), reused.status());
        assert_eq!(new.headers(), reused.headers());
        assert_eq!(header(&new, "x-request-id"), Some("abc-1"));
        for answer in [new, reused] {
            assert_eq!(answer.extensions().len(), 1, "more than the rejection");
            assert!(answer.extensions().get::<Rejection>().is_some());
            let body = answer.into_body().collect().await.expect("no error");
            assert!(!String::from_utf8_lossy(&body.to_bytes()).contains("s3cr3t"));
        }
        assert_eq!(ends.take(), ["complete"; 2]);
    }
}

#[test]
fn a_request_that_panics_when_it_is_dropped_ends_its_call_once() {
    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }

    let ends = Ends::default();
    let watch = Watch(ends.clone());
    let mut request = Request::new(Bomb);
    let scope = Scope::open(&mut request);
    let rejected = panic::catch_unwind(panic::AssertUnwindSafe(|| {
        let _answer: ResponseFuture<Never, _> =
            ResponseFuture::reject_reusing(rejection(), request, watch, scope);
    }));
    assert!(rejected.is_err());
    assert_eq!(ends.take().len(), 1);
}

/// A refusal is the hot path of an overload.
#[test]
fn an_answer_takes_the_memory_of_the_request_and_one_allocation() {
    let warm_up = rejection().into_response(Protocol::Http, None);
    assert_eq!(header(&warm_up, "retry-after"), Some("7"));
    let mut request = request("text/plain");
    let scope = Scope::open(&mut request);
    let watch = Watch(Ends::default());
    let counted = allocation_counter::measure(|| {
        let future: ResponseFuture<Never, _> =
            ResponseFuture::reject_reusing(rejection(), request, watch, scope);
        let answer = future.now_or_never().expect("nothing to wait for");
        // The end is told by a list, which grows: not ours.
        std::mem::forget(answer);
    });
    assert_eq!(counted.count_total, 1, "the rejection among the extensions");
}
