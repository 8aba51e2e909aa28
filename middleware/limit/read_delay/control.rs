//! Which share of the calls is to be refused, by how long requests lay unread: a controller after PIE (RFC 8033). Pure:
//! time and chance come in as arguments.

use std::time::{Duration, Instant};

use super::doubt::Doubt;
use crate::context::Priority;

/// The delay is looked at so often, as the mean since.
const PERIOD: Duration = Duration::from_millis(10);
/// A delay is too long from here on, and from so many times what a poll takes.
const TARGET: f64 = 0.01;
const POLLS: f64 = 8.0;
/// Weights of how far the delay is from the target, and of whether it grows.
const BY_DISTANCE: f64 = 0.02;
const BY_GROWTH: f64 = 0.1;
/// The most that the share changes at once.
const STEP: f64 = 0.1;
/// Some calls always come through, or nobody would notice that it is over.
const MOST: f64 = 0.98;
/// Far below the target the share fades.
const FADE: f64 = 0.98;
/// Without any request for so long, what was known is worth nothing.
const FORGET: Duration = Duration::from_secs(1);
/// How many calls are looked at to know how many of each priority there are, at the most and at the least.
const RECENT: usize = 1_000;
const FEW: usize = 20;

/// See the module.
#[derive(Debug)]
pub(super) struct Control {
    sum: f64,
    count: u32,
    looked: Instant,
    /// When a call was asked for last.
    asked: Instant,
    before: f64,
    share: f64,
    doubt: Doubt,
    /// How long a handler's poll takes, in seconds.
    poll: f64,
    recent: Recent,
    /// Calls of this rank are refused by chance, those below it all, those above it never.
    rank: usize,
    chance: f64,
}

impl Control {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            sum: 0.0,
            count: 0,
            looked: now,
            asked: now,
            before: 0.0,
            share: 0.0,
            doubt: Doubt::new(),
            poll: 0.0,
            recent: Recent::default(),
            rank: Priority::ALL.len(),
            chance: 0.0,
        }
    }

    /// The share that is refused: 0 to 0.98.
    pub(super) fn share(&self) -> f64 {
        self.share
    }

    /// A request lay unread for so long.
    pub(super) fn read(&mut self, delay: Duration, now: Instant) {
        self.sum += delay.as_secs_f64();
        self.count = self.count.saturating_add(1);
        let since = now.saturating_duration_since(self.looked);
        if since < PERIOD {
            return;
        }
        let delay = self.sum / f64::from(self.count);
        (self.sum, self.count, self.looked) = (0.0, 0, now);
        let target = TARGET.max(POLLS * self.poll);
        let periods = (since.as_secs_f64() / PERIOD.as_secs_f64()).min(5.0);
        let change = BY_DISTANCE * periods * (delay - target) / target
            + BY_GROWTH * (delay - self.before) / target;
        // Where reads are rare each of them stands for more.
        let step = STEP * periods.max(1.0);
        self.share = (self.share + change.clamp(-step, step)).clamp(0.0, MOST);
        self.before = delay;
        if delay < target / 10.0 {
            self.share *= FADE;
        }
        let time = since.as_secs_f64();
        if !self.doubt.believes(delay, target, self.share, time, now) {
            self.share = 0.0;
        }
        self.divide();
    }

    /// A handler was polled for so long without a break.
    pub(super) fn polled(&mut self, took: Duration) {
        self.poll += 0.05 * (took.as_secs_f64() - self.poll);
    }

    /// Whether a call of this priority is let in, given a number of chance from 0 to 1.
    pub(super) fn admits(&mut self, priority: Priority, now: Instant, chance: f64) -> bool {
        // The calls of one long read of HTTP/2 may take longer than that.
        let last = self.looked.max(self.asked);
        self.asked = now;
        if self.share > 0.0 && now.saturating_duration_since(last) > FORGET {
            (self.share, self.before) = (0.0, 0.0);
            self.doubt.forget();
            self.divide();
        }
        let rank = priority.rank();
        self.recent.push(rank);
        if self.recent.len() < FEW {
            // Too few to know what share each priority has: all alike.
            return chance >= self.share;
        }
        rank < self.rank || (rank == self.rank && chance >= self.chance)
    }

    /// Finds the priority at which the share of all recent calls is reached, from the lowest up.
    fn divide(&mut self) {
        if self.share <= 0.0 {
            (self.rank, self.chance) = (Priority::ALL.len(), 0.0);
            return;
        }
        let mut left = self.share * count(self.recent.len());
        for (rank, calls) in self.recent.counts.iter().enumerate().rev() {
            let calls = count(*calls);
            if calls >= left {
                (self.rank, self.chance) = (rank, if calls > 0.0 { left / calls } else { 0.0 });
                return;
            }
            left -= calls;
        }
        (self.rank, self.chance) = (0, 1.0);
    }
}

#[expect(clippy::cast_precision_loss, reason = "a thousand at most")]
fn count(calls: usize) -> f64 {
    calls as f64
}

/// The priorities of the last calls.
#[derive(Debug, Default)]
struct Recent {
    ranks: std::collections::VecDeque<usize>,
    counts: [usize; Priority::ALL.len()],
}

impl Recent {
    fn len(&self) -> usize {
        self.ranks.len()
    }

    fn push(&mut self, rank: usize) {
        if self.ranks.len() >= RECENT
            && let Some(gone) = self.ranks.pop_front()
            && let Some(count) = self.counts.get_mut(gone)
        {
            *count = count.saturating_sub(1);
        }
        self.ranks.push_back(rank);
        if let Some(count) = self.counts.get_mut(rank) {
            *count = count.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const NORMAL: Priority = Priority::Normal;

    /// One reading every 10 ms for so long.
    fn read_for(control: &mut Control, now: &mut Instant, delay: Duration, time: Duration) {
        let end = *now + time;
        while *now < end {
            *now += PERIOD;
            control.read(delay, *now);
        }
    }

    #[test]
    fn short_delays_refuse_nobody_and_long_ones_more_and_more() {
        let mut now = clock::now();
        let mut control = Control::new(now);
        read_for(
            &mut control,
            &mut now,
            Duration::from_millis(5),
            Duration::from_secs(10),
        );
        assert!(control.admits(NORMAL, now, 0.0));
        read_for(
            &mut control,
            &mut now,
            Duration::from_millis(30),
            Duration::from_millis(50),
        );
        let early = control.share();
        assert!(early > 0.0);
        read_for(
            &mut control,
            &mut now,
            Duration::from_millis(30),
            Duration::from_secs(2),
        );
        assert!((MOST - control.share()).abs() < 1e-9);
        assert!(!control.admits(NORMAL, now, 0.5));
        assert!(
            control.admits(NORMAL, now, 0.99),
            "some always come through"
        );
        read_for(
            &mut control,
            &mut now,
            Duration::ZERO,
            Duration::from_secs(3),
        );
        assert!(control.share() < 0.01, "{}", control.share());
    }

    #[test]
    fn polls_that_take_long_are_allowed_for() {
        let mut now = clock::now();
        let mut control = Control::new(now);
        for _ in 0..200 {
            control.polled(Duration::from_millis(10));
        }
        read_for(
            &mut control,
            &mut now,
            Duration::from_millis(60),
            Duration::from_secs(5),
        );
        assert!(control.share() < 0.01, "eight polls of 10 ms are 80 ms");
        read_for(
            &mut control,
            &mut now,
            Duration::from_millis(160),
            Duration::from_secs(2),
        );
        assert!(control.share() > 0.9);
    }

    #[test]
    fn the_lowest_priority_goes_first() {
        let mut now = clock::now();
        let mut control = Control::new(now);
        let mut answered = [0_u32; Priority::ALL.len()];
        // A fifth critical, three tenths normal, half sheddable; a share of 0.6 is to go.
        let mix = [0, 0, 2, 2, 2, 4, 4, 4, 4, 4];
        for call in 0..10_000_u32 {
            let rank = mix[call as usize % mix.len()];
            now += Duration::from_micros(100);
            if call.is_multiple_of(200) {
                // Held where it is: what is tested is who goes.
                control.share = 0.6;
                control.divide();
            }
            control.looked = now;
            let chance = f64::from(call * 7_919 % 1_000) / 1_000.0;
            if control.admits(Priority::ALL[rank], now, chance) && call >= 2_000 {
                answered[rank] += 1;
            }
        }
        assert_eq!(answered[0], 1_600, "all");
        assert!(
            (1_500..=1_700).contains(&answered[2]),
            "two thirds: {answered:?}"
        );
        assert_eq!(answered[4], 0, "none");
    }

    /// A connection of HTTP/2 reads hundreds of calls at once, and then not for more than a second.
    #[test]
    fn nothing_is_forgotten_while_calls_are_asked_for() {
        let mut now = clock::now();
        let mut control = Control::new(now);
        for _ in 0..10 {
            now += Duration::from_millis(1_200);
            control.read(Duration::from_millis(1_200), now);
            for _ in 0..400 {
                now += Duration::from_millis(3);
                control.admits(NORMAL, now, 0.5);
            }
        }
        assert!(control.share() > 0.8, "{}", control.share());
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let mut now = clock::now();
        let mut control = Control::new(now);
        read_for(
            &mut control,
            &mut now,
            Duration::from_secs(1),
            Duration::from_secs(1),
        );
        assert!(!control.admits(NORMAL, now, 0.5));
        now += Duration::from_millis(1_001);
        assert!(control.admits(NORMAL, now, 0.0));
    }
}
