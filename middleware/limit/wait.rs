//! One who waits for a permit.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Instant,
};

use pin_project_lite::pin_project;

use super::{
    outside::{Arc, Mutex, MutexGuard, PoisonError, Sleep, sleep_until},
    shared::Shared,
    state::{Ask, Seat},
    window::Seconds,
};
use crate::{clock, context::Priority, rejection::Reason};

/// Where whoever waits hears of its turn.
#[derive(Debug, Default)]
pub(super) struct Waiter(Mutex<Slot>);

#[derive(Debug, Default)]
struct Slot {
    verdict: Option<Result<Seat, Reason>>,
    waker: Option<Waker>,
}

impl Waiter {
    /// Tells the verdict; whom to wake. Only called by who took it out of the room, so that there is one verdict.
    pub(super) fn settle(&self, verdict: Result<Seat, Reason>) -> Option<Waker> {
        let mut slot = self.slot();
        slot.verdict = Some(verdict);
        slot.waker.take()
    }

    fn verdict(&self) -> Option<Result<Seat, Reason>> {
        self.slot().verdict
    }

    /// The verdict, or wakes this one when it is there.
    fn poll(&self, context: &Context<'_>) -> Poll<Result<Seat, Reason>> {
        let mut slot = self.slot();
        if let Some(verdict) = slot.verdict {
            return Poll::Ready(verdict);
        }
        let waker = slot.waker.as_ref();
        if waker.is_none_or(|waker| !waker.will_wake(context.waker())) {
            let before = slot.waker.replace(context.waker().clone());
            // What goes with a waker may wait here as well.
            drop(slot);
            drop(before);
        }
        Poll::Pending
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the room. It is left, or the permit given back, when this is dropped.
pub(super) struct Place {
    shared: Arc<Shared>,
    waiter: Arc<Waiter>,
    number: u64,
    arrived: Instant,
    deadline: Option<Seconds>,
    priority: Priority,
    is_over: bool,
}

impl Place {
    pub(super) fn new(
        shared: Arc<Shared>,
        waiter: Arc<Waiter>,
        number: u64,
        arrived: Instant,
        ask: &Ask,
    ) -> Self {
        Self {
            shared,
            waiter,
            number,
            arrived,
            deadline: ask.deadline,
            priority: ask.priority,
            is_over: false,
        }
    }

    /// When it is to be looked at again, whatever happens.
    fn next_look(&self) -> Instant {
        let patience = self.shared.patience(self.arrived);
        let deadline = self.deadline.map(|deadline| self.shared.instant(deadline));
        deadline.map_or(patience, |deadline| deadline.min(patience))
    }

    /// Leaves the room if the time is up. `None`: it is not, or the verdict is there.
    fn give_up(&self, now: Instant) -> Option<Reason> {
        let deadline = self.deadline.map(|deadline| self.shared.instant(deadline));
        let reason = if deadline.is_some_and(|deadline| now >= deadline) {
            Reason::Deadline
        } else if now >= self.shared.patience(self.arrived) {
            Reason::QueueTimeout
        } else {
            return None;
        };
        let now = self.shared.seconds(now);
        self.shared
            .leave(self.priority, self.number, now)
            .then_some(reason)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let now = self.shared.now();
        let left = self.shared.leave(self.priority, self.number, now);
        // Somebody took it out before: then the verdict is there, and it may be a permit that nobody takes.
        if !left && let Some(Ok(seat)) = self.waiter.verdict() {
            self.shared.give_back_unused(seat, now);
        }
    }
}

pin_project! {
    /// Waits for the verdict: a seat, or why there is none.
    pub(super) struct Wait {
        place: Place,
        #[pin]
        sleep: Sleep,
    }
}

impl Wait {
    pub(super) fn new(place: Place) -> Self {
        let until = place.next_look();
        Self {
            place,
            sleep: sleep_until(until.into()),
        }
    }

    pub(super) fn arrived(&self) -> Instant {
        self.place.arrived
    }
}

impl Future for Wait {
    type Output = Result<Seat, Reason>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            if let Poll::Ready(verdict) = this.place.waiter.poll(context) {
                this.place.is_over = true;
                return Poll::Ready(verdict);
            }
            if this.sleep.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            if let Some(reason) = this.place.give_up(clock::now()) {
                this.place.is_over = true;
                return Poll::Ready(Err(reason));
            }
            // It was a little early, the patience has grown, or the verdict came in between.
            this.sleep.as_mut().reset(this.place.next_look().into());
        }
    }
}

impl fmt::Debug for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wait").finish_non_exhaustive()
    }
}
