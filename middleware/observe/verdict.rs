//! The verdict on a call, found once for all layers that tell of it: the access line, the metrics and the span of a
//! call never disagree.

use std::sync::Arc;

use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body;

use super::{End, Intake, observe_request};
use crate::{
    context::{self, Cause, Failure, Frame, Journal, Scope},
    outcome::Outcome,
    protocol::{GrpcCode, Protocol, code::message_of},
    rejection::{Reason, Rejection},
};

/// Watches one call on behalf of a layer and judges it at its end. It takes nothing that another layer needs.
#[derive(Debug)]
pub(crate) struct Witness {
    /// Whether a status of gRPC is looked for: in calls of gRPC, and in answers of gRPC to calls of HTTP, as servers of
    /// gRPC send to a wrong request.
    is_grpc: bool,
    intake: Option<Arc<Intake>>,
    /// Whether the request has a body of a type that cannot be watched.
    is_unwatched: bool,
    head: Option<Head>,
    keeps_texts: bool,
}

/// What the head told, and for gRPC the trailers.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) grpc: Option<GrpcCode>,
    pub(crate) rejection: Option<Rejection>,
    /// The error of the service, as far as it told.
    error: Option<String>,
}

/// What became of a call, in words.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) outcome: Outcome,
    pub(crate) layer: Option<&'static str>,
    pub(crate) error: Option<String>,
    pub(crate) also: Vec<String>,
}

impl Witness {
    /// Begins to watch a call that speaks this.
    #[inline]
    pub(crate) fn of(protocol: Protocol) -> Self {
        Self {
            is_grpc: protocol.is_grpc(),
            intake: None,
            is_unwatched: false,
            head: None,
            keeps_texts: false,
        }
    }

    /// Watches the request's body too. That is done once a call, by whichever layer is the first.
    #[inline]
    pub(crate) fn watch<B: Body + 'static>(
        &mut self,
        request: Request<B>,
        scope: &mut Scope,
    ) -> Request<B> {
        if request.body().is_end_stream() {
            return request;
        }
        self.intake = scope.update(|frame| frame.intake().cloned()).flatten();
        if self.intake.is_some() {
            return request;
        }
        let (head, body) = request.into_parts();
        let (body, intake) = observe_request(body);
        if let Some(intake) = &intake {
            scope.update(|frame| frame.set_intake(Arc::clone(intake)));
        }
        self.is_unwatched = intake.is_none();
        self.intake = intake;
        Request::from_parts(head, body)
    }

    /// Also keeps the texts that [`Witness::explain`] tells.
    pub(crate) fn keeping_texts(mut self) -> Self {
        self.keeps_texts = true;
        self
    }

    #[inline]
    pub(crate) fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// Bytes of the request's body that were read; `None` for a body that cannot be watched.
    pub(crate) fn bytes_in(&self) -> Option<u64> {
        let read = self.intake.as_ref().map_or(0, |intake| intake.bytes());
        (!self.is_unwatched).then_some(read)
    }

    #[inline]
    pub(crate) fn on_head<B>(&mut self, response: &Response<B>) {
        let (headers, extensions) = (response.headers(), response.extensions());
        self.is_grpc = self.is_grpc || Protocol::of(headers).is_grpc();
        let grpc = self.is_grpc.then(|| GrpcCode::of(headers)).flatten();
        let failure = extensions.get::<Failure>();
        let error = if self.keeps_texts {
            failure
                .map(|failure| context::chain(failure.error()))
                .or_else(|| message_if_failed(grpc, headers))
        } else {
            None
        };
        if let Some(failure) = failure.filter(|failure| failure.is_upstream()) {
            // Noted once, though several layers see it.
            context::note(Cause {
                outcome: Outcome::UpstreamError,
                layer: "",
                error: context::chain(failure.error()),
            });
        }
        self.head = Some(Head {
            status: response.status(),
            grpc,
            rejection: extensions.get::<Rejection>().cloned(),
            error,
        });
    }

    /// How the call ended: the first cause. What was noted on the way, a rejection, the request's body, then the end.
    #[inline]
    pub(crate) fn judge(&mut self, end: &End<'_>) -> Outcome {
        self.take_trailers(end);
        context::current(|frame| self.first_cause(end, Some(frame)))
            .unwrap_or_else(|| self.first_cause(end, None))
    }

    /// The same in words, for a call that was judged.
    pub(crate) fn explain(&self, end: &End<'_>, outcome: Outcome) -> Verdict {
        // Before the frame is looked at: the text of an error is made by code of users', which may look for itself.
        let said = self.said_at_end(end);
        let tell = |journal: Option<&Journal>| self.tell(end, outcome, said.as_deref(), journal);
        context::current(|frame| tell(frame.journal())).unwrap_or_else(|| tell(None))
    }

    fn take_trailers(&mut self, end: &End<'_>) {
        if let (End::Failed(fault), Some(head)) = (end, &mut self.head) {
            head.grpc = fault.grpc_code().or(head.grpc);
        }
        if let (
            End::Complete {
                trailers: Some(trailers),
            },
            Some(head),
            true,
        ) = (end, &mut self.head, self.is_grpc)
        {
            head.grpc = GrpcCode::of(trailers).or(head.grpc);
            if self.keeps_texts && head.error.is_none() {
                head.error = message_if_failed(head.grpc, trailers);
            }
        }
    }

    #[inline]
    fn first_cause(&self, end: &End<'_>, frame: Option<&Frame>) -> Outcome {
        let noted = frame
            .and_then(Frame::journal)
            .and_then(Journal::causes)
            .map(|(first, _)| first.outcome)
            .filter(|&outcome| !self.is_consequence(outcome));
        noted
            .or_else(|| {
                let rejection = self.head.as_ref()?.rejection.as_ref()?;
                Some(Outcome::Rejected(rejection.reason()))
            })
            .or_else(|| self.cut().map(|_| Outcome::RequestBodyError))
            .unwrap_or_else(|| self.at_end(end))
    }

    /// The error that ended the request's body.
    fn cut(&self) -> Option<&str> {
        self.intake.as_ref().and_then(|intake| intake.error())
    }

    /// A response that is made of the request breaks because the request did, and is noted before anybody asks why.
    fn is_consequence(&self, outcome: Outcome) -> bool {
        outcome == Outcome::BodyError && self.cut().is_some()
    }

    /// What the end alone tells.
    fn at_end(&self, end: &End<'_>) -> Outcome {
        match (end, &self.head) {
            (End::Complete { .. }, Some(head)) => Outcome::of_status(head.status, head.grpc),
            (End::Failed(_), None) => Outcome::ServerError,
            (End::Failed(_), Some(_)) => Outcome::BodyError,
            (End::Panicked, None) => Outcome::Rejected(Reason::Panic),
            (End::Panicked, Some(_)) => Outcome::BodyPanic,
            (End::Dropped | End::Complete { .. }, None) => {
                context::cut_off().unwrap_or(Outcome::ClientGone)
            }
            (End::Dropped, Some(_)) => context::cut_off().unwrap_or(Outcome::ClientGoneBody),
        }
    }

    /// What the end says of itself.
    fn said_at_end(&self, end: &End<'_>) -> Option<String> {
        match (end, &self.head) {
            (End::Complete { .. }, Some(head)) => head.error.clone(),
            (End::Failed(fault), _) => Some(fault.to_string()),
            (End::Panicked, _) => Some("panicked".to_owned()),
            (End::Dropped | End::Complete { .. }, _) => None,
        }
    }

    fn tell(
        &self,
        end: &End<'_>,
        outcome: Outcome,
        said: Option<&str>,
        journal: Option<&Journal>,
    ) -> Verdict {
        let (first, later) = journal.and_then(Journal::causes).unzip();
        let rejection = self.head.as_ref().and_then(|head| head.rejection.as_ref());
        let layer = first
            .map(|first| first.layer)
            .filter(|layer| !layer.is_empty())
            .or(rejection.map(Rejection::layer));
        let mut error = first.map(|first| first.error.clone());
        let mut also: Vec<String> = later
            .unwrap_or_default()
            .iter()
            .map(|cause| format!("{}: {}", cause.outcome.label(), cause.error))
            .collect();
        if let Some(cut) = self.cut() {
            if let Some(later) = first.filter(|first| self.is_consequence(first.outcome)) {
                error = Some(cut.to_owned());
                also.insert(0, format!("{}: {}", later.outcome.label(), later.error));
            } else if first.is_none() && rejection.is_none() {
                error = Some(cut.to_owned());
            } else {
                also.push(format!("{}: {cut}", Outcome::RequestBodyError.label()));
            }
        }
        let at_end = self.at_end(end);
        match said {
            Some(said) if error.is_none() && outcome == at_end => error = Some(said.to_owned()),
            // The service failed as well, and this is where its error ends.
            Some(said) if matches!((end, &self.head), (End::Failed(_), None)) => {
                also.push(format!("{}: {said}", at_end.label()));
            }
            Some(_) | None => {}
        }
        also.extend(
            journal
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
}

fn message_if_failed(code: Option<GrpcCode>, headers: &HeaderMap) -> Option<String> {
    code.filter(|&code| code != GrpcCode::Ok)
        .and_then(|_| message_of(headers))
}
