//! What an operator reads of rejections in the log: the first at once, then a sum every 10 s, and the rest at the end.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{gcra::Nanos, offenders::Offender};

/// The time between two lines of one kind.
const PERIOD: Nanos = 10_000_000_000;
/// So many callers stand in a line.
pub(super) const NAMED: usize = 3;

/// When the next line is due, and what has been told.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// 0: nothing was to be told lately, so the next is told at once.
    due: AtomicU64,
    told: AtomicU64,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    /// Tell what has come together, if there is anything.
    Line,
}

impl Report {
    /// Whether a line is due. Every call asks, so that the end of a storm is told too.
    #[inline]
    pub(super) fn due(&self, rejects: bool, now: Nanos) -> Due {
        let due = self.due.load(Ordering::Relaxed);
        if now < due || (due == 0 && !rejects) {
            return Due::Nothing;
        }
        // One of those who see it tells it. Nothing else is handed over by this word.
        let next = now.saturating_add(PERIOD);
        match self
            .due
            .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
        {
            Ok(_) => Due::Line,
            Err(_) => Due::Nothing,
        }
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

/// Callers as they stand in a line: `203.0.113.7 (812), #00c0ffee00c0ffee (3)`.
pub(super) fn list(offenders: &[Offender]) -> String {
    let items: Vec<String> = offenders
        .iter()
        .map(|offender| format!("{} ({})", offender.key, offender.rejected))
        .collect();
    items.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    #[test]
    fn the_first_at_once_then_a_sum_every_ten_seconds_and_all_of_them() {
        let report = Report::default();
        let mut lines = Vec::new();
        let mut rejected = 0;
        // Two rejections a second for 25 s, quiet for 35 s, then one more.
        for half in 0..122_u64 {
            let now = half * SECOND / 2;
            let rejects = half < 50 || half == 121;
            rejected += u64::from(rejects);
            if report.due(rejects, now) == Due::Line {
                let news = report.news(rejected);
                if news > 0 {
                    lines.push((half / 2, news));
                }
            }
        }
        assert_eq!(lines, [(0, 1), (10, 20), (20, 20), (30, 9), (60, 1)]);
        assert_eq!(lines.iter().map(|(_, news)| news).sum::<u64>(), rejected);
    }
}
