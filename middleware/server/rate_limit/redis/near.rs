//! What this replica knows of callers without asking Redis: who was just refused, and what was taken for whom at once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::script::Reply;
use crate::server::rate_limit::{
    gcra::{Nanos, Times},
    tier::{Refusal, Tier},
};

const SHARDS: usize = 16;
/// Callers that are kept in a shard, all of them for moments.
const MOST: usize = 1_024;
/// For so long a refusal is believed, and what was taken at once can be spent.
const LASTS: Nanos = 1_000_000_000;
/// Whoever asks again within this time is busy; between two sweeps of a shard it is as long.
const BUSY: Nanos = 100_000_000;

/// A caller of a tier.
pub(super) type Who = (u64, usize);

/// What is known nearby.
#[derive(Debug)]
pub(super) struct Near {
    shards: [Mutex<Shard>; SHARDS],
    /// Whether a refusal is remembered.
    pub(super) pre_check: bool,
    /// How much is taken for a caller at once, at most. 0: nothing.
    pub(super) lease: u32,
}

#[derive(Debug, Default)]
struct Shard {
    known: HashMap<Who, Known>,
    swept: Nanos,
}

/// A caller, as Redis told of it last.
#[derive(Debug, Default)]
struct Known {
    times: Times,
    /// Until when a refusal is believed.
    refused: Nanos,
    /// What was taken and is left.
    left: u32,
    /// Until when it can be spent.
    lease_ends: Nanos,
    /// What is taken next.
    size: u32,
    /// When Redis was asked last.
    asked: Nanos,
    /// Whether somebody asks for more just now.
    asking: bool,
}

/// What can be said of a call.
#[derive(Debug)]
pub(super) enum Said {
    /// It was paid for beforehand.
    Admitted(Times),
    /// Redis would refuse it.
    Refused(Refusal, Times),
    /// Redis has to be asked. So much more than the call is to be taken at once.
    Ask(Asking),
}

/// A question to Redis. While there is one that takes more, no other does.
#[derive(Debug)]
pub(super) struct Asking {
    near: Arc<Near>,
    who: Who,
    pub(super) more: u32,
}

impl Near {
    pub(super) fn new(pre_check: bool, lease: u32) -> Self {
        Self {
            shards: [const { None::<()> }; SHARDS].map(|_| Mutex::default()),
            pre_check,
            lease,
        }
    }

    fn is_on(&self) -> bool {
        self.pre_check || self.lease > 0
    }

    /// What can be said of this call, and if that is nothing, what to ask.
    pub(super) fn look(this: &Arc<Self>, who: Who, tier: &Tier, weight: u32, now: Nanos) -> Said {
        if weight == 0 {
            return Said::Admitted(Times::default());
        }
        if let Some(quota) = tier.paces().iter().position(|pace| weight > pace.burst) {
            let never = Refusal { quota, wait: None };
            return Said::Refused(never, Times::default());
        }
        let ask = |more| {
            Said::Ask(Asking {
                near: Arc::clone(this),
                who,
                more,
            })
        };
        if !this.is_on() {
            return ask(0);
        }
        let mut shard = this.shard_of(who);
        let shard = &mut *shard;
        let Some(known) = shard.known.get_mut(&who) else {
            if this.lease > 0 && shard.has_room(now) {
                let known = Known {
                    asked: now,
                    ..Known::default()
                };
                shard.known.insert(who, known);
            }
            return ask(0);
        };
        if now >= known.lease_ends {
            known.left = 0;
        }
        if let Some(left) = known.left.checked_sub(weight) {
            known.left = left;
            return Said::Admitted(known.standing(tier));
        }
        if this.pre_check && now < known.refused {
            let mut times = known.times;
            if let Err(refusal) = tier.spend(&mut times, weight, now) {
                return Said::Refused(refusal, known.standing(tier));
            }
        }
        if this.lease == 0 || known.asking {
            return ask(0);
        }
        let idle = now.saturating_sub(known.asked);
        known.asked = now;
        known.size = match idle < BUSY {
            true => known.size.saturating_mul(2).clamp(1, this.lease),
            false => known.size / 2,
        };
        let more = known.size.min(this.lease.saturating_sub(known.left));
        known.asking = more > 0;
        ask(more)
    }

    fn shard_of(&self, (who, _): Who) -> MutexGuard<'_, Shard> {
        let place = usize::try_from(who >> 32).unwrap_or_default() % SHARDS;
        let shard = self.shards.get(place).expect("within their number");
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asking {
    /// Notes what Redis said, and returns how the caller stands.
    pub(super) fn told(self, reply: &Reply, tier: &Tier, now: Nanos) -> Times {
        let times = reply.owed.map(|owed| now.saturating_add(owed));
        if !self.near.is_on() {
            return times;
        }
        let mut shard = self.near.shard_of(self.who);
        let refused = reply.verdict.is_err();
        if refused && !shard.known.contains_key(&self.who) && shard.has_room(now) {
            shard.known.insert(self.who, Known::default());
        }
        let Some(known) = shard.known.get_mut(&self.who) else {
            return times;
        };
        known.times = times;
        if refused {
            known.refused = now.saturating_add(LASTS);
        }
        if self.more > 0 {
            known.left = known.left.saturating_add(reply.more.min(self.more));
            known.lease_ends = now.saturating_add(LASTS);
        }
        known.standing(tier)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if self.more > 0
            && let Some(known) = self.near.shard_of(self.who).known.get_mut(&self.who)
        {
            known.asking = false;
        }
    }
}

impl Known {
    /// How the caller stands, with what is left of what was taken.
    fn standing(&self, tier: &Tier) -> Times {
        let mut times = self.times;
        for (full_at, pace) in times.iter_mut().zip(tier.paces()) {
            let left = pace.interval.saturating_mul(u64::from(self.left));
            *full_at = full_at.saturating_sub(left);
        }
        times
    }
}

impl Shard {
    /// Whether one more caller can be kept. Forgets those who have been quiet.
    fn has_room(&mut self, now: Nanos) -> bool {
        if self.known.len() < MOST {
            return true;
        }
        if now.saturating_sub(self.swept) >= BUSY {
            self.swept = now;
            self.known.retain(|_, known| {
                let last = known.asked.saturating_add(LASTS);
                known.asking || now < last.max(known.refused).max(known.lease_ends)
            });
        }
        self.known.len() < MOST
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const SECOND: Nanos = 1_000_000_000;
    const ANN: Who = (7, 0);

    fn tier(quota: &str) -> Tier {
        Tier::new("default", quota.parse().expect("a quota"))
    }

    /// What the script does.
    struct Store {
        tier: Tier,
        times: Times,
        asked: u32,
    }

    impl Store {
        fn of(quota: &str) -> Self {
            Self {
                tier: tier(quota),
                times: Times::default(),
                asked: 0,
            }
        }

        fn decide(&mut self, weight: u32, more: u32, now: Nanos) -> Reply {
            self.asked += 1;
            let verdict = self.tier.spend(&mut self.times, weight, now);
            let mut taken = 0;
            while verdict.is_ok()
                && taken < more
                && self.tier.spend(&mut self.times, 1, now).is_ok()
            {
                taken += 1;
            }
            Reply {
                verdict,
                more: taken,
                owed: self.times.map(|full_at| full_at.saturating_sub(now)),
            }
        }

        fn call(&mut self, near: &Arc<Near>, weight: u32, now: Nanos) -> bool {
            match Near::look(near, ANN, &self.tier, weight, now) {
                Said::Admitted(_) => true,
                Said::Refused(refusal, _) => {
                    // Redis refuses too; it may know of more than this replica, and then the wait is longer.
                    let mut times = self.times;
                    let real = self.tier.spend(&mut times, weight, now);
                    assert!(refusal.wait <= real.expect_err("refused").wait);
                    false
                }
                Said::Ask(asking) => {
                    let reply = self.decide(weight, asking.more, now);
                    asking.told(&reply, &self.tier, now);
                    reply.verdict.is_ok()
                }
            }
        }
    }

    #[test]
    fn a_refused_caller_costs_no_question_until_there_is_room() {
        let (near, mut store) = (Arc::new(Near::new(true, 0)), Store::of("2/s burst 2"));
        let calls: Vec<bool> = (0..100).map(|_| store.call(&near, 1, SECOND)).collect();
        assert_eq!(calls.iter().filter(|&&admitted| admitted).count(), 2);
        assert_eq!(store.asked, 3, "two that were admitted, and one refusal");
        assert!(!store.call(&near, 1, SECOND + SECOND / 2 - 1));
        assert_eq!(store.asked, 3);
        assert!(store.call(&near, 1, SECOND + SECOND / 2));
        assert_eq!(store.asked, 4);
    }

    #[test]
    fn a_refusal_is_believed_for_a_second_and_no_longer() {
        let (near, mut store) = (Arc::new(Near::new(true, 0)), Store::of("1/h"));
        assert!(store.call(&near, 1, SECOND));
        assert!(!store.call(&near, 1, SECOND));
        // An operator gives the caller all of its burst again.
        store.times = Times::default();
        for (after, admitted) in [(SECOND - 1, false), (SECOND, true)] {
            let said = Near::look(&near, ANN, &store.tier, 1, SECOND + after);
            assert_eq!(matches!(said, Said::Ask(_)), admitted);
        }
    }

    #[test]
    fn a_busy_caller_asks_seldom_and_a_quiet_one_loses_little() {
        let (near, mut store) = (
            Arc::new(Near::new(false, 100)),
            Store::of("100000/s burst 10000"),
        );
        // A call each millisecond for 2 s.
        let admitted = (0..2_000).filter(|ms| store.call(&near, 1, ms * SECOND / 1_000));
        assert_eq!(admitted.count(), 2_000);
        assert!(store.asked < 60, "{}", store.asked);
        // One each two seconds: what was taken for it shrinks to nothing.
        for turn in 2..20 {
            assert!(store.call(&near, 1, turn * 2 * SECOND));
        }
        let Said::Ask(asking) = Near::look(&near, ANN, &store.tier, 1, 40 * SECOND) else {
            panic!("nothing is left");
        };
        assert_eq!(asking.more, 0);
    }

    #[test]
    fn while_one_asks_for_more_nobody_else_does_and_a_dropped_question_counts_for_nothing() {
        let (near, tier) = (Arc::new(Near::new(false, 8)), tier("100/s"));
        let more = |said: &Said| match said {
            Said::Ask(asking) => asking.more,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            more(&Near::look(&near, ANN, &tier, 1, 0)),
            0,
            "nobody knows it yet"
        );
        let first = Near::look(&near, ANN, &tier, 1, 1);
        assert_eq!(more(&first), 1);
        assert_eq!(more(&Near::look(&near, ANN, &tier, 1, 2)), 0);
        drop(first);
        assert_eq!(more(&Near::look(&near, ANN, &tier, 1, 3)), 2);
    }

    #[test]
    fn there_are_never_more_callers_than_there_may_be() {
        let (near, tier) = (Arc::new(Near::new(true, 10)), tier("100/s"));
        for turn in 0..50_000_u64 {
            let who = (turn << 32, 0);
            drop(Near::look(&near, who, &tier, 1, turn * 10_000));
        }
        for shard in &near.shards {
            let shard = shard.lock().expect("no panic");
            assert!(shard.known.len() <= MOST);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// In every span of time all replicas together admit at most what the quota says and what they took beforehand.
        #[test]
        fn replicas_together_keep_to_the_stated_bound(
            lease in 0..9_u32,
            pre_check: bool,
            calls in proptest::collection::vec((0..3_usize, 0..60_u64, 1..3_u32), 1..400),
        ) {
            const BURST: u32 = 5;
            let replicas = [(); 3].map(|()| Arc::new(Near::new(pre_check, lease)));
            let mut store = Store::of("20/s burst 5");
            let interval = SECOND / 20;
            let mut admitted: VecDeque<(Nanos, u32)> = VecDeque::new();
            let mut now = SECOND;
            for (replica, pause, weight) in calls {
                now += pause * SECOND / 1_000;
                let near = replicas.get(replica).expect("one of three");
                if store.call(near, weight, now) {
                    admitted.push_back((now, weight));
                    let mut sum = 0;
                    for &(at, weight) in admitted.iter().rev() {
                        sum += u64::from(weight);
                        let most = u64::from(BURST + 3 * lease) * interval + (now - at);
                        prop_assert!(sum * interval <= most, "{sum} within {} ns", now - at);
                    }
                }
            }
        }
    }
}
