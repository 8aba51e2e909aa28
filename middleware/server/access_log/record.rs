//! The facts of one call, and the event they become.

use std::{
    borrow::Cow,
    fmt::Write as _,
    mem,
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::LocalKey,
    time::{Duration, Instant},
};

use http::{
    HeaderValue, Method, Request, Response,
    header::{SET_COOKIE, USER_AGENT},
    uri::PathAndQuery,
};
use http_body::Body;
use tracing::{Level, Span};

use super::{Settings, TARGET};
use crate::{
    clock,
    context::{
        self, Frame, Free, Keep, Kept, PeerAddr, REDACTED, REQUEST_ID, RequestId, Route, Scope,
    },
    observe::{End, Observer, Verdict, Witness},
    outcome::Outcome,
    protocol::GrpcCode,
    rejection::Rejection,
};

/// What is known of one call; it writes the line at the end.
#[derive(Debug)]
pub struct Record(Kept<Call>);

#[derive(Debug)]
struct Call {
    settings: Arc<Settings>,
    /// Whether the line is this layer's to write.
    writes: bool,
    started: Instant,
    witness: Witness,
    protocol_label: &'static str,
    method: Method,
    path: Option<PathAndQuery>,
    route: Option<Route>,
    client: Option<IpAddr>,
    user_agent: Option<HeaderValue>,
    head: Option<Head>,
    bytes_out: u64,
}

/// What the head told besides its status.
#[derive(Debug)]
struct Head {
    at: Instant,
    /// The id on the response, for a call whose id was given in another task.
    id: Option<RequestId>,
}

thread_local! {
    static FREE: Free<Option<Call>> = const { Free::none() };
}

impl Keep for Call {
    fn free() -> &'static LocalKey<Free<Option<Self>>> {
        &FREE
    }
}

impl Record {
    #[inline]
    pub(super) fn begin<B>(
        request: &Request<B>,
        settings: &Arc<Settings>,
        scope: &mut Scope,
    ) -> Self {
        let protocol = scope.protocol(request);
        let record = Self(Kept::new(Call {
            settings: Arc::clone(settings),
            writes: scope.update(Frame::claim_line).unwrap_or(true),
            started: scope.started(),
            witness: Witness::of(protocol).keeping_texts(),
            protocol_label: protocol.label(request.version()),
            method: request.method().clone(),
            path: request.uri().path_and_query().cloned(),
            route: Route::of(request.extensions()),
            client: PeerAddr::of(request.extensions()).map(|peer| peer.0.ip()),
            user_agent: request.headers().get(USER_AGENT).cloned(),
            head: None,
            bytes_out: 0,
        }));
        if settings.call_span && record.0.writes {
            let span = record.0.span(scope);
            scope.set_span(span);
        }
        record
    }

    /// Watches the request's body too.
    #[inline]
    pub(super) fn watch<B: Body + 'static>(
        &mut self,
        request: Request<B>,
        scope: &mut Scope,
    ) -> Request<B> {
        self.0.witness.watch(request, scope)
    }
}

impl Call {
    fn span(&self, scope: &mut Scope) -> Span {
        let _entered = scope.enter();
        // Made while nobody looks at the frame: subscribers may ask for the call, or add to it.
        let ids = context::current(|frame| (frame.request_id().cloned(), frame.trace().cloned()));
        let Some((id, trace)) = ids else {
            return Span::none();
        };
        tracing::info_span!(
            target: "plimsoll::call",
            "call",
            request_id = id.as_ref().map(RequestId::as_str),
            trace_id = trace.as_ref().map(|trace| trace.trace_id()),
            method = self.method.as_str(),
            route = self.route.as_ref().map(Route::as_str),
        )
    }
}

impl Observer for Record {
    fn on_head<B: Body>(&mut self, response: &mut Response<B>) {
        let call = &mut *self.0;
        call.witness.on_head(response);
        let headers = response.headers();
        let known = context::current(|frame| frame.request_id().is_some()).unwrap_or_default();
        let id = if known {
            None
        } else {
            headers
                .get(REQUEST_ID)
                .and_then(|id| RequestId::from_header(id).ok())
        };
        if response.status().is_server_error() {
            context::update(|frame| frame.secrets_mut().add_headers(headers, &[SET_COOKIE]));
        }
        call.head = Some(Head {
            at: clock::now(),
            id,
        });
    }

    fn on_data(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.0.bytes_out = self.0.bytes_out.saturating_add(bytes);
    }

    fn on_end(mut self, end: End<'_>) {
        let call = &mut *self.0;
        if !call.writes {
            return;
        }
        let ended = clock::now();
        let outcome = call.witness.judge(&end);
        if let Some(level) = call.settings.level(outcome) {
            let verdict = call.witness.explain(&end, outcome);
            let written = catch_unwind(AssertUnwindSafe(|| call.write(level, &verdict, ended)));
            if let Err(payload) = written {
                // A subscriber panicked, and the hook told of it. The call is none the worse for it; and dropping what
                // was thrown may panic again.
                mem::forget(payload);
            }
        }
    }
}

impl Call {
    fn write(&self, level: Level, verdict: &Verdict, ended: Instant) {
        let in_millis = |time: Duration| {
            // Whole microseconds, so that the text is short: 12.345.
            f64::from(u32::try_from(time.as_micros()).unwrap_or(u32::MAX)) / 1_000.0
        };
        let millis = |from: Instant, to: Instant| in_millis(to.saturating_duration_since(from));
        let (head, judged) = (self.head.as_ref(), self.witness.head());
        let ids = context::current(|frame| {
            (
                frame.request_id().cloned(),
                frame.id_replaced(),
                frame.trace().cloned(),
                frame.which(),
                frame.deadline_capped(),
            )
        });
        let (id, replaced, trace, which, capped) = ids.unwrap_or_default();
        let queued = context::current(|frame| frame.queued()).flatten();
        let id = id.or_else(|| head.and_then(|head| head.id.clone()));
        let path = self.path.as_ref().map(redacted_path);
        let rejection = judged.and_then(|head| head.rejection.as_ref());
        let which = rejection.and_then(Rejection::which).or(which);
        let error = verdict.error.as_deref().map(context::redact);
        let also = (!verdict.also.is_empty()).then(|| verdict.also.join("; "));
        let also = also.as_deref().map(context::redact);
        let error_missing = verdict.outcome == Outcome::ServerError && error.is_none();
        macro_rules! line {
            ($level:expr) => {
                tracing::event!(
                    target: TARGET,
                    $level,
                    event = "request",
                    request_id = id.as_ref().map(RequestId::as_str),
                    request_id_replaced = replaced.then_some(true),
                    trace_id = trace.as_ref().map(|trace| trace.trace_id()),
                    span_id = trace.as_ref().map(|trace| trace.span_id()),
                    protocol = self.protocol_label,
                    method = self.method.as_str(),
                    path = path.as_deref(),
                    route = self.route.as_ref().map(Route::as_str),
                    status = judged.map(|head| u64::from(head.status.as_u16())),
                    grpc_status = judged.and_then(|head| head.grpc).map(GrpcCode::name),
                    outcome = verdict.outcome.label(),
                    layer = verdict.layer,
                    which,
                    deadline_capped = capped.then_some(true),
                    error = error.as_deref(),
                    error_missing = error_missing.then_some(true),
                    also = also.as_deref(),
                    bytes_in = self.witness.bytes_in(),
                    bytes_out = self.bytes_out,
                    queue_ms = queued.map(|(_, waited)| in_millis(waited)),
                    ttfb_ms = head.map(|head| millis(self.started, head.at)),
                    duration_ms = millis(self.started, ended),
                    client = self.client.map(tracing::field::display),
                    user_agent = self.user_agent.as_ref().and_then(|agent| agent.to_str().ok()),
                    "call ended"
                )
            };
        }
        match level {
            Level::ERROR => line!(Level::ERROR),
            Level::WARN => line!(Level::WARN),
            Level::INFO => line!(Level::INFO),
            Level::DEBUG => line!(Level::DEBUG),
            Level::TRACE => line!(Level::TRACE),
        }
    }
}

/// The path as it came, and of its query the keys. What has no key is a value.
fn redacted_path(path: &PathAndQuery) -> Cow<'_, str> {
    let Some(query) = path.query() else {
        return Cow::Borrowed(path.path());
    };
    let mut redacted = path.path().to_owned();
    let mut separator = '?';
    for pair in query.split('&') {
        let written = match pair.split_once('=') {
            Some((key, _)) => write!(redacted, "{separator}{key}={REDACTED}"),
            None => write!(redacted, "{separator}{REDACTED}"),
        };
        written.expect("a String takes all");
        separator = '&';
    }
    Cow::Owned(redacted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_keys_of_the_query_and_no_value() {
        for (path, expected) in [
            ("/a/b", "/a/b"),
            ("/a?k=v", "/a?k=REDACTED"),
            ("/a?k=v&l=w=x&flag", "/a?k=REDACTED&l=REDACTED&REDACTED"),
            ("/a?", "/a?REDACTED"),
            ("/a?=v", "/a?=REDACTED"),
        ] {
            assert_eq!(
                redacted_path(&PathAndQuery::from_static(path)),
                expected,
                "{path}"
            );
        }
    }
}
