use std::{
    collections::BTreeMap,
    error::Error,
    fmt,
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
};

use http::StatusCode;

use super::{headers::QuotaHeaders, quota::Quotas, tier::Tier};
use crate::{
    caller::{Call, Key},
    context::Route,
};

/// How a call ended, for what is charged after the fact.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Answer {
    /// The status of HTTP; `None` if there was no head.
    pub status: Option<StatusCode>,
    /// Bytes of the response's body that were handed on.
    pub bytes: u64,
}

type TierOf = dyn Fn(&Call<'_>) -> Option<&'static str> + Send + Sync;
type Weigh = dyn Fn(&Call<'_>) -> u32 + Send + Sync;
type Charge = dyn Fn(&Answer) -> u32 + Send + Sync;

/// The name of the layer's own policy, until it is given another.
pub(super) const POLICY: &str = "default";

/// What a rate limit was told.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) key: Key,
    /// The layer's own policy first.
    pub(super) policies: Vec<(&'static str, Quotas)>,
    pub(super) tier_of: Option<Arc<TierOf>>,
    pub(super) weigh: Option<Arc<Weigh>>,
    pub(super) routes: BTreeMap<String, u32>,
    pub(super) charge: Option<Arc<Charge>>,
    pub(super) headers: QuotaHeaders,
    pub(super) max_keys: NonZeroUsize,
    pub(super) dry_run: bool,
    /// Of how many replicas this one has its share, where it decides alone.
    pub(super) replicas: NonZeroU32,
}

impl Settings {
    pub(super) fn tiers(&self) -> Vec<Tier> {
        let policies = self.policies.iter();
        policies
            .map(|(name, quotas)| Tier::share(name, quotas.clone(), self.replicas))
            .collect()
    }

    /// The name of the layer's own policy.
    pub(super) fn policy(&self) -> &'static str {
        self.policies.first().map_or(POLICY, |(name, _)| name)
    }

    pub(super) fn rename(&mut self, policy: &'static str) {
        if let Some((name, _)) = self.policies.first_mut() {
            *name = policy;
        }
    }

    pub(super) fn set_policy(&mut self, policy: &'static str, quotas: Quotas) {
        match self.policies.iter_mut().find(|(name, _)| *name == policy) {
            Some((_, known)) => *known = quotas,
            None => self.policies.push((policy, quotas)),
        }
    }

    pub(super) fn place_of(&self, policy: &str) -> Option<usize> {
        self.policies.iter().position(|(name, _)| *name == policy)
    }

    /// The place of the tier of this call; its name if there is none of that name. Who has none is of the first.
    #[inline]
    pub(super) fn tier_of(&self, call: &Call<'_>) -> Result<usize, &'static str> {
        match self.tier_of.as_ref().and_then(|tier_of| tier_of(call)) {
            Some(name) => self.place_of(name).ok_or(name),
            None => Ok(0),
        }
    }

    /// What this call weighs beforehand.
    #[inline]
    pub(super) fn weight_of(&self, call: &Call<'_>) -> u32 {
        if let Some(weigh) = &self.weigh {
            return weigh(call);
        }
        if self.routes.is_empty() {
            return 1;
        }
        let matched = Route::of(call.extensions);
        let route = matched
            .as_ref()
            .map_or_else(|| call.uri.path(), Route::as_str);
        self.routes.get(route).copied().unwrap_or(1)
    }

    /// What an ended call is charged, if anything.
    pub(super) fn charge_of(&self, answer: &Answer) -> Option<u32> {
        let weight = self.charge.as_ref().map(|charge| charge(answer));
        weight.filter(|&weight| weight > 0)
    }

    pub(super) fn heaviest_route(&self) -> Option<u32> {
        self.routes.values().copied().max()
    }

    /// Whether each route fits into each burst.
    pub(super) fn check_weights(&self) -> Result<(), InvalidWeight> {
        let bursts = self.policies.iter().map(|(_, quotas)| quotas.max_weight());
        let burst = bursts.min().unwrap_or_default();
        match self.routes.iter().find(|&(_, &weight)| weight > burst) {
            Some((route, &weight)) => Err(InvalidWeight {
                route: route.clone(),
                weight,
                burst,
            }),
            None => Ok(()),
        }
    }

    pub(super) fn most_quotas(&self) -> usize {
        let quotas = self
            .policies
            .iter()
            .map(|(_, quotas)| quotas.as_slice().len());
        quotas.max().unwrap_or_default()
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("key", &self.key)
            .field("policies", &self.policies)
            .field("routes", &self.routes)
            .field("headers", &self.headers)
            .field("max_keys", &self.max_keys)
            .finish_non_exhaustive()
    }
}

/// A weight that no burst has room for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidWeight {
    /// The route.
    pub route: String,
    /// What it weighs.
    pub weight: u32,
    /// The smallest burst of all quotas.
    pub burst: u32,
}

impl fmt::Display for InvalidWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            route,
            weight,
            burst,
        } = self;
        write!(
            f,
            "`{}` weighs {weight}, more than a burst of {burst}",
            route.escape_debug()
        )
    }
}

impl Error for InvalidWeight {}
