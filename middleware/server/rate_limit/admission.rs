use std::{fmt, sync::Arc};

use http::{Response, StatusCode};
use http_body::Body;

use super::{
    gcra::{Nanos, Times},
    headers::{self, QuotaHeaders},
    settings::Answer,
    shared::Shared,
    store::{Ask, Decision},
    tier::Tier,
};
use crate::{
    clock,
    observe::{End, Observer},
};

/// What is left to do for a call that was decided: tell its caller, and charge it for what it turned out to be.
#[derive(Debug, Default)]
pub struct Admission {
    told: Option<Told>,
    charge: Option<Box<Charge>>,
}

impl Admission {
    pub(super) fn new(told: Option<Told>, charge: Option<Charge>) -> Self {
        let charge = charge.map(Box::new);
        Self { told, charge }
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
    shared: Arc<Shared>,
    hash: u64,
    tier: usize,
    answer: Answer,
}

impl Charge {
    pub(super) fn new(shared: &Arc<Shared>, ask: &Ask) -> Self {
        Self {
            shared: Arc::clone(shared),
            hash: ask.who.hash,
            tier: ask.tier,
            answer: Answer {
                status: None,
                bytes: 0,
            },
        }
    }

    fn head(&mut self, status: StatusCode) {
        self.answer.status = Some(status);
    }

    fn settle(&self) {
        let weight = self
            .shared
            .settings
            .charge
            .as_ref()
            .map(|charge| charge(&self.answer));
        if let Some(weight) = weight.filter(|&weight| weight > 0) {
            self.shared
                .memory
                .charge(self.hash, self.tier, weight, clock::now());
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
            charge.head(response.status());
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
    }

    fn on_data(&mut self, bytes: usize) {
        if let Some(charge) = &mut self.charge {
            let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
            charge.answer.bytes = charge.answer.bytes.saturating_add(bytes);
        }
    }

    fn on_end(self, _: End<'_>) {
        if let Some(charge) = self.charge {
            charge.settle();
        }
    }
}
