//! How many panics are too many.

use std::{
    collections::VecDeque,
    num::NonZeroU32,
    time::{Duration, Instant},
};

/// Tells when there were too many panics within a window.
#[derive(Debug)]
pub(super) struct Burst {
    most: NonZeroU32,
    window: Duration,
    seen: VecDeque<Instant>,
}

impl Burst {
    pub(super) fn new(most: NonZeroU32, window: Duration) -> Self {
        Self {
            most,
            window,
            seen: VecDeque::new(),
        }
    }

    pub(super) fn add(&mut self, now: Instant) -> bool {
        self.seen.push_back(now);
        while self
            .seen
            .front()
            .is_some_and(|&first| now.saturating_duration_since(first) > self.window)
        {
            self.seen.pop_front();
        }
        u32::try_from(self.seen.len()).is_ok_and(|seen| seen >= self.most.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_burst_is_so_many_panics_within_the_window() {
        let start = clock::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut burst = Burst::new(
            NonZeroU32::new(3).expect("not zero"),
            Duration::from_millis(100),
        );
        assert_eq!(
            [0, 60, 120].map(|millis| burst.add(at(millis))),
            [false, false, false]
        );
        assert!(burst.add(at(150)), "60, 120 and 150 lie within 100 ms");
        assert!(!burst.add(at(1_000)));
    }
}
