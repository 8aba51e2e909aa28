use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use super::{
    LAYER,
    admission::{Admission, Charge, Told},
    faults::Faults,
    gcra::{Nanos, Times, millis},
    offenders::{self, NAMED},
    settings::Settings,
    store::{Ask, Decision, Memory},
    tier::{Refused, Tier},
};
use crate::{
    caller::Call,
    clock,
    rejection::{Reason, Rejection, RetryHint},
    report::Report,
};

/// Where the lines of a rate limit come from.
pub(super) const TARGET: &str = "plimsoll::rate_limit";

/// What the services, the handles and the calls of one layer share.
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) memory: Memory,
    pub(super) dry_run: AtomicBool,
    pub(super) faults: Faults,
    rejections: Report,
}

impl Shared {
    pub(super) fn new(settings: Settings, now: Instant) -> Self {
        Self {
            memory: Memory::new(settings.max_keys, &settings.tiers(), now),
            dry_run: AtomicBool::new(settings.dry_run),
            faults: Faults::default(),
            rejections: Report::default(),
            settings,
        }
    }

    /// What becomes of a call, and what its caller is told.
    #[inline]
    pub(super) fn decide(
        this: &Arc<Self>,
        call: &Call<'_>,
        now: Instant,
    ) -> (Admission, Option<Rejection>) {
        let now = this.memory.nanos(now);
        let Some(ask) = this.ask(call, now) else {
            return (Admission::default(), this.missing_key(now));
        };
        let (address, mut overflowed) = (|| this.settings.key.address(call), false);
        let decision = this.memory.decide(&ask, now, address, &mut overflowed);
        if overflowed {
            this.no_room(now);
        }
        let charges = this.settings.charge.is_some();
        // What is admitted and not charged is ready here: less is copied than on the way of the others.
        let admission = match decision {
            Decision::Admitted if !charges => Admission::default(),
            Decision::Told {
                refused: None,
                tier,
                times,
            } if !charges => Admission {
                told: Some(this.tell(tier, times, now)),
                ..Admission::default()
            },
            other => return Self::settle(this, &ask, other, now),
        };
        this.report(false, now);
        (admission, None)
    }

    /// What more there is to do for a call that was decided.
    #[inline(never)]
    fn settle(
        this: &Arc<Self>,
        ask: &Ask,
        decision: Decision,
        now: Nanos,
    ) -> (Admission, Option<Rejection>) {
        let refused = decision.refused();
        this.report(refused.is_some(), now);
        let rejection = rejection(refused, ask.dry_run);
        let mut admission = this.told(decision, now);
        if this.settings.charge.is_some() && rejection.is_none() {
            admission.charge = Some(Self::charge(this, ask));
        }
        (admission, rejection)
    }

    /// What is to be asked about a call; `None` if it has no key.
    #[inline]
    pub(super) fn ask(&self, call: &Call<'_>, now: Nanos) -> Option<Ask> {
        let dry_run = self.dry_run.load(Ordering::Relaxed);
        let tier = self.settings.tier_of(call);
        Some(Ask {
            who: self.settings.key.identify(call, self.memory.seed())?,
            tier: tier.unwrap_or_else(|unknown| self.unknown_tier(unknown, now)),
            weight: self.settings.weight_of(call),
            dry_run,
            tell: self.settings.headers.any() && !dry_run,
        })
    }

    /// What the caller is told of a decision.
    #[inline]
    pub(super) fn told(&self, decision: Decision, now: Nanos) -> Admission {
        let told = match decision {
            Decision::Admitted | Decision::Refused(_) => None,
            Decision::Told { tier, times, .. } => Some(self.tell(tier, times, now)),
        };
        Admission {
            told,
            ..Admission::default()
        }
    }

    #[inline]
    fn tell(&self, tier: Arc<Tier>, times: Times, now: Nanos) -> Told {
        Told {
            tier,
            times,
            now,
            headers: self.settings.headers,
        }
    }

    /// Writes a line about rejections, if it is time for one.
    #[inline]
    pub(super) fn report(&self, rejects: bool, now: Nanos) {
        if self.rejections.is_due(rejects, millis(now)) {
            self.tell_rejections();
        }
    }

    #[cold]
    fn charge(this: &Arc<Self>, ask: &Ask) -> Box<Charge> {
        let (this, hash, tier) = (Arc::clone(this), ask.who, ask.tier);
        Box::new(Charge::new(move |answer| {
            if let Some(weight) = this.settings.charge_of(&answer) {
                this.memory.charge(hash, tier, weight, clock::now());
            }
        }))
    }

    /// Counts a call that has no key.
    #[cold]
    pub(super) fn missing_key(&self, now: Nanos) -> Option<Rejection> {
        if let Some(calls) = self.faults.missing_key.count(now) {
            self.tell_missing(calls);
        }
        let dry_run = self.dry_run.load(Ordering::Relaxed);
        (!dry_run).then(|| Rejection::new(Reason::MissingKey, LAYER))
    }

    /// Counts a call of a tier that there is not: it is held to the layer's own policy.
    #[cold]
    fn unknown_tier(&self, tier: &'static str, now: Nanos) -> usize {
        if let Some(calls) = self.faults.unknown_tier.count(now) {
            self.tell_unknown(tier, calls);
        }
        0
    }

    /// Counts a call for whose key there was no room.
    #[cold]
    pub(super) fn no_room(&self, now: Nanos) {
        if let Some(calls) = self.faults.no_room.count(now) {
            self.tell_no_room(calls);
        }
    }

    fn tell_missing(&self, calls: u64) {
        tracing::error!(
            target: TARGET,
            event = "rate_limit_missing_key",
            policy = self.policy(),
            calls,
            key = ?self.settings.key,
            "calls have no key to be told apart by; addresses of peers need plimsoll's feature `axum` and \
             `into_make_service_with_connect_info::<SocketAddr>()`, or its feature `tonic`"
        );
    }

    fn tell_unknown(&self, tier: &str, calls: u64) {
        tracing::warn!(
            target: TARGET,
            event = "rate_limit_unknown_tier",
            policy = self.policy(),
            calls,
            tier,
            "`tier_of` told a tier that the layer does not have: its own policy holds"
        );
    }

    fn tell_no_room(&self, calls: u64) {
        tracing::warn!(
            target: TARGET,
            event = "rate_limit_no_room",
            policy = self.policy(),
            calls,
            max_keys = self.settings.max_keys,
            "there is no room for more keys: callers who come new share one quota"
        );
    }

    #[cold]
    fn tell_rejections(&self) {
        let (mut rejected, mut would_reject) = (0_u64, 0_u64);
        for (_, tally) in self.memory.tallies() {
            rejected = rejected.saturating_add(tally.rejected);
            would_reject = would_reject.saturating_add(tally.would_reject);
        }
        let calls = self.rejections.news(rejected.saturating_add(would_reject));
        if calls > 0 {
            let top = offenders::list(&self.memory.offenders(NAMED));
            tracing::warn!(
                target: TARGET,
                event = "rate_limited",
                policy = self.policy(),
                calls,
                rejected,
                would_reject,
                top,
                "calls were over their quota"
            );
        }
    }

    pub(super) fn policy(&self) -> &'static str {
        self.settings.policy()
    }
}

/// What no line has told yet is told now.
impl Drop for Shared {
    fn drop(&mut self) {
        self.tell_rejections();
        let faults = &self.faults;
        if let Some(calls) = faults.missing_key.untold() {
            self.tell_missing(calls);
        }
        if let Some(calls) = faults.unknown_tier.untold() {
            self.tell_unknown("", calls);
        }
        if let Some(calls) = faults.no_room.untold() {
            self.tell_no_room(calls);
        }
    }
}

/// The rejection that a decision comes to, unless it is only counted.
#[inline]
pub(super) fn rejection(refused: Option<Refused>, dry_run: bool) -> Option<Rejection> {
    let refused = refused.filter(|_| !dry_run)?;
    let hint = refused.wait.map_or(RetryHint::Never, RetryHint::After);
    let rejection = Rejection::new(Reason::RateLimited, LAYER).with_retry(hint);
    Some(rejection.with_which(refused.which))
}
