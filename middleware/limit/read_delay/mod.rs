//! How long requests lie unread, and whom to refuse when that is too long.

mod control;
mod doubt;
#[cfg(feature = "axum")]
mod listener;
#[cfg(test)]
mod sim;
mod timed;
#[cfg(feature = "tonic")]
mod tonic;

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use self::control::Control;
#[cfg(feature = "axum")]
pub use self::listener::TimedListener;
pub use self::timed::Timed;
use super::Gate;
use crate::{clock, context::Priority};

/// A gate for handlers that keep their worker busy: those that compute and do not await.
///
/// Of such handlers there are never more in flight than workers, so no limit on calls in flight ever sees an overload:
/// requests wait in the sockets, unread. This measures for how long, from the moment a connection's task is woken to the
/// read that takes its request, and when that is too long (10 ms, or 8 times what a handler keeps the worker) refuses a
/// share of the calls, the lowest priority first, before anything else is read. The share follows the delay, by a
/// controller after PIE (RFC 8033); 2 % always come through. Where refusing nearly all of them for 2 s has not helped, it
/// refuses nobody for a moment: a delay that does not grow then is not the calls' doing, but that of something else in
/// the runtime, and for 10 s and more nobody is refused for it.
///
/// ```
/// use plimsoll::{limit::{Limit, ReadDelay}, server::load_shed::LoadShedLayer};
///
/// let delay = ReadDelay::new();
/// let layer = LoadShedLayer::new(Limit::adaptive()).gate(delay.clone());
/// // And where connections are accepted: `Server::read_delay`, `ReadDelay::listener` for `axum::serve`,
/// // `ReadDelay::watch` for each connection of tonic's `serve_with_incoming`.
/// ```
///
/// Clones share the measurement; give each server one of its own. With HTTP/2 the wake-up is the connection's and not
/// the stream's: what lies in the connection's own buffers is not seen.
#[derive(Clone)]
pub struct ReadDelay {
    shared: Arc<Shared>,
}

struct Shared {
    control: Mutex<Control>,
    /// Whether anybody is refused, so that nobody needs the lock otherwise.
    refuses: AtomicBool,
    hash: RandomState,
    drawn: AtomicU64,
}

impl ReadDelay {
    /// A measurement that has not begun.
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                control: Mutex::new(Control::new(clock::now())),
                refuses: AtomicBool::new(false),
                hash: RandomState::new(),
                drawn: AtomicU64::new(0),
            }),
        }
    }

    /// Times this connection, which was accepted just now.
    pub fn watch<T>(&self, connection: T) -> Timed<T> {
        self.watch_since(connection, Some(clock::now()))
    }

    /// Times this connection. Its first request counts from when it came, if that is known.
    pub(crate) fn watch_since<T>(&self, connection: T, came: Option<Instant>) -> Timed<T> {
        Timed::new(connection, self.clone(), came)
    }

    /// The share of calls that is refused just now: 0 to 0.98.
    pub fn share(&self) -> f64 {
        self.control().share()
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        let control = self.shared.control.lock();
        control.unwrap_or_else(PoisonError::into_inner)
    }

    /// A request lay unread for so long.
    fn read(&self, delay: Duration, now: Instant) {
        let mut control = self.control();
        control.read(delay, now);
        let refuses = control.share() > 0.0;
        self.shared.refuses.store(refuses, Ordering::Relaxed);
    }

    /// A handler kept the worker for so long.
    fn polled(&self, took: Duration) {
        self.control().polled(took);
    }

    /// A number from 0 to 1.
    fn chance(&self) -> f64 {
        let drawn = self.shared.drawn.fetch_add(1, Ordering::Relaxed);
        let hash = self.shared.hash.hash_one(drawn) >> 32;
        f64::from(u32::try_from(hash).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
    }
}

impl Default for ReadDelay {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate for ReadDelay {
    fn name(&self) -> &'static str {
        "read_delay"
    }

    fn admits(&self, priority: Priority, now: Instant) -> bool {
        if !self.shared.refuses.load(Ordering::Relaxed) {
            return true;
        }
        let chance = self.chance();
        self.control().admits(priority, now, chance)
    }
}

impl fmt::Debug for ReadDelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadDelay")
            .field("share", &self.share())
            .finish_non_exhaustive()
    }
}
