//! Wakes those who wait until there is room again.

use std::task::Waker;

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
        match (known, number) {
            (Some((_, known)), Some(number)) => {
                known.clone_from(waker);
                number
            }
            _ => {
                let fresh = ropes.next;
                ropes.next = fresh.wrapping_add(1);
                ropes.wakers.push((fresh, waker.clone()));
                fresh
            }
        }
    }

    /// Takes one down that does not wait any more.
    pub(super) fn take_down(&self, number: u64) {
        self.lock().wakers.retain(|(known, _)| *known != number);
    }

    /// Wakes all of them, once.
    pub(super) fn ring(&self) {
        let wakers = std::mem::take(&mut self.lock().wakers);
        for (_, waker) in wakers {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ropes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
