//! The router for operators, and the page that shows the service as it runs.

mod board;
mod controls;
mod figures;
mod guard;
mod host;
mod numbers;
mod page;
mod sampler;
mod status;
mod viewers;

use std::{
    fmt,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use axum::Router;
use opentelemetry::{KeyValue, metrics::ObservableCounter};

pub(crate) use self::guard::TOKEN;
pub use self::guard::{Controls, InvalidToken};
use self::{
    board::Board,
    guard::{Guard, REFUSED, Refusals},
    host::Hosts,
    sampler::Sampler,
    viewers::Viewers,
};
use super::health::{Health, Report};
use crate::{
    clock,
    gauge::{Kind, Metric},
    limit::LimitHandle,
    serve::Connections,
    server::{access_log::Failures, rate_limit::RateLimitHandle},
    telemetry::{Registry, Telemetry},
};

const CHANGES: Metric = Metric::new(
    "plimsoll.ops.changes",
    Kind::Counter,
    "{change}",
    "Changes that were made by the controls.",
);

type Tell = Box<dyn Fn() -> String + Send + Sync>;
type Drain = Box<dyn Fn() + Send + Sync>;

/// The router for the port of operators: what they and their machines read, and what they may change.
///
/// | | |
/// |---|---|
/// | `GET /status` | a page with the last five minutes: calls, limits, routes, rejections, failures, layers |
/// | `GET /status.json`, `/status/events` | the same once, and as server-sent events, one a second |
/// | `GET /metrics` | with [`telemetry`](Self::telemetry) |
/// | `GET /livez`, `/readyz`, `/startupz`, `/health` | with [`health`](Self::health) |
/// | `POST /control/limit`, `/control/rate_limit`, `/control/drain` | with [`controls`](Self::controls) and the token |
///
/// Serve it on a port that only operators reach: what it shows names routes, errors and callers' addresses. It knows
/// what it is given, and each part can be left out. `docs/ops.md` tells what the page means.
///
/// ```no_run
/// use plimsoll::{ops::{Controls, Ops}, serve::{Connections, Server}};
/// # use tokio::net::TcpListener;
///
/// # async fn run(app: axum::Router, telemetry: plimsoll::telemetry::Telemetry) -> Result<(), Box<dyn std::error::Error>> {
/// let server = Server::new(app).listen(TcpListener::bind("0.0.0.0:3000").await?);
/// let control = server.control();
/// let operators = Ops::new()
///     .telemetry(&telemetry)
///     .connections(&server.connections())
///     .layer("timeout", || "on: 30 s".to_owned())
///     .on_drain(move || control.drain())
///     .controls(Controls::from_env()?);
/// let admin = TcpListener::bind("127.0.0.1:9090").await?;
/// server.admin(admin, operators.routes()).run_until_signalled().await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "it is a router only by `routes`"]
pub struct Ops {
    parts: Parts,
    metrics_route: Option<Router>,
}

/// What is shown and changed.
struct Parts {
    started: Instant,
    registry: Option<Registry>,
    health: Option<Health>,
    /// What health told last.
    seen: Mutex<Option<Report>>,
    limits: Vec<LimitHandle>,
    rate_limits: Vec<RateLimitHandle>,
    connections: Option<Connections>,
    failures: Option<Failures>,
    layers: Vec<(String, Tell)>,
    on_drain: Option<Drain>,
    controls: Option<Controls>,
    draining: AtomicBool,
    changes: AtomicU64,
    board: Mutex<Board>,
    viewers: Arc<Viewers>,
    guard: Guard,
    hosts: Hosts,
    refusals: Arc<Refusals>,
    /// One status is made at a time, also when whoever asked for it has left.
    turn: Arc<tokio::sync::Mutex<()>>,
    sampler: OnceLock<Sampler>,
}

impl Ops {
    /// A page that shows nothing yet.
    pub fn new() -> Self {
        let now = clock::now();
        Self {
            parts: Parts {
                started: now,
                registry: None,
                health: None,
                seen: Mutex::default(),
                limits: Vec::new(),
                rate_limits: Vec::new(),
                connections: None,
                failures: None,
                layers: Vec::new(),
                on_drain: None,
                controls: None,
                draining: AtomicBool::new(false),
                changes: AtomicU64::new(0),
                board: Mutex::default(),
                viewers: Arc::new(Viewers::new()),
                guard: Guard::default(),
                hosts: Hosts::default(),
                refusals: Arc::new(Refusals::new(now)),
                turn: Arc::default(),
                sampler: OnceLock::new(),
            },
            metrics_route: None,
        }
    }

    /// Serves its metrics, and shows those of calls: by route, by outcome, and what went wrong. The service's name and
    /// version are those of its resource.
    pub fn telemetry(mut self, telemetry: &Telemetry) -> Self {
        self.parts.registry = telemetry.registry();
        self.metrics_route = Some(telemetry.metrics_route());
        self
    }

    /// Serves its routes and details, and shows its checks.
    pub fn health(mut self, health: &Health) -> Self {
        self.parts.health = Some(health.clone());
        self
    }

    /// Shows this limit, and lets the controls change it. Give it once for each limit; those that are to be changed
    /// need names of their own.
    pub fn limit(mut self, limit: &LimitHandle) -> Self {
        self.parts.limits.push(limit.clone());
        self
    }

    /// Shows this rate limit with those it rejects most, and lets the controls change it. Give it once for each.
    pub fn rate_limit(mut self, rate_limit: &RateLimitHandle) -> Self {
        self.parts.rate_limits.push(rate_limit.clone());
        self
    }

    /// Shows these connections, once there is a server among them.
    pub fn connections(mut self, connections: &Connections) -> Self {
        self.parts.connections = Some(connections.clone());
        self
    }

    /// Shows the last calls that failed by the service's doing.
    pub fn failures(mut self, failures: &Failures) -> Self {
        self.parts.failures = Some(failures.clone());
        self
    }

    /// Shows how a layer stands, as in `("timeout", || "on: 30 s".to_owned())`: in the order of the stack, outermost
    /// first. It is asked once a second while somebody looks, and must not block.
    pub fn layer(
        mut self,
        name: impl Into<String>,
        tell: impl Fn() -> String + Send + Sync + 'static,
    ) -> Self {
        self.parts.layers.push((name.into(), Box::new(tell)));
        self
    }

    /// What the control `drain` does: commonly [`Control::drain`](crate::serve::Control::drain). Default: there is no
    /// such control.
    pub fn on_drain(mut self, drain: impl Fn() + Send + Sync + 'static) -> Self {
        self.parts.on_drain = Some(Box::new(drain));
        self
    }

    /// Lets whoever has the token change limits, quotas and dry runs, and drain. Each change is one line of the log that
    /// says who and what. Default, and with `None`: nothing can be changed.
    pub fn controls(mut self, controls: impl Into<Option<Controls>>) -> Self {
        self.parts.controls = controls.into();
        self
    }

    /// Answers to this name too, as in `"ops.example"`, whatever the port; give it once for each name under which browsers
    /// open the page. By addresses and as `localhost` it answers always.
    ///
    /// What asks by another name gets 421 if it is a browser, or if it asks for the page, its numbers or a change: the name
    /// may be one of elsewhere that was made to lead here, to read by an operator's browser what nobody else reaches.
    /// Scrapers and probes may call their routes by any name.
    pub fn host(mut self, name: impl AsRef<str>) -> Self {
        self.parts.hosts.add(name.as_ref());
        self
    }

    /// The router. From now on it takes a sample each second, until the last clone of the router is dropped. Call it
    /// once: a second router would sample by itself.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn routes(self) -> Router {
        let parts = Arc::new(self.parts);
        parts.count();
        let sampler = Sampler::start(&parts);
        parts.sampler.get_or_init(|| sampler);
        let people = page::routes()
            .merge(status::routes(&parts))
            .merge(controls::routes(&parts));
        let mut router = host::by_all(people, &parts);
        if let Some(metrics) = self.metrics_route {
            router = router.merge(host::by_browsers(metrics, &parts));
        }
        if let Some(health) = &parts.health {
            let routes = health.routes().merge(health.details());
            router = router.merge(host::by_browsers(routes, &parts));
        }
        router
    }
}

impl Parts {
    /// Tells what was changed and what was refused as metrics, from now on.
    fn count(self: &Arc<Self>) {
        let Some(registry) = &self.registry else {
            return;
        };
        let counter = |metric: &Metric| {
            let counter = registry.meter().u64_observable_counter(metric.name());
            counter
                .with_unit(metric.unit())
                .with_description(metric.description())
        };
        let refusals = Arc::clone(&self.refusals);
        let _refused: ObservableCounter<u64> = counter(&REFUSED)
            .with_callback(move |observer| {
                for (reason, count) in refusals.counts() {
                    observer.observe(count, &[KeyValue::new("reason", reason)]);
                }
            })
            .build();
        let parts = Arc::downgrade(self);
        let _changes: ObservableCounter<u64> = counter(&CHANGES)
            .with_callback(move |observer| {
                if let Some(parts) = parts.upgrade() {
                    observer.observe(parts.changes.load(Ordering::Relaxed), &[]);
                }
            })
            .build();
    }
}

impl Default for Ops {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Ops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layers = self.parts.layers.iter().map(|(name, _)| name);
        f.debug_struct("Ops")
            .field("limits", &self.parts.limits)
            .field("rate_limits", &self.parts.rate_limits)
            .field("layers", &layers.collect::<Vec<_>>())
            .field("controls", &self.parts.controls)
            .finish_non_exhaustive()
    }
}
