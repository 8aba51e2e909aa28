//! How long one call may still take.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use http::{Request, Version};
use http_body::Body;
use tokio::time::Sleep;

use super::{
    LAYER,
    asked::asked,
    inflow::{Inflow, Pacing, Turn},
    settings::{LONGEST, Limit, Shared, after},
};
use crate::{
    clock,
    context::{self, Cause, Deadline, PeerAddr, Scope},
    observe::wrap_request,
    outcome::Outcome,
    protocol::Protocol,
    rejection::{Reason, Rejection},
};

/// So much before the caller's own deadline a call of gRPC ends: the timer of tonic's server runs outside of every layer
/// and would answer CANCELLED.
const EARLIER: Duration = Duration::from_millis(1);

/// How far a call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Head,
    Body,
}

/// The limits of one call, and its timer once it needed one.
pub(super) struct Timing {
    shared: Arc<Shared>,
    started: Instant,
    /// The end of the call, whatever it does.
    over: Option<(Instant, Limit)>,
    /// The body of the request, where it can be watched.
    inflow: Option<Arc<Inflow>>,
    /// Since when the body of the response has had nothing to send.
    silent_since: Option<Instant>,
    timer: Option<Timer>,
}

/// A timer that is made once and moved only when it has to be earlier, or has rung too early.
struct Timer {
    sleep: Pin<Box<Sleep>>,
    at: Instant,
}

impl Timing {
    /// What this call may take; a rejection where its time is up, or what the caller says of it cannot be read.
    #[inline]
    pub(super) fn begin<B>(
        shared: &Arc<Shared>,
        request: &Request<B>,
        scope: &mut Scope,
    ) -> Result<Self, Rejection> {
        let settings = &shared.settings;
        let protocol = scope.protocol(request);
        let trusted = settings.trusted.as_ref().map(|trusted| {
            || {
                let peer = PeerAddr::of(request.extensions());
                peer.is_some_and(|peer| trusted.trusts(peer.0.ip()))
            }
        });
        let asked = asked(request.headers(), protocol, trusted).map_err(|malformed| {
            shared.counts.malformed();
            reject(scope, Reason::Malformed, malformed.to_string())
        })?;
        let started = scope.started();
        let total = settings
            .total
            .get()
            .map(|total| (after(started, total), Limit::Total));
        let over = match asked {
            None => total,
            Some(asked) => Some(shared.callers(asked, started, protocol, scope)?),
        };
        if let Some((at, _)) = over {
            scope.update(|frame| frame.set_deadline(Deadline(at)));
        }
        Ok(Self {
            shared: Arc::clone(shared),
            started,
            over,
            inflow: None,
            silent_since: None,
            timer: None,
        })
    }

    /// Also watches how the body of the request comes.
    #[inline]
    pub(super) fn watch<B: Body + 'static>(
        &mut self,
        request: Request<B>,
        scope: &mut Scope,
    ) -> Request<B> {
        if request.body().is_end_stream() {
            return request;
        }
        let settings = &self.shared.settings;
        // Over HTTP/1 nothing is gRPC, whatever it says, and gRPC-Web sends one message.
        let may_be_silent =
            scope.protocol(&request) == Protocol::Grpc && request.version() >= Version::HTTP_2;
        let pace = settings.pace.filter(|pace| pace.of_grpc || !may_be_silent);
        if pace.is_none() && settings.head.get().is_none() {
            return request;
        }
        let inflow = Arc::new(Inflow::new(pace));
        let (head, body) = request.into_parts();
        let body = match wrap_request(body, Pacing(Arc::clone(&inflow))) {
            Ok(paced) => {
                self.inflow = Some(inflow);
                paced
            }
            Err(body) => body,
        };
        Request::from_parts(head, body)
    }

    /// Whether there is anything to wait for once the head is there.
    pub(super) fn lasts(&self) -> bool {
        let may_be_slow = || self.inflow.as_ref()?.may_be_slow();
        self.over.is_some() || self.shared.settings.idle.get().is_some() || may_be_slow().is_some()
    }

    /// The limit that is exceeded, for a call that has nothing to give at the moment; else wakes when one is.
    pub(super) fn poll_exceeded(&mut self, phase: Phase, context: &mut Context<'_>) -> Poll<Limit> {
        let now = clock::now();
        if phase == Phase::Body {
            self.silent_since.get_or_insert(now);
        }
        let (due, recheck) = self.due(phase, now);
        if let Some((_, limit)) = due.filter(|&(at, _)| at <= now) {
            return Poll::Ready(limit);
        }
        let wake = due.map(|(at, _)| at).into_iter().chain(recheck).min();
        let Some(wake) = wake else {
            return Poll::Pending;
        };
        let timer = self.timer.get_or_insert_with(|| Timer::new(wake));
        ready!(timer.poll_until(wake, context));
        // It rang while this ran: what was due then is due now.
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// The body of the response has given something, or has ended.
    pub(super) fn was_not_silent(&mut self) {
        self.silent_since = None;
    }

    /// The limit that is exceeded by a body that always has something to give.
    pub(super) fn is_over(&self) -> Option<Limit> {
        let (at, limit) = self.over?;
        (at <= clock::now()).then_some(limit)
    }

    /// The first limit to come; and when to look again, though none may be exceeded then: another task may read the
    /// body of the request.
    fn due(&self, phase: Phase, now: Instant) -> (Option<(Instant, Limit)>, Option<Instant>) {
        let settings = &self.shared.settings;
        let turn = self.inflow.as_ref().map(|inflow| inflow.turn());
        let (own, recheck) = match (turn, phase) {
            (Some(Turn::Caller { until }), _) => {
                let until = until.map(|until| (until, Limit::Body));
                (until, settings.head.get().filter(|_| phase == Phase::Head))
            }
            (Some(Turn::Handler { waited }), Phase::Head) => (self.head_due(waited), None),
            (None, Phase::Head) => (self.head_due(Duration::ZERO), None),
            (turn, Phase::Body) => {
                let slow = self.inflow.as_ref().filter(|_| turn.is_some());
                let pace = slow.and_then(|inflow| inflow.may_be_slow());
                (None, pace.map(|pace| pace.grace))
            }
        };
        let idle = self.silent_since.zip(settings.idle.get());
        let idle = idle.map(|(since, idle)| (after(since, idle), Limit::Idle));
        let due = [self.over, own, idle].into_iter().flatten();
        // The first of equals, so that the caller's own deadline is told as that.
        let due = due.min_by_key(|&(at, _)| at);
        // Not at once, or it would be looked at again and again.
        (due, recheck.map(|wait| after(now, wait.max(EARLIER))))
    }

    fn head_due(&self, waited: Duration) -> Option<(Instant, Limit)> {
        let head = self.shared.settings.head.get()?.saturating_add(waited);
        Some((after(self.started, head), Limit::Head))
    }

    /// Tells that a limit was exceeded, in the books of the call and of the layer.
    #[cold]
    pub(super) fn exceed(&self, limit: Limit) -> Rejection {
        self.shared.counts.expired(limit);
        let settings = &self.shared.settings;
        let error = match limit {
            Limit::Deadline => DEADLINE.to_owned(),
            Limit::Head => format!(
                "no head within {:?}",
                settings.head.get().unwrap_or_default()
            ),
            Limit::Body => "the body of the request comes too slowly".to_owned(),
            Limit::Idle => format!(
                "nothing sent for {:?}",
                settings.idle.get().unwrap_or_default()
            ),
            Limit::Total => format!(
                "not over within {:?}",
                settings.total.get().unwrap_or_default()
            ),
        };
        let outcome = match limit {
            Limit::Body => Outcome::RequestBodyError,
            _ => Outcome::Rejected(limit.reason()),
        };
        context::note(Cause {
            outcome,
            layer: LAYER,
            error,
        });
        let rejection = match limit {
            Limit::Body => Rejection::of_slow_caller(LAYER),
            _ => Rejection::new(limit.reason(), LAYER),
        };
        if limit == Limit::Deadline {
            return rejection;
        }
        context::update(|frame| frame.set_which(limit.label()));
        rejection.with_which(limit.label())
    }
}

const DEADLINE: &str = "the caller's deadline has passed";

impl Shared {
    /// The end of a call whose caller still waits so long.
    fn callers(
        &self,
        asked: Duration,
        started: Instant,
        protocol: Protocol,
        scope: &mut Scope,
    ) -> Result<(Instant, Limit), Rejection> {
        let total = self.settings.total.get();
        let most = total.unwrap_or(LONGEST).min(LONGEST);
        if asked > most {
            self.counts.capped();
            scope.update(|frame| frame.cap_deadline());
            return Ok(match total {
                Some(total) => (after(started, total), Limit::Total),
                None => (after(started, LONGEST), Limit::Deadline),
            });
        }
        let earlier = match protocol.is_grpc() {
            true => EARLIER.min(asked.checked_div(2).unwrap_or_default()),
            false => Duration::ZERO,
        };
        let at = after(started, asked.saturating_sub(earlier));
        if asked.is_zero() || at <= clock::now() {
            self.counts.expired(Limit::Deadline);
            return Err(reject(scope, Reason::Deadline, DEADLINE.to_owned()));
        }
        Ok((at, Limit::Deadline))
    }
}

/// A rejection on arrival, and why on the line of the call.
#[cold]
fn reject(scope: &mut Scope, reason: Reason, error: String) -> Rejection {
    let cause = Cause {
        outcome: Outcome::Rejected(reason),
        layer: LAYER,
        error,
    };
    scope.update(|frame| frame.journal_mut().note(cause));
    Rejection::new(reason, LAYER)
}

impl Timer {
    fn new(at: Instant) -> Self {
        Self {
            sleep: Box::pin(tokio::time::sleep_until(at.into())),
            at,
        }
    }

    /// Ready at this instant. It may wake before, so that it need not be moved whenever there is more time.
    fn poll_until(&mut self, at: Instant, context: &mut Context<'_>) -> Poll<()> {
        if at < self.at {
            self.move_to(at);
        }
        ready!(self.sleep.as_mut().poll(context));
        if at == self.at {
            return Poll::Ready(());
        }
        self.move_to(at);
        self.sleep.as_mut().poll(context)
    }

    fn move_to(&mut self, at: Instant) {
        self.sleep.as_mut().reset(at.into());
        self.at = at;
    }
}

impl fmt::Debug for Timing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timing")
            .field("over", &self.over)
            .field("silent_since", &self.silent_since)
            .finish_non_exhaustive()
    }
}
