//! Where connections come from.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use super::{
    Shared,
    counts::{Closed, Ended},
    drain::Phase,
    handed::{Key, Over},
    reached,
};
use crate::{clock, context::chain, task::spawn_apart};

/// The first wait after an error that is not a connection's; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Something that accepts connections: TCP and Unix sockets are.
pub trait Listener: Send + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection, and where it comes from, if that is an address.
    ///
    /// Cancel safe: a connection is accepted or it is not.
    fn accept(
        &mut self,
    ) -> impl Future<Output = io::Result<(Self::Stream, Option<SocketAddr>)>> + Send;
}

/// Without Nagle's algorithm, which holds back the last part of an answer for up to 40 ms.
impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, Option<SocketAddr>)> {
        let (stream, peer) = TcpListener::accept(&*self).await?;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(target: "plimsoll::serve", %error, "a connection stays with Nagle's algorithm");
        }
        Ok((stream, Some(peer)))
    }
}

/// What makes a connection of what was accepted, in the connection's own task: for TLS its handshake.
pub(super) trait Transport<T>: Clone + Send + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Whether nothing is exchanged before the first request.
    const IS_IMMEDIATE: bool;

    fn establish(&self, stream: T) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// As it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plain;

impl<T> Transport<T> for Plain
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = T;

    const IS_IMMEDIATE: bool = true;

    async fn establish(&self, stream: T) -> io::Result<T> {
        Ok(stream)
    }
}

/// Runs one connection to its end.
pub(super) type Run<T> = Arc<
    dyn Fn(T, Arc<Open>, Option<Instant>) -> Pin<Box<dyn Future<Output = Ended> + Send>>
        + Send
        + Sync,
>;

/// Accepts until the server drains. Neither an error of a connection nor a lack of descriptors ends it.
pub(super) async fn accept<L, T>(
    mut listener: L,
    transport: T,
    shared: Arc<Shared>,
    run: Run<T::Stream>,
) where
    L: Listener,
    T: Transport<L::Stream>,
{
    let mut wait = FIRST_WAIT;
    loop {
        shared.report();
        let accepted = tokio::select! {
            biased;
            () = reached(shared.phase.subscribe(), Phase::Draining) => return,
            accepted = async {
                shared.room().await;
                listener.accept().await
            } => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_of_connection(&error) => continue,
            Err(error) => {
                shared.refused(Closed::Emfile, Some(chain(&error)), None);
                tokio::select! {
                    biased;
                    () = reached(shared.phase.subscribe(), Phase::Draining) => return,
                    () = sleep(wait) => {}
                }
                wait = wait.saturating_mul(2).min(LONGEST_WAIT);
                continue;
            }
        };
        wait = FIRST_WAIT;
        if !shared.admit(peer) {
            continue;
        }
        let open = Arc::new(Open {
            shared: Arc::clone(&shared),
            peer,
            over: Arc::default(),
            ended: OnceLock::new(),
            upgraded: OnceLock::new(),
        });
        let (transport, run) = (transport.clone(), Arc::clone(&run));
        let came = T::IS_IMMEDIATE.then(clock::now);
        drop(spawn_apart("connection", async move {
            let limit = open.shared.limits.head;
            let failed = |error: &(dyn std::error::Error + 'static)| {
                Ended::unserved(Closed::TlsFailed, Some(chain(error)))
            };
            let ended = match timeout(limit, transport.establish(stream)).await {
                Ok(Ok(stream)) => run(stream, Arc::clone(&open), came).await,
                Ok(Err(error)) => failed(&error),
                Err(late) => failed(&late),
            };
            open.end(ended);
        }));
    }
}

/// A connection that is open, held by its task and by its bytes. Also one whose task panics is closed.
pub(super) struct Open {
    shared: Arc<Shared>,
    pub(super) peer: Option<SocketAddr>,
    /// Its bytes, should they be handed over to another protocol.
    pub(super) over: Arc<Over>,
    ended: OnceLock<Ended>,
    upgraded: OnceLock<Key>,
}

impl Open {
    /// Its task is done with it. If its bytes are not, they were handed over to another protocol.
    fn end(self: Arc<Self>, ended: Ended) {
        self.ended.get_or_init(|| ended);
        if Arc::strong_count(&self) > 1 {
            self.upgraded
                .get_or_init(|| self.shared.upgraded(&self.over));
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let ended = self.ended.take();
        let mut ended = ended.unwrap_or(Ended::unserved(Closed::Reset, None));
        let upgraded = self.upgraded.take();
        if upgraded.is_some() && self.over.is_cut() {
            ended.reason = Closed::Drain;
        }
        self.shared.closed(ended, self.peer, upgraded);
    }
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Open")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// Whether only one connection is concerned, which is gone.
fn is_of_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::WouldBlock
    )
}
