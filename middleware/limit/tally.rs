//! How often what was decided.

use super::{
    outside::{AtomicU64, Ordering},
    queue::PRIORITIES,
};
use crate::{context::Priority, rejection::Reason};

/// What a limit rejects for.
pub(super) const REASONS: [Reason; 4] = [
    Reason::Shed,
    Reason::QueueFull,
    Reason::QueueTimeout,
    Reason::Deadline,
];

/// Counts since the start.
#[derive(Debug, Default)]
pub(super) struct Tally {
    admitted: AtomicU64,
    would_shed: AtomicU64,
    rejected: [[AtomicU64; PRIORITIES]; REASONS.len()],
}

impl Tally {
    pub(super) fn admits(&self) {
        self.admitted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn would_shed(&self) {
        self.would_shed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn rejects(&self, reason: Reason, priority: Priority) {
        let place = REASONS.iter().position(|known| *known == reason);
        let row = place.and_then(|place| self.rejected.get(place));
        if let Some(count) = row.and_then(|row| row.get(priority.rank())) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn admitted(&self) -> u64 {
        self.admitted.load(Ordering::Relaxed)
    }

    pub(super) fn unshed(&self) -> u64 {
        self.would_shed.load(Ordering::Relaxed)
    }

    pub(super) fn rejected(&self) -> impl Iterator<Item = (Reason, Priority, u64)> {
        let rows = REASONS.into_iter().zip(&self.rejected);
        rows.flat_map(|(reason, row)| {
            let counts = Priority::ALL.into_iter().zip(row);
            counts.map(move |(priority, count)| (reason, priority, count.load(Ordering::Relaxed)))
        })
    }

    /// All rejections, and those that were only counted.
    pub(super) fn all(&self) -> u64 {
        let rejected: u64 = self.rejected().map(|(_, _, count)| count).sum();
        rejected.saturating_add(self.unshed())
    }
}
