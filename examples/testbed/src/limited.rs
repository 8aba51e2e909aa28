//! `/limited` and `/limited-redis`: a quota per caller, in this process and in Redis.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use plimsoll::caller::{Key, TrustedProxies};
use plimsoll::server::rate_limit::{
    InvalidQuota, InvalidRedisUrl, Quota, RateLimitHandle, RateLimitLayer, Redis,
    RedisRateLimitLayer, WhenAway,
};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// So many replicas share a quota while Redis is away.
const REPLICAS: NonZeroU32 = NonZeroU32::new(3).expect("above 0");

/// What the settings say of limits.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Limits {
    /// `TB_RATE`: calls a second. Default 100.
    pub(crate) rate: u32,
    /// `TB_BURST`: calls at once. Default: as many as in a second.
    pub(crate) burst: Option<u32>,
    /// `TB_KEY_CAP`: callers that are kept. Default 100,000.
    pub(crate) key_cap: NonZeroUsize,
    /// `TB_REDIS`: `redis://host:port/`. Without it there is no `/limited-redis`.
    pub(crate) redis: Option<String>,
    /// `TB_REDIS_POLICY`: `open`, `closed` or `local`, of three replicas. Default `closed`.
    pub(crate) when_away: Option<WhenAway>,
    /// `TB_REDIS_MS`: how long a decision may take. Default 50.
    pub(crate) redis_budget: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rate: 100,
            burst: None,
            key_cap: NonZeroUsize::new(100_000).expect("above 0"),
            redis: None,
            when_away: None,
            redis_budget: None,
        }
    }
}

/// Limits that cannot be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LimitError {
    #[error("TB_RATE, TB_BURST: no such quota")]
    Quota(#[from] InvalidQuota),
    #[error("TB_REDIS: no such address")]
    Redis(#[from] InvalidRedisUrl),
    #[error("{0}: there is no TB_REDIS")]
    NoRedis(&'static str),
}

/// `open`, `closed` or `local`.
pub(crate) fn when_away(policy: &str) -> Option<WhenAway> {
    match policy {
        "open" => Some(WhenAway::Open),
        "closed" => Some(WhenAway::Closed),
        "local" => Some(WhenAway::Local { replicas: REPLICAS }),
        _ => None,
    }
}

/// The layers of both routes.
#[derive(Clone)]
pub(crate) struct Limiters {
    here: RateLimitLayer,
    in_redis: Option<RedisRateLimitLayer>,
}

impl Limits {
    /// Makes the layers, for a service behind these proxies.
    pub(crate) fn layers(&self, trusted: &TrustedProxies) -> Result<Limiters, LimitError> {
        let quota = Quota::per_second(self.rate).burst(self.burst.unwrap_or(self.rate))?;
        let key = if *trusted == TrustedProxies::default() {
            Key::peer()
        } else {
            Key::client(trusted.clone())
        };
        let here = RateLimitLayer::new(key, quota).max_keys(self.key_cap);
        let in_redis = match &self.redis {
            Some(url) => Some(self.in_redis(here.clone(), url)?),
            None if self.when_away.is_some() => return Err(LimitError::NoRedis("TB_REDIS_POLICY")),
            None if self.redis_budget.is_some() => return Err(LimitError::NoRedis("TB_REDIS_MS")),
            None => None,
        };
        let here = here.named("limited");
        Ok(Limiters { here, in_redis })
    }

    fn in_redis(
        &self,
        layer: RateLimitLayer,
        url: &str,
    ) -> Result<RedisRateLimitLayer, LimitError> {
        let mut redis = Redis::new(url)?;
        if let Some(budget) = self.redis_budget {
            redis = redis.budget(budget);
        }
        let when_away = self.when_away.unwrap_or(WhenAway::Closed);
        Ok(layer.named("limited_redis").in_redis(redis, when_away))
    }
}

impl Limiters {
    /// What metrics ask.
    pub(crate) fn handles(&self) -> impl Iterator<Item = RateLimitHandle> {
        let in_redis = self.in_redis.iter().map(RedisRateLimitLayer::handle);
        std::iter::once(self.here.handle()).chain(in_redis)
    }

    /// The routes. They answer callers of gRPC too, with an empty stream.
    pub(crate) fn routes(self) -> Router {
        let here = Router::new().route("/limited", any(passed).layer(self.here));
        match self.in_redis {
            Some(layer) => here.route("/limited-redis", any(passed).layer(layer)),
            None => here,
        }
    }
}

async fn passed(headers: HeaderMap) -> Response {
    let kind = headers.get(CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        let grpc = HeaderValue::from_static("application/grpc");
        return [
            (CONTENT_TYPE, grpc),
            (GRPC_STATUS, HeaderValue::from_static("0")),
        ]
        .into_response();
    }
    "passed".into_response()
}
