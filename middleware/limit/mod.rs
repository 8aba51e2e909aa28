//! How many calls may be in flight at once: a number, or one that finds itself.
//!
//! A [`Limit`] is shared by all layers that are given a clone of it, of
//! [`load_shed`](crate::server::load_shed) as of [`back_pressure`](crate::server::back_pressure).
//!
//! ```
//! use std::num::NonZeroUsize;
//! use plimsoll::limit::Limit;
//!
//! let untuned = Limit::adaptive().named("orders");
//! let known = Limit::fixed(NonZeroUsize::new(100).expect("above 0")).named("reports");
//! assert_eq!(known.handle().limit(), 100);
//! # drop(untuned);
//! ```
//!
//! The adaptive limit rests on Little's law, `in flight = rate x time`: it knows the time of a call when nothing is in
//! its way, and lets half as many more in than that time needs at the rate of now. Whether more in flight make more
//! rate or only a queue, it finds out by moving the limit a little and looking. Where it fails, `docs/load-shed.md` tells.

mod bell;
mod controller;
mod desk;
mod gate;
mod handle;
mod memory;
mod outside;
mod permit;
mod queue;
mod read_delay;
mod rules;
mod share;
mod shared;
#[cfg(test)]
mod sim;
mod state;
mod tally;
mod upgrade;
mod wait;
mod window;

use std::{fmt, num::NonZeroUsize, sync::Arc, time::Duration};

use controller::{Tuning, as_float};
pub(crate) use desk::{Desk, Entered, Waiting};
pub use gate::Gate;
pub(crate) use handle::Vacancy;
pub use handle::{LimitHandle, Rejected};
pub use memory::MemoryGate;
pub use permit::Admission;
use queue::Bounds;
#[cfg(feature = "axum")]
pub use read_delay::TimedListener;
pub use read_delay::{ReadDelay, Timed};
pub(crate) use rules::{Rules, rules};
use shared::Shared;
use state::Start;
pub use upgrade::StreamPlace;

/// The limit that an adaptive one begins with.
const INITIAL: f64 = 16.0;
/// An adaptive one stays within these.
const MIN: f64 = 1.0;
const MAX: f64 = 1_000_000.0;
/// Half as many more as are needed: enough to keep everyone busy, and little enough to wait for.
const TARGET: f64 = 1.5;
/// The most streams at once, which are counted apart.
const STREAMS: usize = 1_024;
const NAME: &str = "default";

/// How many calls may be in flight. Clones share one count; a clone that is configured further has a count of its own.
///
/// A call is in flight from its admission to the last byte of its response, or until it is dropped. Only calls that
/// turn out to be server-sent events or an upgrade are [counted apart](Self::max_streams) once their head has left.
#[derive(Clone)]
pub struct Limit {
    shared: Arc<Shared>,
}

impl Limit {
    /// So many calls, no more and no fewer.
    pub fn fixed(calls: NonZeroUsize) -> Self {
        Self::of(NAME, start(as_float(calls.get()), false), false)
    }

    /// As many as the service can bear, which it finds out. It begins with 16, stays within 1 and 1,000,000, and steers
    /// nothing before about 100 calls have ended.
    ///
    /// Little is found out below some 10 calls a second: there it is a fixed limit.
    pub fn adaptive() -> Self {
        Self::of(NAME, start(INITIAL, true), false)
    }

    /// Names it, for metrics and log lines: `limit`. Default: `default`.
    #[must_use]
    pub fn named(self, name: &'static str) -> Self {
        Self::of(name, self.shared.start, self.shared.is_dry())
    }

    /// An adaptive limit stays within these, calls that hang included. Default: 1 and 1,000,000. For a fixed one it says
    /// nothing.
    #[must_use]
    pub fn between(self, min: NonZeroUsize, max: NonZeroUsize) -> Self {
        let (min, max) = (as_float(min.get()), as_float(max.get()));
        self.tuned(|tuning| {
            tuning.min = min.min(max);
            tuning.max = max.max(min);
        })
    }

    /// What an adaptive limit begins with. Default: 16, which our simulations were not sensitive to between 4 and 100.
    #[must_use]
    pub fn initial(self, calls: NonZeroUsize) -> Self {
        self.tuned(|tuning| tuning.initial = as_float(calls.get()))
    }

    /// How many times what is needed an adaptive limit lets in, from 1.05 to 4; what lies outside is taken for the
    /// nearest. Default: 1.5. Less, such as 1.2, for deadlines that are only a few times what a call takes.
    #[must_use]
    pub fn target(self, times: f64) -> Self {
        let times = if times.is_nan() { TARGET } else { times };
        self.tuned(|tuning| tuning.target = times.clamp(1.05, 4.0))
    }

    /// How many calls may wait, of layers that let them. Default: as many as are served in the time of a burst (between
    /// 0.1 and 1 s), and far fewer once the queue has stood for long. 0: nobody waits.
    #[must_use]
    pub fn max_waiting(self, calls: usize) -> Self {
        self.started(|start| start.bounds.places = Some(calls))
    }

    /// How long a call may wait. Default: one and a half times as long as the room takes to drain, 0.15 s at least.
    #[must_use]
    pub fn max_wait(self, wait: Duration) -> Self {
        self.started(|start| start.bounds.wait = Some(wait.as_secs_f64()))
    }

    /// How many streams may run, which are counted apart. Default: 1,024.
    ///
    /// Streams are answers of `text/event-stream`, upgrades such as WebSocket, and what a layer was told are streams. Once
    /// there are as many, calls of routes that a layer was told of are rejected; others are found out by their answer, and
    /// stay in the limit's own count. How long an upgrade is one: [`StreamPlace`].
    #[must_use]
    pub fn max_streams(self, streams: usize) -> Self {
        self.started(|start| start.streams = streams)
    }

    /// Lets all calls in and counts those that would be rejected or have to wait. Default: off.
    #[must_use]
    pub fn dry_run(self) -> Self {
        Self::of(self.shared.name, self.shared.start, true)
    }

    /// Counts, and changes while it runs.
    pub fn handle(&self) -> LimitHandle {
        LimitHandle::new(Arc::clone(&self.shared))
    }

    fn tuned(self, change: impl FnOnce(&mut Tuning)) -> Self {
        self.started(|start| {
            if start.tuning.adapts {
                change(&mut start.tuning);
            }
        })
    }

    fn started(self, change: impl FnOnce(&mut Start)) -> Self {
        let mut start = self.shared.start;
        change(&mut start);
        Self::of(self.shared.name, start, self.shared.is_dry())
    }

    fn of(name: &'static str, start: Start, dry_run: bool) -> Self {
        Self {
            shared: Arc::new(Shared::new(name, start, dry_run)),
        }
    }
}

fn start(initial: f64, adapts: bool) -> Start {
    Start {
        tuning: Tuning {
            initial,
            min: MIN,
            max: MAX.max(initial),
            target: TARGET,
            adapts,
        },
        bounds: Bounds::default(),
        streams: STREAMS,
    }
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limit")
            .field("name", &self.shared.name)
            .field("start", &self.shared.start)
            .finish_non_exhaustive()
    }
}
