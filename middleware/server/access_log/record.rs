//! The facts of one call, and the event they become.

use std::{
    borrow::Cow,
    fmt::Write as _,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use http::{
    Request, Response,
    header::{SET_COOKIE, USER_AGENT},
    uri::PathAndQuery,
};
use http_body::Body;
use tracing::{Level, Span};

use super::{Settings, TARGET};
use crate::{
    clock,
    context::{self, Frame, Kept, PeerAddr, REDACTED, REQUEST_ID, RequestId, Route, Scope},
    log::access::{self, AccessLine, Facts},
    observe::{End, Observer, Verdict, Witness},
    outcome::{Fault, Outcome},
    protocol::GrpcCode,
    rejection::Rejection,
};

/// What is known of one call; it writes the line at the end.
#[derive(Debug)]
pub struct Record {
    settings: Arc<Settings>,
    /// Whether the line is this layer's to write.
    writes: bool,
    started: Instant,
    head_at: Option<Instant>,
    witness: Witness,
    line: Kept<AccessLine>,
}

impl Record {
    #[inline]
    pub(super) fn begin<B>(
        request: &Request<B>,
        settings: &Arc<Settings>,
        scope: &mut Scope,
    ) -> Self {
        let protocol = scope.protocol(request);
        let mut line = Kept::<AccessLine>::default();
        line.protocol = protocol.label(request.version());
        line.method = request.method().clone();
        line.path = request.uri().path_and_query().cloned();
        line.route = Route::of(request.extensions());
        line.client = PeerAddr::of(request.extensions()).map(|peer| peer.0.ip());
        line.user_agent = request.headers().get(USER_AGENT).cloned();
        let writes = scope.update(Frame::claim_line).unwrap_or(true);
        if settings.call_span && writes {
            let span = span(&line, scope);
            scope.set_span(span);
        }
        Self {
            settings: Arc::clone(settings),
            writes,
            started: scope.started(),
            head_at: None,
            witness: Witness::of(protocol).keeping_texts(),
            line,
        }
    }

    /// Watches the request's body too.
    #[inline]
    pub(super) fn watch<B: Body + 'static>(
        &mut self,
        request: Request<B>,
        scope: &mut Scope,
    ) -> Request<B> {
        self.witness.watch(request, scope)
    }
}

fn span(line: &AccessLine, scope: &mut Scope) -> Span {
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
        method = line.method.as_str(),
        route = line.route.as_ref().map(Route::as_str),
    )
}

impl Observer for Record {
    fn on_head<B: Body>(&mut self, response: &mut Response<B>) {
        self.witness.on_head(response);
        let headers = response.headers();
        if context::current(|frame| frame.request_id().is_none()).unwrap_or(true) {
            // Of a call whose id was given in another task.
            let id = headers.get(REQUEST_ID);
            self.line.request_id = id.and_then(|id| RequestId::from_header(id).ok());
        }
        if response.status().is_server_error() {
            context::update(|frame| frame.secrets_mut().add_headers(headers, &[SET_COOKIE]));
        }
        self.head_at = Some(clock::now());
    }

    fn on_data(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.line.bytes_out = self.line.bytes_out.saturating_add(bytes);
    }

    fn on_end(mut self, end: End<'_>) {
        if !self.writes {
            return;
        }
        let ended = clock::now();
        let outcome = self.witness.judge(&end);
        if let Some(level) = self.settings.level(outcome) {
            let verdict = self.witness.explain(&end, outcome);
            self.finish(verdict, ended);
            if let Some(recent) = &self.settings.recent
                && outcome.fault() == Fault::Server
            {
                recent.note(&self.line);
            }
            let Self { line, .. } = self;
            let written = catch_unwind(AssertUnwindSafe(|| {
                access::lend(line, tell, |line| make_event(line, level));
            }));
            if let Err(payload) = written {
                // A subscriber panicked, and the hook told of it. The call is none the worse for it; and dropping what
                // was thrown may panic again.
                mem::forget(payload);
            }
        }
    }
}

impl Record {
    /// Completes the line.
    fn finish(&mut self, verdict: Verdict, ended: Instant) {
        let started = self.started;
        let in_millis = |time: Duration| {
            // Whole microseconds, so that the text is short: 12.345.
            f64::from(u32::try_from(time.as_micros()).unwrap_or(u32::MAX)) / 1_000.0
        };
        let millis = |to: Instant| in_millis(to.saturating_duration_since(started));
        let line = &mut *self.line;
        line.ttfb_ms = self.head_at.map(millis);
        line.duration_ms = millis(ended);
        context::current(|frame| {
            let id = frame.request_id().cloned();
            line.request_id = id.or_else(|| line.request_id.take());
            line.request_id_replaced = frame.id_replaced();
            line.trace = frame.trace().cloned();
            line.which = frame.which();
            line.deadline_capped = frame.deadline_capped();
            line.queue_ms = frame.queued().map(|(_, waited)| in_millis(waited));
        });
        line.redacted_path = line.path.as_ref().and_then(redacted);
        if let Some(head) = self.witness.head() {
            line.status = Some(head.status.as_u16());
            line.grpc_status = head.grpc.map(GrpcCode::name);
            let rejection = head.rejection.as_ref();
            line.which = rejection.and_then(Rejection::which).or(line.which);
        }
        line.bytes_in = self.witness.bytes_in();
        line.outcome = verdict.outcome.label();
        line.layer = verdict.layer;
        line.error_missing = verdict.outcome == Outcome::ServerError && verdict.error.is_none();
        line.error = verdict.error.map(redacted_text);
        if !verdict.also.is_empty() {
            line.also = Some(redacted_text(verdict.also.join("; ")));
        }
    }
}

/// The fields of the line: as an event for every subscriber, and as they are for our own formatter.
macro_rules! fields {
    (|$line:ident| $($name:ident = $value:expr,)*) => {
        fn make_event($line: &AccessLine, level: Level) {
            match level {
                Level::ERROR => tracing::event!(target: TARGET, Level::ERROR, $($name = $value,)* "call ended"),
                Level::WARN => tracing::event!(target: TARGET, Level::WARN, $($name = $value,)* "call ended"),
                Level::INFO => tracing::event!(target: TARGET, Level::INFO, $($name = $value,)* "call ended"),
                Level::DEBUG => tracing::event!(target: TARGET, Level::DEBUG, $($name = $value,)* "call ended"),
                Level::TRACE => tracing::event!(target: TARGET, Level::TRACE, $($name = $value,)* "call ended"),
            }
        }

        fn tell($line: &AccessLine, facts: &mut Facts<'_>) {
            facts.tell("call ended");
            $(facts.tell($value);)*
        }
    };
}

fields! { |line|
    event = "request",
    request_id = line.request_id.as_ref().map(RequestId::as_str),
    request_id_replaced = line.request_id_replaced.then_some(true),
    trace_id = line.trace.as_ref().map(|trace| trace.trace_id()),
    span_id = line.trace.as_ref().map(|trace| trace.span_id()),
    protocol = line.protocol,
    method = line.method.as_str(),
    path = line.path(),
    route = line.route.as_ref().map(Route::as_str),
    status = line.status.map(u64::from),
    grpc_status = line.grpc_status,
    outcome = line.outcome,
    layer = line.layer,
    which = line.which,
    deadline_capped = line.deadline_capped.then_some(true),
    error = line.error.as_deref(),
    error_missing = line.error_missing.then_some(true),
    also = line.also.as_deref(),
    bytes_in = line.bytes_in,
    bytes_out = line.bytes_out,
    queue_ms = line.queue_ms,
    ttfb_ms = line.ttfb_ms,
    duration_ms = line.duration_ms,
    client = line.client.map(tracing::field::display),
    user_agent = line.user_agent.as_ref().and_then(|agent| agent.to_str().ok()),
}

/// The text without the secrets of the call.
fn redacted_text(text: String) -> String {
    match context::redact(&text) {
        Cow::Owned(redacted) => redacted,
        Cow::Borrowed(_) => text,
    }
}

/// The path as it came, and of its query the keys. What has no key is a value. `None` where there is no query.
fn redacted(path: &PathAndQuery) -> Option<String> {
    let query = path.query()?;
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
    Some(redacted)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        panic,
        sync::{Mutex, PoisonError},
        time::Duration,
    };

    use http::{HeaderValue, Method};
    use serde_json::Value;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::{
        context::TraceContext,
        log::{JsonLayer, Schema, Writer},
    };

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines of this work, without the time.
    fn lines(schema: Schema, work: impl FnOnce()) -> Vec<Value> {
        let memory = Memory::default();
        let writer = Writer::new(memory.clone()).expect("a thread");
        let layer = JsonLayer::new(writer.clone()).schema(schema);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
        writer.flush(Duration::from_secs(60)).expect("written");
        let written = memory.0.lock().expect("free").clone();
        let lines = written.split_inclusive(|byte| *byte == b'\n').map(|line| {
            let mut line: Value = serde_json::from_slice(line).expect("JSON");
            for time in ["timestamp", "@timestamp", "time"] {
                line.as_object_mut().expect("an object").remove(time);
            }
            line
        });
        lines.collect()
    }

    /// A line with all that there can be, and this text wherever one comes from outside.
    fn full(text: &str) -> AccessLine {
        AccessLine {
            request_id_replaced: true,
            protocol: "http/1.1",
            method: Method::POST,
            path: Some(PathAndQuery::from_static("/orders?k=v")),
            redacted_path: Some(text.to_owned()),
            status: Some(503),
            grpc_status: Some("UNAVAILABLE"),
            outcome: "shed",
            layer: Some("load_shed"),
            which: Some("total"),
            deadline_capped: true,
            error: Some(text.to_owned()),
            error_missing: true,
            also: Some(text.to_owned()),
            bytes_in: Some(7),
            bytes_out: u64::MAX,
            queue_ms: Some(1.5),
            ttfb_ms: Some(0.042),
            duration_ms: 12.345,
            client: Some([127, 0, 0, 1].into()),
            user_agent: Some(HeaderValue::from_static("curl/8 \"x\\")),
            ..empty()
        }
    }

    /// A line with what each has.
    fn empty() -> AccessLine {
        AccessLine {
            request_id: RequestId::current(),
            trace: TraceContext::current(),
            ..AccessLine::default()
        }
    }

    fn kept(line: AccessLine) -> Kept<AccessLine> {
        let mut kept = Kept::default();
        *kept = line;
        kept
    }

    /// Says by its message that a line was taken whole.
    fn tell_so(_: &AccessLine, facts: &mut Facts<'_>) {
        facts.tell("whole");
    }

    #[test]
    fn a_line_that_is_taken_whole_is_the_same_as_one_taken_field_by_field() {
        let texts = [
            "",
            "plain",
            "\"\u{1b}\u{202e}é\n",
            &"\u{7}".repeat(330),
            &"x".repeat(9_000),
        ];
        for schema in [Schema::Plain, Schema::Otel, Schema::Ecs, Schema::Gcp] {
            for make in texts.map(|text| move || full(text)).iter() {
                for fields in [vec![], vec![("status", 1.into()), ("tenant", "t".into())]] {
                    let written = lines(schema, || {
                        let _span = tracing::info_span!("s", bytes_out = 1, table = 2).entered();
                        context::pretend("abc-1", fields, || {
                            make_event(&make(), Level::WARN);
                            access::lend(kept(make()), tell, |line| make_event(line, Level::WARN));
                            access::lend(kept(empty()), tell, |line| make_event(line, Level::INFO));
                            make_event(&empty(), Level::INFO);
                        });
                    });
                    assert_eq!(written.len(), 4);
                    assert_eq!(written[0], written[1], "{schema:?}");
                    assert_eq!(written[2], written[3], "{schema:?}");
                }
            }
        }
    }

    #[test]
    fn a_line_is_taken_whole_by_its_own_event_only() {
        let written = lines(Schema::Plain, || {
            access::lend(kept(full("outer")), tell_so, |outer| {
                make_event(outer, Level::INFO);
                access::lend(kept(full("inner")), tell_so, |line| {
                    make_event(line, Level::INFO)
                });
                tracing::info!(target: TARGET, "of another");
                make_event(outer, Level::INFO);
            });
            let panicked = panic::catch_unwind(|| {
                access::lend(kept(full("lost")), tell_so, |_| panic!("a subscriber"));
            });
            assert!(panicked.is_err());
            make_event(&full("alone"), Level::INFO);
            access::lend(kept(full("last")), tell_so, |line| {
                make_event(line, Level::INFO)
            });
        });
        let told = |line: &Value| {
            let error = line.get("error").and_then(Value::as_str);
            error
                .or(line["message"].as_str())
                .expect("one of both")
                .to_owned()
        };
        let told: Vec<String> = written.iter().map(told).collect();
        assert_eq!(
            told,
            ["whole", "inner", "of another", "whole", "alone", "whole"]
        );
    }

    #[test]
    fn keeps_keys_of_the_query_and_no_value() {
        for (path, expected) in [
            ("/a?k=v", "/a?k=REDACTED"),
            ("/a?k=v&l=w=x&flag", "/a?k=REDACTED&l=REDACTED&REDACTED"),
            ("/a?", "/a?REDACTED"),
            ("/a?=v", "/a?=REDACTED"),
        ] {
            let path = PathAndQuery::from_static(path);
            assert_eq!(redacted(&path).as_deref(), Some(expected), "{path}");
        }
    }
}
