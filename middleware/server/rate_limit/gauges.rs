//! What `metrics` and a status page ask of a rate limit.

use super::RateLimitHandle;
use crate::gauge::{Gauges, Kind, Metric, Reading};

const DECISIONS: Metric = Metric::new(
    "plimsoll.rate_limit.decisions",
    Kind::Counter,
    "{call}",
    "Calls that were decided, by policy and decision.",
);
const KEYS: Metric = Metric::new(
    "plimsoll.rate_limit.keys",
    Kind::Gauge,
    "{key}",
    "Callers that have something to be given back.",
);
pub(crate) const FAULTS: Metric = Metric::new(
    "plimsoll.rate_limit.faults",
    Kind::Counter,
    "{call}",
    "Calls that were not limited as meant: without a key, of an unknown tier, without room for their key.",
);
pub(crate) const STORE_ERRORS: Metric = Metric::new(
    "plimsoll.store.errors",
    Kind::Counter,
    "{error}",
    "Decisions that a backing store did not make, by kind and by what was done instead.",
);

/// How often a store did not decide, by kind.
pub(super) trait StoreErrors: Send + Sync {
    /// The store, what is done without it, and each kind with its count.
    fn tell(&self, tell: &mut dyn FnMut(&'static str, &'static str, &'static str, u64));
}

impl Gauges for RateLimitHandle {
    fn metrics(&self) -> &'static [Metric] {
        match self.store {
            Some(_) => const { &[DECISIONS, KEYS, FAULTS, STORE_ERRORS] },
            None => const { &[DECISIONS, KEYS, FAULTS] },
        }
    }

    fn read(&self, tell: &mut dyn FnMut(Reading<'_>)) {
        for told in self.decisions() {
            for (decision, count) in [
                ("admitted", told.admitted),
                ("rejected", told.rejected),
                ("would_reject", told.would_reject),
                ("degraded", told.degraded),
            ] {
                let attributes = [("policy", told.policy), ("decision", decision)];
                tell(Reading::new(&DECISIONS, count).with(&attributes));
            }
        }
        let policy = ("policy", self.policy());
        let keys = u64::try_from(self.keys()).unwrap_or(u64::MAX);
        tell(Reading::new(&KEYS, keys).with(&[policy]));
        for (kind, count) in [
            ("missing_key", self.missing_keys()),
            ("unknown_tier", self.unknown_tiers()),
            ("no_room", self.overflowed()),
        ] {
            tell(Reading::new(&FAULTS, count).with(&[policy, ("kind", kind)]));
        }
        if let Some(store) = &self.store {
            store.tell(&mut |store, instead, kind, count| {
                let attributes = [("store", store), ("kind", kind), ("policy", instead)];
                tell(Reading::new(&STORE_ERRORS, count).with(&attributes));
            });
        }
    }
}
