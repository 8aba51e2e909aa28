use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// How many traces a second callers may have sampled.
#[derive(Debug)]
pub(super) struct Cap {
    per_second: NonZeroU32,
    since: Instant,
    /// The second in the high half, how many were let through in it in the low half.
    state: AtomicU64,
}

impl Cap {
    pub(super) fn new(per_second: NonZeroU32, now: Instant) -> Self {
        Self {
            per_second,
            since: now,
            state: AtomicU64::new(0),
        }
    }

    /// Whether one more may be sampled.
    pub(super) fn admits(&self, now: Instant) -> bool {
        let age: Duration = now.saturating_duration_since(self.since);
        let second = age.as_secs() & u64::from(u32::MAX);
        let admit = |state: u64| {
            let used = if state >> 32 == second {
                state & u64::from(u32::MAX)
            } else {
                0
            };
            let next = used.saturating_add(1);
            (next <= u64::from(self.per_second.get())).then_some(second << 32 | next)
        };
        self.state
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, admit)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn admits_so_many_each_second() {
        let start = clock::now();
        let cap = Cap::new(NonZeroU32::new(2).expect("not zero"), start);
        let admitted = |millis: u64| {
            let now = start + Duration::from_millis(millis);
            (0..5).filter(|_| cap.admits(now)).count()
        };
        assert_eq!([admitted(0), admitted(999), admitted(1_000)], [2, 0, 2]);
        assert_eq!(admitted(10_500), 2);
    }
}
