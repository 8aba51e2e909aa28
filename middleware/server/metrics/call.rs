use std::{sync::Arc, time::Instant};

use http::Response;
use http_body::Body;

use super::{
    books::Ledger,
    labels::{Asked, Labels},
    series::Sample,
};
use crate::{
    clock, context,
    observe::{End, Observer, Witness},
    outcome::Outcome,
};

/// A call in flight. It is entered as ended when dropped, whichever way that comes.
pub struct Counted {
    pub(super) ledger: Arc<Ledger>,
    pub(super) witness: Witness,
    pub(super) asked: Asked,
    pub(super) started: Instant,
    pub(super) head_at: Option<Instant>,
    /// How it ended, once that is known.
    pub(super) outcome: Outcome,
}

impl Observer for Counted {
    #[inline]
    fn on_head<B: Body>(&mut self, response: &mut Response<B>) {
        self.head_at = Some(clock::now());
        self.witness.on_head(response);
    }

    #[inline]
    fn on_end(mut self, end: End<'_>) {
        self.outcome = self.witness.judge(&end);
        let queued = context::current(|frame| frame.queued()).flatten();
        if let Some((limit, waited)) = queued {
            self.ledger.waited(limit, waited);
        }
    }
}

impl Drop for Counted {
    #[inline]
    fn drop(&mut self) {
        let seconds = |until: Instant| until.saturating_duration_since(self.started).as_secs_f64();
        let head = self.witness.head();
        let labels = Labels {
            asked: self.asked,
            status: head.map(|head| head.status),
            grpc: head.and_then(|head| head.grpc),
            outcome: self.outcome,
        };
        let sample = Sample {
            duration: seconds(clock::now()),
            head: self.head_at.map_or(-1.0, seconds),
        };
        self.ledger.end(&labels, sample);
    }
}

impl std::fmt::Debug for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counted")
            .field("asked", &self.asked)
            .finish_non_exhaustive()
    }
}
