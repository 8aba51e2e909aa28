//! Why plimsoll answers instead of the service, and how that answer looks: one table, one type.

use std::{sync::LazyLock, time::Duration};

use bytes::Bytes;
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
};

use crate::{
    context::{REQUEST_ID, RequestId},
    protocol::{
        GrpcCode,
        GrpcCode::*,
        Protocol,
        code::{GRPC_MESSAGE, GRPC_STATUS},
    },
};

/// The header, or gRPC metadata, that names the reason: `plimsoll-reason`.
pub const PLIMSOLL_REASON: HeaderName = HeaderName::from_static("plimsoll-reason");
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// What a rejection and the layers around it put into its head, about: room for it is made at once.
const MOST_HEADERS: usize = 6;

/// The problem details of each reason, without an id.
static PROBLEMS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let reasons = Reason::ALL.iter();
    reasons
        .map(|reason| reason.problem(reason.status(), reason.message()))
        .collect()
});

/// A caller who is too slow is told 408 (RFC 9110, section 15.5.9) where another timeout is a 504.
const SLOW_CALLER: StatusCode = StatusCode::REQUEST_TIMEOUT;
static SLOW_CALLERS_PROBLEM: LazyLock<String> = LazyLock::new(|| {
    Reason::Timeout.problem(SLOW_CALLER, "the body of the request comes too slowly")
});

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident => ($label:literal, $status:ident, $code:ident, $message:literal),)*) => {
        /// Why plimsoll itself answered instead of the service. A closed set: alerts and clients rely on the names.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name on the wire, in the log and in metrics.
            pub fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }

            /// The status of an HTTP answer.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)* }
            }

            /// The status of a gRPC answer.
            pub fn grpc_code(self) -> GrpcCode {
                match self { $(Self::$variant => $code,)* }
            }

            /// One plain sentence for the caller. It tells nothing of the inside. ASCII without `%` and `"`, so that
            /// it stands in JSON and in `grpc-message` as it is.
            pub fn message(self) -> &'static str {
                match self { $(Self::$variant => $message,)* }
            }

            /// The name as the value of a header.
            fn header(self) -> HeaderValue {
                match self { $(Self::$variant => const { HeaderValue::from_static($label) },)* }
            }
        }
    };
}

reasons! {
    /// This caller is over its quota.
    RateLimited => ("rate_limited", TOO_MANY_REQUESTS, ResourceExhausted, "the caller is over its quota"),
    /// The limit is reached and the call does not wait.
    Shed => ("shed", SERVICE_UNAVAILABLE, Unavailable, "the service is overloaded"),
    /// The waiting room is full.
    QueueFull => ("queue_full", SERVICE_UNAVAILABLE, Unavailable, "the service is overloaded, its queue is full"),
    /// Waited longer than the waiting room allows.
    QueueTimeout => ("queue_timeout", SERVICE_UNAVAILABLE, Unavailable, "the call waited too long for its turn"),
    /// The caller's deadline passed, waiting or served.
    Deadline => ("deadline", GATEWAY_TIMEOUT, DeadlineExceeded, "the deadline of the call has passed"),
    /// The server's own time limit passed.
    Timeout => ("timeout", GATEWAY_TIMEOUT, DeadlineExceeded, "the service took too long"),
    /// A header that a layer must understand cannot be parsed.
    Malformed => ("malformed", BAD_REQUEST, InvalidArgument, "a header of the request cannot be understood"),
    /// The request's body is over its cap.
    TooLarge => ("too_large", PAYLOAD_TOO_LARGE, ResourceExhausted, "the body of the request is too large"),
    /// A handler, a layer or a body panicked.
    Panic => ("panic", INTERNAL_SERVER_ERROR, Internal, "the service failed"),
    /// The server is shutting down.
    Drained => ("drained", SERVICE_UNAVAILABLE, Unavailable, "the service is shutting down"),
    /// Client side: the circuit is open.
    BreakerOpen => ("breaker_open", SERVICE_UNAVAILABLE, Unavailable, "a dependency of the service is failing"),
    /// Client side: the compartment is full.
    BulkheadFull => ("bulkhead_full", SERVICE_UNAVAILABLE, Unavailable, "a dependency of the service is busy"),
    /// A backing store is away and the policy says to reject.
    StoreError => ("store_error", SERVICE_UNAVAILABLE, Unavailable, "a store of the service is away"),
    /// A rate limit has no key for this call: a wiring fault, never "unlimited".
    MissingKey => ("missing_key", INTERNAL_SERVER_ERROR, Internal, "the service is not set up to tell its callers apart"),
}

impl Reason {
    fn problem(self, status: StatusCode, detail: &str) -> String {
        format!(
            r#"{{"type":"{}","title":"{}","status":{},"reason":"{}","detail":"{}"}}"#,
            self.problem_type(),
            status.canonical_reason().unwrap_or_default(),
            status.as_u16(),
            self.label(),
            detail,
        )
    }

    /// RFC 9457 `type`: what the RateLimit draft registers, else `about:blank`, "no more than the status says".
    fn problem_type(self) -> &'static str {
        match (self, self.status()) {
            (Self::RateLimited, _) => {
                "https://iana.org/assignments/http-problem-types#quota-exceeded"
            }
            (_, StatusCode::SERVICE_UNAVAILABLE) => {
                "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
            }
            _ => "about:blank",
        }
    }
}

/// What the caller is told about trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RetryHint {
    /// After this time: `Retry-After` in whole seconds, rounded up and at least 1; gRPC pushback in milliseconds.
    After(Duration),
    /// Not at all: gRPC pushback `-1`, for an overload that a retry elsewhere would not escape. HTTP has no word for it.
    Never,
}

/// An answer of plimsoll itself. The response carries it as an extension too, so that outer layers tell by it
/// why there was no answer of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    reason: Reason,
    layer: &'static str,
    which: Option<&'static str>,
    retry: Option<RetryHint>,
    /// Whether it is a timeout because the caller was slow.
    slow_caller: bool,
}

impl Rejection {
    /// A rejection by the layer of this name.
    pub fn new(reason: Reason, layer: &'static str) -> Self {
        Self {
            reason,
            layer,
            which: None,
            retry: None,
            slow_caller: false,
        }
    }

    /// A timeout because the caller was slow: over HTTP it is told so by its status, 408.
    pub(crate) fn of_slow_caller(layer: &'static str) -> Self {
        Self {
            slow_caller: true,
            ..Self::new(Reason::Timeout, layer)
        }
    }

    /// Whether the caller was slow, not the service.
    pub(crate) fn is_of_slow_caller(&self) -> bool {
        self.slow_caller
    }

    /// Adds what the caller is told about trying again. Default: nothing.
    #[must_use]
    pub fn with_retry(mut self, hint: RetryHint) -> Self {
        self.retry = Some(hint);
        self
    }

    /// Adds which of several limits it was, as in `head` or `idle` of a timeout. Only the log tells it.
    #[must_use]
    pub fn with_which(mut self, which: &'static str) -> Self {
        self.which = Some(which);
        self
    }

    /// Why.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The layer that rejected.
    pub fn layer(&self) -> &'static str {
        self.layer
    }

    /// Which of several limits it was, if the layer has several.
    pub fn which(&self) -> Option<&'static str> {
        self.which
    }

    /// What the caller is told about trying again.
    pub fn retry(&self) -> Option<RetryHint> {
        self.retry
    }

    /// The response in the caller's protocol: problem details (RFC 9457) for HTTP, always 200 and trailers-only for
    /// gRPC. The id goes into the header and the body where the call has one.
    pub fn into_response(self, protocol: Protocol, id: Option<&RequestId>) -> Response<Bytes> {
        self.answer(protocol, id, HeaderMap::new(), Extensions::new())
    }

    /// The same in memory that is at hand, such as that of the request: overload is when answers must be cheap.
    #[inline]
    pub(crate) fn answer(
        self,
        protocol: Protocol,
        id: Option<&RequestId>,
        mut headers: HeaderMap,
        mut extensions: Extensions,
    ) -> Response<Bytes> {
        headers.clear();
        headers.reserve(MOST_HEADERS);
        let (status, body) = match protocol {
            Protocol::Http => {
                self.problem_head(&mut headers);
                (self.status(), self.problem_body(id))
            }
            Protocol::Grpc | Protocol::GrpcWeb | Protocol::GrpcWebText => {
                self.trailers_only(protocol, &mut headers);
                (StatusCode::OK, Bytes::new())
            }
        };
        headers.insert(PLIMSOLL_REASON, self.reason.header());
        if let Some(id) = id {
            headers.insert(REQUEST_ID, id.header().clone());
        }
        extensions.clear();
        extensions.insert(self);
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        *response.extensions_mut() = extensions;
        response
    }

    fn status(&self) -> StatusCode {
        match self.slow_caller {
            true => SLOW_CALLER,
            false => self.reason.status(),
        }
    }

    fn problem_head(&self, headers: &mut HeaderMap) {
        headers.insert(CONTENT_TYPE, PROBLEM_JSON);
        headers.insert(CACHE_CONTROL, NO_STORE);
        if let Some(RetryHint::After(wait)) = self.retry {
            let whole = wait
                .as_secs()
                .saturating_add(u64::from(wait.subsec_nanos() > 0));
            headers.insert(RETRY_AFTER, number(whole.max(1)));
        }
    }

    fn problem_body(&self, id: Option<&RequestId>) -> Bytes {
        let problems: &'static [String] = &PROBLEMS;
        let problem: &'static str = match self.slow_caller {
            true => &SLOW_CALLERS_PROBLEM,
            false => problems
                .get(self.reason as usize)
                .map_or("", String::as_str),
        };
        let (Some(id), Some(open)) = (id, problem.strip_suffix('}')) else {
            return Bytes::from_static(problem.as_bytes());
        };
        // The alphabet of an id needs no escapes.
        Bytes::from([open, r#","request_id":""#, id.as_str(), "\"}"].concat())
    }

    fn trailers_only(&self, protocol: Protocol, headers: &mut HeaderMap) {
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static(protocol.grpc_content_type()),
        );
        put_status(headers, self.reason.grpc_code(), self.reason.message());
        match self.retry {
            Some(RetryHint::After(wait)) => {
                let millis = i32::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX);
                headers.insert(PUSHBACK, HeaderValue::from(millis));
            }
            Some(RetryHint::Never) => {
                headers.insert(PUSHBACK, HeaderValue::from_static("-1"));
            }
            None => {}
        }
    }

    /// The trailers that end a gRPC response honestly once its head has gone.
    pub(crate) fn trailers(&self) -> HeaderMap {
        let mut trailers = broken_trailers(self.reason.grpc_code(), self.reason.message());
        trailers.insert(PLIMSOLL_REASON, self.reason.header());
        trailers
    }
}

/// Trailers for a gRPC response that breaks after its head.
pub(crate) fn broken_trailers(code: GrpcCode, message: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    put_status(&mut trailers, code, message);
    trailers
}

fn put_status(headers: &mut HeaderMap, code: GrpcCode, message: &'static str) {
    headers.insert(GRPC_STATUS, HeaderValue::from_static(code.digits()));
    headers.insert(GRPC_MESSAGE, HeaderValue::from_static(message));
}

/// So many numbers from zero on are there as text: waits are short.
const NUMBERS: usize = 1_000;

/// The digits of the first numbers, with zeros before.
static DIGITS: [[u8; 3]; NUMBERS] = {
    let mut all = [*b"000"; NUMBERS];
    let mut last = *b"000";
    let mut rest = all.as_mut_slice();
    while let Some((number, more)) = rest.split_first_mut() {
        *number = last;
        rest = more;
        let [hundreds, tens, ones] = &mut last;
        *ones = ones.wrapping_add(1);
        if *ones > b'9' {
            *ones = b'0';
            *tens = tens.wrapping_add(1);
        }
        if *tens > b'9' {
            *tens = b'0';
            *hundreds = hundreds.wrapping_add(1);
        }
    }
    all
};

/// A number as the value of a header.
fn number(value: u64) -> HeaderValue {
    let known = usize::try_from(value)
        .ok()
        .and_then(|value| DIGITS.get(value));
    let digits = known.and_then(|digits| match value {
        0..10 => digits.get(2..),
        10..100 => digits.get(1..),
        _ => digits.get(..),
    });
    digits
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .map_or_else(|| HeaderValue::from(value), HeaderValue::from_static)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header<'a>(response: &'a Response<Bytes>, name: &str) -> Option<&'a str> {
        response
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    }

    #[test]
    fn http_gets_problem_details_with_the_reason_and_the_id() {
        let id = RequestId::parse("abc-1").expect("a valid id");
        for reason in Reason::ALL {
            let response =
                Rejection::new(*reason, "a_layer").into_response(Protocol::Http, Some(&id));
            assert_eq!(response.status(), reason.status());
            assert_eq!(
                header(&response, "content-type"),
                Some("application/problem+json")
            );
            assert_eq!(header(&response, "cache-control"), Some("no-store"));
            assert_eq!(header(&response, "plimsoll-reason"), Some(reason.label()));
            assert_eq!(header(&response, "x-request-id"), Some("abc-1"));
            let problem: serde_json::Value = serde_json::from_slice(response.body()).expect("JSON");
            assert_eq!(problem["reason"], reason.label());
            assert_eq!(problem["status"], reason.status().as_u16());
            assert_eq!(problem["request_id"], "abc-1");
            assert!(
                problem["title"]
                    .as_str()
                    .is_some_and(|title| !title.is_empty())
            );
        }
    }

    #[test]
    fn grpc_gets_200_and_trailers_only() {
        for (protocol, media_type) in [
            (Protocol::Grpc, "application/grpc"),
            (Protocol::GrpcWeb, "application/grpc-web+proto"),
            (Protocol::GrpcWebText, "application/grpc-web-text+proto"),
        ] {
            for reason in Reason::ALL {
                let response = Rejection::new(*reason, "a_layer").into_response(protocol, None);
                assert_eq!(response.status(), StatusCode::OK);
                assert!(response.body().is_empty());
                assert_eq!(header(&response, "content-type"), Some(media_type));
                assert_eq!(
                    header(&response, "grpc-status"),
                    Some(reason.grpc_code().digits())
                );
                assert_eq!(header(&response, "plimsoll-reason"), Some(reason.label()));
                assert_eq!(
                    response
                        .extensions()
                        .get::<Rejection>()
                        .map(Rejection::reason),
                    Some(*reason)
                );
            }
        }
    }

    #[test]
    fn messages_need_no_escapes() {
        for reason in Reason::ALL {
            assert!(
                reason
                    .message()
                    .bytes()
                    .all(|byte| (b' '..=b'~').contains(&byte) && !b"%\"\\".contains(&byte))
            );
        }
    }

    #[test]
    fn numbers_are_written_as_such() {
        for value in (0..1_100).chain([u64::MAX]) {
            assert_eq!(number(value).to_str().ok(), Some(&*value.to_string()));
        }
    }

    #[test]
    fn a_wait_is_rounded_up_and_never_zero() {
        for (wait, seconds, millis) in [
            (Duration::ZERO, "1", "0"),
            (Duration::from_millis(1), "1", "1"),
            (Duration::from_micros(1_000_001), "2", "1001"),
            (Duration::from_secs(60), "60", "60000"),
            (Duration::MAX, "18446744073709551615", "2147483647"),
        ] {
            let rejection =
                Rejection::new(Reason::RateLimited, "a_layer").with_retry(RetryHint::After(wait));
            let http = rejection.clone().into_response(Protocol::Http, None);
            assert_eq!(header(&http, "retry-after"), Some(seconds));
            let grpc = rejection.into_response(Protocol::Grpc, None);
            assert_eq!(header(&grpc, "grpc-retry-pushback-ms"), Some(millis));
        }
        let never = Rejection::new(Reason::Shed, "a_layer").with_retry(RetryHint::Never);
        assert_eq!(
            header(
                &never.clone().into_response(Protocol::Http, None),
                "retry-after"
            ),
            None
        );
        assert_eq!(
            header(
                &never.into_response(Protocol::Grpc, None),
                "grpc-retry-pushback-ms"
            ),
            Some("-1")
        );
    }
}
