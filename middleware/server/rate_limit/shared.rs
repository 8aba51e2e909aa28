use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use super::{
    LAYER,
    admission::{Admission, Charge, Told},
    key::Call,
    report::{self, Due, Report},
    settings::Settings,
    store::{Ask, Memory},
    tier::{Refusal, Tier},
};
use crate::rejection::{Reason, Rejection, RetryHint};

/// What the services, the handles and the calls of one layer share.
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) memory: Memory,
    pub(super) dry_run: AtomicBool,
    pub(super) missing: AtomicU64,
    rejections: Report,
    faults: Report,
}

impl Shared {
    pub(super) fn new(settings: Settings, now: Instant) -> Self {
        Self {
            memory: Memory::new(settings.max_keys, &settings.tiers(), now),
            dry_run: AtomicBool::new(settings.dry_run),
            missing: AtomicU64::new(0),
            rejections: Report::default(),
            faults: Report::default(),
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
        let settings = &this.settings;
        let dry_run = this.dry_run.load(Ordering::Relaxed);
        let Some(who) = settings.key.identify(call, this.memory.seed()) else {
            this.tell_missing(now);
            let rejection = (!dry_run).then(|| Rejection::new(Reason::MissingKey, LAYER));
            return (Admission::default(), rejection);
        };
        let ask = Ask {
            who,
            tier: settings.tier_of(call),
            weight: settings.weight_of(call),
            dry_run,
            tell: settings.headers.any() && !dry_run,
        };
        let decision = this.memory.decide(&ask, now);
        if this.rejections.due(decision.verdict.is_err(), decision.now) == Due::Line {
            this.tell_rejections();
        }
        let rejection = match (&decision.verdict, &decision.tier) {
            (Err(refusal), Some(tier)) if !dry_run => Some(rejection(refusal, tier)),
            _ => None,
        };
        let charged = settings.charge.is_some() && rejection.is_none();
        let charge = charged.then(|| Charge::new(this, &ask));
        let told = Told::of(decision, ask.tell, settings.headers);
        (Admission::new(told, charge), rejection)
    }

    #[cold]
    fn tell_missing(&self, now: Instant) {
        let missing = self
            .missing
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        if self.faults.due(true, self.memory.nanos(now)) == Due::Line {
            let calls = self.faults.news(missing);
            tracing::error!(
                event = "rate_limit_missing_key",
                policy = self.policy(),
                calls,
                key = ?self.settings.key,
                "calls have no key to be told apart by: is the address of the peer passed on?"
            );
        }
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
            let top = report::list(&self.memory.offenders(report::NAMED));
            tracing::warn!(
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

    fn policy(&self) -> &'static str {
        self.settings.policy()
    }
}

/// What no line has told yet is told now.
impl Drop for Shared {
    fn drop(&mut self) {
        self.tell_rejections();
    }
}

fn rejection(refusal: &Refusal, tier: &Tier) -> Rejection {
    let hint = refusal.wait.map_or(RetryHint::Never, RetryHint::After);
    Rejection::new(Reason::RateLimited, LAYER)
        .retry(hint)
        .which(tier.name_of(refusal.quota))
}
