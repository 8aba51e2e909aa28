//! Headers that mean harm: whatever they hold, the call is served and the trace that goes on is well formed.

use std::convert::Infallible;

use axum::body::Body;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Request, Response};
use opentelemetry_sdk::trace::Sampler;
use plimsoll::{context::TraceContext, gauge::Gauges};
use tower::{Layer, Service, service_fn};

use crate::{SPAN, Spans, TRACE};

/// What a caller may not make larger (W3C Trace Context, sections 3.3.1 and 3.3.1.5).
const MOST_STATE: usize = 512;
const MOST_MEMBERS: usize = 32;
/// Values are cut off here, so that a run has an end.
const LONGEST: usize = 8 * 1024;

/// Chance that comes out the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(self.0 >> 33).expect("31 bits") % sides
    }

    /// A value that was right once.
    fn spoilt(&mut self, right: &str) -> Vec<u8> {
        const ODD: &[u8] = b"-,=;:\"\\+ \t0fFgzZ\x80\xff\xc3\x28%";
        let mut value = right.as_bytes().to_vec();
        for _ in 0..self.below(4) {
            let (at, odd) = (self.below(value.len() + 1), ODD[self.below(ODD.len())]);
            match self.below(100) {
                0..=1 => value = value.repeat(1 + self.below(512)),
                2..=3 => drop(value.splice(at..at, vec![odd; self.below(LONGEST)])),
                4..=30 => value.truncate(at),
                31..=60 => value.insert(at, odd),
                61..=90 if at < value.len() => value[at] = odd,
                _ => value.extend_from_within(at..),
            }
            value.truncate(LONGEST);
        }
        value
    }

    /// Headers as a stranger may send them.
    fn headers(&mut self) -> HeaderMap {
        let parent = format!("00-{TRACE}-{SPAN}-01");
        let later = format!("cc-{TRACE}-{SPAN}-03-more");
        let mut headers = HeaderMap::new();
        for (name, right) in [
            (
                "traceparent",
                &*[parent, later][usize::from(self.below(8) == 0)],
            ),
            ("tracestate", "a=1,b@c=2,rojo=00f067aa0ba902b7"),
            ("baggage", "user=7;secret,plan=%20free"),
        ] {
            let times = [1, 1, 1, 1, 0, 2, 2, 40][self.below(8)];
            for _ in 0..times {
                if let Ok(value) = HeaderValue::from_bytes(&self.spoilt(right)) {
                    headers.append(name, value);
                }
            }
        }
        headers
    }
}

#[test]
fn no_header_harms() {
    let calls = match std::env::var_os("PLIMSOLL_LONG") {
        Some(_) => 1_000_000,
        None => 50_000,
    };
    let spans = Spans::sampled(Sampler::AlwaysOff);
    let layer = spans.layer();
    let mut service = layer.layer(service_fn(|_: Request<Body>| async {
        let trace = TraceContext::current().expect("a span of ours at least");
        assert_eq!(trace.parent().len(), 55);
        let state = trace
            .state()
            .map_or("", |state| state.to_str().expect("ASCII"));
        assert!(state.len() <= MOST_STATE && state.split(',').count() <= MOST_MEMBERS);
        Ok::<_, Infallible>(Response::new(Body::empty()))
    }));
    let mut dice = Dice(1);
    let (mut parents, mut well_formed) = (0, 0);
    for _ in 0..calls {
        let mut request = Request::new(Body::empty());
        *request.headers_mut() = dice.headers();
        parents += u64::from(request.headers().contains_key("traceparent"));
        well_formed += u64::from(TraceContext::of(request.headers()).is_some());
        let answer = service.call(request).now_or_never();
        answer.expect("it does not wait").expect("infallible");
    }
    let mut malformed = 0;
    layer.read(&mut |reading| {
        if reading.attributes() == [("reason", "malformed")] {
            malformed = reading.value();
        }
    });
    assert_eq!(malformed, parents - well_formed, "obeyed or counted");
    assert!(well_formed > calls / 8 && malformed > calls / 8);
}
