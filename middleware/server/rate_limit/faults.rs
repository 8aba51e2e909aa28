//! What a rate limit cannot do as it was meant to. Counted each time; told at once, and then as a sum every 10 s.

use std::sync::atomic::{AtomicU64, Ordering};

use super::gcra::{Nanos, millis};
use crate::report::Report;

/// One kind of fault.
#[derive(Debug, Default)]
pub(super) struct Fault {
    calls: AtomicU64,
    report: Report,
}

/// The kinds.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Calls that have no key.
    pub(super) missing_key: Fault,
    /// Calls of a tier that there is not.
    pub(super) unknown_tier: Fault,
    /// Calls for whose key there was no room.
    pub(super) no_room: Fault,
}

impl Fault {
    /// Counts one more call, and returns how many a line is to tell if one is due.
    pub(super) fn count(&self, now: Nanos) -> Option<u64> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let is_due = self.report.is_due(true, millis(now));
        is_due.then(|| self.untold()).flatten()
    }

    /// What no line has told yet.
    pub(super) fn untold(&self) -> Option<u64> {
        Some(self.report.news(self.calls())).filter(|&calls| calls > 0)
    }

    pub(super) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}
