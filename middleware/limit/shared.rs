use std::{
    hash::{BuildHasher, RandomState},
    task::Waker,
    time::{Duration, Instant},
};

use super::{
    bell::Bell,
    controller::Sample,
    outside::{Arc, AtomicBool, AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering, PoisonError},
    queue::{Bounds, PRIORITIES},
    state::{Ask, Seat, Start, State, Turn},
    tally::Tally,
    wait::{Place, Wait, Waiter},
    window::Seconds,
};
use crate::{clock, context::Priority, rejection::Reason, report::Report};

/// No deadline and no wait lies further ahead than this.
const FAR: Duration = Duration::from_secs(24 * 60 * 60);
/// The state is asked so often, in milliseconds, by calls of each priority, though all are refused without it.
const TICK: u64 = 10;
/// What callers are told before a rate is known, the least and the most, in microseconds.
const UNKNOWN_DRAIN: f64 = 1e6;
const SHORTEST_HINT: f64 = 1e5;
const LONGEST_HINT: f64 = 30e6;

/// What the layers, the handles and the permits of one limit share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) name: &'static str,
    pub(super) start: Start,
    origin: Instant,
    state: Mutex<State<Arc<Waiter>>>,
    /// What the lock guards, as it was when it was last let go: for those who only look.
    in_flight: AtomicUsize,
    limit: AtomicUsize,
    waiting: AtomicUsize,
    has_room: AtomicBool,
    /// The time in which all that is here will be served, in microseconds; 0: not known yet.
    drain: AtomicU64,
    /// When the state is to be asked next by a call of each priority, though it would be refused without. Milliseconds.
    due: [AtomicU64; PRIORITIES],
    dry_run: AtomicBool,
    pub(super) tally: Tally,
    pub(super) report: Report,
    /// Who waits for room to be made.
    pub(super) bell: Bell,
    dice: AtomicU64,
}

/// What becomes of a call.
pub(super) enum Admitted {
    /// It is in.
    Now(Seat),
    /// It has to wait.
    Later(Wait),
}

impl Shared {
    pub(super) fn new(name: &'static str, start: Start, dry_run: bool) -> Self {
        let mut state = State::new(start);
        state.set_open(dry_run);
        Self {
            name,
            start,
            origin: clock::now(),
            in_flight: AtomicUsize::new(0),
            limit: AtomicUsize::new(state.limit()),
            waiting: AtomicUsize::new(0),
            has_room: AtomicBool::new(true),
            drain: AtomicU64::new(0),
            due: Default::default(),
            state: Mutex::new(state),
            dry_run: AtomicBool::new(dry_run),
            tally: Tally::default(),
            report: Report::default(),
            bell: Bell::default(),
            dice: AtomicU64::new(RandomState::new().hash_one(0)),
        }
    }

    pub(super) fn now(&self) -> Seconds {
        self.seconds(clock::now())
    }

    pub(super) fn seconds(&self, at: Instant) -> Seconds {
        at.saturating_duration_since(self.origin).as_secs_f64()
    }

    pub(super) fn instant(&self, at: Seconds) -> Instant {
        let since = Duration::try_from_secs_f64(at).unwrap_or(FAR);
        self.origin.checked_add(since).unwrap_or(self.origin)
    }

    /// Lets a call in at once, or not at all.
    #[inline]
    pub(super) fn enter(&self, now: Seconds, ask: &Ask) -> Result<Seat, Reason> {
        // Without the lock, as most are refused in an overload; some of each priority are let through to it, so that it
        // knows of them.
        if ask.caller.is_none() && self.is_full() && !self.is_due(ask.priority, now) {
            let is_past = ask.deadline.is_some_and(|at| now > at);
            return Err(if is_past {
                Reason::Deadline
            } else {
                Reason::Shed
            });
        }
        self.change(now, |state| state.enter(now, ask))
    }

    /// Lets a call in whatever the limit says.
    pub(super) fn force(&self, now: Seconds, ask: &Ask) -> Seat {
        self.change(now, |state| state.force(now, ask))
    }

    /// Lets a call in at once, or has it wait, unless there is no point.
    pub(super) fn enter_or_wait(
        this: &Arc<Self>,
        now: Seconds,
        ask: &Ask,
    ) -> Result<Admitted, Reason> {
        let entered = this.change(now, |state| state.enter_or_wait(now, ask));
        match entered {
            Ok(seat) => return Ok(Admitted::Now(seat)),
            Err(Some(reason)) => return Err(reason),
            Err(None) => {}
        }
        // Made outside of the lock.
        let waiter = Arc::<Waiter>::default();
        let who = Arc::clone(&waiter);
        let (number, waker) = this.change(now, |state| {
            let joined = state.wait(now, ask, who);
            (joined.number, joined.out.and_then(settle))
        });
        waker.into_iter().for_each(Waker::wake);
        let Some(number) = number else {
            return Err(Reason::QueueFull);
        };
        let arrived = this.instant(now);
        let place = Place::new(Arc::clone(this), waiter, number, arrived, ask);
        Ok(Admitted::Later(Wait::new(place)))
    }

    /// Takes one out of the room. False: it is not there any more.
    pub(super) fn leave(&self, priority: Priority, number: u64, now: Seconds) -> bool {
        self.change(now, |state| state.leave(now, priority, number))
    }

    pub(super) fn give_back(&self, seat: Seat, sample: Sample, now: Seconds) {
        self.change(now, |state| state.end(now, seat, sample));
    }

    /// A permit comes back that nobody used.
    pub(super) fn give_back_unused(&self, seat: Seat, now: Seconds) {
        self.give_back(seat, Sample::Nothing(0.0), now);
    }

    pub(super) fn become_stream(&self, seat: Seat, sample: Sample, now: Seconds) -> bool {
        self.change(now, |state| state.become_stream(now, seat, sample))
    }

    pub(super) fn end_stream(&self, now: Seconds) {
        self.change(now, |state| state.end_stream());
    }

    pub(super) fn set_limit(&self, limit: usize) {
        let now = self.now();
        self.change(now, |state| state.set_limit(now, limit));
    }

    pub(super) fn set_between(&self, min: usize, max: usize) {
        let now = self.now();
        self.change(now, |state| state.set_between(now, min, max));
    }

    pub(super) fn set_bounds(&self, bounds: Bounds) {
        self.change(self.now(), |state| state.set_bounds(bounds));
    }

    /// Lets all in from now on, those who wait as well; or ends that.
    pub(super) fn set_dry_run(&self, dry_run: bool) {
        self.dry_run.store(dry_run, Ordering::Relaxed);
        // Whoever has not seen it yet and comes to wait is let in by its turn.
        self.change(self.now(), |state| state.set_open(dry_run));
    }

    pub(super) fn hold_limit(&self, limit: usize) {
        let now = self.now();
        self.change(now, |state| state.hold_limit(now, limit));
    }

    /// False: it was made fixed.
    pub(super) fn adapt(&self) -> bool {
        let adapts = self.start.tuning.adapts;
        if adapts {
            let now = self.now();
            self.change(now, |state| state.adapt(now));
        }
        adapts
    }

    /// Until when one who arrived then may wait.
    pub(super) fn patience(&self, arrived: Instant) -> Instant {
        let patience = self.lock().patience();
        let patience = Duration::try_from_secs_f64(patience)
            .unwrap_or(FAR)
            .min(FAR);
        arrived.checked_add(patience).unwrap_or(arrived)
    }

    pub(super) fn look<R>(&self, look: impl FnOnce(&State<Arc<Waiter>>) -> R) -> R {
        look(&self.lock())
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    pub(super) fn has_room(&self) -> bool {
        self.has_room.load(Ordering::SeqCst)
    }

    pub(super) fn is_dry(&self) -> bool {
        self.dry_run.load(Ordering::Relaxed)
    }

    /// When to try again: once all that is here is served, and not all at once.
    pub(super) fn hint(&self) -> Duration {
        let drain = match self.drain.load(Ordering::Relaxed) {
            0 => UNKNOWN_DRAIN,
            micros => micros as f64,
        };
        let least = drain.clamp(SHORTEST_HINT, LONGEST_HINT);
        Duration::from_micros((least * (1.0 + self.chance())) as u64)
    }

    /// Writes a line about rejections, if it is time for one.
    #[inline]
    pub(super) fn report(&self, rejects: bool, now: Seconds) {
        if self.report.is_due(rejects, millis(now)) {
            self.tell();
        }
    }

    #[cold]
    fn tell(&self) {
        let news = self.report.news(self.tally.all());
        if news == 0 {
            return;
        }
        tracing::warn!(
            target: "plimsoll::limit",
            event = "shedding",
            limit = self.name,
            calls = news,
            rejected = self.tally.all().saturating_sub(self.tally.unshed()),
            would_shed = self.tally.unshed(),
            permits = self.limit(),
            in_flight = self.in_flight(),
            waiting = self.waiting(),
            "calls were not let in"
        );
    }

    /// A number in 0..1 that nobody can foretell.
    pub(super) fn chance(&self) -> f64 {
        // SplitMix64, by Steele, Lea and Flood (2014).
        let step = 0x9e37_79b9_7f4a_7c15;
        let mut bits = self.dice.fetch_add(step, Ordering::Relaxed);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        // The upper 53 bits, which a float holds.
        (bits >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn is_full(&self) -> bool {
        self.in_flight() >= self.limit()
    }

    /// Whether no call of this priority has asked the state for a while. From now on one has.
    fn is_due(&self, priority: Priority, now: Seconds) -> bool {
        let Some(due) = self.due.get(priority.rank()) else {
            return true;
        };
        let at = millis(now);
        let is_due = at >= due.load(Ordering::Relaxed);
        if is_due {
            due.store(at.saturating_add(TICK), Ordering::Relaxed);
        }
        is_due
    }

    /// Changes the state, tells those whose waiting is over thereby, and wakes them once the lock is let go.
    #[inline]
    fn change<R>(&self, now: Seconds, change: impl FnOnce(&mut State<Arc<Waiter>>) -> R) -> R {
        let mut state = self.lock();
        let result = change(&mut state);
        let turns = (state.waiting() > 0).then(|| self.turns(&mut state, now));
        let rings = self.publish(&state);
        drop(state);
        if let Some((first, more)) = turns {
            first.into_iter().chain(more).for_each(Waker::wake);
        }
        if rings {
            self.bell.ring();
        }
        result
    }

    /// Tells those whose waiting is over; whom to wake. Mostly it is one.
    fn turns(&self, state: &mut State<Arc<Waiter>>, now: Seconds) -> (Option<Waker>, Vec<Waker>) {
        let mut first = None;
        let mut more = Vec::new();
        while let Some(turn) = state.turn(now) {
            if turn.forced {
                self.tally.would_shed();
            }
            let waker = settle(turn);
            if first.is_none() {
                first = waker;
            } else {
                more.extend(waker);
            }
        }
        (first, more)
    }

    /// Shows the state to those who only look. Whether room was made.
    fn publish(&self, state: &State<Arc<Waiter>>) -> bool {
        self.in_flight.store(state.in_flight(), Ordering::Relaxed);
        self.limit.store(state.limit(), Ordering::Relaxed);
        self.waiting.store(state.waiting(), Ordering::Relaxed);
        let drain = state.drains_in().unwrap_or_default() * 1e6;
        // Saturates.
        self.drain.store(drain as u64, Ordering::Relaxed);
        let (has_room, had_room) = (state.has_room(), self.has_room.load(Ordering::Relaxed));
        if has_room != had_room {
            // In one order with whoever hangs itself on the bell and then looks again.
            self.has_room.store(has_room, Ordering::SeqCst);
        }
        has_room && !had_room
    }

    fn lock(&self) -> MutexGuard<'_, State<Arc<Waiter>>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// In whole milliseconds.
fn millis(at: Seconds) -> u64 {
    // Saturates.
    (at * 1e3) as u64
}

/// What no line has told yet is told now.
impl Drop for Shared {
    fn drop(&mut self) {
        self.tell();
    }
}

/// Tells a verdict; whom to wake.
fn settle(turn: Turn<Arc<Waiter>>) -> Option<Waker> {
    turn.who.settle(turn.verdict)
}
