//! All that is known of a limit, under one lock: who is in, who waits, and what the limit is.

use super::{
    controller::{Cohort, Controller, Sample, Tuning, as_float},
    queue::{Asks, Bounds, Entry, Offered, PRIORITIES, Pace, Room},
    share::Callers,
    window::Seconds,
};
use crate::{context::Priority, rejection::Reason};

/// The controller is asked at least so often while calls arrive.
const TICK: Seconds = 0.01;
/// Places that are kept free for each higher priority that was seen lately, where nobody can wait. By the theory of
/// trunk reservation a few do.
const RESERVED: usize = 5;
/// A priority was seen lately for this time, and callers are short of the limit for this time after it was reached.
const LATELY: Seconds = 1.0;

/// What a limit is at first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub(super) tuning: Tuning,
    pub(super) bounds: Bounds,
    pub(super) streams: usize,
}

/// What is known of a call that asks to be let in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) priority: Priority,
    pub(super) deadline: Option<Seconds>,
    /// The hash of the caller's key, if callers are told apart.
    pub(super) caller: Option<u64>,
    /// Whether it is known to be a stream.
    pub(super) streams: bool,
}

/// What goes with a permit until it comes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seat {
    /// The caller's place among callers, if they are told apart.
    caller: Option<usize>,
    cohort: Cohort,
}

/// One whose waiting is over.
#[derive(Debug)]
pub(super) struct Turn<T> {
    pub(super) who: T,
    /// A permit, or why there is none.
    pub(super) verdict: Result<Seat, Reason>,
    /// Whether it is let in though there is no place.
    pub(super) forced: bool,
}

impl<T> Turn<T> {
    fn of(who: T, verdict: Result<Seat, Reason>) -> Self {
        Self {
            who,
            verdict,
            forced: false,
        }
    }
}

/// One who asked to wait.
#[derive(Debug)]
pub(super) struct Joined<T> {
    /// Its number in the room; `None` if there is no room for it.
    pub(super) number: Option<u64>,
    /// Who is dropped for it, or itself.
    pub(super) out: Option<Turn<T>>,
}

/// Who is in, who waits, and what the limit is.
#[derive(Debug)]
pub(super) struct State<T> {
    controller: Controller,
    room: Room<T>,
    callers: Callers,
    /// When a call of each priority came last, where nobody can wait.
    seen: [Seconds; PRIORITIES],
    /// When somebody was turned away last for want of a place.
    reached: Seconds,
    /// Whether anybody ever asked to wait.
    waits: bool,
    checked: Seconds,
    streams: usize,
    most_streams: usize,
    /// Whether nobody is to wait.
    open: bool,
}

impl<T> State<T> {
    pub(super) fn new(start: Start) -> Self {
        Self {
            controller: Controller::new(start.tuning),
            room: Room::new(start.bounds),
            callers: Callers::default(),
            seen: [f64::NEG_INFINITY; PRIORITIES],
            reached: f64::NEG_INFINITY,
            waits: false,
            checked: 0.0,
            streams: 0,
            most_streams: start.streams,
            open: false,
        }
    }

    pub(super) fn limit(&self) -> usize {
        self.controller.limit()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.controller.in_flight()
    }

    pub(super) fn waiting(&self) -> usize {
        self.room.waiting()
    }

    pub(super) fn streams(&self) -> usize {
        self.streams
    }

    /// Whether one who asks now is let in, or may at least wait without taking another's place.
    pub(super) fn has_room(&self) -> bool {
        self.open
            || (self.room.is_empty() && self.controller.has_place())
            || (self.waits && !self.room.is_full())
    }

    /// The time in which all that is here now will be served; `None` before a rate is known.
    pub(super) fn drains_in(&self) -> Option<Seconds> {
        let at_work = self.controller.at_work();
        let all = at_work.saturating_add(self.room.waiting());
        let rate = self.controller.rate();
        (rate > 0.0).then(|| as_float(all) / rate)
    }

    pub(super) fn patience(&self) -> Seconds {
        self.room.patience()
    }

    /// Lets a call in that will not wait, or says why not.
    pub(super) fn enter(&mut self, now: Seconds, ask: &Ask) -> Result<Seat, Reason> {
        let caller = ask.caller.map(|key| self.callers.enter(key, now));
        self.pass(now);
        if is_past(ask.deadline, now) {
            return Err(Reason::Deadline);
        }
        if self.is_full_of_streams(ask) {
            return Err(Reason::Shed);
        }
        if let Some(seen) = self.seen.get_mut(ask.priority.rank()) {
            *seen = now;
        }
        if !self.room.is_empty() || !self.controller.has_place() {
            self.reached = now;
            return Err(Reason::Shed);
        }
        let reserved = self.reserved(now, ask.priority);
        if self.in_flight().saturating_add(reserved) >= self.limit() {
            return Err(Reason::Shed);
        }
        if self.is_short(now)
            && let Some(caller) = caller
            && self.callers.held(caller) >= self.callers.share(self.controller.limit())
        {
            return Err(Reason::Shed);
        }
        Ok(self.admit(now, caller))
    }

    /// Lets a call in whatever the limit says.
    pub(super) fn force(&mut self, now: Seconds, ask: &Ask) -> Seat {
        let caller = ask.caller.map(|key| self.callers.enter(key, now));
        self.pass(now);
        self.admit(now, caller)
    }

    /// Lets a call in that would wait: at once if it can.
    pub(super) fn enter_or_wait(
        &mut self,
        now: Seconds,
        ask: &Ask,
    ) -> Result<Seat, Option<Reason>> {
        self.waits = true;
        let caller = ask.caller.map(|key| self.callers.enter(key, now));
        self.pass(now);
        if is_past(ask.deadline, now) {
            return Err(Some(Reason::Deadline));
        }
        if self.is_full_of_streams(ask) {
            return Err(Some(Reason::Shed));
        }
        if self.room.is_empty() && self.controller.has_place() {
            return Ok(self.admit(now, caller));
        }
        if self.room.is_shut() {
            return Err(Some(Reason::QueueFull));
        }
        // Who cannot be in time even if it were next need not wait for that.
        let base = self.controller.base().unwrap_or_default();
        if is_past(ask.deadline, now + base) {
            return Err(Some(Reason::Deadline));
        }
        Err(None)
    }

    /// Takes a call into the room that [`enter_or_wait`](Self::enter_or_wait) has not let in.
    pub(super) fn wait(&mut self, now: Seconds, ask: &Ask, who: T) -> Joined<T> {
        let caller = ask.caller.map(|key| self.callers.enter(key, now));
        let controller = &self.controller;
        let pace = Pace {
            rate: controller.rate(),
            base: controller.base(),
            cv: controller.noise().cv(),
        };
        let asks = Asks {
            who,
            deadline: ask.deadline,
            priority: ask.priority,
            caller,
        };
        self.callers.waits(caller);
        let (number, out) = match self.room.offer(now, asks, &pace, &self.callers) {
            Offered::Waits(number) => (Some(number), None),
            Offered::InPlaceOf(out, number) => {
                self.callers.stops_waiting(out.caller);
                (Some(number), Some(out.who))
            }
            Offered::Full(who) => {
                self.callers.stops_waiting(caller);
                (None, Some(who))
            }
        };
        let out = out.map(|who| Turn::of(who, Err(Reason::QueueFull)));
        Joined { number, out }
    }

    /// The next one whose waiting is over. Ask until there is none.
    pub(super) fn turn(&mut self, now: Seconds) -> Option<Turn<T>> {
        if self.room.is_empty() {
            return None;
        }
        if self.open {
            return self.let_in(now);
        }
        if let Some(entry) = self.room.expire(now) {
            self.callers.stops_waiting(entry.caller);
            return Some(Turn::of(entry.who, Err(Reason::QueueTimeout)));
        }
        if !self.controller.has_place() {
            return None;
        }
        let entry = self.room.next(now, &self.callers)?;
        self.callers.stops_waiting(entry.caller);
        let base = self.controller.base().unwrap_or_default();
        if is_past(entry.deadline, now + base) {
            return Some(Turn::of(entry.who, Err(Reason::Deadline)));
        }
        let seat = self.seat(entry.caller);
        Some(Turn::of(entry.who, Ok(seat)))
    }

    /// Nobody waits any more, and whoever does is let in; or ends that.
    pub(super) fn set_open(&mut self, open: bool) {
        self.open = open;
    }

    /// One more who waits is let in whatever the limit says.
    fn let_in(&mut self, now: Seconds) -> Option<Turn<T>> {
        let entry = self.room.next(now, &self.callers)?;
        self.callers.stops_waiting(entry.caller);
        let seat = self.seat(entry.caller);
        Some(Turn {
            forced: true,
            ..Turn::of(entry.who, Ok(seat))
        })
    }

    /// Takes one out of the room. False: it is not there any more.
    pub(super) fn leave(&mut self, now: Seconds, priority: Priority, number: u64) -> bool {
        self.pass(now);
        let left: Option<Entry<T>> = self.room.leave(now, priority, number);
        if let Some(entry) = &left {
            self.callers.stops_waiting(entry.caller);
        }
        left.is_some()
    }

    /// A call that was let in has ended.
    pub(super) fn end(&mut self, now: Seconds, seat: Seat, sample: Sample) {
        self.account(now);
        self.controller.end(now, seat.cohort, sample);
        self.callers.gives_back(seat.caller);
        self.check(now);
    }

    /// A call that was let in turned out to be a stream: it is counted apart from here on. False: there is no room for
    /// more of them, and it stays where it is.
    pub(super) fn become_stream(&mut self, now: Seconds, seat: Seat, sample: Sample) -> bool {
        if self.streams >= self.most_streams {
            return false;
        }
        self.streams = self.streams.saturating_add(1);
        self.end(now, seat, sample);
        true
    }

    fn is_full_of_streams(&self, ask: &Ask) -> bool {
        ask.streams && self.streams >= self.most_streams
    }

    pub(super) fn end_stream(&mut self) {
        self.streams = self.streams.saturating_sub(1);
    }

    pub(super) fn set_limit(&mut self, now: Seconds, limit: usize) {
        self.account(now);
        self.controller.set(now, as_float(limit));
    }

    pub(super) fn set_between(&mut self, now: Seconds, min: usize, max: usize) {
        self.account(now);
        self.controller
            .set_between(now, as_float(min), as_float(max));
    }

    pub(super) fn set_bounds(&mut self, bounds: Bounds) {
        self.room.set_bounds(bounds);
    }

    pub(super) fn hold_limit(&mut self, now: Seconds, limit: usize) {
        self.account(now);
        self.controller.hold(now, as_float(limit));
    }

    pub(super) fn adapt(&mut self, now: Seconds) {
        self.account(now);
        self.controller.adapt(now);
    }

    /// What steers the limit, and who waits.
    pub(super) fn parts(&self) -> (&Controller, &Room<T>) {
        (&self.controller, &self.room)
    }

    fn admit(&mut self, now: Seconds, caller: Option<usize>) -> Seat {
        self.room.pass(now);
        self.seat(caller)
    }

    fn seat(&mut self, caller: Option<usize>) -> Seat {
        self.callers.takes(caller);
        Seat {
            caller,
            cohort: self.controller.begin(),
        }
    }

    /// Time passes: it is accounted for, and the controller is asked now and then.
    fn pass(&mut self, now: Seconds) {
        self.account(now);
        if now - self.checked >= TICK {
            self.check(now);
        }
    }

    fn account(&mut self, now: Seconds) {
        let reserved = if self.waits {
            0
        } else {
            self.reserved(now, Priority::Sheddable)
        };
        self.controller
            .advance(now, !self.room.is_empty(), reserved);
    }

    fn check(&mut self, now: Seconds) {
        self.checked = now;
        let standing = self.room.standing(now, !self.waits);
        self.controller.check(now, standing);
    }

    /// Whether the limit was reached lately, so that there is too little for all.
    fn is_short(&self, now: Seconds) -> bool {
        now - self.reached < LATELY
    }

    /// Places that a call of this priority must leave free for those of higher ones.
    fn reserved(&self, now: Seconds, priority: Priority) -> usize {
        if !self.is_short(now) {
            return 0;
        }
        let lately = |seen: &Seconds| now - *seen < LATELY;
        // The lowest that was seen leaves as much as there are others above it.
        let rank = priority.rank();
        let mut seen = self.seen.iter().take(rank.saturating_add(1));
        let lowest = seen.rposition(lately).unwrap_or_default();
        let higher = self.seen.iter().take(lowest.min(rank));
        let kinds = higher.filter(|seen| lately(seen)).count();
        kinds.saturating_mul((self.limit() / 6).clamp(1, RESERVED))
    }
}

fn is_past(deadline: Option<Seconds>, time: Seconds) -> bool {
    deadline.is_some_and(|deadline| time > deadline)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::start;

    fn ask(deadline: Option<Seconds>) -> Ask {
        Ask {
            priority: Priority::Normal,
            deadline,
            caller: None,
            streams: false,
        }
    }

    /// One place, calls of 0.1 s, as is known.
    fn known() -> State<u32> {
        let mut state = State::new(start(1.0, false));
        for call in 0..200 {
            let now = f64::from(call) * 0.2;
            let seat = state.enter_or_wait(now, &ask(None)).expect("a place");
            state.end(now + 0.1, seat, Sample::Served(0.1));
        }
        let base = state.controller.base().expect("it is known");
        assert!((base - 0.1).abs() < 0.01, "{base}");
        state
    }

    #[test]
    fn nobody_begins_whose_deadline_has_passed() {
        let mut state = known();
        let no = state.enter_or_wait(50.0, &ask(Some(49.9)));
        assert_eq!(no, Err(Some(Reason::Deadline)));
        assert_eq!(state.enter(50.0, &ask(Some(49.9))), Err(Reason::Deadline));
        assert_eq!(state.in_flight(), 0);
        assert!(state.enter(50.0, &ask(Some(50.0))).is_ok());
    }

    #[test]
    fn whoever_cannot_be_in_time_does_not_wait() {
        let mut state = known();
        state.enter_or_wait(50.0, &ask(None)).expect("a place");
        // A call takes 0.1 s.
        let late = state.enter_or_wait(50.0, &ask(Some(50.05)));
        assert_eq!(late, Err(Some(Reason::Deadline)));
        assert_eq!(state.enter_or_wait(50.0, &ask(Some(50.2))), Err(None));
    }

    #[test]
    fn whoever_waited_past_its_time_is_not_called() {
        let mut state = known();
        let seat = state.enter_or_wait(50.0, &ask(None)).expect("a place");
        state.wait(50.0, &ask(Some(50.15)), 1);
        state.wait(50.0, &ask(Some(50.5)), 2);
        assert!(state.turn(50.05).is_none());
        state.end(50.1, seat, Sample::Served(0.1));
        let turn = state.turn(50.1).expect("one has to go");
        assert_eq!((turn.who, turn.verdict), (1, Err(Reason::Deadline)));
        let turn = state.turn(50.1).expect("one is next");
        assert!(turn.who == 2 && turn.verdict.is_ok(), "{turn:?}");
        assert_eq!(state.in_flight(), 1);
    }

    #[test]
    fn idle_time_says_nothing_of_the_rate() {
        let mut state = known();
        let rate = state.controller.rate();
        assert!((4.0..6.0).contains(&rate), "{rate}");
        // A minute later.
        let seat = state.enter(100.0, &ask(None)).expect("a place");
        state.end(100.1, seat, Sample::Served(0.1));
        assert_eq!(state.controller.rate(), rate);
        assert!(state.has_room());
    }

    #[test]
    fn errors_that_come_at_once_leave_no_trace() {
        let mut state = known();
        let base = state.controller.base().expect("it is known");
        for call in 0..2_000 {
            let now = 50.0 + f64::from(call) * 0.002;
            let seat = state.enter(now, &ask(None)).expect("a place");
            state.end(now + 0.001, seat, Sample::Failed(0.001));
        }
        let after = state.controller.base().expect("it is known");
        assert!((after - base).abs() < 1e-9, "{after}");
    }
}
