//! Who looks: server-sent events, one a second, for a known number of viewers.

use std::{
    convert::Infallible,
    mem,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body::Frame;
use serde_json::Value;
use tokio::sync::watch;

use crate::clock;

/// So many look at once: the screens of a large room.
pub(super) const VIEWERS: usize = 16;
/// A viewer that took nothing for so long has gone without a word; its seat is given to the next who comes.
const GONE: Duration = Duration::from_secs(30);

/// The seats, and what is shown to those who sit.
#[derive(Debug)]
pub(super) struct Viewers {
    seats: Mutex<Seats>,
    shown: watch::Sender<Bytes>,
}

#[derive(Debug, Default)]
struct Seats {
    /// The number of the next who comes: no two have the same.
    next: u64,
    taken: Vec<Seated>,
}

#[derive(Debug)]
struct Seated {
    number: u64,
    took: Instant,
}

impl Viewers {
    pub(super) fn new() -> Self {
        Self {
            seats: Mutex::default(),
            shown: watch::Sender::new(Bytes::new()),
        }
    }

    /// Whether anybody looks.
    pub(super) fn any(&self) -> bool {
        self.shown.receiver_count() > 0
    }

    /// Shows this to all. Who has not taken the one before never will: nothing is kept for the slow.
    pub(super) fn show(&self, status: &Value) {
        self.shown.send_replace(event(status));
    }

    /// A seat; `None` if all are taken by viewers who look.
    pub(super) fn sit(self: &Arc<Self>, first: &Value) -> Option<Events> {
        let now = clock::now();
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        if seats.taken.len() >= VIEWERS {
            let gone = |seat: &Seated| now.saturating_duration_since(seat.took) > GONE;
            let gone = seats.taken.iter().position(gone)?;
            seats.taken.remove(gone);
        }
        let number = seats.next;
        seats.next = number.saturating_add(1);
        seats.taken.push(Seated { number, took: now });
        drop(seats);
        let mut shown = self.shown.subscribe();
        shown.mark_unchanged();
        Some(Events {
            first: Some(event(first)),
            next: next(shown),
            seat: Seat {
                viewers: Arc::clone(self),
                number,
            },
        })
    }
}

fn event(status: &Value) -> Bytes {
    // JSON on one line: what is sent needs no more care.
    Bytes::from(format!("event: status\nretry: 1000\ndata: {status}\n\n"))
}

type Next = Pin<Box<dyn Future<Output = Option<(Bytes, watch::Receiver<Bytes>)>> + Send>>;

fn next(mut shown: watch::Receiver<Bytes>) -> Next {
    Box::pin(async move {
        let changed = shown.changed().await;
        changed.is_ok().then(|| {
            let event = shown.borrow_and_update().clone();
            (event, shown)
        })
    })
}

/// What one viewer is sent.
pub(super) struct Events {
    first: Option<Bytes>,
    next: Next,
    seat: Seat,
}

struct Seat {
    viewers: Arc<Viewers>,
    number: u64,
}

impl Seat {
    /// Something is taken. False: the seat is another's by now.
    fn take(&self) -> bool {
        let seats = &self.viewers.seats;
        let mut seats = seats.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = seats
            .taken
            .iter_mut()
            .find(|seat| seat.number == self.number);
        mine.is_some_and(|seat| {
            seat.took = clock::now();
            true
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let seats = &self.viewers.seats;
        let mut seats = seats.lock().unwrap_or_else(PoisonError::into_inner);
        seats.taken.retain(|seat| seat.number != self.number);
    }
}

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let event = match self.first.take() {
            Some(first) => first,
            None => match self.next.as_mut().poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some((event, shown))) => {
                    drop(mem::replace(&mut self.next, next(shown)));
                    event
                }
            },
        };
        let is_seated = self.seat.take();
        Poll::Ready(is_seated.then(|| Ok(Frame::data(event))))
    }
}
