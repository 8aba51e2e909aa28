//! The generic cell rate algorithm, with time as an argument.
//!
//! All that is kept of a caller is one time for each quota: when it will have all of its burst again. Each call moves
//! that time on by the quota's interval; it may lie at most a whole burst ahead.

use std::{num::NonZeroU32, time::Duration};

use super::quota::MAX_QUOTAS;

/// Nanoseconds since a store was made.
pub(super) type Nanos = u64;

/// The times of one key, of which as many count as there are quotas.
pub(super) type Times = [Nanos; MAX_QUOTAS];

/// Nothing lies further ahead, whatever is charged after the fact.
const FURTHEST: Nanos = 200 * 366 * 24 * 60 * 60 * 1_000_000_000;

pub(super) fn nanos(duration: Duration) -> Nanos {
    let seconds = duration.as_secs().saturating_mul(1_000_000_000);
    seconds.saturating_add(u64::from(duration.subsec_nanos()))
}

pub(super) fn millis(at: Nanos) -> u64 {
    at / 1_000_000
}

/// A quota as the arithmetic needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// The time that one call costs.
    pub(super) interval: Nanos,
    pub(super) burst: u32,
    /// The time that a whole burst costs: `interval` x `burst`. A quota bounds it to a year or so.
    pub(super) window: Nanos,
}

/// What one quota says to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// There is room. The time to be kept.
    Admit { full_at: Nanos },
    /// There will be room after this wait.
    Wait { wait: Nanos },
    /// It weighs more than a whole burst: there will never be room.
    Never,
}

impl Pace {
    pub(super) fn new(interval: Duration, burst: NonZeroU32) -> Self {
        let (interval, burst) = (nanos(interval), burst.get());
        Self {
            interval,
            burst,
            window: interval.saturating_mul(u64::from(burst)),
        }
    }

    /// The share of one of so many replicas: as many times slower, and at least one call at once.
    pub(super) fn share(&self, replicas: NonZeroU32) -> Self {
        let interval = self.interval.saturating_mul(u64::from(replicas.get()));
        let burst = self.burst.div_ceil(replicas.get());
        Self {
            interval,
            burst,
            window: interval.saturating_mul(u64::from(burst)),
        }
    }

    /// Whether a call of this weight fits in, if the caller has all of its burst again at `full_at`.
    #[inline]
    pub(super) fn check(&self, full_at: Nanos, weight: u32, now: Nanos) -> Verdict {
        if weight > self.burst {
            return Verdict::Never;
        }
        let full_at = self.spend(full_at, weight, now);
        let wait = full_at.saturating_sub(now).saturating_sub(self.window);
        if wait > 0 {
            return Verdict::Wait { wait };
        }
        Verdict::Admit { full_at }
    }

    /// When the caller will have all of its burst again if this is spent, be there room or not.
    #[inline]
    pub(super) fn spend(&self, full_at: Nanos, weight: u32, now: Nanos) -> Nanos {
        let cost = self.interval.saturating_mul(u64::from(weight));
        let spent = full_at.max(now).saturating_add(cost);
        spent.min(now.saturating_add(FURTHEST))
    }

    /// How many calls of weight 1 fit in now.
    pub(super) fn remaining(&self, full_at: Nanos, now: Nanos) -> u32 {
        let room = self.window.saturating_sub(full_at.saturating_sub(now));
        let calls = room.checked_div(self.interval).unwrap_or_default();
        u32::try_from(calls).unwrap_or(u32::MAX)
    }

    /// The time until one more call fits in than now; nothing if all of the burst is there.
    pub(super) fn until_one_more(&self, full_at: Nanos, now: Nanos) -> Nanos {
        let owed = full_at.saturating_sub(now);
        let past = owed.saturating_sub(self.window);
        let into = owed.saturating_sub(past).checked_rem(self.interval);
        match into.unwrap_or_default() {
            0 if owed == 0 => 0,
            0 => past.saturating_add(self.interval),
            into => past.saturating_add(into),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;
    use crate::server::rate_limit::{InvalidQuota, Quota};

    /// The rule itself, in exact arithmetic: in every span that ends now the calls weigh at most
    /// `burst + span / interval`, and a call that keeps to that is admitted.
    struct Oracle {
        pace: Pace,
        admitted: VecDeque<(Nanos, u32)>,
    }

    impl Oracle {
        fn admits(&mut self, weight: u32, now: Nanos) -> bool {
            let mut sum = u128::from(weight);
            let mut fits = sum <= u128::from(self.pace.burst);
            for &(at, past) in self.admitted.iter().rev() {
                sum += u128::from(past);
                let span = u128::from(now - at);
                // sum <= burst + span / interval, without a division.
                let interval = u128::from(self.pace.interval);
                fits &= sum * interval <= u128::from(self.pace.burst) * interval + span;
            }
            if fits {
                self.admitted.push_back((now, weight));
            }
            fits
        }
    }

    fn quotas() -> impl Strategy<Value = Quota> {
        let periods = prop_oneof![
            1_000..2_000_u64,
            1_000_000..2_000_000_000_u64,
            1..86_400_000_000_000_u64
        ];
        (1..2_000_u32, periods, 1..40_u32).prop_filter_map("no quota", |(calls, period, burst)| {
            Quota::per(Duration::from_nanos(period), calls)
                .burst(burst)
                .ok()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100_000))]

        #[test]
        fn agrees_with_the_rule_and_never_starves(
            quota in quotas(),
            calls in proptest::collection::vec((0..5_u64, 0..4_u64, 1..4_u32), 1..40),
        ) {
            let pace = quota.pace();
            let mut oracle = Oracle { pace, admitted: VecDeque::new() };
            let (mut now, mut full_at) = (0, 0);
            for (intervals, quarters, weight) in calls {
                now += pace.interval * intervals / 2 + pace.interval / 4 * quarters;
                let fits = oracle.admits(weight, now);
                match pace.check(full_at, weight, now) {
                    Verdict::Admit { full_at: next } => {
                        prop_assert!(fits);
                        full_at = next;
                    }
                    Verdict::Wait { wait } => {
                        prop_assert!(!fits);
                        // Not a nanosecond too early, and no later than told.
                        let early = pace.check(full_at, weight, now + wait - 1);
                        prop_assert_eq!(early, Verdict::Wait { wait: 1 });
                        let in_time = pace.check(full_at, weight, now + wait);
                        prop_assert!(matches!(in_time, Verdict::Admit { .. }), "{:?}", in_time);
                    }
                    Verdict::Never => prop_assert!(weight > pace.burst),
                }
                let remaining = pace.remaining(full_at, now);
                prop_assert!(remaining <= pace.burst);
                if remaining > 0 {
                    let fits = pace.check(full_at, remaining, now);
                    prop_assert!(matches!(fits, Verdict::Admit { .. }), "{:?}", fits);
                }
                let more_at = now + pace.until_one_more(full_at, now);
                if remaining < pace.burst {
                    prop_assert_eq!(pace.remaining(full_at, more_at), remaining + 1);
                    prop_assert_eq!(pace.remaining(full_at, more_at - 1), remaining);
                }
            }
        }
    }

    #[test]
    fn nothing_wraps_at_the_extremes() {
        let day = Duration::from_secs(86_400);
        for (calls, period, burst) in [
            (1, 366 * day, 1),
            (1_000_000, Duration::from_secs(1), 1),
            (1_000_000, Duration::from_secs(1), u32::MAX),
            (u32::MAX, day, u32::MAX),
            (1, Duration::from_micros(1), 1),
        ] {
            let pace = Quota::per(period, calls)
                .burst(burst)
                .expect("a quota")
                .pace();
            for now in [0, 1, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
                for full_at in [0, now, u64::MAX] {
                    for weight in [0, 1, burst, u32::MAX] {
                        let spent = pace.spend(full_at, weight, now);
                        assert!(spent <= now.saturating_add(FURTHEST));
                        pace.check(full_at, weight, now);
                        assert!(pace.remaining(full_at, now) <= burst);
                        pace.until_one_more(full_at, now);
                    }
                }
            }
        }
    }

    #[test]
    fn what_makes_no_quota_is_a_typed_error() {
        let second = Duration::from_secs(1);
        let century = second * 60 * 60 * 24 * 36_525;
        assert_eq!(Quota::per_second(0).burst(1), Err(InvalidQuota::NoCalls));
        assert_eq!(Quota::per_second(1).burst(0), Err(InvalidQuota::NoBurst));
        assert_eq!(
            Quota::per(Duration::ZERO, 1).burst(1),
            Err(InvalidQuota::NoPeriod)
        );
        for (calls, period, burst) in [(u32::MAX, second, 1), (1, Duration::from_nanos(1), 1)] {
            let too_fast = InvalidQuota::TooFast { calls, period };
            assert_eq!(Quota::per(period, calls).burst(burst), Err(too_fast));
        }
        for (calls, period, burst) in [
            (1, century, 1),
            (1, Duration::MAX, 1),
            (u32::MAX, Duration::MAX, u32::MAX),
            (1, second, u32::MAX),
        ] {
            let too_slow = InvalidQuota::TooSlow { burst, period };
            assert_eq!(Quota::per(period, calls).burst(burst), Err(too_slow));
        }
        let quota = Quota::per_second(1).burst(1).expect("a quota");
        for name in ["", "a\"b", "a\\b", "a\nb", "\u{e9}"] {
            assert_eq!(quota.named(name), Err(InvalidQuota::Name { name }));
        }
    }
}
