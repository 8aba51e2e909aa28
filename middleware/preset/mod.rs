//! The whole stack in its order, from code, from a file, or both.
//!
//! ```no_run
//! # use axum::{Router, routing::get};
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let stack = plimsoll::preset::server("shop").start()?; // the log, telemetry, and all layers
//!     let app: Router = Router::new().route("/", get(|| async { "hello" })).layer(stack.layer());
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//!     Ok(axum::serve(listener, app).await?)
//! }
//! ```
//!
//! The same [`Stack::layer`] goes into `Router::layer`, around one route, and into `tonic::transport::Server::layer`; errors
//! keep their type. What nobody sets is safe for a service that nobody tuned: calls are let in as the service can bear
//! them and wait a little else, a handler has 30 s until its head, a request's body 2 MiB, and nobody has a quota.
//!
//! Each setting has one name, as `timeout.head`. It is set by the program ([`Setup::set`]), over that by a file
//! ([`Setup::config`]), and over that by the environment (`PLIMSOLL_TIMEOUT_HEAD`). A name that there is not, a value that
//! cannot be and two that contradict each other stop the start, with the name and the line. `docs/configuration.md`
//! lists all of them.
//!
//! The file is read again when it changes, and on SIGHUP: see [`Stack::reload`].

mod build;
mod caller;
mod client;
mod config;
mod describe;
#[cfg(unix)]
mod hangup;
#[cfg(not(unix))]
#[path = "no_hangup.rs"]
mod hangup;
mod order;
mod reload;
mod stack;
mod start;
mod watch;

use std::{env, ffi::OsString, path::PathBuf};

use self::config::{CONFIG, PREFIX, Sources};
pub use self::{
    client::{Client, Sent, client},
    config::{ConfigError, Origin},
    order::{ByHand, Inside, Outside, by_hand},
    reload::{Reloaded, Reloads},
    stack::{Layers, Served, Stack},
    start::StartError,
};
use crate::{
    caller::Key,
    gauge::Gauges,
    limit::Limit,
    log,
    ops::{TOKEN, health::Health},
    server::{
        metrics::{MetricsLayer, Objective},
        rate_limit::Quotas,
    },
    telemetry,
};

/// The stack of a server. The name is that of the service, unless `OTEL_SERVICE_NAME` gives another, and of its limit.
pub fn server(name: &'static str) -> Setup {
    Setup {
        name,
        sources: Sources::default(),
        variables: None,
        key: None,
        limit: None,
        log: None,
        telemetry: None,
        health: Health::new(),
        metrics: Vec::new(),
        rpc_methods: Vec::new(),
    }
}

/// A part of the stack that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// The program's log: somebody else sets one up.
    Log,
    /// The exporters: somebody else makes the global providers.
    Telemetry,
    /// [`RequestIdLayer`](crate::server::request_id::RequestIdLayer).
    RequestId,
    /// [`TraceContextLayer`](crate::server::trace_context::TraceContextLayer).
    TraceContext,
    /// [`AccessLogLayer`](crate::server::access_log::AccessLogLayer).
    AccessLog,
    /// [`MetricsLayer`].
    Metrics,
    /// [`TimeoutLayer`](crate::server::timeout::TimeoutLayer).
    Timeout,
    /// [`RateLimitLayer`](crate::server::rate_limit::RateLimitLayer).
    RateLimit,
    /// [`BackPressureLayer`](crate::server::back_pressure::BackPressureLayer).
    BackPressure,
    /// [`BodyLimitLayer`](crate::server::body_limit::BodyLimitLayer).
    BodyLimit,
    /// [`CatchPanicLayer`](crate::server::catch_panic::CatchPanicLayer).
    CatchPanic,
}

impl Part {
    fn switch(self) -> &'static str {
        match self {
            Self::Log => "log.enabled",
            Self::Telemetry => "telemetry.enabled",
            Self::RequestId => "request_id.enabled",
            Self::TraceContext => "trace_context.enabled",
            Self::AccessLog => "access_log.enabled",
            Self::Metrics => "metrics.enabled",
            Self::Timeout => "timeout.enabled",
            Self::RateLimit => "rate_limit.enabled",
            Self::BackPressure => "back_pressure.enabled",
            Self::BodyLimit => "body_limit.enabled",
            Self::CatchPanic => "catch_panic.enabled",
        }
    }
}

/// What a program says of its stack before it [starts](Setup::start).
#[must_use = "there is no stack before `start`"]
pub struct Setup {
    name: &'static str,
    sources: Sources,
    /// In place of the environment.
    variables: Option<Vec<(String, OsString)>>,
    key: Option<Key>,
    limit: Option<Limit>,
    log: Option<log::Setup>,
    telemetry: Option<telemetry::Setup>,
    health: Health,
    metrics: Vec<Box<dyn FnOnce(MetricsLayer) -> MetricsLayer>>,
    rpc_methods: Vec<String>,
}

impl Setup {
    /// Reads this file, in TOML. Default: the one that `PLIMSOLL_CONFIG` names, which also wins over this one; else none.
    pub fn config(mut self, path: impl Into<PathBuf>) -> Self {
        self.sources.path = Some(path.into());
        self
    }

    /// Sets one setting, as the environment would: `set("timeout.head", "10s")`. The file and the environment win over
    /// it. What is wrong with it is told by [`start`](Self::start).
    pub fn set(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.sources.program.push((name.into(), value.into()));
        self
    }

    /// Leaves a part out, unless a file or the environment switch it on. As `set("<section>.enabled", "false")`.
    pub fn without(self, part: Part) -> Self {
        self.set(part.switch(), "false")
    }

    /// Holds each caller, told apart by the key, to the quotas; those of a file win, the key stays. Default: no quotas.
    pub fn rate_limit(mut self, key: Key, quotas: impl Into<Quotas>) -> Self {
        self.key = Some(key);
        self.sources.quotas = Some(quotas.into());
        self
    }

    /// Lets calls in by this limit, which other layers may share. No setting of `back_pressure` that shapes a limit may
    /// be set then. Default: one of its own that finds itself.
    pub fn limit(mut self, limit: Limit) -> Self {
        self.limit = Some(limit);
        self
    }

    /// The methods of gRPC that are named in metrics and spans, as `package.Service/Method`. Default: none, for a caller may
    /// send any path.
    pub fn rpc_methods<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.rpc_methods.extend(names.into_iter().map(Into::into));
        self
    }

    /// Also counts which calls meet this objective.
    pub fn objective(mut self, objective: Objective) -> Self {
        self.metrics
            .push(Box::new(|metrics| metrics.objective(objective)));
        self
    }

    /// Also tells the numbers of this handle, besides those of the stack's own parts.
    pub fn watch(mut self, handle: impl Gauges + 'static) -> Self {
        self.metrics.push(Box::new(|metrics| metrics.watch(handle)));
        self
    }

    /// What readiness depends on. Default: on nothing.
    pub fn health(mut self, health: Health) -> Self {
        self.health = health;
        self
    }

    /// Starts the log with these settings; those of a file or the environment win. Default: JSON to stdout, `info` and
    /// above, with the name of the service.
    pub fn log(mut self, log: log::Setup) -> Self {
        self.log = Some(log);
        self
    }

    /// Starts the exporters with these settings; those of a file or the environment win. Default: as the standard
    /// `OTEL_*` variables say, with the name of the service.
    pub fn telemetry(mut self, telemetry: telemetry::Setup) -> Self {
        self.telemetry = Some(telemetry);
        self
    }

    /// Reads these variables in place of the environment's `PLIMSOLL_*`: for tests. What the log and the exporters read by
    /// themselves, `OTEL_*` and `RUST_LOG`, is still the environment's.
    pub fn variables<N, V>(mut self, variables: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: Into<String>,
        V: Into<String>,
    {
        let variables = variables.into_iter();
        let variables = variables.map(|(name, value)| (name.into(), value.into().into()));
        self.variables = Some(variables.collect());
        self
    }

    /// The sources, with the environment's word for the file.
    fn all_sources(&mut self) -> Sources {
        let mut sources = std::mem::take(&mut self.sources);
        let environment = || {
            let all = env::vars_os();
            // A name that is no text is that of no setting, and so is told; a value where it is taken.
            let all = all.map(|(name, value)| (name.to_string_lossy().into_owned(), value));
            all.filter(|(name, _)| name.starts_with(PREFIX)).collect()
        };
        sources.variables = self.variables.take().unwrap_or_else(environment);
        let named = sources.variables.iter().find(|(name, _)| name == CONFIG);
        if let Some((_, path)) = named.filter(|(_, path)| !path.is_empty()) {
            sources.path = Some(path.into());
        }
        // Not kept: the token is the operators' secret.
        sources.variables.retain(|(name, _)| name != TOKEN);
        sources
    }
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let set = self.sources.program.iter().map(|(name, _)| name);
        f.debug_struct("Setup")
            .field("name", &self.name)
            // Values may be secrets.
            .field("set", &set.collect::<Vec<_>>())
            .field("config", &self.sources.path)
            .finish_non_exhaustive()
    }
}
