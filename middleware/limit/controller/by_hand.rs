//! What an operator does to a limit.

use super::{Controller, Phase, Seconds};

impl Controller {
    /// Sets the limit. It goes on from there, if it moves by itself.
    pub(in crate::limit) fn set(&mut self, now: Seconds, limit: f64) {
        self.kept.get_or_insert(self.tuning);
        self.tuning.min = self.tuning.min.min(limit);
        self.tuning.max = self.tuning.max.max(limit);
        self.limit = limit;
        self.phase = Phase::Normal;
        self.trial.tries = 0;
        self.reset(now);
    }

    /// Sets the limit, and leaves it there.
    pub(in crate::limit) fn hold(&mut self, now: Seconds, limit: f64) {
        self.set(now, limit);
        self.tuning.adapts = false;
    }

    /// Steers again as it was made to, from where the limit is.
    pub(in crate::limit) fn adapt(&mut self, now: Seconds) {
        if let Some(tuning) = self.kept.take() {
            self.tuning = tuning;
            self.trial.tries = 0;
            self.settle(now, self.limit);
        }
    }

    /// An adaptive limit stays within these from now on, and a held one once it is let go.
    pub(in crate::limit) fn set_between(&mut self, now: Seconds, min: f64, max: f64) {
        if let Some(kept) = &mut self.kept {
            (kept.min, kept.max) = (min, max);
        }
        if self.tuning.adapts {
            (self.tuning.min, self.tuning.max) = (min, max);
            let inside = self.limit.clamp(min, max);
            if inside != self.limit {
                self.settle(now, inside);
            }
        }
    }

    /// Whether it moves by itself.
    pub(in crate::limit) fn adapts(&self) -> bool {
        self.tuning.adapts
    }
}
