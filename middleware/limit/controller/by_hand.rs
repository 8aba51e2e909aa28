//! What an operator does to a limit.

use super::{Controller, Phase, Seconds};

impl Controller {
    /// Sets the limit. It goes on from there, if it moves by itself.
    pub(in crate::limit) fn set(&mut self, now: Seconds, limit: f64) {
        self.kept.get_or_insert(self.tuning);
        self.tuning.min = self.tuning.min.min(limit);
        self.tuning.max = self.tuning.max.max(limit);
        self.set_limit(limit);
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

    /// Within what it moves by itself, or will once it is let go.
    pub(in crate::limit) fn between(&self) -> (f64, f64) {
        let tuning = match &self.kept {
            Some(kept) if !self.tuning.adapts => kept,
            _ => &self.tuning,
        };
        (tuning.min, tuning.max)
    }

    /// Whether it moves by itself.
    pub(in crate::limit) fn adapts(&self) -> bool {
        self.tuning.adapts
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Tuning, *};

    #[test]
    fn what_was_held_goes_back_to_its_first_bounds() {
        let tuning = Tuning {
            initial: 16.0,
            min: 4.0,
            max: 20.0,
            target: 1.5,
            adapts: true,
        };
        let mut controller = Controller::new(tuning);
        controller.hold(1.0, 100.0);
        assert_eq!((controller.limit(), controller.adapts()), (100, false));
        // Held means held, also when the number is set once more.
        controller.set(2.0, 2.0);
        assert_eq!((controller.limit(), controller.adapts()), (2, false));
        controller.adapt(3.0);
        assert_eq!((controller.limit(), controller.adapts()), (4, true));
        controller.hold(4.0, 100.0);
        controller.adapt(5.0);
        assert_eq!(controller.limit(), 20);
    }
}
