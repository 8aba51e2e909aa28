//! A trace is joined if and only if its `traceparent` is well formed, and what goes on of its state is bounded.
//! Whatever the headers hold, the call is served.

#![no_main]

use std::{
    cell::RefCell,
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::Full;
use libfuzzer_sys::fuzz_target;
use opentelemetry::trace::noop::NoopTracer;
use plimsoll::{context::TraceContext, server::trace_context::TraceContextLayer};
use tower_layer::Layer;
use tower_service::Service;

thread_local! {
    static SEEN: RefCell<Option<TraceContext>> = const { RefCell::new(None) };
}

/// Keeps what the call tells of its trace.
#[derive(Clone)]
struct Keeps;

impl Service<Request<Full<Bytes>>> for Keeps {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Full<Bytes>>) -> Self::Future {
        SEEN.set(TraceContext::current());
        ready(Ok(Response::new(Full::default())))
    }
}

/// Version 00 by its grammar; of later ones, the same with more after a dash.
fn is_well_formed(parent: &[u8]) -> bool {
    let hex = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    let fields: Vec<&[u8]> = parent.splitn(5, |&byte| byte == b'-').collect();
    let [version, trace, span, flags, rest @ ..] = &fields[..] else {
        return false;
    };
    let lengths = [version.len(), trace.len(), span.len(), flags.len()];
    lengths == [2, 32, 16, 2]
        && [version, trace, span, flags]
            .iter()
            .all(|field| field.iter().all(hex))
        && [trace, span]
            .iter()
            .all(|id| id.iter().any(|&digit| digit != b'0'))
        && *version != b"ff"
        && (*version != b"00" || rest.is_empty())
        && rest
            .iter()
            .all(|more| more.iter().all(u8::is_ascii_graphic))
}

/// Lines are headers: the first `traceparent`, those that begin with a tab as well, the last `baggage`, others `tracestate`.
fn headers(data: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let lines: Vec<&[u8]> = data.split(|&byte| byte == b'\n').collect();
    for (number, line) in lines.iter().enumerate() {
        let (name, value) = match line {
            [b'\t', more @ ..] => ("traceparent", more),
            _ if number == 0 => ("traceparent", *line),
            _ if number + 1 == lines.len() => ("baggage", *line),
            _ => ("tracestate", *line),
        };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }
    headers
}

fuzz_target!(|data: &[u8]| {
    let headers = headers(data);
    let parents: Vec<&HeaderValue> = headers.get_all("traceparent").iter().collect();
    let expected = matches!(parents[..], [one] if is_well_formed(one.as_bytes()));
    let read = TraceContext::of(&headers);
    assert_eq!(read.is_some(), expected);
    if let Some(read) = &read {
        assert_eq!(read.parent().len(), 55);
        assert_eq!(read.trace_id().as_bytes(), &parents[0].as_bytes()[3..35]);
    }
    let mut request = Request::new(Full::default());
    *request.headers_mut() = headers;
    let call = TraceContextLayer::new(NoopTracer::new())
        .layer(Keeps)
        .call(request);
    let answer = std::pin::pin!(call).poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(answer, Poll::Ready(Ok(_))));
    let told = SEEN.take();
    assert_eq!(told.is_some(), expected);
    let state = told.as_ref().and_then(TraceContext::state);
    let state = state.map_or("", |state| state.to_str().expect("ASCII"));
    assert!(state.len() <= 512 && state.split(',').count() <= 32);
});
