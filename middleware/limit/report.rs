//! What an operator reads in the log while calls are shed: the first at once, then a sum every 10 s, and the rest at the
//! end.

use super::outside::{AtomicU64, Ordering};

/// Milliseconds between two lines.
const PERIOD: u64 = 10_000;

/// When the next line is due, and what has been told.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// 0: nothing was to be told lately, so the next is told at once.
    due: AtomicU64,
    told: AtomicU64,
}

impl Report {
    /// Whether a line is due. Every call asks, so that the end of a storm is told too.
    #[inline]
    pub(super) fn is_due(&self, rejects: bool, now_ms: u64) -> bool {
        let due = self.due.load(Ordering::Relaxed);
        if now_ms < due || (due == 0 && !rejects) {
            return false;
        }
        // One of those who see it tells it. Nothing else is handed over by this word.
        let next = now_ms.saturating_add(PERIOD);
        self.due
            .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// What has come since the last line, given all that ever came. Nothing: the next one is told at once.
    pub(super) fn news(&self, all: u64) -> u64 {
        let news = all.saturating_sub(self.told.swap(all, Ordering::Relaxed));
        if news == 0 {
            self.due.store(0, Ordering::Relaxed);
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_at_once_then_a_sum_every_ten_seconds_and_all_of_them() {
        let report = Report::default();
        let mut lines = Vec::new();
        let mut shed = 0;
        // Two a second for 25 s, quiet for 35 s, then one more.
        for half in 0..122_u64 {
            let rejects = half < 50 || half == 121;
            shed += u64::from(rejects);
            if report.is_due(rejects, half * 500) {
                let news = report.news(shed);
                if news > 0 {
                    lines.push((half / 2, news));
                }
            }
        }
        assert_eq!(lines, [(0, 1), (10, 20), (20, 20), (30, 9), (60, 1)]);
    }
}
