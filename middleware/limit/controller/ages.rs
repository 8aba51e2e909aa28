//! Which calls have been in flight for so much longer than a call takes that they hang.
//!
//! They are not asked one by one: those that began about the same time are one cohort, and grow old together.

use std::collections::VecDeque;

use crate::limit::window::Seconds;

/// So many cohorts begin in the time after which a call hangs.
const COHORTS: f64 = 8.0;
/// The share that hangs is that of so many calls, and more than this are not an exception: the service is slow.
const MEMORY: f64 = 200.0;
const EXCEPTION: f64 = 0.1;
/// The most that are let go on beside the limit, as with streams.
const MOST: usize = 1_024;

/// When a call began, roughly: the number of its cohort.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::limit) struct Cohort(u64);

/// The calls in flight by when they began.
#[derive(Clone, Debug)]
pub(super) struct Ages {
    /// When each cohort began, and how many of it are in flight. There is always one.
    young: VecDeque<(Seconds, usize)>,
    /// The number of the first one.
    first: u64,
    /// In flight of all cohorts before it.
    old: usize,
    /// The share of those that grow old.
    share: f64,
}

impl Ages {
    pub(super) fn new() -> Self {
        Self {
            young: VecDeque::from([(0.0, 0)]),
            first: 0,
            old: 0,
            share: 0.0,
        }
    }

    /// Calls in flight that hang.
    pub(super) fn old(&self) -> usize {
        self.old
    }

    /// How many of them need nothing but their place. Where many calls grow old it is the service that is slow.
    pub(super) fn idle(&self) -> usize {
        if self.share < EXCEPTION {
            self.old.min(MOST)
        } else {
            0
        }
    }

    /// A call begins.
    pub(super) fn begin(&mut self) -> Cohort {
        if let Some((_, calls)) = self.young.back_mut() {
            *calls = calls.saturating_add(1);
        }
        let behind = u64::try_from(self.young.len()).unwrap_or(u64::MAX);
        Cohort(self.first.saturating_add(behind).saturating_sub(1))
    }

    /// A call ends. Whether it did not hang.
    pub(super) fn end(&mut self, cohort: Cohort) -> bool {
        let place = cohort.0.checked_sub(self.first);
        let place = place.and_then(|place| usize::try_from(place).ok());
        let young = place.and_then(|place| self.young.get_mut(place));
        let is_young = young.is_some();
        if is_young {
            self.share -= self.share / MEMORY;
        }
        let calls = young.map_or(&mut self.old, |(_, calls)| calls);
        *calls = calls.saturating_sub(1);
        is_young
    }

    /// It is later. How many calls began to hang, as those do that are of this age.
    pub(super) fn pass(&mut self, now: Seconds, age: Seconds) -> usize {
        let last = self.young.back().map_or(now, |(begun, _)| *begun);
        if now - last >= age / COHORTS {
            self.young.push_back((now, 0));
        }
        let mut aged: usize = 0;
        // The youngest of a cohort is as old as the next one.
        while let Some((next, _)) = self.young.get(1)
            && now - next >= age
            && let Some((_, calls)) = self.young.pop_front()
        {
            self.first = self.first.saturating_add(1);
            aged = aged.saturating_add(calls);
            for _ in 0..calls {
                self.share += (1.0 - self.share) / MEMORY;
            }
        }
        self.old = self.old.saturating_add(aged);
        aged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_too_old_hangs_until_it_ends() {
        let mut ages = Ages::new();
        let early = ages.begin();
        assert_eq!(ages.pass(1.0, 1.0), 0);
        let late = ages.begin();
        assert_eq!((ages.pass(1.9, 1.0), ages.old()), (0, 0));
        assert_eq!((ages.pass(2.0, 1.0), ages.old()), (1, 1));
        assert!(ages.end(late));
        assert!(!ages.end(early));
        assert_eq!((ages.pass(9.0, 1.0), ages.old()), (0, 0));
    }

    #[test]
    fn there_are_few_cohorts_however_many_calls() {
        let mut ages = Ages::new();
        for call in 0..10_000_u32 {
            let now = f64::from(call) / 100.0;
            ages.pass(now, 1.0);
            let cohort = ages.begin();
            if call % 2 == 0 {
                assert!(ages.end(cohort));
            }
            assert!(ages.young.len() <= 11, "{}", ages.young.len());
        }
        let young: usize = ages.young.iter().map(|(_, calls)| calls).sum();
        assert_eq!(young + ages.old(), 5_000);
        assert!((50..=60).contains(&young), "{young}");
    }
}
