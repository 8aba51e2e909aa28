//! The quotas that one kind of caller is held to.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use http::HeaderValue;

use super::{
    gcra::{Nanos, Pace, Times, Verdict},
    headers,
    quota::{Quota, Quotas},
};

/// A policy: its name and its quotas, prepared.
#[derive(Clone, Debug)]
pub(super) struct Tier {
    policy: &'static str,
    quotas: Quotas,
    paces: Vec<Pace>,
    policy_header: HeaderValue,
    /// The policy as all replicas hold to it together, where this is the share of one.
    whole: Option<Arc<Tier>>,
}

/// Why a call does not fit in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The quota with the longest wait, by its place.
    pub(super) quota: usize,
    /// `None`: it weighs more than a whole burst, and will never fit in.
    pub(super) wait: Option<Duration>,
}

/// A refusal, as it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// The name of the quota.
    pub(super) which: &'static str,
    /// `None`: it will never fit in.
    pub(super) wait: Option<Duration>,
}

/// How a caller stands with one quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) burst: u32,
    pub(super) remaining: u32,
    /// Until one more call fits in.
    pub(super) until_more: Nanos,
    /// Until all of the burst is there again.
    pub(super) until_full: Nanos,
}

impl Tier {
    pub(super) fn new(policy: &'static str, quotas: Quotas) -> Self {
        Self {
            policy,
            paces: quotas.as_slice().iter().map(Quota::pace).collect(),
            policy_header: headers::policy(quotas.as_slice()),
            quotas,
            whole: None,
        }
    }

    /// The share of one of so many replicas.
    pub(super) fn share(policy: &'static str, quotas: Quotas, replicas: NonZeroU32) -> Self {
        let whole = Self::new(policy, quotas);
        if replicas == NonZeroU32::MIN {
            return whole;
        }
        let paces = whole.paces.iter().map(|pace| pace.share(replicas));
        Self {
            paces: paces.collect(),
            whole: Some(Arc::new(whole.clone())),
            ..whole
        }
    }

    /// The policy as all replicas hold to it together.
    pub(super) fn whole(self: &Arc<Self>) -> Arc<Self> {
        Arc::clone(self.whole.as_ref().unwrap_or(self))
    }

    pub(super) fn policy(&self) -> &'static str {
        self.policy
    }

    pub(super) fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    pub(super) fn paces(&self) -> &[Pace] {
        &self.paces
    }

    pub(super) fn policy_header(&self) -> &HeaderValue {
        &self.policy_header
    }

    pub(super) fn refused(&self, refusal: Refusal) -> Refused {
        Refused {
            which: self.name_of(refusal.quota),
            wait: refusal.wait,
        }
    }

    /// The name of a quota, by its place.
    fn name_of(&self, quota: usize) -> &'static str {
        self.quotas
            .as_slice()
            .get(quota)
            .map_or("default", Quota::name)
    }

    /// Spends of all quotas, or of none. A call of no weight is not held to any.
    #[inline]
    pub(super) fn spend(&self, times: &mut Times, weight: u32, now: Nanos) -> Result<(), Refusal> {
        if weight == 0 {
            return Ok(());
        }
        let mut spent = *times;
        let mut refusal: Option<Refusal> = None;
        for (quota, (pace, full_at)) in self.paces.iter().zip(&mut spent).enumerate() {
            let wait = match pace.check(*full_at, weight, now) {
                Verdict::Admit { full_at: next } => {
                    *full_at = next;
                    continue;
                }
                Verdict::Wait { wait } => Some(Duration::from_nanos(wait)),
                Verdict::Never => None,
            };
            // To wait for ever is longest.
            let longest = refusal.is_none_or(|known| match (known.wait, wait) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some(known), Some(wait)) => wait > known,
            });
            if longest {
                refusal = Some(Refusal { quota, wait });
            }
        }
        match refusal {
            Some(refusal) => Err(refusal),
            None => {
                *times = spent;
                Ok(())
            }
        }
    }

    /// Spends, be there room or not: what a call turned out to weigh.
    pub(super) fn charge(&self, times: &mut Times, weight: u32, now: Nanos) {
        for (pace, full_at) in self.paces.iter().zip(times) {
            *full_at = pace.spend(*full_at, weight, now);
        }
    }

    /// How a caller stands with each quota.
    pub(super) fn standings(
        &self,
        times: &Times,
        now: Nanos,
    ) -> impl Iterator<Item = (&Quota, Standing)> {
        let held = self.paces.iter().zip(*times);
        let standings = held.map(move |(pace, full_at)| Standing {
            burst: pace.burst,
            remaining: pace.remaining(full_at, now),
            until_more: pace.until_one_more(full_at, now),
            until_full: full_at.saturating_sub(now),
        });
        self.quotas.as_slice().iter().zip(standings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    fn tier(text: &str) -> Tier {
        Tier::new("default", text.parse().expect("quotas"))
    }

    #[test]
    fn what_one_quota_refuses_spends_nothing_of_the_others() {
        let tier = tier("2/s and 3/h");
        let mut times = Times::default();
        for _ in 0..2 {
            assert_eq!(tier.spend(&mut times, 1, 0), Ok(()));
        }
        let before = times;
        for _ in 0..100 {
            let refused = tier.spend(&mut times, 1, 0).expect_err("over 2/s");
            assert_eq!(
                refused,
                Refusal {
                    quota: 0,
                    wait: Some(Duration::from_millis(500))
                }
            );
        }
        assert_eq!(times, before);
        assert_eq!(tier.spend(&mut times, 1, SECOND), Ok(()));
        let refused = tier.spend(&mut times, 1, SECOND).expect_err("over 3/h");
        assert_eq!(
            refused,
            Refusal {
                quota: 1,
                wait: Some(Duration::from_secs(1_199))
            }
        );
        assert_eq!(tier.name_of(refused.quota), "hour");
    }

    #[test]
    fn the_longest_wait_is_told_and_never_is_longest() {
        let tier = tier("2/s and 1/h");
        let mut times = Times::default();
        let refused = tier.spend(&mut times, 2, 0).expect_err("2 are more than 1");
        assert_eq!(
            refused,
            Refusal {
                quota: 1,
                wait: None
            }
        );
        assert_eq!(tier.spend(&mut times, 0, 0), Ok(()));
        assert_eq!(times, Times::default());
    }

    #[test]
    fn a_charge_after_the_fact_may_go_below_nothing() {
        let tier = tier("10/s");
        let mut times = Times::default();
        assert_eq!(tier.spend(&mut times, 1, 0), Ok(()));
        tier.charge(&mut times, 29, 0);
        let refused = tier.spend(&mut times, 1, 0).expect_err("20 too many");
        assert_eq!(refused.wait, Some(Duration::from_millis(2_100)));
        let standing = tier.standings(&times, 0).next().expect("one quota").1;
        assert_eq!(
            (standing.remaining, standing.until_more),
            (0, 2_100_000_000)
        );
        assert_eq!(standing.until_full, 3 * SECOND);
    }
}
