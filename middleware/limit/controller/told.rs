//! What the controller is told.

use crate::limit::window::Seconds;

/// What the limit is told.
#[derive(Clone, Copy, Debug)]
pub(in crate::limit) struct Tuning {
    pub(in crate::limit) initial: f64,
    pub(in crate::limit) min: f64,
    pub(in crate::limit) max: f64,
    /// The limit is so many times what the knee needs.
    pub(in crate::limit) target: f64,
    /// Whether it moves by itself.
    pub(in crate::limit) adapts: bool,
}

impl Tuning {
    /// Below this multiple of the time without load the limit may grow.
    pub(super) fn low(&self) -> f64 {
        1.0 + (self.target - 1.0) * 0.4
    }

    /// Above this one it is doubted.
    pub(super) fn high(&self) -> f64 {
        1.0 + (self.target - 1.0) * 2.0
    }
}

/// How the waiting room stands.
#[derive(Clone, Copy, Debug)]
pub(in crate::limit) struct Standing {
    /// Whether there is more than a burst. Without a room: always.
    pub(in crate::limit) stands: bool,
    /// For how long.
    pub(in crate::limit) since: Seconds,
    /// The time that makes a burst a queue.
    pub(in crate::limit) interval: Seconds,
    /// Nobody waits: there is no room.
    pub(in crate::limit) is_shut: bool,
}

impl Standing {
    /// Whether it has stood so long that the time without load may be too high.
    pub(super) fn is_old(&self) -> bool {
        self.stands && self.since > (10.0 * self.interval).min(5.0)
    }
}

/// What one ended call tells.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::limit) enum Sample {
    /// It was served.
    Served(Seconds),
    /// It failed after this time.
    Failed(Seconds),
    /// Nobody waited for its end.
    Cancelled,
    /// It says nothing of the service's work, and was in flight for this time.
    Nothing(Seconds),
}

/// Limits are whole, above 0 and below 2^53.
pub(super) fn whole(limit: f64) -> usize {
    limit as usize
}

/// Counts of calls, as numbers to reckon with.
pub(in crate::limit) fn as_float(count: usize) -> f64 {
    // Exact below 2^53.
    count as f64
}
