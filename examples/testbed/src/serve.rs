//! The three listeners, and how they end.

use std::future::IntoFuture;
use std::io;
use std::net::SocketAddr;

use axum::serve::ListenerExt;
use futures_util::TryFutureExt;
use plimsoll::log::Writer;
use plimsoll::ops::health::Health;
use plimsoll::telemetry::{SetupError, Telemetry};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService as _;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::limited::LimitError;
use crate::settings::Settings;
use crate::upstream::Upstream;
use crate::{grpc, http, layers};

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
    #[error("the gRPC server failed")]
    Grpc(#[from] tonic::transport::Error),
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

/// Serves until it is signalled, then until all calls have ended or the time to drain is over.
pub(crate) async fn run(
    listeners: Listeners,
    settings: &Settings,
    signalled: impl Future<Output = ()>,
    telemetry: &Telemetry,
    log: &Writer,
) -> Result<(), Error> {
    let limiters = settings.limits.layers(&settings.trusted)?;
    let incoming = layers::incoming(settings, telemetry, log, &limiters);
    let stopping = CancellationToken::new();
    let stop = || stopping.clone().cancelled_owned();
    let upstream = Upstream::new(settings.upstream.clone(), telemetry.tracer());

    let health = Health::new().grpc_service(grpc::Service::NAME);
    let services = Routes::new(grpc::service(upstream.clone())).add_service(health.grpc());
    let services = Routes::from(services.into_axum_router().merge(limiters.routes()));

    let router = http::routes(upstream).merge(services.clone().into_axum_router().reset_fallback());
    let http = axum::serve(
        listeners.http.tap_io(no_delay),
        layers::around_routes(router, incoming.clone())
            .into_make_service_with_connect_info::<SocketAddr>(),
    )
    .with_graceful_shutdown(stop());
    let grpc = layers::around_server(Server::builder(), incoming)
        .add_routes(services)
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listeners.grpc).with_nodelay(Some(true)),
            stop(),
        );
    let admin = axum::serve(
        listeners.admin,
        health
            .routes()
            .merge(health.details())
            .merge(telemetry.metrics_route()),
    );

    // While the calls drain, admin still answers.
    let http = http.into_future().map_err(Error::Socket);
    let calls = async { tokio::try_join!(http, grpc.map_err(Error::Grpc)) };
    let draining = async {
        signalled.await;
        tracing::info!("draining");
        health.drain();
        stopping.cancel();
        tokio::time::sleep(settings.drain).await;
    };
    tokio::select! {
        ended = calls => {
            ended.map(drop)?;
            tracing::info!("drained");
        }
        () = draining => tracing::warn!("some calls did not end in time and are cut"),
        ended = admin.into_future() => ended?,
    }
    Ok(())
}

fn no_delay(connection: &mut TcpStream) {
    if let Err(error) = connection.set_nodelay(true) {
        tracing::warn!(%error, "a connection stays with Nagle's algorithm");
    }
}

/// Ends at the first SIGTERM or Ctrl-C. From this call on they do not end the process any more.
pub(crate) fn signalled() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
