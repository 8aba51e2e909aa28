//! One connection, from its first byte to its end.

use std::{
    future::poll_fn,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::{Extensions, Request, Response};
use http_body::Body;
use hyper::{body::Incoming, rt::Executor};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use pin_project_lite::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::{Sleep, sleep_until},
};
use tower_service::Service;

use super::{
    accept::Open,
    call::Calls,
    conn::{Conn, Due, Held},
    counts::Closed,
    drain::Phase,
    io::Io,
};
use crate::{
    clock,
    context::{self, PeerAddr},
    observe::BoxError,
    task::spawn_apart,
};

/// Serves one connection until its end, and tells why it ended, with the error of a fault.
pub(super) async fn serve<T, S, B>(
    stream: T,
    service: S,
    conn: Arc<Conn>,
    open: Arc<Open>,
    mut phase: watch::Receiver<Phase>,
) -> (Closed, Option<String>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let builder = builder(&conn);
    let calls = Calls {
        service: TowerToHyperService::new(service),
        conn: Arc::clone(&conn),
        known: open
            .peer
            .map_or_else(Extensions::new, |peer| PeerAddr(peer).known()),
    };
    let io = TokioIo::new(Io::new(stream, Arc::clone(&conn), open));
    let mut http = pin!(builder.serve_connection_with_upgrades(io, calls));
    let mut timer = pin!(sleep_until(clock::now().into()));
    let mut aging = Aging::of(&conn);
    let mut ending: Option<Closed> = None;
    // What was said before it came holds for it as well.
    let mut is_serving = *phase.borrow() == Phase::Serving;
    if !is_serving {
        phase.mark_changed();
    }
    let heard = phase.clone();
    loop {
        let event = {
            let mut changed = pin!(phase.changed());
            // Whether the phase and the timer wake this task, which is always the same: asking them again costs more
            // than the look whether they have come. That holds until the first change: its news may come late, when the
            // next one is waited for already, and take the place of that one's.
            let mut is_set = false;
            poll_fn(|context| {
                if let Poll::Ready(ended) = http.as_mut().poll(context) {
                    return Poll::Ready(Event::Ended(ended));
                }
                if is_set
                    && is_serving
                    && !timer.is_elapsed()
                    && heard.has_changed().is_ok_and(|changed| !changed)
                    && conn.is_calm()
                {
                    return Poll::Pending;
                }
                if changed.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Event::Phase);
                }
                is_set = true;
                conn.runs_in(context.waker());
                poll_due(&conn, &aging, &mut timer, context).map(Event::Due)
            })
            .await
        };
        match event {
            Event::Ended(Ok(())) => {
                let reason = ending.or_else(|| conn.fault());
                return (reason.unwrap_or(Closed::Eof), None);
            }
            Event::Ended(Err(error)) => {
                let reason = ending.unwrap_or_else(|| cause(&*error, &conn));
                let why = reason.is_fault().then(|| context::chain(&*error));
                return (reason, why);
            }
            Event::Due(Due::Close(reason)) => return (reason, None),
            Event::Due(Due::Retire(reason)) => {
                if reason == Closed::Idle {
                    // Nothing runs and nothing comes: whoever does not answer is not waited for.
                    return (ending.unwrap_or(reason), None);
                }
                ending.get_or_insert(reason);
                aging.retire();
                conn.retire();
                http.as_mut().graceful_shutdown();
            }
            Event::Due(Due::At(_)) => {}
            Event::Phase => {
                is_serving = false;
                match *phase.borrow_and_update() {
                    Phase::Serving => {}
                    Phase::Draining => {
                        ending = Some(Closed::Drain);
                        aging.retire();
                        conn.retire();
                        http.as_mut().graceful_shutdown();
                    }
                    Phase::Cutting => {
                        ending = Some(Closed::Drain);
                        conn.cut();
                        http.as_mut().graceful_shutdown();
                    }
                    Phase::Ended => {
                        // What has not come to hear of the cut was cut off all the same.
                        conn.cut();
                        return (Closed::Drain, None);
                    }
                }
            }
        }
    }
}

enum Event {
    Ended(Result<(), BoxError>),
    Due(Due),
    Phase,
}

/// When a connection is told to end for its age.
struct Aging {
    at: Option<Instant>,
}

impl Aging {
    fn of(conn: &Conn) -> Self {
        let age = conn.limits.age.map(|age| {
            // By chance between nine and eleven tenths.
            let chance = RandomState::new().build_hasher().finish() % 201;
            let thousandths = u32::try_from(chance)
                .unwrap_or_default()
                .saturating_add(900);
            let thousandth = age.checked_div(1_000).unwrap_or_default();
            thousandth.saturating_mul(thousandths)
        });
        Self {
            at: age.and_then(|age| clock::now().checked_add(age)),
        }
    }

    fn retire(&mut self) {
        self.at = None;
    }
}

/// Ready when something is due; sets the timer to when something will be.
fn poll_due(
    conn: &Conn,
    aging: &Aging,
    timer: &mut Pin<&mut Sleep>,
    context: &mut Context<'_>,
) -> Poll<Due> {
    loop {
        let now = clock::now();
        if aging.at.is_some_and(|at| at <= now) {
            return Poll::Ready(Due::Retire(Closed::Aged));
        }
        let at = match conn.due(now) {
            Due::At(at) => aging.at.map_or(at, |age| age.min(at)),
            due => return Poll::Ready(due),
        };
        // Later than it is set: it fires for nothing, once. Earlier: it is set anew.
        let set = timer.deadline().into_std();
        if at < set || set <= now {
            timer.as_mut().reset(at.into());
        }
        if timer.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
    }
}

fn builder(conn: &Arc<Conn>) -> Builder<Streams> {
    let limits = &conn.limits;
    let mut builder = Builder::new(Streams(Arc::clone(conn)));
    builder
        .http1()
        // The timers of this module see more: also half a preface, and no difference to a connection that rests.
        .header_read_timeout(None)
        .max_buf_size(MAX_BUFFER)
        .timer(TokioTimer::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(limits.max_head_bytes)
        // WebSocket over HTTP/2 (RFC 8441).
        .enable_connect_protocol()
        .keep_alive_interval(limits.ping);
    builder
}

/// What a connection of HTTP/1 may hold unread or unsent.
const MAX_BUFFER: usize = 256 * 1024;

/// Runs the streams of one connection of HTTP/2.
#[derive(Clone)]
struct Streams(Arc<Conn>);

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let call = self.0.take_newest();
        let stream = Stream {
            inner: stream,
            call,
            conn: Arc::clone(&self.0),
            // A task of no call sends what was handed over to another protocol.
            _held: call.is_none().then(|| self.0.hold()),
        };
        drop(spawn_apart("http2_stream", stream));
    }
}

pin_project! {
    /// One stream, which can be cut off alone.
    struct Stream<F> {
        #[pin]
        inner: F,
        call: Option<usize>,
        conn: Arc<Conn>,
        _held: Option<Held>,
    }
}

impl<F: Future<Output = ()>> Future for Stream<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let Some(call) = *this.call else {
            return this.inner.poll(context);
        };
        if this.conn.is_cut(call) {
            // Its task drops it.
            return Poll::Ready(());
        }
        let polled = this.inner.poll(context);
        if polled.is_pending() {
            this.conn.waits(call, context.waker());
        }
        polled
    }
}

/// Why a connection broke, from what its library tells.
fn cause(error: &(dyn std::error::Error + 'static), conn: &Conn) -> Closed {
    let mut source = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return match error.kind() {
                io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::NotConnected
                | io::ErrorKind::TimedOut => Closed::Reset,
                io::ErrorKind::UnexpectedEof | io::ErrorKind::Interrupted => Closed::Eof,
                _ => Closed::ProtocolError,
            };
        }
        if let Some(error) = error.downcast_ref::<hyper::Error>()
            && (error.is_incomplete_message() || error.is_closed() || error.is_canceled())
        {
            return Closed::Eof;
        }
        source = error.source();
    }
    let flood = conn.is_two() && context::chain(error).contains("excessive load");
    if flood {
        return conn.flood().unwrap_or(Closed::Flood);
    }
    conn.fault().unwrap_or(Closed::ProtocolError)
}
