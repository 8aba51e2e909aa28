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
    gcra::Nanos,
    report::{self, Due, Report},
    settings::Settings,
    store::{Ask, Decision, Memory},
};
use crate::{
    caller::Call,
    clock,
    rejection::{Reason, Rejection, RetryHint},
};

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
        let Some(ask) = this.ask(call) else {
            return (Admission::default(), this.missing_key(now));
        };
        let decision = this.memory.decide(&ask, now);
        this.report(decision.verdict.is_err(), decision.now);
        let rejection = rejection(&decision, ask.dry_run);
        let charged = settings.charge.is_some() && rejection.is_none();
        let charge = charged.then(|| {
            let this = Arc::clone(this);
            Charge::new(move |answer| {
                if let Some(weight) = this.settings.charge_of(&answer) {
                    let hash = ask.who.hash;
                    this.memory.charge(hash, ask.tier, weight, clock::now());
                }
            })
        });
        let told = Told::of(decision, ask.tell, settings.headers);
        (Admission::new(told, charge), rejection)
    }

    /// What is to be asked about a call; `None` if it has no key.
    #[inline]
    pub(super) fn ask(&self, call: &Call<'_>) -> Option<Ask> {
        let dry_run = self.dry_run.load(Ordering::Relaxed);
        Some(Ask {
            who: self.settings.key.identify(call, self.memory.seed())?,
            tier: self.settings.tier_of(call),
            weight: self.settings.weight_of(call),
            dry_run,
            tell: self.settings.headers.any() && !dry_run,
        })
    }

    /// Counts a call that has no key.
    pub(super) fn missing_key(&self, now: Instant) -> Option<Rejection> {
        self.tell_missing(now);
        let dry_run = self.dry_run.load(Ordering::Relaxed);
        (!dry_run).then(|| Rejection::new(Reason::MissingKey, LAYER))
    }

    /// Writes a line about rejections, if it is time for one.
    #[inline]
    pub(super) fn report(&self, rejects: bool, now: Nanos) {
        if self.rejections.due(rejects, now) == Due::Line {
            self.tell_rejections();
        }
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

/// The rejection that a decision comes to, unless it is only counted.
#[inline]
pub(super) fn rejection(decision: &Decision, dry_run: bool) -> Option<Rejection> {
    let (Err(refusal), Some(tier), false) = (&decision.verdict, &decision.tier, dry_run) else {
        return None;
    };
    let hint = refusal.wait.map_or(RetryHint::Never, RetryHint::After);
    let rejection = Rejection::new(Reason::RateLimited, LAYER).with_retry(hint);
    Some(rejection.with_which(tier.name_of(refusal.quota)))
}
