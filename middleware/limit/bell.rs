//! Wakes those who wait until there is room again.

use std::{mem, task::Waker};

use super::outside::{Mutex, MutexGuard, PoisonError};

/// Those who wait for room, each with a number of its own.
#[derive(Debug, Default)]
pub(super) struct Bell(Mutex<Ropes>);

#[derive(Debug, Default)]
struct Ropes {
    next: u64,
    wakers: Vec<(u64, Waker)>,
}

impl Bell {
    /// Wakes this one at the next ring, in place of what the number stood for before. Its number.
    pub(super) fn hang(&self, number: Option<u64>, waker: &Waker) -> u64 {
        let mut ropes = self.lock();
        let known = ropes
            .wakers
            .iter_mut()
            .find(|(known, _)| Some(*known) == number);
        let (number, before) = match (known, number) {
            (Some((_, known)), Some(number)) if known.will_wake(waker) => (number, None),
            (Some((_, known)), Some(number)) => (number, Some(mem::replace(known, waker.clone()))),
            _ => {
                let fresh = ropes.next;
                ropes.next = fresh.wrapping_add(1);
                ropes.wakers.push((fresh, waker.clone()));
                (fresh, None)
            }
        };
        // What goes with a waker may hang on this bell itself.
        drop(ropes);
        drop(before);
        number
    }

    /// Takes one down that does not wait any more.
    pub(super) fn take_down(&self, number: u64) {
        let mut ropes = self.lock();
        let place = ropes.wakers.iter().position(|(known, _)| *known == number);
        let down = place.map(|place| ropes.wakers.swap_remove(place));
        drop(ropes);
        drop(down);
    }

    /// Wakes all of them, once.
    pub(super) fn ring(&self) {
        let wakers = mem::take(&mut self.lock().wakers);
        for (_, waker) in wakers {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ropes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
