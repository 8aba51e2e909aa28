//! Opens the shop: three addresses, who serves there, and how all of it ends.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use plimsoll::ops::health::{Check, Health};
use plimsoll::ops::{Controls, InvalidToken};
use plimsoll::preset::{self, Part, Setup, Stack, StartError};
use plimsoll::server::metrics::Objective;
use plimsoll::{log, telemetry};
use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic::transport::Endpoint;

use crate::{barista, reception};

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

/// What stands around the two, each under its own name: as if each had a process of its own.
pub(crate) struct Stacks {
    pub(crate) reception: Stack,
    pub(crate) barista: Stack,
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

    /// Starts the log, the exporters and the layers, as the program, the file in `PLIMSOLL_CONFIG` and the environment say.
    ///
    /// # Errors
    ///
    /// When a setting is wrong; the error names it and where it stands.
    pub(crate) fn stacks(&self) -> Result<Stacks, StartError> {
        let health = Health::new().check(Check::tcp("barista", reachable(self.barista.address)));
        let reception = told("reception")
            // The log is of the whole process, so one of the two has it.
            .log(log::Setup::new().service("coffee_shop").to_stderr())
            .objective(Objective::new("orders", SOON).route("/orders"))
            // Nobody orders a thousand coffees a second.
            .set("rate_limit.quotas", QUOTA)
            .set("rate_limit.key", "peer")
            .health(health)
            .start()?;
        let methods =
            ["Place", "Find", "Watch"].map(|name| format!("coffee_shop.v1.Barista/{name}"));
        let barista = told("barista")
            .without(Part::Log)
            .rpc_methods(methods)
            .start()?;
        Ok(Stacks { reception, barista })
    }

    /// Serves until Ctrl-C or SIGTERM, then until the calls have ended, at most 5 s more.
    ///
    /// # Errors
    ///
    /// When the system does not tell of signals, or the token of operators is none.
    pub(crate) async fn serve(self, stacks: &Stacks) -> Result<(), ServeError> {
        let channel = Endpoint::from_shared(format!("http://{}", reachable(self.barista.address)))?
            .connect_timeout(PATIENCE)
            .timeout(PATIENCE)
            .connect_lazy();

        let stack = &stacks.reception;
        let routes = reception::routes(channel, &stack.client());
        let reception = stack
            .serve(routes.layer(stack.layer()))
            .listen(self.reception.listener);
        let closing = reception.control();
        let operators = stack
            .ops()
            .controls(Controls::from_env()?)
            .on_drain(move || closing.drain())
            .routes();
        let operators = match stacks.barista.telemetry() {
            Some(telemetry) => operators.nest("/barista", telemetry.metrics_route()),
            None => operators,
        };
        let reception = reception.admin(self.ops.listener, operators);

        let stack = &stacks.barista;
        let routes = Routes::new(barista::service()).into_axum_router();
        let barista = stack
            .serve(routes.layer(stack.layer()))
            .listen(self.barista.listener);
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

/// What both have in common.
fn told(name: &'static str) -> Setup {
    preset::server(name)
        .telemetry(telemetry::Setup::new().service(name))
        // In a cluster leave the notice as it is: whoever sends calls needs it. Here nobody waits for anybody.
        .set("serve.notice", "none")
        // How long calls may go on after Ctrl-C.
        .set("serve.deadline", "5s")
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
