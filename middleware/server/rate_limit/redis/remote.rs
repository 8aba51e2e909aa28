use std::{fmt, future::ready, sync::Arc, time::Duration};

use super::{
    Deciding, WhenAway,
    link::{Redis, jittered},
    script::{self, Question, StoreErrorKind},
};
use crate::{
    caller::Call,
    clock, context,
    rejection::{Reason, Rejection, RetryHint},
    server::rate_limit::{
        LAYER,
        admission::{Admission, Charge, Told},
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
    digest: script::Shared,
}

/// A call, once its key, tier and weight are known.
struct Known {
    ask: Ask,
    who: script::Who,
    tier: Arc<Tier>,
}

impl Remote {
    pub(super) fn new(shared: Arc<Shared>, redis: Redis, when_away: WhenAway) -> Self {
        let name = shared.settings.policy();
        Self {
            shared,
            redis,
            when_away,
            digest: script::Shared { name },
        }
    }

    /// What becomes of a call, and what its caller is told.
    pub(super) fn decide(this: &Arc<Self>, call: &Call<'_>) -> Deciding {
        let shared = &this.shared;
        let known = shared.ask(call).and_then(|ask| {
            let who = shared.settings.key.identify(call, &this.digest)?;
            let tier = shared.memory.whole_tier(ask.tier);
            Some(Known {
                ask,
                who: who.hash,
                tier,
            })
        });
        let Some(known) = known else {
            let rejection = shared.missing_key(clock::now());
            return Box::pin(ready((Admission::default(), rejection)));
        };
        let this = Arc::clone(this);
        Box::pin(async move { this.decided(known).await })
    }

    async fn decided(self: Arc<Self>, known: Known) -> (Admission, Option<Rejection>) {
        let (decision, degraded) = match self.known_beforehand(&known) {
            Some(verdict) => (self.follow(&known, verdict, Default::default()), None),
            None => match self
                .redis
                .ask(&known.question(known.ask.weight, false))
                .await
            {
                Ok(reply) => (self.follow(&known, reply.verdict, reply.owed), None),
                Err(kind) => {
                    note(self.when_away, kind);
                    self.shared.memory.degraded(&known.ask);
                    match self.without_redis(&known) {
                        Some(decision) => (decision, Some(self.when_away.label())),
                        None => return self.closed(),
                    }
                }
            },
        };
        let shared = &self.shared;
        let now = shared.memory.nanos(clock::now());
        shared.report(decision.verdict.is_err(), now);
        let rejection = rejection(&decision, known.ask.dry_run);
        let told = Told::of(decision, known.ask.tell, shared.settings.headers);
        let charged = shared.settings.charge.is_some() && rejection.is_none();
        let charge = charged.then(|| {
            let this = Arc::clone(&self);
            Charge::new(move |answer| this.charge(&known, &answer))
        });
        (Admission::new(told, charge).degraded(degraded), rejection)
    }

    /// What needs no look at what was spent.
    fn known_beforehand(&self, known: &Known) -> Option<Result<(), Refusal>> {
        let weight = known.ask.weight;
        if weight == 0 {
            return Some(Ok(()));
        }
        let quota = known
            .tier
            .paces()
            .iter()
            .position(|pace| weight > pace.burst)?;
        Some(Err(Refusal { quota, wait: None }))
    }

    fn follow(&self, known: &Known, verdict: Result<(), Refusal>, owed: [u64; 4]) -> Decision {
        self.shared
            .memory
            .follow(&known.ask, verdict.is_ok(), clock::now());
        Decision {
            verdict,
            tier: Some(Arc::clone(&known.tier)),
            times: owed,
            now: 0,
        }
    }

    /// `None`: rejected, whoever it is.
    fn without_redis(&self, known: &Known) -> Option<Decision> {
        match self.when_away {
            _ if known.ask.dry_run => Some(Decision::unasked()),
            WhenAway::Open => Some(Decision::unasked()),
            WhenAway::Local { .. } => Some(self.shared.memory.decide(&known.ask, clock::now())),
            WhenAway::Closed => None,
        }
    }

    fn closed(&self) -> (Admission, Option<Rejection>) {
        let hint = RetryHint::After(jittered(COME_AGAIN));
        let rejection = Rejection::new(Reason::StoreError, LAYER).with_retry(hint);
        let admission = Admission::default().degraded(Some(self.when_away.label()));
        (admission, Some(rejection))
    }

    /// Spends what a call turned out to weigh, in the background: the answer has left already.
    fn charge(&self, known: &Known, answer: &Answer) {
        let Some(weight) = self.shared.settings.charge_of(answer) else {
            return;
        };
        if !self.redis.is_there() {
            let (hash, tier) = (known.ask.who.hash, known.ask.tier);
            self.shared.memory.charge(hash, tier, weight, clock::now());
        }
        let (redis, question) = (self.redis.clone(), known.question(weight, true));
        // swallow: plimsoll.store.errors what Redis does not take is counted there, by its kind
        drop(task::spawn("rate_limit_charge", async move {
            redis.ask(&question).await.is_ok()
        }));
    }
}

impl Known {
    fn question(&self, weight: u32, forced: bool) -> Question {
        Question {
            who: self.who,
            weight,
            forced,
            paces: self.tier.paces().to_vec(),
        }
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
