//! Whatever a caller says of its deadline, in one header or in two, a call is served, late or malformed: never anything else.

#![no_main]

use std::{
    convert::Infallible,
    future::{Ready, ready},
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::Empty;
use libfuzzer_sys::fuzz_target;
use plimsoll::{protocol::GrpcTimeout, server::timeout::TimeoutLayer};
use tower_layer::Layer;
use tower_service::Service;

#[derive(Clone)]
struct Serves;

impl Service<Request<Empty<Bytes>>> for Serves {
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Empty<Bytes>>) -> Self::Future {
        let answer = Response::builder().header("grpc-status", "0");
        ready(Ok(answer.body(Empty::new()).expect("a response")))
    }
}

fuzz_target!(|values: Vec<Vec<u8>>| {
    let mut request = Request::new(Empty::<Bytes>::new());
    let headers = request.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut sent = Vec::new();
    for value in values.into_iter().take(3) {
        if let Ok(header) = HeaderValue::from_bytes(&value) {
            headers.append("grpc-timeout", header);
            sent.push(value);
        }
    }
    let expected: &[&str] = match &sent[..] {
        [] => &["0"],
        [one] => match GrpcTimeout::parse(one).map(GrpcTimeout::duration) {
            Err(_) => &["3"],
            Ok(Duration::ZERO) => &["4"],
            // A deadline of a moment may have passed on arrival.
            Ok(_) => &["0", "4"],
        },
        _ => &["3"],
    };
    let mut service = TimeoutLayer::new()
        .total(Duration::from_secs(10))
        .layer(Serves);
    let call = pin!(service.call(request));
    let Poll::Ready(Ok(answer)) = call.poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("it waits for nothing");
    };
    let code = answer.headers()["grpc-status"].to_str().expect("digits");
    assert!(expected.contains(&code), "{code}, not one of {expected:?}");
});
