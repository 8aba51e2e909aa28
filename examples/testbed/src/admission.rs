//! How many calls are let in at once, and what becomes of the others.

use std::num::NonZeroUsize;
use std::time::Duration;

use plimsoll::caller::TrustedProxies;
use plimsoll::context::Priority;
use plimsoll::limit::Limit;
use plimsoll::server::back_pressure::BackPressureLayer;
use plimsoll::server::load_shed::LoadShedLayer;
use tower::util::Either;

/// More than a testbed will ever have in flight.
const ALL: NonZeroUsize = NonZeroUsize::new(1_000_000).expect("above 0");
const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// What the `TB_*` variables say of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Admission {
    /// `TB_MAX_INFLIGHT`: calls in flight; with `TB_ADAPTIVE` what it begins with. Default: as many as come.
    pub(crate) max_in_flight: Option<NonZeroUsize>,
    /// `TB_ADAPTIVE`: `1` if the limit finds itself. Default `0`.
    pub(crate) adaptive: bool,
    /// `TB_QUEUE`: calls that may wait. Without it and `TB_QUEUE_MS` nobody does.
    pub(crate) queue: Option<usize>,
    /// `TB_QUEUE_MS`: how long they may.
    pub(crate) queue_time: Option<Duration>,
}

/// Either rejects at once.
pub(crate) type AdmissionLayer = Either<LoadShedLayer, BackPressureLayer>;

impl Admission {
    pub(crate) fn limit(&self) -> Limit {
        let mut limit = if self.adaptive {
            let limit = Limit::adaptive();
            match self.max_in_flight {
                Some(calls) => limit.initial(calls),
                None => limit,
            }
        } else {
            Limit::fixed(self.max_in_flight.unwrap_or(ALL))
        };
        if let Some(calls) = self.queue {
            limit = limit.max_waiting(calls);
        }
        if let Some(time) = self.queue_time {
            limit = limit.max_wait(time);
        }
        limit.named("testbed")
    }

    /// The layer around all routes.
    pub(crate) fn layer(&self, limit: Limit, trusted: &TrustedProxies) -> AdmissionLayer {
        let health = [(HEALTH, Priority::CriticalPlus)];
        if self.queue.is_some() || self.queue_time.is_some() {
            let layer = BackPressureLayer::new(limit).priority_of_routes(health);
            Either::Right(layer.priority_from(trusted.clone()))
        } else {
            let layer = LoadShedLayer::new(limit).priority_of_routes(health);
            Either::Left(layer.priority_from(trusted.clone()))
        }
    }
}
