//! The stack of one server, as it runs.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    build,
    client::Client,
    config::{ConfigError, Program, Values},
    describe::LAYERS,
    reload::{Reloaded, Reloads},
    watch::{Watch, Watched},
};
use crate::{
    limit::LimitHandle,
    log::Log,
    observe::BoxError,
    ops::{Ops, health::Health},
    serve::{Connections, Server},
    server::{
        access_log::{AccessLog, AccessLogLayer, Failures},
        back_pressure::{BackPressure, BackPressureLayer},
        body_limit::{BodyLimit, BodyLimitLayer},
        catch_panic::{CatchPanic, CatchPanicLayer},
        metrics::{Metrics, MetricsLayer},
        rate_limit::{RateLimit, RateLimitHandle, RateLimitLayer},
        request_id::{RequestIdLayer, WithRequestId},
        timeout::{Timeout, TimeoutLayer},
        trace_context::{TraceContextLayer, WithSpan},
    },
    telemetry::{ShutdownError, Telemetry},
};

/// All layers of a server, in their order. Clones, and the services of all of them, share one state.
///
/// It goes wherever a layer of tower's goes. A part that is switched off is there, and does nothing.
#[derive(Clone)]
pub struct Layers {
    pub(super) request_id: RequestIdLayer,
    pub(super) trace_context: TraceContextLayer,
    pub(super) access_log: AccessLogLayer,
    pub(super) metrics: MetricsLayer,
    pub(super) timeout: TimeoutLayer,
    pub(super) rate_limit: RateLimitLayer,
    pub(super) back_pressure: BackPressureLayer,
    pub(super) body_limit: BodyLimitLayer,
    pub(super) catch_panic: CatchPanicLayer,
}

/// Service of [`Layers`], outermost first.
pub type Served<S> = WithRequestId<
    WithSpan<AccessLog<Metrics<Timeout<RateLimit<BackPressure<BodyLimit<CatchPanic<S>>>>>>>>,
>;

impl<S> Layer<S> for Layers {
    type Service = Served<S>;

    fn layer(&self, service: S) -> Served<S> {
        // Innermost: all others see what became of a panic. What is inside of it is guarded too.
        let service = self.catch_panic.layer(service);
        // Inside of the limit, so that bodies of calls that wait are not looked at.
        let service = self.body_limit.layer(service);
        // Inside of the quotas: who is over one takes nobody's place.
        let service = self.back_pressure.layer(service);
        // Inside of the log and the metrics, which tell who was rejected.
        let service = self.rate_limit.layer(service);
        // Outside of what waits: waiting is part of a call's time, and the room reads the deadline.
        let service = self.timeout.layer(service);
        // These two outside of all that rejects and ends calls, or they would not know of it.
        let service = self.metrics.layer(service);
        let service = self.access_log.layer(service);
        // Outside of the log, whose lines bear the ids of this span.
        let service = self.trace_context.layer(service);
        // Outermost: every answer and every line bears the id.
        self.request_id.layer(service)
    }
}

/// The stack of one server: its layers, and all that tells of them or changes them. Clones share everything.
///
/// Keep it to the end of `main`: it holds the log and the exporters that it started.
///
/// Once one has watched a file, SIGHUP does not end the process any more, also when the stack is gone.
#[derive(Clone)]
#[must_use = "it holds the log and the exporters"]
pub struct Stack {
    pub(super) parts: Arc<Parts>,
}

pub(super) struct Parts {
    pub(super) name: &'static str,
    pub(super) layers: Layers,
    pub(super) limit: LimitHandle,
    pub(super) rate_limit: Option<RateLimitHandle>,
    pub(super) health: Health,
    pub(super) connections: Connections,
    pub(super) failures: Failures,
    pub(super) reloads: Reloads,
    /// As they hold now.
    pub(super) values: Mutex<Values>,
    pub(super) watched: Arc<Watched>,
    pub(super) program: Program,
    pub(super) watch: OnceLock<Watch>,
    // In the order in which they end.
    pub(super) telemetry: Option<Telemetry>,
    pub(super) log: Option<Logged>,
}

/// The log that the stack started.
pub(super) struct Logged {
    pub(super) log: Log,
    /// What the program's own settings of it let through, where no setting says more.
    pub(super) own_filter: Option<String>,
}

impl Parts {
    pub(super) fn values(&self) -> MutexGuard<'_, Values> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stack {
    pub(super) fn of(parts: Parts) -> Self {
        Self {
            parts: Arc::new(parts),
        }
    }

    /// All layers: for `Router::layer`, a `MethodRouter`, and `tonic::transport::Server::layer`.
    pub fn layer(&self) -> Layers {
        self.parts.layers.clone()
    }

    /// What [`server`](super::server) was given.
    pub fn name(&self) -> &'static str {
        self.parts.name
    }

    /// The limit of calls in flight.
    pub fn limit(&self) -> LimitHandle {
        self.parts.limit.clone()
    }

    /// The quotas, if there are any.
    pub fn rate_limit(&self) -> Option<RateLimitHandle> {
        self.parts.rate_limit.clone()
    }

    /// The timeouts: their counts, and changes of them.
    pub fn timeout(&self) -> &TimeoutLayer {
        &self.parts.layers.timeout
    }

    /// The cap of bodies.
    pub fn body_limit(&self) -> &BodyLimitLayer {
        &self.parts.layers.body_limit
    }

    /// The health of the service.
    pub fn health(&self) -> &Health {
        &self.parts.health
    }

    /// The exporters, if the stack started them.
    pub fn telemetry(&self) -> Option<&Telemetry> {
        self.parts.telemetry.as_ref()
    }

    /// The log, if the stack started it.
    pub fn log(&self) -> Option<&Log> {
        self.parts.log.as_ref().map(|logged| &logged.log)
    }

    /// The connections of [`Stack::serve`].
    pub fn connections(&self) -> &Connections {
        &self.parts.connections
    }

    /// The layers of the client side, with the same exporters.
    pub fn client(&self) -> Client {
        match self.telemetry() {
            Some(telemetry) => super::client().telemetry(telemetry),
            None => super::client(),
        }
    }

    /// A server of plimsoll's own for this service, within the limits of `serve`; it still needs a listener. It tells the
    /// stack's health when it drains.
    ///
    /// The service is to have the stack's layer already: `stack.serve(app.layer(stack.layer()))`.
    pub fn serve<S, B>(&self, service: S) -> Server<S>
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (values, health) = (self.parts.values(), self.health().clone());
        let time = |name| values.time(name).unwrap_or_default();
        let mut server = Server::new(service)
            .count_in(self.connections())
            .head_timeout(time("serve.head_timeout"))
            .idle_timeout(time("serve.idle_timeout"))
            .write_stall(time("serve.write_stall"))
            .drain(build::drain(&values))
            .on_drain(move || health.drain());
        if let Some(connections) = values.count("serve.max_connections") {
            server = server.max_connections(connections);
        }
        match values.time("serve.max_connection_age") {
            Some(age) => server.max_connection_age(age),
            None => server,
        }
    }

    /// The router for a listener that only operators reach ([`Server::admin`]), with all that the stack knows: metrics,
    /// health, and the page. What is switched off is not there. Give it [controls](Ops::controls) and [`Ops::on_drain`] to
    /// change something.
    pub fn ops(&self) -> Ops {
        let on = |switch| self.parts.values().switch(switch);
        let mut ops = Ops::new()
            .health(self.health())
            .connections(self.connections());
        // A limit of the program's own may be held by other layers.
        if on("back_pressure.enabled") || self.parts.program.limit {
            ops = ops.limit(&self.parts.limit);
        }
        if on("access_log.enabled") {
            ops = ops.failures(&self.parts.failures);
        }
        if let Some(telemetry) = self.telemetry() {
            ops = ops.telemetry(telemetry);
        }
        if let Some(rate_limit) = &self.parts.rate_limit {
            ops = ops.rate_limit(rate_limit);
        }
        for layer in &LAYERS {
            // The page does not hold the log and the exporters.
            let parts = Arc::downgrade(&self.parts);
            ops = ops.layer(layer.name, move || {
                let state = parts.upgrade().map(|parts| parts.state(layer));
                state.unwrap_or_default()
            });
        }
        ops
    }

    /// Reads the file again, and the environment that was there at the start, and changes what can be changed while calls
    /// run: no call is dropped, and no limit forgets what it knows.
    ///
    /// Once the stack was [started](super::Setup::start) it does that by itself, when the file has changed and stayed the
    /// same for as long as it is looked at (`reload.every`), and at once on SIGHUP. Each change is a line
    /// `event="setting_changed"`; a setting that needs a restart is a WARN `event="setting_needs_restart"`.
    ///
    /// It blocks while it reads the file, and while another reload does: call it on a thread where that may be.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], and nothing is changed. It is also a line `event="config_rejected"`, and counted.
    pub fn reload(&self) -> Result<Reloaded, ConfigError> {
        self.parts.reload()
    }

    /// How often the file was read again, and what came of it.
    pub fn reloads(&self) -> &Reloads {
        &self.parts.reloads
    }

    /// Exports what is left, and stops the exporters that the stack started; waits for at most this long. Call it after the
    /// last call.
    ///
    /// Cancel: as [`Telemetry::shutdown`].
    ///
    /// # Errors
    ///
    /// [`ShutdownError`] if not all could be exported.
    pub async fn shutdown(&self, patience: Duration) -> Result<(), ShutdownError> {
        match self.telemetry() {
            Some(telemetry) => telemetry.end(patience).await,
            None => Ok(()),
        }
    }

    /// Each layer, outermost first, and how it stands: `on: ..` with what limits it, or `off`.
    pub fn layers(&self) -> Vec<(&'static str, String)> {
        let states = LAYERS.iter();
        let states = states.map(|layer| (layer.name, self.parts.state(layer)));
        states.collect()
    }
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format!("Stack({})", self.name());
        let mut all = f.debug_struct(&name);
        for (layer, state) in self.layers() {
            all.field(layer, &format_args!("{state}"));
        }
        all.finish()
    }
}

impl fmt::Debug for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layers").finish_non_exhaustive()
    }
}
