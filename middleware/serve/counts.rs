//! What became of connections, for operators.

use std::{
    fmt,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

use crate::gauge::{Gauges, Kind, Metric, Reading};

const OPEN: Metric = Metric::new(
    "plimsoll.connections.open",
    Kind::Gauge,
    "{connection}",
    "Connections that are open.",
);
const CLOSED: Metric = Metric::new(
    "plimsoll.connections.closed",
    Kind::Counter,
    "{connection}",
    "Connections that were closed, by reason.",
);

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident => $label:literal,)*) => {
        /// Why a connection was closed. A closed set: alerts rely on the names.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Closed { $($(#[$doc])* $variant,)* }

        impl Closed {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in the log and in metrics.
            pub fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }
        }
    };
}

reasons! {
    /// One side was done, and said so.
    Eof => "eof",
    /// The peer reset it, or the network did.
    Reset => "reset",
    /// Nothing was sent for so long that it was closed to make room.
    Idle => "idle",
    /// It reached its age, and its calls had ended.
    Aged => "aged",
    /// A head was begun and not completed in time.
    HeadTimeout => "head_timeout",
    /// The handshake of TLS failed or took too long.
    TlsFailed => "tls_failed",
    /// HTTP/1: a request's body came too slowly, and `timeout` ended the call; over HTTP/2 the stream ends alone.
    BodySlow => "body_slow",
    /// The peer took nothing of what was to be sent.
    WriteStalled => "write_stalled",
    /// HTTP/2: streams that the peer reset before they were accepted.
    TooManyResets => "too_many_resets",
    /// HTTP/2: streams that this side had to reset for the peer's faults.
    TooManyInternalResets => "too_many_internal_resets",
    /// HTTP/2: empty frames of data.
    TooManyDataFrames => "too_many_data_frames",
    /// HTTP/2: continuations of one head.
    TooManyContinuations => "too_many_continuations",
    /// HTTP/2: too much of something; the library does not tell of what.
    Flood => "flood",
    /// What came was no HTTP.
    ProtocolError => "protocol_error",
    /// There were as many connections as there may be.
    ConnCap => "conn_cap",
    /// There was no descriptor left for it.
    Emfile => "emfile",
    /// The server shut down.
    Drain => "drain",
}

impl Closed {
    /// Whether an operator should hear of it.
    pub(super) fn is_fault(self) -> bool {
        !matches!(
            self,
            Self::Eof | Self::Reset | Self::Idle | Self::Aged | Self::Drain
        )
    }

    fn index(self) -> usize {
        // The variants bear no values of their own: this counts from 0 as `ALL` does.
        self as usize
    }
}

/// How a connection ended.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub(super) reason: Closed,
    /// Calls that it had served.
    pub(super) served: u64,
    /// The error and all its causes, where a fault has one.
    pub(super) why: Option<String>,
}

impl Ended {
    pub(super) fn unserved(reason: Closed, why: Option<String>) -> Self {
        Self {
            reason,
            served: 0,
            why,
        }
    }
}

const REASONS: usize = Closed::ALL.len();

/// Connections and calls of one server.
#[derive(Debug, Default)]
pub(super) struct Counts {
    open: AtomicUsize,
    closed: [AtomicU64; REASONS],
    /// Calls that began.
    begun: AtomicU64,
    served: AtomicU64,
    cut: AtomicU64,
    /// Told whenever a call was cut off.
    call_cut: Notify,
}

impl Counts {
    /// One more is open, unless that is more than there may be.
    pub(super) fn open_within(&self, most: usize) -> bool {
        let one_more = |open: usize| open.checked_add(1).filter(|open| *open <= most);
        let opened = self
            .open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        opened.is_ok()
    }

    /// A connection that was open is not any more.
    pub(super) fn closed(&self, reason: Closed) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.refused(reason);
    }

    /// A connection that never was open.
    pub(super) fn refused(&self, reason: Closed) {
        if let Some(count) = self.closed.get(reason.index()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many connections were refused or closed for each fault.
    pub(super) fn faults(&self) -> Vec<(Closed, u64)> {
        let reasons = Closed::ALL.iter().zip(&self.closed);
        reasons
            .filter(|(reason, _)| reason.is_fault())
            .map(|(reason, count)| (*reason, count.load(Ordering::Relaxed)))
            .collect()
    }

    pub(super) fn call_began(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn call_ended(&self, cut: bool) {
        let count = if cut { &self.cut } else { &self.served };
        // Whoever sees its end sees its beginning too.
        count.fetch_add(1, Ordering::Release);
        if cut {
            self.call_cut.notify_waiters();
        }
    }

    /// Waits until no call runs, when those that do are cut off: a stream of HTTP/2 has a task of its own, and may end
    /// after its connection.
    pub(super) async fn no_calls(&self) {
        loop {
            let mut cut = pin!(self.call_cut.notified());
            cut.as_mut().enable();
            if self.calls() == 0 {
                return;
            }
            cut.await;
        }
    }

    pub(super) fn cut(&self) -> u64 {
        self.cut.load(Ordering::Acquire)
    }

    pub(super) fn served(&self) -> u64 {
        self.served.load(Ordering::Acquire)
    }

    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub(super) fn calls(&self) -> usize {
        let ended = self.served().saturating_add(self.cut());
        let running = self.begun.load(Ordering::Relaxed).saturating_sub(ended);
        usize::try_from(running).unwrap_or(usize::MAX)
    }
}

/// Tells how many connections are open and why others were closed, of one server or of several. Clones tell the same.
#[derive(Clone, Default)]
pub struct Connections {
    servers: Arc<Mutex<Vec<Arc<Counts>>>>,
}

impl Connections {
    /// Of no server yet: [`Server::count_in`](super::Server::count_in).
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells of this server too.
    pub(super) fn watch(&self, counts: &Arc<Counts>) {
        let mut servers = self.servers();
        if !servers.iter().any(|known| Arc::ptr_eq(known, counts)) {
            servers.push(Arc::clone(counts));
        }
    }

    fn servers(&self) -> MutexGuard<'_, Vec<Arc<Counts>>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is a server among them: otherwise nobody counts, and what they tell means nothing.
    pub(crate) fn are_counted(&self) -> bool {
        !self.servers().is_empty()
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.servers().iter().map(|counts| counts.open()).sum()
    }

    /// Connections that were closed for this reason, since the server was made.
    pub fn closed(&self, reason: Closed) -> u64 {
        let servers = self.servers();
        let counts = servers
            .iter()
            .filter_map(|counts| counts.closed.get(reason.index()));
        counts.map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Calls that run, from their head to the last byte of their response.
    pub fn calls(&self) -> usize {
        self.servers().iter().map(|counts| counts.calls()).sum()
    }
}

/// `plimsoll.connections.open` and `plimsoll.connections.closed` by reason, once there is a server.
impl Gauges for Connections {
    fn metrics(&self) -> &'static [Metric] {
        const { &[OPEN, CLOSED] }
    }

    fn read(&self, tell: &mut dyn FnMut(Reading<'_>)) {
        if !self.are_counted() {
            return;
        }
        let open = u64::try_from(self.open()).unwrap_or(u64::MAX);
        tell(Reading::new(&OPEN, open));
        for reason in Closed::ALL {
            let closed = self.closed(*reason);
            tell(Reading::new(&CLOSED, closed).with(&[("reason", reason.label())]));
        }
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections")
            .field("open", &self.open())
            .field("calls", &self.calls())
            .finish_non_exhaustive()
    }
}
