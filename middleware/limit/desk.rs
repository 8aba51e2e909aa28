//! What both layers do with a call before it is let in.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use http::Request;
use pin_project_lite::pin_project;

use super::{
    Limit, Shared, Vacancy,
    permit::{Admission, Permit},
    rules::Rules,
    shared::Admitted,
    state::{Ask, Seat},
    wait::Wait,
    window::Seconds,
};
use crate::{
    clock,
    context::Scope,
    rejection::{Reason, Rejection, RetryHint},
};

/// Lets calls in on behalf of one layer.
#[derive(Clone)]
pub(crate) struct Desk(Arc<Post>);

#[derive(Clone)]
struct Post {
    shared: Arc<Shared>,
    rules: Rules,
    layer: &'static str,
}

/// What is known of a call that is about to be let in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visit {
    ask: Ask,
    now: Instant,
    at: Seconds,
}

/// What becomes of a call that may wait.
#[allow(
    clippy::large_enum_variant,
    reason = "it is on the stack for a moment, and what waits is boxed then"
)]
pub(crate) enum Entered {
    Now(Admission),
    Later(Waiting),
}

pin_project! {
    /// A call that waits for its permit.
    #[derive(Debug)]
    pub(crate) struct Waiting {
        #[pin]
        wait: Wait,
        visit: Visit,
    }
}

impl Future for Waiting {
    /// What was known of the call, when it came, and what becomes of it.
    type Output = (Visit, Instant, Result<Seat, Reason>);

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let arrived = this.wait.arrived();
        let verdict = ready!(this.wait.poll(context));
        Poll::Ready((*this.visit, arrived, verdict))
    }
}

impl Desk {
    pub(crate) fn new(limit: Limit, layer: &'static str) -> Self {
        Self(Arc::new(Post {
            shared: limit.shared,
            rules: Rules::default(),
            layer,
        }))
    }

    /// The same with other rules.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Rules)) -> Self {
        change(&mut Arc::make_mut(&mut self.0).rules);
        self
    }

    /// Waits for room to be made.
    pub(crate) fn vacancy(&self) -> Vacancy {
        Vacancy::of(&self.0.shared)
    }

    /// Looks at a call.
    #[inline]
    pub(crate) fn visit<B>(&self, request: &Request<B>, scope: &mut Scope) -> Visit {
        let now = clock::now();
        Visit {
            ask: self.0.rules.ask(request, scope, &self.0.shared),
            now,
            at: self.0.shared.seconds(now),
        }
    }

    /// Lets a call in at once, or says what it is answered.
    #[inline]
    pub(crate) fn enter(&self, visit: &Visit) -> Result<Admission, Rejection> {
        if let Some(gate) = self.0.rules.shut_gate(visit.ask.priority, visit.now) {
            return self.refuse(visit, Reason::Shed, Some(gate));
        }
        match self.0.shared.enter(visit.at, &visit.ask) {
            Ok(seat) => Ok(self.admit(visit, seat, visit.at)),
            Err(reason) => self.refuse(visit, reason, None),
        }
    }

    /// Lets a call in at once, or has it wait, or says what it is answered.
    #[inline]
    pub(crate) fn enter_or_wait(&self, visit: Visit) -> Result<Entered, Rejection> {
        if let Some(gate) = self.0.rules.shut_gate(visit.ask.priority, visit.now) {
            return self
                .refuse(&visit, Reason::Shed, Some(gate))
                .map(Entered::Now);
        }
        if self.0.shared.is_dry() {
            return self.enter(&visit).map(Entered::Now);
        }
        match Shared::enter_or_wait(&self.0.shared, visit.at, &visit.ask) {
            Ok(Admitted::Now(seat)) => Ok(Entered::Now(self.admit(&visit, seat, visit.at))),
            Ok(Admitted::Later(wait)) => Ok(Entered::Later(Waiting { wait, visit })),
            Err(reason) => self.refuse(&visit, reason, None).map(Entered::Now),
        }
    }

    /// What becomes of a call whose waiting is over.
    pub(crate) fn after(
        &self,
        visit: &Visit,
        arrived: Instant,
        verdict: Result<Seat, Reason>,
        scope: &mut Scope,
    ) -> Result<Admission, Rejection> {
        let now = clock::now();
        let waited = now.saturating_duration_since(arrived);
        scope.tell(|frame| frame.set_queued(self.0.shared.name, waited));
        let at = self.0.shared.seconds(now);
        match verdict {
            Ok(seat) => Ok(self.admit(visit, seat, at)),
            Err(reason) => Err(self.reject(visit, reason, None, at)),
        }
    }

    #[inline]
    fn admit(&self, visit: &Visit, seat: Seat, at: Seconds) -> Admission {
        let shared = Arc::clone(&self.0.shared);
        // Before anything is told: it comes back, should whoever hears of it panic.
        let permit = Permit::new(shared, at, seat, visit.ask.streams);
        self.0.shared.tally.admits();
        self.0.shared.report(false, at);
        Admission::of(permit)
    }

    /// Rejects, or lets in all the same if nothing is to be rejected.
    fn refuse(
        &self,
        visit: &Visit,
        reason: Reason,
        which: Option<&'static str>,
    ) -> Result<Admission, Rejection> {
        if !self.0.shared.is_dry() {
            return Err(self.reject(visit, reason, which, visit.at));
        }
        self.0.shared.tally.would_shed();
        let seat = self.0.shared.force(visit.at, &visit.ask);
        let admission = self.admit(visit, seat, visit.at);
        self.0.shared.report(true, visit.at);
        Ok(admission)
    }

    fn reject(
        &self,
        visit: &Visit,
        reason: Reason,
        which: Option<&'static str>,
        at: Seconds,
    ) -> Rejection {
        self.0.shared.tally.rejects(reason, visit.ask.priority);
        self.0.shared.report(true, at);
        let rejection = Rejection::new(reason, self.0.layer);
        let rejection = match which {
            Some(which) => rejection.with_which(which),
            None => rejection,
        };
        match reason {
            Reason::Deadline => rejection,
            _ if self.0.rules.never => rejection.with_retry(RetryHint::Never),
            _ => rejection.with_retry(RetryHint::After(self.0.shared.hint())),
        }
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk")
            .field("limit", &self.0.shared.name)
            .field("rules", &self.0.rules)
            .finish_non_exhaustive()
    }
}
