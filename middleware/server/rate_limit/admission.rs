use std::{fmt, sync::Arc};

use http::{HeaderName, HeaderValue, Response};
use http_body::Body;

use super::{
    gcra::{Nanos, Times},
    headers::{self, QuotaHeaders},
    settings::Answer,
    store::Decision,
    tier::Tier,
};
use crate::observe::{End, Observer};

const DEGRADED: HeaderName = HeaderName::from_static("x-plimsoll-degraded");

/// What is left to do for a call that was decided: tell its caller, and charge it for what it turned out to be.
#[derive(Debug, Default)]
pub struct Admission {
    told: Option<Told>,
    charge: Option<Box<Charge>>,
    /// How it was decided without the store it belongs to.
    degraded: Option<&'static str>,
}

impl Admission {
    pub(super) fn new(told: Option<Told>, charge: Option<Charge>) -> Self {
        Self {
            told,
            charge: charge.map(Box::new),
            degraded: None,
        }
    }

    /// Says on the response that the store was away, and what was done then.
    pub(super) fn degraded(mut self, policy: Option<&'static str>) -> Self {
        self.degraded = policy;
        self
    }
}

/// How the caller stood.
#[derive(Debug)]
pub(super) struct Told {
    tier: Arc<Tier>,
    times: Times,
    now: Nanos,
    headers: QuotaHeaders,
}

impl Told {
    pub(super) fn of(decision: Decision, tell: bool, headers: QuotaHeaders) -> Option<Self> {
        let Decision {
            tier, times, now, ..
        } = decision;
        tier.filter(|_| tell).map(|tier| Self {
            tier,
            times,
            now,
            headers,
        })
    }
}

/// Charges once the call has ended.
pub(super) struct Charge {
    settle: Box<Settle>,
    answer: Answer,
}

type Settle = dyn FnOnce(Answer) + Send + Sync;

impl Charge {
    pub(super) fn new(settle: impl FnOnce(Answer) + Send + Sync + 'static) -> Self {
        Self {
            settle: Box::new(settle),
            answer: Answer {
                status: None,
                bytes: 0,
            },
        }
    }
}

impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Charge")
            .field("answer", &self.answer)
            .finish_non_exhaustive()
    }
}

impl Observer for Admission {
    fn on_head<B: Body>(&mut self, response: &mut Response<B>) {
        if let Some(charge) = &mut self.charge {
            charge.answer.status = Some(response.status());
        }
        if let Some(Told {
            tier,
            times,
            now,
            headers,
        }) = self.told.take()
        {
            headers::tell(response.headers_mut(), headers, &tier, &times, now);
        }
        if let Some(policy) = self.degraded {
            let policy = HeaderValue::from_static(policy);
            response.headers_mut().insert(DEGRADED, policy);
        }
    }

    fn on_data(&mut self, bytes: usize) {
        if let Some(charge) = &mut self.charge {
            let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
            charge.answer.bytes = charge.answer.bytes.saturating_add(bytes);
        }
    }

    fn on_end(self, _: End<'_>) {
        if let Some(charge) = self.charge {
            (charge.settle)(charge.answer);
        }
    }
}
