//! In this process: tables of fixed size, one behind each of some locks.

use std::{
    hash::RandomState,
    net::IpAddr,
    num::NonZeroUsize,
    sync::{Arc, PoisonError},
    time::Instant,
};
// Under test the schedule of all threads is that of a model checker, see `model`.
#[cfg(not(test))]
use std::sync::{Mutex, MutexGuard};

#[cfg(test)]
use shuttle::sync::{Mutex, MutexGuard};

use super::table::{Seats, Table, scale};
use crate::server::rate_limit::{
    gcra::{Nanos, Times, nanos},
    offenders::{Offender, Sketch},
    quota::MAX_QUOTAS,
    tier::{Refused, Tier},
};

/// Keys of one shard; fewer shards than this many keys need make no sense.
const KEYS_PER_SHARD: usize = 512;
const MOST_SHARDS: usize = 64;
/// Buckets that are swept under one hold of a lock.
const SWEPT_AT_ONCE: usize = 64;

/// The store of a layer.
#[derive(Debug)]
pub(in crate::server::rate_limit) struct Memory {
    shards: Box<[Mutex<Shard>]>,
    seats: Seats,
    /// What those share who find no room.
    overflow: Mutex<Times>,
    seed: RandomState,
    epoch: Instant,
}

/// What is kept of some of the callers. On cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Shard {
    table: Table,
    tiers: Vec<Arc<Tier>>,
    tallies: Vec<Tally>,
    sketch: Sketch,
}

/// What is asked of a store.
#[derive(Clone, Copy, Debug)]
pub(in crate::server::rate_limit) struct Ask {
    /// The hash of the caller's key.
    pub(in crate::server::rate_limit) who: u64,
    /// The place of the tier.
    pub(in crate::server::rate_limit) tier: usize,
    pub(in crate::server::rate_limit) weight: u32,
    /// Whether a refusal will not be carried out.
    pub(in crate::server::rate_limit) dry_run: bool,
    /// Whether the caller is told how it stands.
    pub(in crate::server::rate_limit) tell: bool,
}

/// What a store says.
#[derive(Debug)]
pub(in crate::server::rate_limit) enum Decision {
    /// Admitted, and nothing to be told.
    Admitted,
    /// Refused, if so, and nothing else to be told.
    Refused(Refused),
    /// The tier in force and how the caller stands, for whoever is told.
    Told {
        refused: Option<Refused>,
        tier: Arc<Tier>,
        times: Times,
    },
}

impl Decision {
    #[inline]
    pub(in crate::server::rate_limit) fn refused(&self) -> Option<Refused> {
        match self {
            Self::Admitted => None,
            Self::Refused(refused) => Some(*refused),
            Self::Told { refused, .. } => *refused,
        }
    }
}

/// How often a policy said what.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::server::rate_limit) struct Tally {
    pub(in crate::server::rate_limit) admitted: u64,
    pub(in crate::server::rate_limit) rejected: u64,
    pub(in crate::server::rate_limit) would_reject: u64,
    pub(in crate::server::rate_limit) degraded: u64,
}

impl Memory {
    /// A store of so many keys for these tiers.
    pub(in crate::server::rate_limit) fn new(
        max_keys: NonZeroUsize,
        tiers: &[Tier],
        epoch: Instant,
    ) -> Self {
        let shards = max_keys.get().div_ceil(KEYS_PER_SHARD).min(MOST_SHARDS);
        let keys = max_keys.get().div_ceil(shards);
        let times = tiers.iter().map(|tier| tier.paces().len()).max();
        let shard = || Shard {
            table: Table::new(keys, times.unwrap_or(MAX_QUOTAS)),
            tiers: tiers.iter().cloned().map(Arc::new).collect(),
            tallies: vec![Tally::default(); tiers.len()],
            sketch: Sketch::default(),
        };
        Self {
            shards: (0..shards).map(|_| Mutex::new(shard())).collect(),
            seats: Seats::new(max_keys.get()),
            overflow: Mutex::default(),
            seed: RandomState::new(),
            epoch,
        }
    }

    /// What keys are hashed by.
    pub(in crate::server::rate_limit) fn seed(&self) -> &RandomState {
        &self.seed
    }

    #[inline]
    pub(in crate::server::rate_limit) fn nanos(&self, now: Instant) -> Nanos {
        nanos(now.saturating_duration_since(self.epoch))
    }

    /// Decides. The address of the caller is asked for where a refusal is noted; `overflowed` is set if there was no room
    /// for its key.
    #[inline]
    pub(in crate::server::rate_limit) fn decide(
        &self,
        ask: &Ask,
        now: Nanos,
        address: impl FnOnce() -> Option<IpAddr>,
        overflowed: &mut bool,
    ) -> Decision {
        let hash = ask.who.max(1);
        let mut shard = self.shard_of(hash);
        let shard = &mut *shard;
        let tier = shard.tiers.get(ask.tier).expect("tiers are never removed");
        let slot = shard.table.find(hash);
        let mut times = slot.map_or_else(Times::default, |slot| shard.table.times(slot));
        let mut verdict = tier.spend(&mut times, ask.weight, now);
        if verdict.is_ok() && ask.weight > 0 {
            let slot = slot.or_else(|| shard.table.make_room(hash, now, &self.seats));
            match slot {
                Some(slot) => shard.table.set_times(slot, &times),
                None => {
                    *overflowed = true;
                    let mut shared = self.overflow.lock().unwrap_or_else(PoisonError::into_inner);
                    verdict = tier.spend(&mut shared, ask.weight, now);
                    times = *shared;
                }
            }
        }
        let refused = match verdict {
            Ok(()) => None,
            Err(refusal) => {
                shard.sketch.note(ask.who, address);
                Some(tier.refused(refusal))
            }
        };
        count(&mut shard.tallies, ask, refused.is_none());
        match refused {
            _ if ask.tell => Decision::Told {
                refused,
                tier: Arc::clone(tier),
                times,
            },
            Some(refused) => Decision::Refused(refused),
            None => Decision::Admitted,
        }
    }

    /// Counts what another store decided, and spends here what it admitted, so that this one is warm when it must decide.
    pub(in crate::server::rate_limit) fn follow(
        &self,
        ask: &Ask,
        admitted: bool,
        now: Nanos,
        address: Option<IpAddr>,
    ) {
        let hash = ask.who.max(1);
        let mut shard = self.shard_of(hash);
        let shard = &mut *shard;
        if !admitted {
            shard.sketch.note(ask.who, || address);
        }
        count(&mut shard.tallies, ask, admitted);
        let Some(tier) = shard
            .tiers
            .get(ask.tier)
            .filter(|_| admitted && ask.weight > 0)
        else {
            return;
        };
        let slot = shard.table.find(hash);
        let mut times = slot.map_or_else(Times::default, |slot| shard.table.times(slot));
        if tier.spend(&mut times, ask.weight, now).is_ok() {
            let slot = slot.or_else(|| shard.table.make_room(hash, now, &self.seats));
            if let Some(slot) = slot {
                shard.table.set_times(slot, &times);
            }
        }
    }

    /// Counts a call that was decided without the store it belongs to.
    pub(in crate::server::rate_limit) fn degraded(&self, ask: &Ask) {
        let mut shard = self.shard_of(ask.who.max(1));
        if let Some(tally) = shard.tallies.get_mut(ask.tier) {
            tally.degraded = tally.degraded.saturating_add(1);
        }
    }

    /// The policy of a call's tier as all replicas hold to it together.
    pub(in crate::server::rate_limit) fn whole_tier(&self, ask: &Ask) -> Arc<Tier> {
        let shard = self.shard_of(ask.who.max(1));
        let tier = shard.tiers.get(ask.tier).expect("tiers are never removed");
        tier.whole()
    }

    /// Spends what a call turned out to weigh.
    pub(in crate::server::rate_limit) fn charge(
        &self,
        hash: u64,
        tier: usize,
        weight: u32,
        now: Instant,
    ) {
        let now = self.nanos(now);
        let hash = hash.max(1);
        let mut shard = self.shard_of(hash);
        let shard = &mut *shard;
        let tier = shard.tiers.get(tier).expect("tiers are never removed");
        let known = shard.table.find(hash);
        match known.or_else(|| shard.table.make_room(hash, now, &self.seats)) {
            Some(slot) => {
                let mut times = shard.table.times(slot);
                tier.charge(&mut times, weight, now);
                shard.table.set_times(slot, &times);
            }
            None => {
                let mut shared = self.overflow.lock().unwrap_or_else(PoisonError::into_inner);
                tier.charge(&mut shared, weight, now);
            }
        }
    }

    /// The keys that do not have all of their burst. Looks at all of the store, a piece at a time.
    pub(in crate::server::rate_limit) fn keys(&self, now: Instant) -> usize {
        let now = self.nanos(now);
        for shard in &self.shards {
            let mut at = 0;
            loop {
                let table = &mut lock(shard).table;
                at = table.sweep(
                    at,
                    SWEPT_AT_ONCE.min(table.buckets().saturating_sub(at)),
                    now,
                    &self.seats,
                );
                if at == 0 {
                    break;
                }
            }
        }
        self.seats.taken()
    }

    /// What each tier said so far.
    pub(in crate::server::rate_limit) fn tallies(&self) -> Vec<(&'static str, Tally)> {
        let mut sums: Vec<(&'static str, Tally)> = Vec::new();
        for shard in &self.shards {
            let shard = lock(shard);
            if sums.is_empty() {
                let names = shard.tiers.iter().map(|tier| tier.policy());
                sums.extend(names.map(|name| (name, Tally::default())));
            }
            for ((_, sum), tally) in sums.iter_mut().zip(&shard.tallies) {
                sum.admitted = sum.admitted.saturating_add(tally.admitted);
                sum.rejected = sum.rejected.saturating_add(tally.rejected);
                sum.would_reject = sum.would_reject.saturating_add(tally.would_reject);
                sum.degraded = sum.degraded.saturating_add(tally.degraded);
            }
        }
        sums
    }

    /// Those who are rejected most, the worst first. A caller is always in the same shard: the sketches do not overlap.
    pub(in crate::server::rate_limit) fn offenders(&self, most: usize) -> Vec<Offender> {
        let of_shard = |shard| lock(shard).sketch.offenders().collect::<Vec<_>>();
        let mut offenders: Vec<Offender> = self.shards.iter().flat_map(of_shard).collect();
        offenders.sort_by_key(|offender| std::cmp::Reverse(offender.rejected));
        offenders.truncate(most);
        offenders
    }

    /// Changes a tier; what callers have spent stays spent.
    pub(in crate::server::rate_limit) fn set_tier(&self, place: usize, changed: &Tier) {
        for shard in &self.shards {
            if let Some(tier) = lock(shard).tiers.get_mut(place) {
                *tier = Arc::new(changed.clone());
            }
        }
    }

    /// The tiers in force.
    pub(in crate::server::rate_limit) fn tiers(&self) -> Vec<Arc<Tier>> {
        self.shards
            .first()
            .map_or_else(Vec::new, |shard| lock(shard).tiers.clone())
    }

    #[inline]
    fn shard_of(&self, hash: u64) -> MutexGuard<'_, Shard> {
        let shard = self.shards.get(scale(hash, self.shards.len()));
        lock(shard.expect("scaled to their number"))
    }
}

#[inline]
fn count(tallies: &mut [Tally], ask: &Ask, admitted: bool) {
    if let Some(tally) = tallies.get_mut(ask.tier) {
        let count = match admitted {
            true => &mut tally.admitted,
            false if ask.dry_run => &mut tally.would_reject,
            false => &mut tally.rejected,
        };
        *count = count.saturating_add(1);
    }
}

/// A panic while it is held is not to be had: what runs then neither calls out nor allocates more than a few bytes.
#[inline]
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
