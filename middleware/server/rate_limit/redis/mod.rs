//! The same quotas for many replicas, decided in Redis.

mod link;
mod near;
mod remote;
mod script;

use std::{
    fmt,
    num::NonZeroU32,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    RateLimitHandle, RateLimitLayer,
    admission::Admission,
    response::{ResponseBody, ResponseFuture},
    settings::Settings,
    shared::Shared,
};
use crate::{caller::Call, clock};
use remote::{Deciding, Later, Remote};

pub use link::{InvalidRedisUrl, Redis};
pub use script::StoreErrorKind;

/// What becomes of calls while Redis is away, or does not answer in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenAway {
    /// They are admitted: `open`. For quotas that are about fairness.
    Open,
    /// They are rejected as `store_error` (503, gRPC 14): `closed`. For quotas that guard something.
    Closed,
    /// They are held to this replica's share of the quota, which it has kept account of all the time: `local`.
    Local {
        /// How many replicas there are.
        replicas: NonZeroU32,
    },
}

impl WhenAway {
    /// The name in `x-plimsoll-degraded` and log lines.
    pub fn label(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Local { .. } => "local",
        }
    }
}

impl RateLimitLayer {
    /// Decides in Redis, so that all replicas with a limit of this name hold each caller to one quota. Configure the rest
    /// first.
    ///
    /// A decision is one round trip of one script, by Redis's own clock. A response that was decided without Redis bears
    /// `x-plimsoll-degraded: open`, `closed` or `local`.
    pub fn in_redis(self, redis: Redis, when_away: WhenAway) -> RedisRateLimitLayer {
        let mut settings: Settings = self.shared.settings.clone();
        if let WhenAway::Local { replicas } = when_away {
            settings.replicas = replicas;
        }
        let shared = Arc::new(Shared::new(settings, clock::now()));
        let remote = Arc::new(Remote::new(shared, redis, when_away, false, 0));
        RedisRateLimitLayer {
            remote,
            on: self.on,
        }
    }
}

/// A [`RateLimitLayer`] whose quotas hold for many replicas together. Clones share all; a
/// clone that is configured further shares all but what is known nearby.
#[derive(Clone)]
pub struct RedisRateLimitLayer {
    remote: Arc<Remote>,
    on: bool,
}

impl RedisRateLimitLayer {
    /// Rejects a caller whom Redis has just refused without another round trip: until there is room, and for a second at
    /// most, so that whoever is given its burst back in Redis has it soon. Default: off.
    ///
    /// Worth it where callers who are over their quota go on and on. Nobody is refused whom Redis would admit, but for
    /// that second. Keeps up to 16,384 callers.
    #[must_use]
    pub fn pre_check(self) -> Self {
        let lease = self.remote.near().lease;
        self.with(true, lease)
    }

    /// Takes up to so many calls of a busy caller out of Redis at once and hands them out here. Default: each call asks.
    ///
    /// It begins with one more and doubles as long as the caller asks again within 100 ms. In every span of time `w` all
    /// replicas together admit at most `burst + rate x w + replicas x calls`, and no more than the rate in the long run.
    /// What was taken and is not used within a second is lost to the caller.
    #[must_use]
    pub fn lease(self, calls: NonZeroU32) -> Self {
        let pre_check = self.remote.near().pre_check;
        self.with(pre_check, calls.get())
    }

    /// Whether this layer does anything. Switched off it passes calls on as they are, of the same types, and asks Redis
    /// nothing; to be decided by configuration. Default: on.
    #[must_use]
    pub fn enabled(mut self, on: bool) -> Self {
        self.on = on;
        self
    }

    fn with(self, pre_check: bool, lease: u32) -> Self {
        let remote = Arc::new(self.remote.with(pre_check, lease));
        Self { remote, ..self }
    }

    /// Counts, callers, and changes while it runs; of this replica. Its keys are those that the local share is about.
    pub fn handle(&self) -> RateLimitHandle {
        let mut handle = RateLimitHandle::new(Arc::clone(&self.remote.shared));
        handle.store = Some(Arc::clone(&self.remote) as _);
        handle
    }
}

impl fmt::Debug for RedisRateLimitLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.remote.fmt(f)
    }
}

impl<S> Layer<S> for RedisRateLimitLayer {
    type Service = RedisRateLimit<S>;

    fn layer(&self, inner: S) -> RedisRateLimit<S> {
        RedisRateLimit {
            inner,
            remote: Arc::clone(&self.remote),
            on: self.on,
        }
    }
}

/// Service of [`RedisRateLimitLayer`].
#[derive(Clone)]
pub struct RedisRateLimit<S> {
    inner: S,
    remote: Arc<Remote>,
    on: bool,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for RedisRateLimit<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
    ResBody: Body<Data = Bytes>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = RedisFuture<S, ReqBody>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        if !self.on {
            let future = ResponseFuture::call(self.inner.call(request), Admission::default());
            return RedisFuture::Decided { future };
        }
        let later = match Remote::decide(&self.remote, &Call::of(&request)) {
            Deciding::Later(later) => later,
            Deciding::Now((admission, None)) => {
                let future = ResponseFuture::call(self.inner.call(request), admission);
                return RedisFuture::Decided { future };
            }
            Deciding::Now((admission, Some(no))) => {
                let future = ResponseFuture::reject(no, request, admission);
                return RedisFuture::Decided { future };
            }
        };
        // The instance that was asked whether it is ready is the one that is called.
        let clone = self.inner.clone();
        let service = std::mem::replace(&mut self.inner, clone);
        RedisFuture::Deciding {
            later,
            waiting: Some(Waiting { service, request }),
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for RedisRateLimit<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisRateLimit")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

/// A call that waits for its decision.
struct Waiting<S, B> {
    service: S,
    request: Request<B>,
}

pin_project! {
    /// Asks, then calls or rejects.
    #[project = RedisFutureProjection]
    #[must_use = "futures do nothing unless polled"]
    pub enum RedisFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        /// Redis is asked.
        Deciding {
            later: Later,
            waiting: Option<Waiting<S, B>>,
        },
        /// The service is called, or it was rejected.
        Decided {
            #[pin]
            future: ResponseFuture<S::Future>,
        },
    }
}

impl<S, B, ResBody> Future for RedisFuture<S, B>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
{
    type Output = Result<Response<ResponseBody<ResBody>>, S::Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let future = match self.as_mut().project() {
                RedisFutureProjection::Decided { future } => return future.poll(context),
                RedisFutureProjection::Deciding { later, waiting } => {
                    let (admission, rejection) = ready!(later.as_mut().poll(context));
                    let Waiting {
                        mut service,
                        request,
                    } = waiting.take().expect("it waits until it is decided");
                    match rejection {
                        None => ResponseFuture::call(service.call(request), admission),
                        Some(no) => ResponseFuture::reject(no, request, admission),
                    }
                }
            };
            self.set(Self::Decided { future });
        }
    }
}

impl<S: Service<Request<B>>, B> fmt::Debug for RedisFuture<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deciding { .. } => "RedisFuture::Deciding",
            Self::Decided { .. } => "RedisFuture::Decided",
        })
    }
}
