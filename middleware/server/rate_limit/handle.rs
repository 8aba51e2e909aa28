use std::{
    error::Error,
    fmt,
    sync::{Arc, atomic::Ordering},
};

use super::{
    gauges::StoreErrors, offenders::Offender, quota::Quotas, settings::POLICY, shared::Shared,
    tier::Tier,
};
use crate::clock;

/// What an operator asks of a rate limit, and changes of it while it runs. Clones speak of the same one. It is
/// [`Gauges`](crate::gauge::Gauges), for `metrics` to watch.
///
/// ```
/// # use plimsoll::server::rate_limit::{Key, Quota, RateLimitLayer};
/// let layer = RateLimitLayer::new(Key::peer(), Quota::per_second(100).burst(50)?);
/// let handle = layer.handle();
/// // In a route for operators only:
/// handle.set_quotas("default", Quota::per_second(20).burst(20)?)?;
/// for offender in handle.top_offenders(10) {
///     println!("{} was rejected {} times", offender.key, offender.rejected);
/// }
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct RateLimitHandle {
    shared: Arc<Shared>,
    /// Where quotas hold for many replicas.
    pub(super) store: Option<Arc<dyn StoreErrors>>,
}

/// What one policy said so far: `plimsoll.rate_limit.decisions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Decisions {
    /// The name of the policy: the layer's or the tier's.
    pub policy: &'static str,
    /// Calls that fitted in.
    pub admitted: u64,
    /// Calls that were rejected.
    pub rejected: u64,
    /// Calls that a dry run let pass.
    pub would_reject: u64,
    /// Calls that were decided without the store they belong to, because it was away.
    pub degraded: u64,
}

impl RateLimitHandle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            store: None,
        }
    }

    /// The name of the layer's own policy.
    pub fn policy(&self) -> &'static str {
        self.shared.policy()
    }

    /// What each policy said so far.
    pub fn decisions(&self) -> Vec<Decisions> {
        let tallies = self.shared.memory.tallies().into_iter();
        tallies
            .map(|(policy, tally)| Decisions {
                policy,
                admitted: tally.admitted,
                rejected: tally.rejected,
                would_reject: tally.would_reject,
                degraded: tally.degraded,
            })
            .collect()
    }

    /// Callers that have something to be given back: `plimsoll.rate_limit.keys`. Never more than
    /// [`max_keys`](super::RateLimitLayer::max_keys). It looks at the whole store, some milliseconds for a million keys,
    /// without holding anyone up.
    pub fn keys(&self) -> usize {
        self.shared.memory.keys(clock::now())
    }

    /// Calls for whose key there was no room, so that they shared one quota.
    pub fn overflowed(&self) -> u64 {
        self.shared.faults.no_room.calls()
    }

    /// Calls that had no key: a fault of the wiring.
    pub fn missing_keys(&self) -> u64 {
        self.shared.faults.missing_key.calls()
    }

    /// Calls of a tier that the layer does not have: a fault of the wiring. They were held to its own policy.
    pub fn unknown_tiers(&self) -> u64 {
        self.shared.faults.unknown_tier.calls()
    }

    /// Who was rejected most since the start, the worst first, at most so many (and at most 512). A key that is no
    /// address is shown as a hash. The numbers are those of a sketch in fixed memory; see [`Offender`].
    pub fn top_offenders(&self, most: usize) -> Vec<Offender> {
        self.shared.memory.offenders(most)
    }

    /// The quotas of a policy.
    pub fn quotas(&self, policy: &str) -> Option<Quotas> {
        let tiers = self.shared.memory.tiers();
        let tier = tiers.iter().find(|tier| tier.policy() == policy)?;
        Some(tier.quotas().clone())
    }

    /// How many quotas a policy may have: there is room for no more.
    pub(crate) fn most_quotas(&self) -> usize {
        self.shared.settings.most_quotas()
    }

    /// Changes the quotas of a policy. What callers have spent stays spent: whoever would have waited so long for all of
    /// its burst still does, and has calls of the new quota by then.
    ///
    /// # Errors
    ///
    /// There is no such policy, more quotas than any policy had at first, or a route weighs more than a burst.
    pub fn set_quotas(&self, policy: &str, quotas: impl Into<Quotas>) -> Result<(), InvalidChange> {
        let (settings, quotas) = (&self.shared.settings, quotas.into());
        let tier = settings
            .place_of(policy)
            .ok_or(InvalidChange::NoSuchPolicy)?;
        if let Some(weight) = settings
            .heaviest_route()
            .filter(|&weight| weight > quotas.max_weight())
        {
            return Err(InvalidChange::TooLittle { weight });
        }
        let most = settings.most_quotas();
        if quotas.as_slice().len() > most {
            return Err(InvalidChange::TooMany { most });
        }
        let name = settings
            .policies
            .get(tier)
            .map_or(POLICY, |policy| policy.0);
        let changed = Tier::share(name, quotas, settings.replicas);
        self.shared.memory.set_tier(tier, &changed);
        Ok(())
    }

    /// Whether calls pass and are only counted.
    pub fn is_dry_run(&self) -> bool {
        self.shared.dry_run.load(Ordering::Relaxed)
    }

    /// Lets all calls pass and counts those that would be rejected, or ends that.
    pub fn set_dry_run(&self, dry_run: bool) {
        self.shared.dry_run.store(dry_run, Ordering::Relaxed);
    }
}

impl fmt::Debug for RateLimitHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitHandle")
            .field("decisions", &self.decisions())
            .finish_non_exhaustive()
    }
}

/// Why quotas were not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidChange {
    /// The layer has no policy of that name.
    NoSuchPolicy,
    /// More quotas than the store keeps times of.
    TooMany {
        /// The most that any policy had when the layer was made.
        most: usize,
    },
    /// A route weighs more than a whole burst.
    TooLittle {
        /// The weight of that route.
        weight: u32,
    },
}

impl fmt::Display for InvalidChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchPolicy => f.write_str("there is no policy of that name"),
            Self::TooMany { most } => write!(f, "the store has room for {most} quotas a policy"),
            Self::TooLittle { weight } => {
                write!(f, "a route weighs {weight}, more than a whole burst")
            }
        }
    }
}

impl Error for InvalidChange {}
