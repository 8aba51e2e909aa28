//! Rejects calls of those who call more often than they may.
//!
//! ```
//! # use axum::{Router, routing::get};
//! use plimsoll::server::rate_limit::{Key, Quota, RateLimitLayer};
//!
//! let quota = Quota::per_second(100).burst(50)?;
//! let app: Router = Router::new()
//!     .route("/", get(|| async { "hello" }))
//!     .layer(RateLimitLayer::new(Key::peer(), quota));
//! // Serve it with `app.into_make_service_with_connect_info::<SocketAddr>()`, so that peers have addresses.
//! # Ok::<_, plimsoll::server::rate_limit::InvalidQuota>(())
//! ```
//!
//! The algorithm is that of the crate `governor`, GCRA, and not its code: that has no way to look at several quotas
//! before any of them is spent, it keeps every key that ever came until someone sweeps, and its map stops the world for
//! milliseconds when it grows. Here the keys lie in a table of fixed size.

mod admission;
mod faults;
mod gauges;
mod gcra;
mod handle;
mod headers;
mod offenders;
mod quota;
mod quota_text;
#[cfg(feature = "rate-limit-redis")]
mod redis;
mod response;
mod settings;
mod shared;
mod store;
mod tier;

use std::{
    fmt,
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use crate::clock;

pub use crate::caller::{
    Call, Cidr, ForwardingHeader, InvalidCidr, Ipv6Prefix, Key, TrustedProxies,
};
pub(crate) use gauges::{FAULTS, STORE_ERRORS};
pub use handle::{Decisions, InvalidChange, RateLimitHandle};
pub use headers::QuotaHeaders;
pub use offenders::{Offender, ShownKey};
pub use quota::{InvalidQuota, Quota, Quotas, Rate};
#[cfg(feature = "rate-limit-redis")]
pub use redis::{
    InvalidRedisUrl, Redis, RedisRateLimit, RedisRateLimitLayer, StoreErrorKind, WhenAway,
};
pub use response::{ResponseBody, ResponseFuture};
pub use settings::{Answer, InvalidWeight};

use admission::Admission;
use settings::{POLICY, Settings};
use shared::Shared;

const LAYER: &str = "rate_limit";
/// The default of [`RateLimitLayer::max_keys`].
const MAX_KEYS: NonZeroUsize = NonZeroUsize::new(100_000).expect("above 0");

/// Rejects calls whose key is over its quota: 429 with the exact wait, for gRPC status 8. Clones share one store; a
/// clone that is configured further has a store of its own.
///
/// The inner service is not called for a rejected call, and nothing is spent. Calls under way are not counted: for that
/// limit concurrency.
///
/// Place it inside of `request_id`, `access_log` and of what authenticates callers, and outside of all that is dear.
#[derive(Clone)]
pub struct RateLimitLayer {
    shared: Arc<Shared>,
    on: bool,
}

impl RateLimitLayer {
    /// Holds each caller, told apart by the key, to the quota or to several.
    ///
    /// Keeps up to 100,000 callers, about 2 MB. Tells them their standing as [`QuotaHeaders::Draft10`].
    pub fn new(key: Key, quotas: impl Into<Quotas>) -> Self {
        Self::of(Settings {
            key,
            policies: vec![(POLICY, quotas.into())],
            tier_of: None,
            weigh: None,
            routes: Default::default(),
            charge: None,
            headers: QuotaHeaders::default(),
            max_keys: MAX_KEYS,
            dry_run: false,
            replicas: NonZeroU32::MIN,
        })
    }

    /// Names the policy, for metrics and log lines: `policy`. Default: `default`.
    #[must_use]
    pub fn named(self, policy: &'static str) -> Self {
        self.with(|settings| settings.rename(policy))
    }

    /// Adds a policy for callers of a tier, in place of the layer's own; which those are [`tier_of`](Self::tier_of)
    /// tells. A second one of the same name replaces the first.
    ///
    /// # Errors
    ///
    /// A route [weighs](Self::weigh_routes) more than a whole burst of these quotas.
    pub fn tier(
        self,
        policy: &'static str,
        quotas: impl Into<Quotas>,
    ) -> Result<Self, InvalidWeight> {
        self.with(|settings| settings.set_policy(policy, quotas.into()))
            .checked()
    }

    /// Tells the tier of a call. `None` is the layer's own policy. So is a name that no tier has, but that is a fault of
    /// the wiring: it is counted ([`RateLimitHandle::unknown_tiers`]), and told in the log.
    #[must_use]
    pub fn tier_of(
        self,
        tier_of: impl Fn(&Call<'_>) -> Option<&'static str> + Send + Sync + 'static,
    ) -> Self {
        self.with(|settings| settings.tier_of = Some(Arc::new(tier_of)))
    }

    /// Weighs these routes, as in `[("/reports/{id}", 5)]`: a call of that route takes as much as five others. For gRPC
    /// name the path, `/package.Service/Method`. Default: each call weighs 1.
    ///
    /// # Errors
    ///
    /// A route weighs more than a whole burst of a quota, so that it could never be called. Tiers that are added later
    /// are held to it too.
    pub fn weigh_routes<R: Into<String>>(
        self,
        weights: impl IntoIterator<Item = (R, u32)>,
    ) -> Result<Self, InvalidWeight> {
        let weights = weights
            .into_iter()
            .map(|(route, weight)| (route.into(), weight));
        self.with(|settings| settings.routes.extend(weights))
            .checked()
    }

    /// Weighs each call by a function, in place of routes. A call of weight 0 is always admitted. One that weighs more
    /// than a whole burst is rejected without a hint to try again.
    #[must_use]
    pub fn weigh(self, weigh: impl Fn(&Call<'_>) -> u32 + Send + Sync + 'static) -> Self {
        self.with(|settings| settings.weigh = Some(Arc::new(weigh)))
    }

    /// Charges a caller for what its call turned out to be, when the last byte has left, as in one more for each MiB.
    /// That call is not rejected for it any more; the next ones wait until it is paid.
    #[must_use]
    pub fn charge_after(self, charge: impl Fn(&Answer) -> u32 + Send + Sync + 'static) -> Self {
        self.with(|settings| settings.charge = Some(Arc::new(charge)))
    }

    /// How callers are told of their quotas. Default: [`QuotaHeaders::Draft10`].
    #[must_use]
    pub fn headers(self, headers: QuotaHeaders) -> Self {
        self.with(|settings| settings.headers = headers)
    }

    /// The most callers that are kept; default 100,000. With one quota a caller takes 20 bytes, with four 60; all of
    /// it is reserved at the start.
    ///
    /// A caller who has all of its burst again is forgotten, nobody else: while there are more, new ones share one
    /// quota. So made-up keys can hurt those who come new, and never free one who is limited.
    #[must_use]
    pub fn max_keys(self, keys: NonZeroUsize) -> Self {
        self.with(|settings| settings.max_keys = keys)
    }

    /// Lets all calls pass, counts those that would be rejected, and tells callers nothing. Default: off.
    #[must_use]
    pub fn dry_run(self) -> Self {
        self.with(|settings| settings.dry_run = true)
    }

    /// Whether this layer does anything. Switched off it passes calls on as they are, of the same types; to be decided
    /// by configuration. Default: on.
    #[must_use]
    pub fn enabled(mut self, on: bool) -> Self {
        self.on = on;
        self
    }

    /// Counts, callers, and changes while it runs.
    pub fn handle(&self) -> RateLimitHandle {
        RateLimitHandle::new(Arc::clone(&self.shared))
    }

    fn with(self, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = self.shared.settings.clone();
        change(&mut settings);
        Self::of(settings).enabled(self.on)
    }

    fn checked(self) -> Result<Self, InvalidWeight> {
        self.shared.settings.check_weights()?;
        Ok(self)
    }

    fn of(settings: Settings) -> Self {
        Self {
            shared: Arc::new(Shared::new(settings, clock::now())),
            on: true,
        }
    }
}

impl fmt::Debug for RateLimitLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RateLimitLayer")
            .field(&self.shared.settings)
            .finish()
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S>;

    fn layer(&self, inner: S) -> RateLimit<S> {
        RateLimit {
            inner,
            shared: Arc::clone(&self.shared),
            on: self.on,
        }
    }
}

/// Service of [`RateLimitLayer`].
#[derive(Clone)]
pub struct RateLimit<S> {
    inner: S,
    shared: Arc<Shared>,
    on: bool,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for RateLimit<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Body<Data = Bytes>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    #[inline]
    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        if !self.on {
            return ResponseFuture::call(self.inner.call(request), Admission::default());
        }
        match Shared::decide(&self.shared, &Call::of(&request), clock::now()) {
            (admission, None) => ResponseFuture::call(self.inner.call(request), admission),
            (admission, Some(no)) => ResponseFuture::reject(no, request, admission),
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for RateLimit<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
