use std::sync::atomic::{AtomicU64, Ordering};

use super::settings::Limit;
use crate::gauge::{Kind, Metric, Reading};

const TIMEOUTS: Metric = Metric::new(
    "plimsoll.timeouts",
    Kind::Counter,
    "{call}",
    "Calls that were ended because they took too long, by limit.",
);
const MALFORMED: Metric = Metric::new(
    "plimsoll.deadline.malformed",
    Kind::Counter,
    "{call}",
    "Calls whose deadline could not be read.",
);
const CAPPED: Metric = Metric::new(
    "plimsoll.deadline.capped",
    Kind::Counter,
    "{call}",
    "Calls that asked for more time than they were given.",
);

pub(super) const METRICS: &[Metric] = &[TIMEOUTS, MALFORMED, CAPPED];

/// Calls that were ended, by what they exceeded, and deadlines that were not taken as they came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TimeoutCounts {
    /// The caller's deadline, also one that had passed on arrival.
    pub deadline: u64,
    /// The time to the head.
    pub head: u64,
    /// The pace of the request's body.
    pub body: u64,
    /// The silence of the response's body.
    pub idle: u64,
    /// The time of the whole call.
    pub total: u64,
    /// Deadlines that could not be read.
    pub malformed: u64,
    /// Deadlines that were further away than the server's own.
    pub capped: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    deadline: AtomicU64,
    head: AtomicU64,
    body: AtomicU64,
    idle: AtomicU64,
    total: AtomicU64,
    malformed: AtomicU64,
    capped: AtomicU64,
}

impl Counts {
    pub(super) fn expired(&self, limit: Limit) {
        let count = match limit {
            Limit::Deadline => &self.deadline,
            Limit::Head => &self.head,
            Limit::Body => &self.body,
            Limit::Idle => &self.idle,
            Limit::Total => &self.total,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn malformed(&self) {
        self.malformed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn capped(&self) {
        self.capped.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> TimeoutCounts {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        TimeoutCounts {
            deadline: of(&self.deadline),
            head: of(&self.head),
            body: of(&self.body),
            idle: of(&self.idle),
            total: of(&self.total),
            malformed: of(&self.malformed),
            capped: of(&self.capped),
        }
    }
}

impl TimeoutCounts {
    pub(super) fn tell(&self, tell: &mut dyn FnMut(Reading<'_>)) {
        for (limit, count) in [
            (Limit::Deadline, self.deadline),
            (Limit::Head, self.head),
            (Limit::Body, self.body),
            (Limit::Idle, self.idle),
            (Limit::Total, self.total),
        ] {
            tell(Reading::new(&TIMEOUTS, count).with(&[("which", limit.label())]));
        }
        tell(Reading::new(&MALFORMED, self.malformed));
        tell(Reading::new(&CAPPED, self.capped));
    }
}
