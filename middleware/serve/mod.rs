//! A serve loop that hostile peers cannot stall, and that ends without losing a call.
//!
//! ```no_run
//! use plimsoll::{ops::health::Health, serve::{Drain, Server}};
//! use tokio::net::TcpListener;
//!
//! # async fn run(app: axum::Router) -> std::io::Result<()> {
//! let health = Health::new();
//! let draining = health.clone();
//! let report = Server::new(app)
//!     .listen(TcpListener::bind("0.0.0.0:3000").await?)
//!     .admin(TcpListener::bind("127.0.0.1:9090").await?, health.routes())
//!     .on_drain(move || draining.drain())
//!     .drain(Drain::new())
//!     .run_until_signalled()
//!     .await?;
//! println!("{} calls ended by themselves, {} were cut off", report.drained, report.cut);
//! # Ok(())
//! # }
//! ```
//!
//! Layers see a call from its head to its last byte. What comes before and around it is the matter of whoever serves:
//! half a head, a peer that takes nothing of its answer, floods of HTTP/2, a process without descriptors, the end. The
//! layers work without this loop, on `axum::serve` and on tonic's server; then these are not guarded.
//!
//! HTTP/1.1 and HTTP/2 on one listener, as the peer begins. For gRPC give it the router of tonic's
//! `Routes::into_axum_router`.

mod accept;
mod call;
mod conn;
mod connection;
mod counts;
mod drain;
mod handed;
mod heads;
mod io;
mod limits;
mod listen;
mod shared;
#[cfg(not(unix))]
#[path = "not_unix.rs"]
mod signals;
#[cfg(unix)]
#[path = "unix.rs"]
mod signals;
#[cfg(feature = "serve-tls")]
mod tls;

use std::{fmt, num::NonZeroUsize, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tokio::{sync::watch, time::timeout};
use tower_service::Service;

pub use self::{
    accept::Listener,
    counts::{Closed, Connections},
    drain::{Drain, Report},
};
use self::{
    accept::Plain,
    drain::{LAST_WORDS, Phase, run_all},
    limits::Limits,
    listen::{EndOnDrop, on, vital},
    shared::{Room, Shared},
    signals::Signals,
};
use crate::{limit::ReadDelay, observe::BoxError, task::spawn};

type Loop = Pin<Box<dyn Future<Output = ()> + Send>>;
type Accept<S> = Box<dyn FnOnce(S, Arc<Shared>) -> Loop + Send>;
type OnDrain = Box<dyn FnOnce() + Send>;

/// So many connections the admin listener holds: two of each who asks.
const ADMIN_CONNECTIONS: usize = 64;
/// Who rests there longer makes room for probes.
const ADMIN_IDLE: Duration = Duration::from_secs(5);

/// Serves a service on one or more listeners, within limits, and ends it in order.
pub struct Server<S> {
    service: S,
    limits: Limits,
    drain: Drain,
    listeners: Vec<Accept<S>>,
    admin: Vec<Box<dyn FnOnce(Arc<Shared>) -> Loop + Send>>,
    on_drain: Vec<OnDrain>,
    control: Control,
    counts: Arc<counts::Counts>,
    delay: Option<ReadDelay>,
    room: Option<Room>,
}

/// What a server is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ask {
    Serve,
    Drain,
    Cut,
}

/// Asks a server to end. Clones ask the same one.
#[derive(Clone, Debug)]
pub struct Control {
    ask: Arc<watch::Sender<Ask>>,
}

impl Control {
    /// Begins to [`Drain`]. Once it has begun this does nothing.
    pub fn drain(&self) {
        self.ask_for(Ask::Drain);
    }

    /// Cuts off what still runs, without waiting for the deadline.
    pub fn cut(&self) {
        self.ask_for(Ask::Cut);
    }

    fn ask_for(&self, ask: Ask) {
        self.ask.send_if_modified(|asked| {
            let more = ask > *asked;
            if more {
                *asked = ask;
            }
            more
        });
    }
}

impl<S, B> Server<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// Serves this: an axum `Router`, or any service that is cloned for each call.
    pub fn new(service: S) -> Self {
        Self {
            service,
            limits: Limits::default(),
            drain: Drain::new(),
            listeners: Vec::new(),
            admin: Vec::new(),
            on_drain: Vec::new(),
            control: Control {
                ask: Arc::new(watch::Sender::new(Ask::Serve)),
            },
            counts: Arc::default(),
            delay: None,
            room: None,
        }
    }

    /// Listens here too.
    #[must_use]
    pub fn listen<L: Listener>(mut self, listener: L) -> Self {
        self.listeners.push(Box::new(|service, shared| {
            on(listener, Plain, service, shared)
        }));
        self
    }

    /// Listens here too, for another service, within the same limits: gRPC on a port of its own, as an example.
    #[must_use]
    pub fn listen_with<L, A, C>(mut self, listener: L, service: A) -> Self
    where
        L: Listener,
        A: Service<Request<Incoming>, Response = Response<C>> + Clone + Send + Sync + 'static,
        A::Future: Send + 'static,
        A::Error: Into<BoxError>,
        C: Body<Data = Bytes> + Send + 'static,
        C::Error: Into<BoxError>,
    {
        self.listeners
            .push(Box::new(|_, shared| on(listener, Plain, service, shared)));
        self
    }

    /// Serves this router for operators, and goes on with it until all else has ended: probes must see that the server
    /// drains. Its connections are not counted, and have limits of their own: 64 at once, and 5 s of rest, so that who keeps
    /// them open for nothing makes room for probes.
    #[must_use]
    pub fn admin<L, A, C>(mut self, listener: L, service: A) -> Self
    where
        L: Listener,
        A: Service<Request<Incoming>, Response = Response<C>> + Clone + Send + Sync + 'static,
        A::Future: Send + 'static,
        A::Error: Into<BoxError>,
        C: Body<Data = Bytes> + Send + 'static,
        C::Error: Into<BoxError>,
    {
        self.admin
            .push(Box::new(|shared| on(listener, Plain, service, shared)));
        self
    }

    /// Runs this when the server begins to end, before anything else: to say that it is not ready. Should it panic, that
    /// is a line `event="task_died"` and a count, and the server goes on to end. It may block, being on a thread of its own
    /// beside all others that were given: 5 s after it was asked to end, or at a second signal, the server drains without
    /// what is not done, and says so. That time is part of the [notice](Drain::notice). What never returns keeps neither the
    /// server nor its runtime from ending.
    #[must_use]
    pub fn on_drain(mut self, run: impl FnOnce() + Send + 'static) -> Self {
        self.on_drain.push(Box::new(run));
        self
    }

    /// How it ends. Default: [`Drain::new`].
    #[must_use]
    pub fn drain(mut self, drain: Drain) -> Self {
        self.drain = drain;
        self
    }

    /// How long a head may take, from the first byte of a connection or of the head, and for HTTP/2 any frame but data.
    /// Default: 10 s, long for any honest peer on a bad network.
    #[must_use]
    pub fn head_timeout(mut self, limit: Duration) -> Self {
        self.limits.head = limit;
        self
    }

    /// How long a connection may rest between calls. Default: 75 s, longer than the 60 s for which balancers keep
    /// theirs, so that they close first and no call crosses the closing.
    #[must_use]
    pub fn idle_timeout(mut self, limit: Duration) -> Self {
        self.limits.idle = limit;
        self
    }

    /// How long a peer may take nothing of what is ready to be sent; a stream of HTTP/2 that its window stops as well.
    /// Default: 30 s.
    #[must_use]
    pub fn write_stall(mut self, limit: Duration) -> Self {
        self.limits.write_stall = limit;
        self
    }

    /// The most connections at once; more are closed as they come. Default: 10,000, some hundred MiB at worst.
    #[must_use]
    pub fn max_connections(mut self, connections: NonZeroUsize) -> Self {
        self.limits.connections = connections.get();
        self
    }

    /// How old a connection may become; then it is told to end with its calls. For callers behind a balancer that
    /// spreads connections, not calls. A tenth is added or taken by chance, so that not all end at once.
    /// Default: without end.
    #[must_use]
    pub fn max_connection_age(mut self, age: Duration) -> Self {
        self.limits.age = Some(age);
        self
    }

    /// The most streams at once on a connection of HTTP/2. Default: 200, as hyper's.
    #[must_use]
    pub fn max_concurrent_streams(mut self, streams: u32) -> Self {
        self.limits.streams = streams;
        self
    }

    /// The most bytes of a head of HTTP/2. Default: 16 KiB, as hyper's. HTTP/1's buffer is bounded by 256 KiB.
    #[must_use]
    pub fn max_head_bytes(mut self, bytes: u32) -> Self {
        self.limits.max_head_bytes = bytes;
        self
    }

    /// Pings peers of HTTP/2 so often, and closes those that do not answer within 20 s. Default: never.
    #[must_use]
    pub fn ping_every(mut self, interval: Duration) -> Self {
        self.limits.ping = Some(interval.min(conn::LONGEST));
        self
    }

    /// Measures how long requests lie unread, for layers of the service that have this [`ReadDelay`] as their gate.
    #[must_use]
    pub fn read_delay(mut self, delay: &ReadDelay) -> Self {
        self.delay = Some(delay.clone());
        self
    }

    /// Accepts connections only while this says that there is room, as in
    /// `move || { let limit = limit.clone(); async move { limit.room().await } }` with the
    /// [`LimitHandle`](crate::limit::LimitHandle) of a limit. The others wait in the kernel's queue, which is bounded as
    /// well. It is asked before each, and dropped when the server drains. Default: always.
    #[must_use]
    pub fn accept_when<R>(mut self, room: impl Fn() -> R + Send + Sync + 'static) -> Self
    where
        R: Future<Output = ()> + Send + 'static,
    {
        self.room = Some(Arc::new(move || Box::pin(room())));
        self
    }

    /// Asks it to end.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Counts its connections here too: for layers of its service that are to tell of them, as `MetricsLayer::watch` does.
    /// Several servers may count in one place; each has its own limits and waits for its own calls.
    #[must_use]
    pub fn count_in(self, connections: &Connections) -> Self {
        connections.watch(&self.counts);
        self
    }

    /// Its connections.
    pub fn connections(&self) -> Connections {
        let connections = Connections::new();
        connections.watch(&self.counts);
        connections
    }

    /// Serves until it is signalled: SIGTERM or Ctrl-C drains, a second one cuts off.
    ///
    /// Cancel: as [`run`](Self::run).
    ///
    /// # Errors
    ///
    /// The system refuses to hand over signals.
    pub async fn run_until_signalled(self) -> std::io::Result<Report> {
        let mut signals = Signals::new()?;
        let control = self.control();
        let obey = async move {
            for ask in [Ask::Drain, Ask::Cut] {
                signals.next().await;
                control.ask_for(ask);
            }
            std::future::pending::<Report>().await
        };
        tokio::select! {
            report = self.run() => Ok(report),
            report = obey => Ok(report),
        }
    }

    /// Serves until [`Control::drain`], then to the end.
    ///
    /// Cancel: dropping it closes the listeners and cuts off all connections.
    pub async fn run(self) -> Report {
        let Self {
            service,
            limits,
            drain,
            listeners,
            admin,
            on_drain,
            control,
            counts,
            delay,
            room,
        } = self;
        let shared = Shared::new(limits.clone(), counts).with(delay, room);
        let shared = Arc::new(shared);
        let admin_limits = Limits {
            connections: ADMIN_CONNECTIONS,
            idle: limits.idle.min(ADMIN_IDLE),
            ..limits
        };
        let operators = Arc::new(Shared::new(admin_limits, Arc::default()));
        let _ended = (
            EndOnDrop(Arc::clone(&shared)),
            EndOnDrop(Arc::clone(&operators)),
        );
        for listen in listeners {
            let accepting = listen(service.clone(), Arc::clone(&shared));
            drop(spawn("accept", vital(accepting, control.clone())));
        }
        for listen in admin {
            let accepting = listen(Arc::clone(&operators));
            drop(spawn("accept_admin", vital(accepting, control.clone())));
        }
        reached(control.ask.subscribe(), Ask::Drain).await;
        let cut = || reached(control.ask.subscribe(), Ask::Cut);
        let told = async {
            run_all(on_drain, cut()).await;
            tracing::info!(target: "plimsoll::serve", event = "draining", calls = shared.counts.calls(), "the server drains");
        };
        // The notice has begun: whoever will kill the process counts from now.
        // swallow: none, the notice being over is what is waited for
        let ((), _noticed) = tokio::join!(told, timeout(drain.notice, cut()));
        let before = shared.counts.served();
        shared.enter(Phase::Draining);
        tokio::select! {
            () = shared.all_closed() => {}
            // swallow: none, as above
            _over = timeout(drain.deadline, cut()) => {}
        }
        let drained = shared.counts.served().saturating_sub(before);
        let [connections_cut, upgraded_cut] = [shared.open(), shared.open_upgraded()]
            .map(|open| u64::try_from(open).unwrap_or(u64::MAX));
        shared.enter(Phase::Cutting);
        // swallow: none, what does not end now is dropped next
        let _told = timeout(LAST_WORDS, shared.all_gone()).await;
        shared.enter(Phase::Ended);
        let all_ended = async {
            shared.all_closed().await;
            shared.counts.no_calls().await;
        };
        // swallow: none, as above
        let _dropped = timeout(LAST_WORDS, all_ended).await;
        shared.tell_faults();
        let report = Report {
            drained,
            cut: shared.counts.cut(),
            connections_cut,
            upgraded_cut,
        };
        tracing::info!(
            target: "plimsoll::serve",
            event = "drained",
            drained = report.drained,
            cut = report.cut,
            connections_cut,
            upgraded_cut,
            "the server has ended"
        );
        report
    }
}

/// Waits until it is so far, or further.
async fn reached<T: PartialOrd>(mut now: watch::Receiver<T>, so_far: T) {
    if now.wait_for(|now| *now >= so_far).await.is_err() {
        // Whoever could say so is gone.
        std::future::pending::<()>().await;
    }
}

impl<S> fmt::Debug for Server<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("limits", &self.limits)
            .field("drain", &self.drain)
            .field("listeners", &self.listeners.len())
            .finish_non_exhaustive()
    }
}
