use std::{fmt, net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use tokio::runtime::Handle;

use super::{
    WhenAway,
    link::{Redis, jittered},
    near::{Asking, Near, Said},
    script::{self, ErrorCounts, Question, StoreErrorKind},
};
use crate::{
    caller::Call,
    clock, context,
    rejection::{Reason, Rejection, RetryHint},
    server::rate_limit::{
        LAYER,
        admission::{Admission, Charge},
        gauges::StoreErrors,
        gcra::{Nanos, Times},
        settings::Answer,
        shared::{Shared, rejection},
        store::{Ask, Decision},
        tier::{Refusal, Tier},
    },
    task,
};

/// A rejected caller of a store that is away comes again after this time at the latest.
const COME_AGAIN: Duration = Duration::from_secs(2);

/// A limit that is decided in Redis.
pub(super) struct Remote {
    /// What is counted and told, and the share of this replica.
    pub(super) shared: Arc<Shared>,
    redis: Redis,
    when_away: WhenAway,
    near: Arc<Near>,
    digest: script::Shared,
    errors: ErrorCounts,
}

/// A call, once its key, tier and weight are known.
struct Known {
    ask: Ask,
    address: Option<IpAddr>,
    /// The caller as Redis knows it; `None` where Redis is not asked.
    who: Option<script::Who>,
    tier: Arc<Tier>,
}

/// What becomes of a call, and what its caller is told.
pub(super) type Decided = (Admission, Option<Rejection>);

/// A decision, now or once Redis has answered.
pub(super) enum Deciding {
    Now(Decided),
    Later(Later),
}

/// Boxed: it waits for a round trip.
pub(super) type Later = Pin<Box<dyn Future<Output = Decided> + Send>>;

impl Remote {
    pub(super) fn new(
        shared: Arc<Shared>,
        redis: Redis,
        when_away: WhenAway,
        pre_check: bool,
        lease: u32,
    ) -> Self {
        let name = shared.settings.policy();
        Self {
            shared,
            redis,
            when_away,
            near: Arc::new(Near::new(pre_check, lease)),
            digest: script::Shared { name },
            errors: ErrorCounts::default(),
        }
    }

    /// The same limit, with other settings of what is known nearby.
    pub(super) fn with(&self, pre_check: bool, lease: u32) -> Self {
        let (shared, redis) = (Arc::clone(&self.shared), self.redis.clone());
        Self::new(shared, redis, self.when_away, pre_check, lease)
    }

    pub(super) fn near(&self) -> &Near {
        &self.near
    }

    /// What becomes of a call.
    pub(super) fn decide(this: &Arc<Self>, call: &Call<'_>) -> Deciding {
        let (shared, now) = (&this.shared, this.now());
        let missing = || Deciding::Now((Admission::default(), shared.missing_key(now)));
        let Some(ask) = shared.ask(call, now) else {
            return missing();
        };
        let tier = shared.memory.whole_tier(&ask);
        let said = Near::look(&this.near, (ask.who, ask.tier), &tier, ask.weight, now);
        let who = match said {
            Said::Ask(_) => shared.settings.key.identify(call, &this.digest),
            _ if shared.settings.charge.is_some() => {
                shared.settings.key.identify(call, &this.digest)
            }
            _ => None,
        };
        let known = Known {
            ask,
            address: shared.settings.key.address(call),
            who,
            tier,
        };
        let (verdict, times) = match said {
            Said::Admitted(times) => (Ok(()), times),
            Said::Refused(refusal, times) => (Err(refusal), times),
            Said::Ask(asking) => {
                let Some(question) = known.question(known.ask.weight, asking.more, false) else {
                    return missing();
                };
                let this = Arc::clone(this);
                let later = async move { this.asked(known, question, asking).await };
                return Deciding::Later(Box::pin(later));
            }
        };
        let decision = this.follow(&known, verdict, times, now);
        Deciding::Now(Self::settled(this, known, decision, now))
    }

    async fn asked(self: Arc<Self>, known: Known, question: Question, asking: Asking) -> Decided {
        match self.redis.ask(&question).await {
            Ok(reply) => {
                let now = self.now();
                let times = asking.told(&reply, &known.tier, now);
                let decision = self.follow(&known, reply.verdict, times, now);
                Self::settled(&self, known, decision, now)
            }
            Err(kind) => {
                drop(asking);
                self.errors.count(kind);
                note(self.when_away, kind);
                self.shared.memory.degraded(&known.ask);
                let Some(decision) = self.without_redis(&known) else {
                    return self.closed();
                };
                let (mut admission, rejection) = Self::settled(&self, known, decision, self.now());
                admission.degraded = Some(self.when_away.label());
                (admission, rejection)
            }
        }
    }

    fn settled(this: &Arc<Self>, known: Known, decision: Decision, now: Nanos) -> Decided {
        let shared = &this.shared;
        let refused = decision.refused();
        shared.report(refused.is_some(), now);
        let rejection = rejection(refused, known.ask.dry_run);
        let mut admission = shared.told(decision, now);
        if shared.settings.charge.is_some() && rejection.is_none() {
            let this = Arc::clone(this);
            let charge = Charge::new(move |answer| this.charge(&known, &answer));
            admission.charge = Some(Box::new(charge));
        }
        (admission, rejection)
    }

    fn now(&self) -> Nanos {
        self.shared.memory.nanos(clock::now())
    }

    /// Counts what was decided elsewhere, and spends here what was admitted.
    fn follow(
        &self,
        known: &Known,
        verdict: Result<(), Refusal>,
        times: Times,
        now: Nanos,
    ) -> Decision {
        let memory = &self.shared.memory;
        memory.follow(&known.ask, verdict.is_ok(), now, known.address);
        let refused = verdict.err().map(|refusal| known.tier.refused(refusal));
        match refused {
            _ if known.ask.tell => Decision::Told {
                refused,
                tier: Arc::clone(&known.tier),
                times,
            },
            Some(refused) => Decision::Refused(refused),
            None => Decision::Admitted,
        }
    }

    /// `None`: rejected, whoever it is.
    fn without_redis(&self, known: &Known) -> Option<Decision> {
        match self.when_away {
            _ if known.ask.dry_run => Some(Decision::Admitted),
            WhenAway::Open => Some(Decision::Admitted),
            WhenAway::Local { .. } => Some(self.alone(known)),
            WhenAway::Closed => None,
        }
    }

    /// Decided by this replica's share.
    fn alone(&self, known: &Known) -> Decision {
        let (now, mut overflowed) = (self.now(), false);
        let memory = &self.shared.memory;
        let decision = memory.decide(&known.ask, now, || known.address, &mut overflowed);
        if overflowed {
            self.shared.no_room(now);
        }
        decision
    }

    fn closed(&self) -> (Admission, Option<Rejection>) {
        let hint = RetryHint::After(jittered(COME_AGAIN));
        let rejection = Rejection::new(Reason::StoreError, LAYER).with_retry(hint);
        let admission = Admission {
            degraded: Some(self.when_away.label()),
            ..Admission::default()
        };
        (admission, Some(rejection))
    }

    /// Spends what a call turned out to weigh, in the background: the answer has left already.
    fn charge(self: &Arc<Self>, known: &Known, answer: &Answer) {
        let Some(weight) = self.shared.settings.charge_of(answer) else {
            return;
        };
        if !self.redis.is_there() {
            let (hash, tier) = (known.ask.who, known.ask.tier);
            self.shared.memory.charge(hash, tier, weight, clock::now());
        }
        let Some(question) = known.question(weight, 0, true) else {
            return;
        };
        if Handle::try_current().is_err() {
            // The runtime is gone, and with it whoever could send it.
            self.errors.count(StoreErrorKind::Away);
            return;
        }
        let this = Arc::clone(self);
        // swallow: plimsoll.store.errors what Redis does not take is counted there, by its kind
        drop(task::spawn("rate_limit_charge", async move {
            if let Err(kind) = this.redis.ask(&question).await {
                this.errors.count(kind);
            }
        }));
    }
}

impl StoreErrors for Remote {
    fn tell(&self, tell: &mut dyn FnMut(&'static str, &'static str, &'static str, u64)) {
        for (kind, errors) in self.errors.counts() {
            tell("redis", self.when_away.label(), kind.label(), errors);
        }
    }
}

impl Known {
    fn question(&self, weight: u32, more: u32, forced: bool) -> Option<Question> {
        Some(Question {
            who: self.who?,
            weight,
            forced,
            more,
            paces: self.tier.paces().to_vec(),
        })
    }
}

/// Puts it on the line of the call.
fn note(when_away: WhenAway, kind: StoreErrorKind) {
    context::update(|frame| {
        let journal = frame.journal_mut();
        journal.set_field("store", when_away.label().into());
        journal.set_field("store_error", kind.label().into());
    });
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisRateLimitLayer")
            .field("settings", &self.shared.settings)
            .field("redis", &self.redis)
            .field("when_away", &self.when_away)
            .finish()
    }
}
