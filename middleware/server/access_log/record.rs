//! The facts of one call, and the event they become.

use std::{borrow::Cow, fmt::Write as _, net::IpAddr, sync::Arc, time::Instant};

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{SET_COOKIE, USER_AGENT},
    uri::PathAndQuery,
};
use http_body::Body;
use tracing::{Level, Span};

use super::{Settings, TARGET};
use crate::{
    clock,
    context::{
        self, Cause, Failure, Journal, PeerAddr, REDACTED, REQUEST_ID, RequestId, Route, Scope,
    },
    observe::{End, Intake, Observer, observe_request},
    outcome::Outcome,
    protocol::{GrpcCode, Protocol, code::message_of},
    rejection::{Reason, Rejection},
};

/// What is known of one call; it writes the line at the end.
#[derive(Debug)]
pub struct Record {
    settings: Arc<Settings>,
    started: Instant,
    protocol: Protocol,
    protocol_label: &'static str,
    method: Method,
    path: Option<PathAndQuery>,
    route: Option<Route>,
    client: Option<IpAddr>,
    user_agent: Option<HeaderValue>,
    intake: Option<Arc<Intake>>,
    head: Option<Head>,
    bytes_out: u64,
}

/// What the head told.
#[derive(Debug)]
struct Head {
    at: Instant,
    status: StatusCode,
    grpc: Option<GrpcCode>,
    /// The error of the service, as far as it told.
    error: Option<String>,
    rejection: Option<Rejection>,
    /// The id on the response, for a call whose id was given in another task.
    id: Option<RequestId>,
}

/// What became of a call.
#[derive(Debug)]
struct Verdict {
    outcome: Outcome,
    layer: Option<&'static str>,
    error: Option<String>,
    also: Vec<String>,
}

impl Record {
    pub(super) fn begin<B>(
        request: Request<B>,
        settings: &Arc<Settings>,
        scope: &mut Scope,
    ) -> (Request<B>, Self)
    where
        B: Body + 'static,
    {
        let protocol = scope.protocol(&request);
        let mut record = Self {
            settings: Arc::clone(settings),
            started: scope.started(),
            protocol,
            protocol_label: protocol.label(request.version()),
            method: request.method().clone(),
            path: request.uri().path_and_query().cloned(),
            route: Route::of(request.extensions()),
            client: PeerAddr::of(request.extensions()).map(|peer| peer.0.ip()),
            user_agent: request.headers().get(USER_AGENT).cloned(),
            intake: None,
            head: None,
            bytes_out: 0,
        };
        if settings.call_span {
            let span = record.span(scope);
            scope.set_span(span);
        }
        let (head, body) = request.into_parts();
        let (body, intake) = observe_request(body);
        record.intake = intake;
        (Request::from_parts(head, body), record)
    }

    fn span(&self, scope: &mut Scope) -> Span {
        let _entered = scope.enter();
        context::current(|frame| {
            tracing::info_span!(
                target: "plimsoll::call",
                "call",
                request_id = frame.request_id().map(RequestId::as_str),
                trace_id = frame.trace().map(|trace| trace.trace_id()),
                method = self.method.as_str(),
                route = self.route.as_ref().map(Route::as_str),
            )
        })
        .unwrap_or_else(Span::none)
    }
}

impl Observer for Record {
    fn on_head<B: Body>(&mut self, response: &mut Response<B>) {
        let status = response.status();
        let (headers, extensions) = (response.headers(), response.extensions());
        let grpc = if self.protocol.is_grpc() {
            GrpcCode::of(headers)
        } else {
            None
        };
        let known = context::current(|frame| frame.request_id().is_some()).unwrap_or_default();
        let id = if known {
            None
        } else {
            headers
                .get(REQUEST_ID)
                .and_then(|id| RequestId::from_header(id).ok())
        };
        if status.is_server_error() {
            context::update(|frame| frame.secrets_mut().add_headers(headers, &[SET_COOKIE]));
        }
        let failure = extensions.get::<Failure>();
        let told = failure.map(|failure| context::chain(failure.error()));
        if let Some(error) = told
            .clone()
            .filter(|_| failure.is_some_and(Failure::is_upstream))
        {
            context::note(Cause {
                outcome: Outcome::UpstreamError,
                layer: "",
                error,
            });
        }
        self.head = Some(Head {
            at: clock::now(),
            status,
            grpc,
            error: told.or_else(|| message_if_failed(grpc, headers)),
            rejection: extensions.get::<Rejection>().cloned(),
            id,
        });
    }

    fn on_data(&mut self, bytes: usize) {
        self.bytes_out = self
            .bytes_out
            .saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    fn on_end(mut self, end: End<'_>) {
        let ended = clock::now();
        if let (
            End::Complete {
                trailers: Some(trailers),
            },
            Some(head),
        ) = (&end, &mut self.head)
            && self.protocol.is_grpc()
        {
            head.grpc = GrpcCode::of(trailers).or(head.grpc);
            head.error = head
                .error
                .take()
                .or_else(|| message_if_failed(head.grpc, trailers));
        }
        let noted = context::update(|frame| frame.take_journal()).flatten();
        let verdict = self.judge(&end, noted.as_deref());
        if let Some(level) = self.settings.level(verdict.outcome) {
            // The handlers' own fields are read from the journal where the line is written.
            if let Some(journal) = noted {
                context::update(|frame| frame.put_journal(journal));
            }
            self.write(level, &verdict, ended);
        }
    }
}

fn message_if_failed(code: Option<GrpcCode>, headers: &HeaderMap) -> Option<String> {
    code.filter(|&code| code != GrpcCode::Ok)
        .and_then(|_| message_of(headers))
}

impl Record {
    /// The first cause is the outcome: what was noted on the way, a rejection, the request's body, then the end itself.
    fn judge(&self, end: &End<'_>, noted: Option<&Journal>) -> Verdict {
        let rejection = self.head.as_ref().and_then(|head| head.rejection.as_ref());
        let (first, later) = noted.and_then(Journal::causes).unzip();
        let mut also: Vec<String> = Vec::new();
        let mut outcome = None;
        let mut error = None;
        let mut layer = rejection.map(Rejection::layer);
        if let Some(first) = first {
            outcome = Some(first.outcome);
            error = Some(first.error.clone());
            layer = Some(first.layer)
                .filter(|layer| !layer.is_empty())
                .or(layer);
        }
        also.extend(
            later
                .unwrap_or_default()
                .iter()
                .map(|cause| format!("{}: {}", cause.outcome.label(), cause.error)),
        );
        if let Some(rejection) = rejection {
            outcome.get_or_insert(Outcome::Rejected(rejection.reason()));
        }
        if let Some(cut) = self.intake.as_ref().and_then(|intake| intake.error()) {
            if outcome.is_none() {
                outcome = Some(Outcome::RequestBodyError);
                error = Some(cut.to_owned());
            } else {
                also.push(format!("{}: {cut}", Outcome::RequestBodyError.label()));
            }
        }
        let (last, told) = self.at_end(end);
        let outcome = match outcome {
            Some(outcome) => outcome,
            None => last,
        };
        if outcome == last {
            error = error.or(told);
        }
        also.extend(
            noted
                .map(Journal::left_out)
                .filter(|&more| more > 0)
                .map(|more| format!("{more} more left out")),
        );
        Verdict {
            outcome,
            layer,
            error,
            also,
        }
    }

    /// What the end alone tells.
    fn at_end(&self, end: &End<'_>) -> (Outcome, Option<String>) {
        match (end, &self.head) {
            (End::Complete { .. }, Some(head)) => (
                Outcome::of_status(head.status, head.grpc),
                head.error.clone(),
            ),
            (End::Failed(fault), None) => (Outcome::ServerError, Some(fault.to_string())),
            (End::Failed(fault), Some(_)) => (Outcome::BodyError, Some(fault.to_string())),
            (End::Panicked, None) => (
                Outcome::Rejected(Reason::Panic),
                Some("panicked".to_owned()),
            ),
            (End::Panicked, Some(_)) => (Outcome::BodyPanic, Some("panicked".to_owned())),
            (End::Dropped | End::Complete { .. }, None) => (Outcome::ClientGone, None),
            (End::Dropped, Some(_)) => (Outcome::ClientGoneBody, None),
        }
    }

    fn write(&self, level: Level, verdict: &Verdict, ended: Instant) {
        let millis = |from: Instant, to: Instant| {
            // Whole microseconds, so that the text is short: 12.345.
            let micros =
                u32::try_from(to.saturating_duration_since(from).as_micros()).unwrap_or(u32::MAX);
            f64::from(micros) / 1_000.0
        };
        let head = self.head.as_ref();
        let ids = context::current(|frame| {
            (
                frame.request_id().cloned(),
                frame.id_replaced(),
                frame.trace().cloned(),
            )
        });
        let (id, replaced, trace) = ids.unwrap_or_default();
        let id = id.or_else(|| head.and_then(|head| head.id.clone()));
        let path = self.path.as_ref().map(redacted_path);
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
                    status = head.map(|head| u64::from(head.status.as_u16())),
                    grpc_status = head.and_then(|head| head.grpc).map(GrpcCode::name),
                    outcome = verdict.outcome.label(),
                    layer = verdict.layer,
                    which = head.and_then(|head| head.rejection.as_ref()).and_then(Rejection::which_limit),
                    error = error.as_deref(),
                    error_missing = error_missing.then_some(true),
                    also = also.as_deref(),
                    bytes_in = self.intake.as_ref().map_or(0, |intake| intake.bytes()),
                    bytes_out = self.bytes_out,
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
