//! What an operator does to a limit.

use super::{Controller, Phase, Seconds, Tuning};

impl Controller {
    /// Sets the limit. It goes on from there, if it moves by itself.
    pub(in crate::limit) fn set(&mut self, now: Seconds, limit: f64) {
        self.tuning.min = self.tuning.min.min(limit);
        self.tuning.max = self.tuning.max.max(limit);
        self.limit = limit;
        self.phase = Phase::Normal;
        self.trial.tries = 0;
        self.reset(now);
    }

    /// Sets the limit, and leaves it there.
    pub(in crate::limit) fn hold(&mut self, now: Seconds, limit: f64) {
        self.tuning.adapts = false;
        self.set(now, limit);
    }

    /// Steers by this from where the limit is.
    pub(in crate::limit) fn adapt(&mut self, now: Seconds, tuning: Tuning) {
        self.tuning = tuning;
        self.trial.tries = 0;
        self.settle(now, self.limit);
    }

    /// Whether it moves by itself.
    pub(in crate::limit) fn adapts(&self) -> bool {
        self.tuning.adapts
    }
}
