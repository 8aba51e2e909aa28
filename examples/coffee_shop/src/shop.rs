//! Opens the shop: three addresses, who serves there, and how all of it ends.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use plimsoll::limit::Limit;
use plimsoll::log::Writer;
use plimsoll::ops::health::{Check, Health};
use plimsoll::ops::{Controls, InvalidToken, Ops};
use plimsoll::serve::{Connections, Drain, Server};
use plimsoll::server::access_log::{AccessLogLayer, Failures};
use plimsoll::server::catch_panic::CatchPanicLayer;
use plimsoll::server::load_shed::LoadShedLayer;
use plimsoll::server::metrics::{MetricsLayer, Objective};
use plimsoll::server::rate_limit::{InvalidQuota, Key, Quotas, RateLimitLayer};
use plimsoll::server::request_id::RequestIdLayer;
use plimsoll::server::trace_context::TraceContextLayer;
use plimsoll::task::Deaths;
use plimsoll::telemetry::Telemetry;
use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic::transport::Endpoint;

use crate::{barista, reception};

/// How long calls may go on after Ctrl-C.
const DRAIN: Duration = Duration::from_secs(5);

/// How long reception waits for the barista's answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What one caller may ask for.
const QUOTA: &str = "1000/s burst 2000";

/// How soon an order should be taken.
const SOON: Duration = Duration::from_millis(300);

/// The three listeners, open but not served yet.
pub(crate) struct Shop {
    reception: Door,
    barista: Door,
    ops: Door,
}

/// What each of the two tells, under its own name: as if each had a process of its own.
pub(crate) struct Told {
    pub(crate) reception: Telemetry,
    pub(crate) barista: Telemetry,
}

struct Door {
    listener: TcpListener,
    address: SocketAddr,
}

/// An address that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} (set {variable} to another address)")]
pub(crate) struct BindError {
    variable: &'static str,
    address: String,
    source: io::Error,
}

/// Why the shop closed by itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("the system does not tell of signals")]
    Signals(#[from] io::Error),
    #[error("the barista has no address")]
    Barista(#[from] tonic::transport::Error),
    #[error("the controls have no token")]
    Token(#[from] InvalidToken),
    #[error("the quota is none")]
    Quota(#[from] InvalidQuota),
}

impl Shop {
    /// Opens the listeners where the environment says, or at the usual places.
    ///
    /// # Errors
    ///
    /// When an address is not one or is taken; the error names the variable that changes it.
    pub(crate) async fn bind() -> Result<Self, BindError> {
        Ok(Self {
            reception: Door::open("RECEPTION_ADDR", "127.0.0.1:3000").await?,
            barista: Door::open("BARISTA_ADDR", "127.0.0.1:50051").await?,
            ops: Door::open("OPS_ADDR", "127.0.0.1:9090").await?,
        })
    }

    /// What a newcomer can do now.
    pub(crate) fn what_to_try(&self) -> String {
        let (reception, ops) = (self.reception.address, self.ops.address);
        format!(
            "\
The coffee shop is open: reception on {reception}, barista on {barista}, ops on {ops}.

  curl http://{reception}/menu
  curl http://{reception}/orders -H 'content-type: application/json' -d '{{\"coffee\":\"cappuccino\"}}'
  curl http://{reception}/orders/1
  curl -N http://{reception}/orders/1/updates
  curl -i http://{reception}/drills/panic       (and error, slow, cut: see how each failure looks)
  curl http://{ops}/readyz
  open http://{ops}/status in a browser         (its controls: PLIMSOLL_OPS_TOKEN=$(openssl rand -hex 32))
  curl http://{ops}/metrics                     (of reception; http://{ops}/barista/metrics of the barista)

Ctrl-C closes the shop.
",
            barista = self.barista.address,
        )
    }

    /// Serves until Ctrl-C or SIGTERM, then until the calls have ended, at most 5 s more.
    ///
    /// # Errors
    ///
    /// When the system does not tell of signals.
    pub(crate) async fn serve(self, told: &Told, log: &Writer) -> Result<(), ServeError> {
        let health = Health::new().check(Check::tcp("barista", reachable(self.barista.address)));
        let draining = health.clone();
        let (failures, connections) = (Failures::new(), Connections::new());
        let barista = Endpoint::from_shared(format!("http://{}", reachable(self.barista.address)))?
            .connect_timeout(PATIENCE)
            .timeout(PATIENCE)
            .connect_lazy();

        // In a cluster leave the notice as it is: whoever sends calls needs it. Here nobody waits for anybody.
        let drain = Drain::new().notice(Duration::ZERO).deadline(DRAIN);
        let routes = reception::routes(barista, told.reception.tracer().clone());
        // Nobody orders a thousand coffees a second; and no more are made at once than the barista can bear.
        let quotas = RateLimitLayer::new(Key::peer(), QUOTA.parse::<Quotas>()?);
        let limit = Limit::adaptive().named("reception");
        let layers = (
            around_reception(&told.reception, log, &failures),
            quotas.clone(),
            LoadShedLayer::new(limit.clone()),
        );
        let reception = Server::new(routes.layer(layers)).count_in(&connections);
        let closing = reception.control();
        let operators = Ops::new()
            .telemetry(&told.reception)
            .health(&health)
            .connections(&connections)
            .failures(&failures)
            .rate_limit(&quotas.handle())
            .limit(&limit.handle())
            .on_drain(move || closing.drain())
            .controls(Controls::from_env()?)
            .routes()
            .nest("/barista", told.barista.metrics_route());
        let reception = reception
            .listen(self.reception.listener)
            .admin(self.ops.listener, operators)
            .on_drain(move || draining.drain())
            .drain(drain);
        let routes = Routes::new(barista::service()).into_axum_router();
        let barista = Server::new(routes.layer(around_barista(&told.barista)))
            .listen(self.barista.listener)
            .drain(drain);
        let barista_may_go = barista.control();
        let reception = async {
            let ended = reception.run_until_signalled().await;
            // The barista stays until reception has no call left that may need it.
            barista_may_go.drain();
            ended
        };
        let (ended, _) = tokio::join!(reception, barista.run());
        ended?;
        Ok(())
    }
}

/// What stands around both services, outermost first.
type Layers = (
    RequestIdLayer,
    TraceContextLayer,
    AccessLogLayer,
    MetricsLayer,
    CatchPanicLayer,
);

fn around_reception(telemetry: &Telemetry, log: &Writer, failures: &Failures) -> Layers {
    let metrics = MetricsLayer::new(telemetry.meter())
        .objective(Objective::new("orders", SOON).route("/orders"))
        // These two are of the whole process, so they are told once.
        .watch(log.clone())
        .watch(Deaths);
    let traces = TraceContextLayer::new(telemetry.tracer().clone());
    layers(traces, AccessLogLayer::new().recent(failures), metrics)
}

fn around_barista(telemetry: &Telemetry) -> Layers {
    let methods = ["Place", "Find", "Watch"].map(|name| format!("coffee_shop.v1.Barista/{name}"));
    let metrics = MetricsLayer::new(telemetry.meter()).rpc_methods(methods.clone());
    let traces = TraceContextLayer::new(telemetry.tracer().clone()).rpc_methods(methods);
    layers(traces, AccessLogLayer::new(), metrics)
}

fn layers(traces: TraceContextLayer, access: AccessLogLayer, metrics: MetricsLayer) -> Layers {
    let panics = CatchPanicLayer::new();
    (
        // Every call has an id, taken from the caller or made here.
        RequestIdLayer::new(),
        // A span from its first to its last byte, in the caller's trace.
        traces,
        // One line for each call, when its last byte is out.
        access,
        // Counts and durations, by how each call really ended; and what other parts tell when they are asked.
        metrics.watch(panics.clone()),
        // A panic becomes a 500, or INTERNAL for gRPC; the ones above see it as an answer.
        panics,
    )
}

impl Door {
    async fn open(variable: &'static str, default: &str) -> Result<Self, BindError> {
        let address = match std::env::var_os(variable) {
            Some(address) => address.to_string_lossy().into_owned(),
            None => default.to_owned(),
        };
        let open = async {
            let listener = TcpListener::bind(&address).await?;
            let address = listener.local_addr()?;
            Ok(Self { listener, address })
        };
        open.await.map_err(|source| BindError {
            variable,
            address: address.clone(),
            source,
        })
    }
}

/// An address one can connect to, also if the listener takes calls on all of them.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}
