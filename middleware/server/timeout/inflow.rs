//! The body of a request, and how long its handler waits for it.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::settings::{Pace, after};
use crate::{
    clock,
    observe::{Around, BoxError},
};

/// What a call and the body of its request share.
#[derive(Debug)]
pub(super) struct Inflow {
    pace: Option<Pace>,
    flow: Mutex<Flow>,
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The handler's. It has waited so long in all.
    Handler { waited: Duration },
    /// The caller's, until then.
    Caller { until: Option<Instant> },
}

impl Inflow {
    pub(super) fn new(pace: Option<Pace>) -> Self {
        let credit = pace.map_or(Duration::ZERO, |pace| pace.grace);
        Self {
            pace,
            flow: Mutex::new(Flow {
                waits_since: None,
                is_over: false,
                waited: Duration::ZERO,
                credit,
            }),
        }
    }

    pub(super) fn turn(&self) -> Turn {
        self.with(|flow, pace| flow.turn(pace))
    }

    /// Whether the body may still come too slowly.
    pub(super) fn may_be_slow(&self) -> Option<Pace> {
        self.with(|flow, pace| pace.filter(|_| !flow.is_over))
    }

    fn with<R>(&self, run: impl FnOnce(&mut Flow, Option<Pace>) -> R) -> R {
        let mut flow = self.flow.lock().unwrap_or_else(PoisonError::into_inner);
        run(&mut flow, self.pace)
    }
}

/// The waits so far: a bucket of time, out of which waiting takes, and into which bytes put.
#[derive(Debug)]
struct Flow {
    waits_since: Option<Instant>,
    is_over: bool,
    waited: Duration,
    credit: Duration,
}

impl Flow {
    fn turn(&self, pace: Option<Pace>) -> Turn {
        match self.waits_since {
            None => Turn::Handler {
                waited: self.waited,
            },
            Some(since) => Turn::Caller {
                until: pace.map(|_| after(since, self.credit)),
            },
        }
    }

    fn got(&mut self, bytes: usize, now: impl FnOnce() -> Instant, pace: Option<Pace>) {
        self.stop_waiting(now);
        if let Some(pace) = pace {
            let nanos = u64::try_from(bytes)
                .unwrap_or(u64::MAX)
                .saturating_mul(1_000_000_000);
            let worth = nanos
                .checked_div(pace.bytes_per_second.get().into())
                .unwrap_or_default();
            let credit = self.credit.saturating_add(Duration::from_nanos(worth));
            self.credit = credit.min(pace.grace);
        }
    }

    fn stop_waiting(&mut self, now: impl FnOnce() -> Instant) {
        if let Some(since) = self.waits_since.take() {
            let wait = now().saturating_duration_since(since);
            self.waited = self.waited.saturating_add(wait);
            self.credit = self.credit.saturating_sub(wait);
        }
    }
}

pub(super) struct Pacing(pub(super) Arc<Inflow>);

impl Around for Pacing {
    fn around<B>(self, body: B) -> impl Body<Data = Bytes, Error = BoxError> + Send + 'static
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Paced {
            inner: body,
            inflow: self.0,
        }
    }
}

pin_project! {
    /// The body of a request that is waited for.
    struct Paced<B> {
        #[pin]
        inner: B,
        inflow: Arc<Inflow>,
    }

    impl<B> PinnedDrop for Paced<B> {
        fn drop(this: Pin<&mut Self>) {
            this.project().inflow.with(|flow, _| {
                flow.stop_waiting(clock::now);
                flow.is_over = true;
            });
        }
    }
}

impl<B> Body for Paced<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        let polled = this.inner.poll_frame(context);
        this.inflow.with(|flow, pace| match &polled {
            Poll::Pending => {
                flow.waits_since.get_or_insert_with(clock::now);
            }
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                flow.got(bytes, clock::now, pace);
            }
            Poll::Ready(Some(Err(_)) | None) => {
                flow.stop_waiting(clock::now);
                flow.is_over = true;
            }
        });
        polled.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B> fmt::Debug for Paced<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Paced")
            .field("inflow", &self.inflow)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn bytes_buy_time_up_to_the_grace() {
        let start = clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let pace = Some(Pace {
            bytes_per_second: NonZeroU32::new(100).expect("above 0"),
            grace: Duration::from_secs(10),
            of_grpc: true,
        });
        let inflow = Inflow::new(pace);
        // (waits from, until when it may, gets so many bytes, at)
        for (since, until, bytes, got) in [
            (0, 10, 300, 6),
            // 10 - 6 + 3 = 7 are left.
            (6, 13, 0, 12),
            // 1 is left; a flood fills it up to 10 and no further.
            (12, 13, 1_000_000, 12),
            (12, 22, 0, 13),
        ] {
            inflow.with(|flow, pace| {
                flow.waits_since = Some(at(since));
                let until = Some(at(until));
                assert_eq!(flow.turn(pace), Turn::Caller { until }, "from {since}");
                flow.got(bytes, || at(got), pace);
            });
        }
        let waited = Duration::from_secs(13);
        assert_eq!(inflow.turn(), Turn::Handler { waited });
    }
}
