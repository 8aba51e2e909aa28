//! Takes a sample each second, and shows it to whoever looks.

use std::{
    sync::{Arc, PoisonError, Weak},
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};

use super::{Parts, board::Level, figures::Figures, status};
use crate::{
    clock,
    task::{self, Task, supervise},
};

const EVERY: Duration = Duration::from_secs(1);
/// So many samples go along with each event: who misses some has no gap.
const LAST: usize = 5;

/// The task. It ends when this is dropped.
pub(super) struct Sampler(Task<()>);

impl Sampler {
    pub(super) fn start(parts: &Arc<Parts>) -> Self {
        let parts = Arc::downgrade(parts);
        Self(supervise("ops_sampler", move || run(parts.clone())))
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn run(parts: Weak<Parts>) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(parts) = parts.upgrade() else {
            // Whoever gives up the last of it ends this task too.
            return std::future::pending().await;
        };
        sample(&parts).await;
        if parts.viewers.any() {
            let status = status::make(&parts, LAST).await;
            parts.viewers.show(&status);
        }
        parts.refusals.report(clock::now());
    }
}

async fn sample(parts: &Arc<Parts>) {
    let read = match parts.registry.clone() {
        Some(registry) => {
            let read = move || {
                let metrics = registry.read();
                // Now, not when this task has its turn again: rates are reckoned by it.
                let at = clock::now();
                metrics.map(|metrics| (at, Figures::of(&metrics)))
            };
            match blocking(read).await {
                Some(Ok(read)) => Some(read),
                // It is shut down, or died and was told of. The page says that there are no numbers.
                Some(Err(_)) | None => None,
            }
        }
        None => None,
    };
    let limits = parts.limits.iter();
    let limits = limits.map(|limit| Level {
        limit: limit.limit(),
        in_flight: limit.in_flight(),
        waiting: limit.waiting(),
    });
    let limits = limits.collect();
    let (at, figures) = match read {
        Some((at, figures)) => (at, Some(figures)),
        None => (clock::now(), None),
    };
    let mut board = parts.board.lock().unwrap_or_else(PoisonError::into_inner);
    board.push(at, clock::wall_clock(), figures, limits);
}

/// Does this on a thread where work may block; `None` if it panicked or had no thread, which the log tells.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    // swallow: plimsoll.tasks.died it is told there
    task::blocking("ops_reader", work).await.ok()
}
