//! What experiments with the limit say.

use super::{
    Controller, DIP, DIP_COST, DIP_FIRST, DIP_PERIOD, DIP_RAREST, Kind, LONGEST, MOST_CUTS,
    MOST_DIPS, Phase, SLOW, SURE, UP_ENDED, UP_PERIOD, UP_TIME,
};
use crate::limit::window::{Look, Seconds};

impl Controller {
    pub(super) fn judge(&mut self, now: Seconds, base: Seconds) {
        let look = self.slow.look(now);
        if look.time < base && look.time < LONGEST {
            return;
        }
        let ended = self.slow.ended;
        let done = ended >= SLOW || look.time >= LONGEST;
        if look.bound < 0.5 {
            // Demand went away: no verdict. Judge -> Normal
            if done {
                self.settle(now, self.trial.limit);
            }
            return;
        }
        match self.trial.kind {
            Kind::Dip => self.judge_dip(now, &look, base, done),
            Kind::Up => self.judge_up(now, &look, base),
            Kind::Cut => self.judge_cut(now, &look, base, done),
        }
    }

    /// Was the time without load too high?
    fn judge_dip(&mut self, now: Seconds, look: &Look, base: Seconds, done: bool) {
        let ratio = (look.latency / base).ln();
        let middle = 0.5 * DIP.ln();
        if !done && (ratio - middle).abs() < SURE * self.noise.sigma(self.slow.ended) {
            return;
        }
        if ratio < middle && self.trial.tries < MOST_DIPS {
            // It fell below: descend further.
            self.trial.tries = self.trial.tries.saturating_add(1);
            let base = look.latency.max(0.5 * base);
            self.base = Some(base);
            self.rate = look.rate;
            return self.attempt(now, DIP * look.rate * base);
        }
        let base = 0.5 * base + 0.5 * look.latency.clamp(0.5 * base, 2.0 * base);
        self.base = Some(base);
        let cost = DIP_COST * (now - self.trial.begun);
        self.next_dip = cost.clamp(DIP_PERIOD, DIP_RAREST);
        // Judge -> Normal
        self.settle(now, self.wanted(base));
    }

    /// Was the limit below the knee?
    fn judge_up(&mut self, now: Seconds, look: &Look, base: Seconds) {
        let moved = (look.in_flight / self.trial.in_flight).ln().max(0.01);
        let rose = (look.latency / self.trial.latency).ln();
        let is_unclear = (rose - 0.5 * moved).abs() < SURE * self.error();
        if self.slow.ended < UP_ENDED && look.time < UP_TIME && is_unclear {
            return;
        }
        self.rate = look.rate;
        let limit = if rose < 0.5 * moved {
            let base = base.max(look.latency.min(1.5 * base));
            self.base = Some(base);
            // Look again soon.
            self.bound_up = UP_PERIOD;
            self.limit.max(self.wanted(base))
        } else {
            self.trial.limit
        };
        // Judge -> Normal
        self.settle(now, limit);
    }

    /// Was the queue ours?
    fn judge_cut(&mut self, now: Seconds, look: &Look, base: Seconds, done: bool) {
        let moved = (look.in_flight / self.trial.in_flight).ln();
        let rose = (look.latency / self.trial.latency).ln();
        let error = self.error();
        if !done && (rose - 0.5 * moved).abs() < SURE * error {
            return;
        }
        // Judge -> Normal
        self.phase = Phase::Normal;
        if rose < 0.5 * moved {
            // The latency followed the cut.
            self.rate = look.rate;
            self.trial.tries = 0;
            if look.latency > self.tuning.high() * base {
                return self.cut(now, look, self.slow.ended, base);
            }
            return self.reset(now);
        }
        if rose > 0.15 + error && self.trial.tries < MOST_CUTS {
            // Capacity still moves.
            self.trial.tries = self.trial.tries.saturating_add(1);
            return self.cut(now, look, self.slow.ended, base);
        }
        // Calls in flight are not the cause: this is the time without load, and the limit comes back.
        self.trial.tries = 0;
        let base = base.max(look.latency.min(4.0 * base));
        self.base = Some(base);
        self.bound = self.next_dip - DIP_FIRST;
        self.bound_up = 0.0;
        let back = if look.latency < 5.0 * base { 1.0 } else { 0.5 };
        self.set_limit(self.limit.max(back * self.trial.limit));
        self.reset(now);
    }
}
