//! What the handlers wait for: work whose capacity is known by construction.

use std::{
    hint::spin_loop,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use fastrand::Rng;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::yield_now,
    time::sleep,
};

use crate::case::{Backend, Change};

/// How long a handler that yields keeps the thread.
const SLICE: Duration = Duration::from_micros(250);

/// How much of a timer's lateness is made up for by the next sleep.
const TIMER: Duration = Duration::from_millis(2);

const BIMODAL_FAST: Duration = Duration::from_millis(5);
const BIMODAL_SLOW: Duration = Duration::from_millis(200);
const BIMODAL_SLOW_SHARE: f64 = 0.1;

/// The backend behind the handlers of one server.
pub(crate) struct Work {
    kind: Backend,
    places: Places,
    slowness: AtomicU32,
    random: Mutex<Rng>,
    /// How much longer than asked for the sleeps have taken: tokio's timer rounds up to milliseconds, which would make
    /// the capacity smaller than it says.
    overslept: Mutex<Duration>,
}

/// A semaphore that can be made smaller while all of it is taken.
#[derive(Clone)]
struct Places {
    free: Arc<Semaphore>,
    total: Arc<AtomicUsize>,
    /// Permits that are to be forgotten when they come back.
    too_many: Arc<AtomicUsize>,
}

/// One of the places, given back when dropped.
struct Place {
    permit: Option<OwnedSemaphorePermit>,
    places: Places,
}

impl Work {
    pub(crate) fn new(kind: Backend, seed: u64) -> Self {
        Self {
            kind,
            places: Places::new(kind.places()),
            slowness: AtomicU32::new(1),
            random: Mutex::new(Rng::with_seed(!seed)),
            overslept: Mutex::default(),
        }
    }

    pub(crate) fn change(&self, change: Change) {
        match change {
            Change::Places(number) => self.places.resize(number),
            Change::Slowness(factor) => self.slowness.store(factor, Relaxed),
        }
    }

    /// Does the work of one call.
    pub(crate) async fn work(&self) {
        match self.kind {
            Backend::Semaphore | Backend::Bimodal => {
                let _place = self.places.take().await;
                self.sleep_exactly(self.draw()).await;
            }
            Backend::Yield => {
                let mut left = self.draw();
                while let Some(rest) = left.checked_sub(SLICE) {
                    spin(SLICE);
                    yield_now().await;
                    left = rest;
                }
                spin(left);
            }
            Backend::Inline => spin(self.draw()),
        }
    }

    /// How long the next call takes.
    fn draw(&self) -> Duration {
        let mean = self.kind.mean_service();
        let mut random = self
            .random
            .lock()
            .expect("nothing panics while it holds the lock");
        let time = match self.kind {
            Backend::Semaphore => mean.mul_f64(-(1.0 - random.f64()).ln()),
            Backend::Bimodal if random.f64() < BIMODAL_SLOW_SHARE => BIMODAL_SLOW,
            Backend::Bimodal => BIMODAL_FAST,
            Backend::Yield | Backend::Inline => mean,
        };
        time * self.slowness.load(Relaxed)
    }

    /// Sleeps so that all sleeps together are as long as they should be.
    async fn sleep_exactly(&self, time: Duration) {
        let lock = || {
            self.overslept
                .lock()
                .expect("nothing panics while it holds the lock")
        };
        let made_up = {
            let mut overslept = lock();
            let made_up = overslept.min(TIMER).min(time);
            *overslept -= made_up;
            made_up
        };
        let asked = time - made_up;
        let start = Instant::now();
        if !asked.is_zero() {
            sleep(asked).await;
        }
        *lock() += start.elapsed().saturating_sub(asked).min(TIMER);
    }
}

impl Places {
    fn new(number: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(number)),
            total: Arc::new(AtomicUsize::new(number)),
            too_many: Arc::default(),
        }
    }

    async fn take(&self) -> Place {
        let permit = Arc::clone(&self.free).acquire_owned().await;
        Place {
            permit: Some(permit.expect("the semaphore is never closed")),
            places: self.clone(),
        }
    }

    /// To be called by one thread at a time.
    fn resize(&self, number: usize) {
        let before = self.total.swap(number, Relaxed);
        if number < before {
            let forgotten = self.free.forget_permits(before - number);
            self.too_many
                .fetch_add(before - number - forgotten, Relaxed);
            return;
        }
        let mut more = number - before;
        while more > 0 && self.one_is_not_too_many() {
            more -= 1;
        }
        self.free.add_permits(more);
    }

    /// Takes one from the number of permits to be forgotten, if there is one.
    fn one_is_not_too_many(&self) -> bool {
        let less = |too_many: usize| too_many.checked_sub(1);
        self.too_many.fetch_update(Relaxed, Relaxed, less).is_ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take()
            && self.places.one_is_not_too_many()
        {
            permit.forget();
        }
    }
}

fn spin(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_shrink_while_they_are_taken_and_grow_again() {
        let places = Places::new(16);
        let mut taken = Vec::new();
        for _ in 0..14 {
            taken.push(places.take().await);
        }
        places.resize(4);
        assert_eq!(places.free.available_permits(), 0);
        taken.truncate(5);
        assert_eq!(places.free.available_permits(), 0);
        taken.truncate(3);
        assert_eq!(places.free.available_permits(), 1);
        places.resize(16);
        taken.clear();
        assert_eq!(places.free.available_permits(), 16);
    }

    #[tokio::test]
    async fn places_that_come_back_before_they_left_are_kept() {
        let places = Places::new(8);
        let taken = [places.take().await, places.take().await];
        places.resize(1);
        places.resize(8);
        drop(taken);
        assert_eq!(places.free.available_permits(), 8);
    }

    #[tokio::test]
    async fn services_are_drawn_as_said() {
        for kind in [Backend::Semaphore, Backend::Bimodal] {
            let work = Work::new(kind, 1);
            let total: Duration = (0..20_000).map(|_| work.draw()).sum();
            let ratio = (total / 20_000).as_secs_f64() / kind.mean_service().as_secs_f64();
            assert!((0.95..1.05).contains(&ratio), "{kind:?}: {ratio}");
        }
        let work = Work::new(Backend::Inline, 1);
        work.change(Change::Slowness(4));
        assert_eq!(work.draw(), Duration::from_millis(10));
    }
}
