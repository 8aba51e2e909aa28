use std::{
    fmt,
    num::NonZeroUsize,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use super::{Shared, bell::Bell, queue::Bounds};
use crate::{
    context::Priority,
    gauge::{Gauges, Kind, Metric, Reading},
    rejection::Reason,
};

/// What an operator asks of a limit, and changes of it while it runs. Clones speak of the same one.
///
/// ```
/// # use std::num::NonZeroUsize;
/// # use plimsoll::limit::Limit;
/// let limit = Limit::adaptive().named("orders");
/// let handle = limit.handle();
/// println!("{} of {}", handle.in_flight(), handle.limit());
/// // In a route for operators only:
/// handle.set_dry_run(true);
/// ```
#[derive(Clone)]
pub struct LimitHandle {
    shared: Arc<Shared>,
}

/// How often a limit rejected for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejected {
    /// Why: `shed`, `queue_full`, `queue_timeout` or `deadline`.
    pub reason: Reason,
    /// How much the calls mattered.
    pub priority: Priority,
    /// How many there were since the start.
    pub calls: u64,
}

impl LimitHandle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The name: the attribute `limit` of metrics.
    pub fn name(&self) -> &'static str {
        self.shared.name
    }

    /// How many calls may be in flight now; of an adaptive limit, those that hang included.
    pub fn limit(&self) -> usize {
        self.shared.limit()
    }

    /// How many are. After a limit was lowered it may be more than the limit.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight()
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.shared.waiting()
    }

    /// How many streams run, which are counted apart.
    pub fn streams(&self) -> usize {
        self.shared.look(super::state::State::streams)
    }

    /// How many calls were let in since the start.
    pub fn admitted(&self) -> u64 {
        self.shared.tally.admitted()
    }

    /// How many were rejected, by reason and priority; those that there were.
    pub fn rejected(&self) -> Vec<Rejected> {
        let all = self.shared.tally.rejected();
        all.filter(|&(_, _, calls)| calls > 0)
            .map(|(reason, priority, calls)| Rejected {
                reason,
                priority,
                calls,
            })
            .collect()
    }

    /// How many a dry run let in that would have been rejected or had to wait.
    pub fn would_shed(&self) -> u64 {
        self.shared.tally.unshed()
    }

    /// Sets the limit. An adaptive one goes on from there, unless it is [held](Self::hold).
    ///
    /// Nobody who is in is sent away: below what is in flight nobody else is let in until enough have ended.
    pub fn set(&self, limit: NonZeroUsize) {
        self.shared.set_limit(limit.get());
    }

    /// An adaptive limit stays within these from now on; what lies outside is moved inside. For a fixed one it says
    /// nothing.
    pub fn set_between(&self, min: NonZeroUsize, max: NonZeroUsize) {
        self.shared
            .set_between(min.min(max).get(), max.max(min).get());
    }

    /// How many calls may wait from now on, and for how long: see [`Limit::max_waiting`] and [`Limit::max_wait`];
    /// `None` is found out. Nobody who waits already is sent away for it, but for the time that it may wait, which those
    /// who wait see when the next call comes or ends.
    ///
    /// [`Limit::max_waiting`]: super::Limit::max_waiting
    /// [`Limit::max_wait`]: super::Limit::max_wait
    pub fn set_waiting(&self, calls: Option<usize>, wait: Option<Duration>) {
        self.shared.set_bounds(Bounds {
            places: calls,
            wait: wait.map(|wait| wait.as_secs_f64()),
        });
    }

    /// Sets the limit, and an adaptive one stays there until [`adapt`](Self::adapt): for whoever knows better for now.
    pub fn hold(&self, limit: NonZeroUsize) {
        self.shared.hold_limit(limit.get());
    }

    /// Lets an adaptive limit that was held or set find itself again, from where it is and within its bounds. False: it was
    /// made fixed, and stays so.
    pub fn adapt(&self) -> bool {
        self.shared.adapt()
    }

    /// Whether it finds itself: it was made adaptive and is not held.
    pub fn is_adaptive(&self) -> bool {
        self.shared.look(super::state::State::adapts)
    }

    /// Whether it was made adaptive, held or not.
    pub fn can_adapt(&self) -> bool {
        self.shared.start.tuning.adapts
    }

    /// Lets all calls in and counts those that would have been rejected or had to wait, or ends that. Those who wait are
    /// let in at once.
    pub fn set_dry_run(&self, dry_run: bool) {
        self.shared.set_dry_run(dry_run);
    }

    /// Whether it lets all calls in and only counts.
    pub fn is_dry_run(&self) -> bool {
        self.shared.is_dry()
    }

    /// Whether one more call would be let in, or could wait without taking another's place. For whoever accepts
    /// connections.
    pub fn has_room(&self) -> bool {
        self.shared.has_room()
    }

    /// Waits until there is [room](Self::has_room). All that wait are woken together: look again before you rely on it.
    ///
    /// Cancel safe: nothing is held.
    pub async fn room(&self) {
        Vacancy::of(&self.shared).await;
    }
}

impl fmt::Debug for LimitHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitHandle")
            .field("name", &self.name())
            .field("limit", &self.limit())
            .field("in_flight", &self.in_flight())
            .field("waiting", &self.waiting())
            .finish()
    }
}

/// Waits for room. Can be polled again when it was ready.
pub(crate) struct Vacancy {
    shared: Arc<Shared>,
    /// On the bell, since it was pending.
    rope: Option<u64>,
}

impl Vacancy {
    pub(super) fn of(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            rope: None,
        }
    }

    fn bell(&self) -> &Bell {
        &self.shared.bell
    }
}

impl Future for Vacancy {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.shared.has_room() {
            return Poll::Ready(());
        }
        self.rope = Some(self.bell().hang(self.rope, context.waker()));
        // It may have been made in between.
        if self.shared.has_room() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl Drop for Vacancy {
    fn drop(&mut self) {
        if let Some(rope) = self.rope {
            self.bell().take_down(rope);
        }
    }
}

const PERMITS: Metric = Metric::new(
    "plimsoll.limit.permits",
    Kind::Gauge,
    "{call}",
    "Calls that may be in flight, and those that are.",
);
const STREAMS: Metric = Metric::new(
    "plimsoll.limit.streams",
    Kind::Gauge,
    "{call}",
    "Streams that run, counted apart from the limit.",
);
const QUEUE: Metric = Metric::new(
    "plimsoll.queue.length",
    Kind::Gauge,
    "{call}",
    "Calls that wait to be let in.",
);
const REJECTED: Metric = Metric::new(
    "plimsoll.limit.rejected",
    Kind::Counter,
    "{call}",
    "Calls that were not let in.",
);
const WOULD_SHED: Metric = Metric::new(
    "plimsoll.limit.would_shed",
    Kind::Counter,
    "{call}",
    "Calls that a dry run let in, and that would have been rejected or had to wait.",
);

impl Gauges for LimitHandle {
    fn metrics(&self) -> &'static [Metric] {
        const { &[PERMITS, STREAMS, QUEUE, REJECTED, WOULD_SHED] }
    }

    fn read(&self, tell: &mut dyn FnMut(Reading<'_>)) {
        let limit = ("limit", self.name());
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        for (state, count) in [("limit", self.limit()), ("in_use", self.in_flight())] {
            tell(Reading::new(&PERMITS, number(count)).with(&[limit, ("state", state)]));
        }
        tell(Reading::new(&STREAMS, number(self.streams())).with(&[limit]));
        tell(Reading::new(&QUEUE, number(self.waiting())).with(&[limit]));
        for rejected in self.rejected() {
            let (reason, priority) = (rejected.reason.label(), rejected.priority.label());
            let attributes = [limit, ("reason", reason), ("priority", priority)];
            tell(Reading::new(&REJECTED, rejected.calls).with(&attributes));
        }
        tell(Reading::new(&WOULD_SHED, self.would_shed()).with(&[limit]));
    }
}
