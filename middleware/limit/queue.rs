//! Who waits, who is called next, and who is dropped.
//!
//! A queue is there for bursts. As long as it empties now and then it is first in, first out, and the newest is turned
//! away when it is full. Once it has stood for longer than a burst lasts, whoever waited longest is the least likely to
//! be in time: then it is last in, first out, and the oldest is dropped.

use std::collections::VecDeque;

use super::{controller::Standing, share::Callers, window::Seconds};
use crate::context::Priority;

/// How many priorities there are.
pub(super) const PRIORITIES: usize = Priority::ALL.len();
/// The shortest and the longest time that makes a burst a queue.
const INTERVAL: Seconds = 0.1;
const LONGEST_INTERVAL: Seconds = 1.0;
/// The time of a call before any has ended.
const UNKNOWN: Seconds = 0.02;
/// Places before a rate is known; in a burst at low rates; and the least in any case.
const FIRST_PLACES: f64 = 32.0;
const BURST_PLACES: f64 = 64.0;
const LEAST_PLACES: f64 = 8.0;

/// One who waits.
#[derive(Debug)]
pub(super) struct Entry<T> {
    /// Of whoever waits: what tells it of its turn.
    pub(super) who: T,
    pub(super) arrived: Seconds,
    pub(super) deadline: Option<Seconds>,
    /// The caller's place among callers, if they are told apart.
    pub(super) caller: Option<usize>,
    number: u64,
}

/// What is asked of the room.
#[derive(Debug)]
pub(super) struct Asks<T> {
    pub(super) who: T,
    pub(super) deadline: Option<Seconds>,
    pub(super) priority: Priority,
    pub(super) caller: Option<usize>,
}

/// The pace of the service.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Completions in a second; 0: not known yet.
    pub(super) rate: f64,
    /// The time of a call when nothing is in its way.
    pub(super) base: Option<Seconds>,
    /// How latencies vary.
    pub(super) cv: f64,
}

/// What becomes of one who asks.
#[derive(Debug)]
pub(super) enum Offered<T> {
    /// It waits under this number.
    Waits(u64),
    /// It waits, and this one is dropped for it.
    InPlaceOf(Entry<T>, u64),
    /// The room is full of those who come first.
    Full(T),
}

/// Bounds that were set by hand.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bounds {
    pub(super) places: Option<usize>,
    pub(super) wait: Option<Seconds>,
}

/// The waiting room.
#[derive(Debug)]
pub(super) struct Room<T> {
    lines: [VecDeque<Entry<T>>; PRIORITIES],
    waiting: usize,
    /// Since when it is not empty; while it is empty, when somebody was admitted last.
    since: Seconds,
    stands: bool,
    interval: Seconds,
    patience: Seconds,
    places: f64,
    bounds: Bounds,
    next: u64,
}

impl<T> Room<T> {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            lines: Default::default(),
            waiting: 0,
            since: 0.0,
            stands: false,
            interval: INTERVAL,
            patience: bounds.wait.unwrap_or(1.0),
            places: bounds.places.map_or(FIRST_PLACES, |places| places as f64),
            bounds,
            next: 0,
        }
    }

    /// Other bounds, from now on: one that is not set by hand is found out when the next one comes.
    pub(super) fn set_bounds(&mut self, bounds: Bounds) {
        self.patience = bounds.wait.unwrap_or(self.patience);
        self.places = bounds.places.map_or(self.places, |places| places as f64);
        self.bounds = bounds;
    }

    pub(super) fn bounds(&self) -> Bounds {
        self.bounds
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Whether one more would have to take another's place, as far as was known when the last one came.
    pub(super) fn is_full(&self) -> bool {
        self.waiting as f64 >= self.places.floor()
    }

    /// Whether nobody may wait at all.
    pub(super) fn is_shut(&self) -> bool {
        self.bounds.places == Some(0)
    }

    /// How it stands, if it is used at all.
    pub(super) fn standing(&self, now: Seconds, is_unused: bool) -> Standing {
        let is_shut = is_unused || self.is_shut();
        Standing {
            stands: self.stands || is_shut,
            since: now - self.since,
            interval: self.interval,
            is_shut,
        }
    }

    /// Whoever waits longer than this is sent away.
    pub(super) fn patience(&self) -> Seconds {
        self.patience
    }

    /// Somebody was admitted who had not to wait.
    pub(super) fn pass(&mut self, now: Seconds) {
        if self.waiting == 0 {
            self.since = now;
        }
    }

    /// Takes one more in, or says who has to go.
    pub(super) fn offer(
        &mut self,
        now: Seconds,
        asks: Asks<T>,
        pace: &Pace,
        callers: &Callers,
    ) -> Offered<T> {
        if self.waiting == 0 {
            self.since = now;
            self.stands = false;
        }
        self.measure(now, pace);
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let Asks {
            who,
            deadline,
            priority,
            caller,
        } = asks;
        self.line_mut(priority).push_back(Entry {
            who,
            arrived: now,
            deadline,
            caller,
            number,
        });
        self.waiting = self.waiting.saturating_add(1);
        if self.waiting as f64 <= self.places {
            return Offered::Waits(number);
        }
        match self.evict(callers) {
            Some(out) if out.number == number => Offered::Full(out.who),
            Some(out) => Offered::InPlaceOf(out, number),
            None => Offered::Waits(number),
        }
    }

    /// How long and how many may wait, at this pace.
    fn measure(&mut self, now: Seconds, pace: &Pace) {
        let base = pace.base.unwrap_or(UNKNOWN);
        self.interval = (base * (1.0 + 3.0 * pace.cv)).clamp(INTERVAL, LONGEST_INTERVAL);
        let stood = now - self.since;
        if stood > self.interval {
            self.stands = true;
        }
        let places = if pace.rate <= 0.0 {
            FIRST_PLACES
        } else if stood > (10.0 * self.interval).min(5.0) {
            pace.rate * base.max(0.005)
        } else {
            let burst = BURST_PLACES.min(pace.rate * 2.5 * self.interval);
            burst.max(pace.rate * self.interval)
        };
        let set = self.bounds.places.map(|places| places as f64);
        self.places = set.unwrap_or(places.max(LEAST_PLACES));
        let drained = if pace.rate > 0.0 {
            places / pace.rate
        } else {
            0.0
        };
        let patience = 1.5 * self.interval.max(drained);
        self.patience = self.bounds.wait.unwrap_or(patience);
    }

    /// Of the lowest priority that waits: the oldest if the queue stands, the newest otherwise; and where callers are
    /// told apart, one of the caller who has most of the line.
    fn evict(&mut self, callers: &Callers) -> Option<Entry<T>> {
        let stands = self.stands;
        let line = self.lines.iter_mut().rev().find(|line| !line.is_empty())?;
        let known = line.iter().filter_map(|entry| entry.caller);
        let greedy = known.max_by_key(|&caller| callers.demand(caller));
        let is_theirs = |entry: &Entry<T>| greedy.is_none() || entry.caller == greedy;
        let place = if stands {
            line.iter().position(is_theirs)
        } else {
            line.iter().rposition(is_theirs)
        }?;
        let out = line.remove(place)?;
        self.waiting = self.waiting.saturating_sub(1);
        Some(out)
    }

    /// Who is next: the highest priority first, in it the newest if the queue stands, the oldest otherwise; and where
    /// callers are told apart, one of the caller who holds least.
    pub(super) fn next(&mut self, now: Seconds, callers: &Callers) -> Option<Entry<T>> {
        let stands = self.stands;
        let line = self.lines.iter_mut().find(|line| !line.is_empty())?;
        let known = line.iter().filter_map(|entry| entry.caller);
        let modest = known.min_by_key(|&caller| callers.held(caller));
        let is_theirs = |entry: &Entry<T>| modest.is_none() || entry.caller == modest;
        let place = if stands {
            line.iter().rposition(is_theirs)
        } else {
            line.iter().position(is_theirs)
        }?;
        let out = line.remove(place)?;
        self.left(now);
        Some(out)
    }

    /// One who waited too long, if there is any. Ask until there is none.
    pub(super) fn expire(&mut self, now: Seconds) -> Option<Entry<T>> {
        let patience = self.patience;
        let is_late = |entry: &Entry<T>| now - entry.arrived >= patience;
        let line = self
            .lines
            .iter_mut()
            .find(|line| line.front().is_some_and(is_late))?;
        let out = line.pop_front()?;
        self.left(now);
        Some(out)
    }

    /// Takes out one who does not want to wait any more. `None`: it is not here.
    pub(super) fn leave(
        &mut self,
        now: Seconds,
        priority: Priority,
        number: u64,
    ) -> Option<Entry<T>> {
        let line = self.line_mut(priority);
        let place = line.binary_search_by(|entry| entry.number.cmp(&number));
        let out = line.remove(place.ok()?)?;
        self.left(now);
        Some(out)
    }

    fn left(&mut self, now: Seconds) {
        self.waiting = self.waiting.saturating_sub(1);
        if self.waiting == 0 {
            self.since = now;
            self.stands = false;
        }
    }

    #[expect(clippy::indexing_slicing, reason = "there is a line for each priority")]
    fn line_mut(&mut self, priority: Priority) -> &mut VecDeque<Entry<T>> {
        &mut self.lines[priority.rank()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        rate: 100.0,
        base: Some(0.02),
        cv: 1.0,
    };

    fn room(places: Option<usize>) -> Room<u32> {
        Room::new(Bounds { places, wait: None })
    }

    fn offer(room: &mut Room<u32>, now: f64, who: u32, priority: Priority) -> Option<u32> {
        let asks = Asks {
            who,
            deadline: None,
            priority,
            caller: None,
        };
        match room.offer(now, asks, &PACE, &Callers::default()) {
            Offered::Waits(_) => None,
            Offered::InPlaceOf(out, _) => Some(out.who),
            Offered::Full(who) => Some(who),
        }
    }

    fn next(room: &mut Room<u32>, now: f64) -> Option<u32> {
        let entry = room.next(now, &Callers::default());
        entry.map(|entry| entry.who)
    }

    #[test]
    fn first_in_first_out_until_it_stands_and_last_in_first_out_then() {
        let mut room = room(None);
        for who in 0..3 {
            assert_eq!(offer(&mut room, 0.0, who, Priority::Normal), None);
        }
        assert_eq!(next(&mut room, 0.05), Some(0));
        // 0.1 s is a burst; after that it stands.
        assert_eq!(offer(&mut room, 0.11, 3, Priority::Normal), None);
        assert!(room.standing(0.11, false).stands);
        assert_eq!(next(&mut room, 0.12), Some(3));
        assert_eq!(next(&mut room, 0.12), Some(2));
        assert_eq!(next(&mut room, 0.12), Some(1));
        assert_eq!(next(&mut room, 0.12), None);
        // It was empty: it begins anew.
        for who in 4..6 {
            offer(&mut room, 0.2, who, Priority::Normal);
        }
        assert_eq!(next(&mut room, 0.2), Some(4));
    }

    #[test]
    fn the_lowest_priority_goes_first_and_in_it_the_newest_or_the_oldest() {
        let mut room = room(Some(3));
        offer(&mut room, 0.0, 0, Priority::Critical);
        offer(&mut room, 0.0, 1, Priority::Sheddable);
        offer(&mut room, 0.0, 2, Priority::Sheddable);
        assert!(room.is_full());
        assert_eq!(
            offer(&mut room, 0.0, 3, Priority::Sheddable),
            Some(3),
            "itself"
        );
        assert_eq!(
            offer(&mut room, 0.0, 4, Priority::Normal),
            Some(2),
            "the newest"
        );
        offer(&mut room, 0.0, 5, Priority::CriticalPlus);
        assert_eq!(offer(&mut room, 0.2, 6, Priority::CriticalPlus), Some(4));
        assert_eq!(offer(&mut room, 0.2, 7, Priority::CriticalPlus), Some(0));
        assert_eq!(
            offer(&mut room, 0.2, 8, Priority::CriticalPlus),
            Some(5),
            "the oldest"
        );
        assert_eq!(next(&mut room, 0.2), Some(8));
    }

    #[test]
    fn nobody_waits_longer_than_the_room_takes_to_drain() {
        let mut room = room(None);
        offer(&mut room, 0.0, 0, Priority::Normal);
        offer(&mut room, 0.1, 1, Priority::Sheddable);
        let patience = room.patience();
        // 25 places at 100 a second, and half as much again.
        assert!((patience - 0.375).abs() < 1e-9, "{patience}");
        assert!(room.expire(0.37).is_none());
        assert_eq!(room.expire(0.38).map(|entry| entry.who), Some(0));
        assert!(room.expire(0.38).is_none());
        assert_eq!(room.expire(0.48).map(|entry| entry.who), Some(1));
        assert!(room.is_empty());
    }

    #[test]
    fn a_queue_that_stands_for_long_is_short() {
        let mut room = room(None);
        let mut dropped = 0;
        for step in 0..600_u32 {
            let now = f64::from(step) / 100.0;
            dropped += u32::from(offer(&mut room, now, step, Priority::Normal).is_some());
        }
        assert!(dropped > 500, "{dropped}");
        assert!(room.waiting() <= 25, "{}", room.waiting());
        offer(&mut room, 6.0, 600, Priority::Normal);
        assert!((room.places - LEAST_PLACES).abs() < 1e-9, "{}", room.places);
    }

    #[test]
    fn whoever_leaves_is_gone_once() {
        let mut room = room(None);
        let numbers: Vec<u64> = (0..3)
            .map(|who| {
                let asks = Asks {
                    who,
                    deadline: None,
                    priority: Priority::Normal,
                    caller: None,
                };
                match room.offer(0.0, asks, &PACE, &Callers::default()) {
                    Offered::Waits(number) => number,
                    other => panic!("{other:?}"),
                }
            })
            .collect();
        let mut leave = |number| {
            let left = room.leave(0.0, Priority::Normal, number);
            left.map(|entry| entry.who)
        };
        assert_eq!(leave(numbers[1]), Some(1));
        assert_eq!(leave(numbers[1]), None);
        assert_eq!(leave(99), None);
        assert_eq!(next(&mut room, 0.0), Some(0));
        assert_eq!(next(&mut room, 0.0), Some(2));
        assert!(room.is_empty());
    }
}
