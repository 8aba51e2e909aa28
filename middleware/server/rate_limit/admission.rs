use std::{fmt, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::{
    gcra::{Nanos, Times},
    headers::{self, QuotaHeaders},
    settings::Answer,
    tier::Tier,
};

const DEGRADED: HeaderName = HeaderName::from_static("x-plimsoll-degraded");

/// What is left to do for a call that was decided: tell its caller, and charge it for what it turned out to be.
#[derive(Debug, Default)]
pub(super) struct Admission {
    pub(super) told: Option<Told>,
    pub(super) charge: Option<Box<Charge>>,
    /// How it was decided without the store it belongs to.
    pub(super) degraded: Option<&'static str>,
}

impl Admission {
    /// Tells the caller how it stands.
    #[inline]
    pub(super) fn tell(&mut self, headers: &mut HeaderMap) {
        if let Some(told) = self.told.take() {
            headers::tell(headers, told.headers, &told.tier, &told.times, told.now);
        }
        if let Some(policy) = self.degraded {
            headers.insert(DEGRADED, HeaderValue::from_static(policy));
        }
    }
}

/// How the caller stood.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) tier: Arc<Tier>,
    pub(super) times: Times,
    pub(super) now: Nanos,
    pub(super) headers: QuotaHeaders,
}

/// Charges when it is dropped: once the call has ended, in whatever way.
pub(super) struct Charge {
    settle: Box<Settle>,
    answer: Answer,
}

type Settle = dyn FnMut(Answer) + Send + Sync;

impl Charge {
    pub(super) fn new(settle: impl FnMut(Answer) + Send + Sync + 'static) -> Self {
        Self {
            settle: Box::new(settle),
            answer: Answer {
                status: None,
                bytes: 0,
            },
        }
    }

    pub(super) fn head(&mut self, status: StatusCode) {
        self.answer.status = Some(status);
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.answer.bytes = self.answer.bytes.saturating_add(bytes);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        (self.settle)(self.answer);
    }
}

impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Charge")
            .field("answer", &self.answer)
            .finish_non_exhaustive()
    }
}
