//! The three listeners, and how they end.

use std::io;
use std::net::SocketAddr;

use plimsoll::log::Writer;
use plimsoll::ops::health::InvalidUrl;
use plimsoll::serve::{Connections, Drain, Report, Server};
use plimsoll::telemetry::{SetupError, Telemetry};
use tokio::net::TcpListener;
use tonic::service::Routes;

use crate::limited::LimitError;
use crate::settings::Settings;
use crate::upstream::Upstream;
use crate::{grpc, health, http, layers};

/// The sockets, open but not served yet.
pub(crate) struct Listeners {
    http: TcpListener,
    grpc: TcpListener,
    admin: TcpListener,
}

/// Why serving ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{setting}: cannot listen on {address}")]
    Listen {
        setting: &'static str,
        address: SocketAddr,
        source: io::Error,
    },
    #[error("the system refused")]
    Socket(#[from] io::Error),
    #[error("the export cannot be set up")]
    Telemetry(#[from] SetupError),
    #[error(transparent)]
    Limits(#[from] LimitError),
    #[error("TB_REDIS, TB_UPSTREAM: it cannot be checked")]
    Check(#[from] InvalidUrl),
}

impl Listeners {
    /// Opens all of them.
    pub(crate) async fn bind(settings: &Settings) -> Result<Self, Error> {
        Ok(Self {
            http: bind("TB_HTTP", settings.http).await?,
            grpc: bind("TB_GRPC", settings.grpc).await?,
            admin: bind("TB_ADMIN", settings.admin).await?,
        })
    }

    /// The line that tells where they are.
    pub(crate) fn announcement(&self) -> Result<String, Error> {
        let (http, grpc) = (self.http.local_addr()?, self.grpc.local_addr()?);
        let admin = self.admin.local_addr()?;
        Ok(format!("listening http={http} grpc={grpc} admin={admin}"))
    }
}

async fn bind(setting: &'static str, address: SocketAddr) -> Result<TcpListener, Error> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(source) => Err(Error::Listen {
            setting,
            address,
            source,
        }),
    }
}

/// Serves until it is signalled, then until all calls have ended or the time to drain is over. Tells how it ended.
pub(crate) async fn run(
    listeners: Listeners,
    settings: &Settings,
    telemetry: &Telemetry,
    log: &Writer,
) -> Result<Report, Error> {
    let limiters = settings.limits.layers(&settings.trusted)?;
    let connections = Connections::new();
    let health = health::of(settings)?;
    let incoming = layers::incoming(settings, telemetry, log, &limiters, &connections, &health);
    let upstream = Upstream::new(settings.upstream.clone(), telemetry.tracer());

    let draining = health.clone();
    let services = Routes::new(grpc::service(upstream.clone())).add_service(health.grpc());
    let services = services.into_axum_router().merge(limiters.routes());
    let router = http::routes(upstream).merge(services.clone().reset_fallback());
    let operators = health
        .routes()
        .merge(health.details())
        .merge(health.grpc_routes())
        .merge(telemetry.metrics_route());
    // Some of the time for whoever sends calls to see it, the rest for calls to end.
    let notice = settings.notice.unwrap_or(settings.drain / 2);
    let deadline = settings.drain.saturating_sub(notice);
    let mut server = Server::new(layers::around(router, incoming.clone()))
        .count_in(&connections)
        .listen(listeners.http)
        .listen_with(listeners.grpc, layers::around(services, incoming))
        .admin(listeners.admin, operators)
        .on_drain(move || draining.drain())
        .drain(Drain::new().notice(notice).deadline(deadline));
    if let Some(limit) = settings.head_timeout {
        server = server.head_timeout(limit);
    }
    if let Some(limit) = settings.write_stall {
        server = server.write_stall(limit);
    }
    if let Some(most) = settings.max_connections {
        server = server.max_connections(most);
    }
    Ok(server.run_until_signalled().await?)
}
