//! Boxes that a thread uses again, so that what belongs to a call costs no allocation.

use std::{
    cell::RefCell,
    fmt,
    ops::{Deref, DerefMut},
    thread::LocalKey,
};

/// So many boxes of a kind a thread keeps for calls to come.
const MOST: usize = 64;

/// Boxes that a thread keeps.
pub(crate) struct Free<T>(RefCell<Vec<Box<T>>>);

impl<T> Free<T> {
    pub(crate) const fn none() -> Self {
        Self(RefCell::new(Vec::new()))
    }
}

/// A box that was kept, if there is one.
#[inline]
pub(crate) fn take<T>(from: &'static LocalKey<Free<T>>) -> Option<Box<T>> {
    let taken = from.try_with(|Free(free)| free.try_borrow_mut().ok()?.pop());
    taken.ok().flatten()
}

/// Keeps a box, unless there are enough. It is emptied before.
#[inline]
pub(crate) fn keep<T>(
    from: &'static LocalKey<Free<T>>,
    mut freed: Box<T>,
    empty: impl FnOnce(&mut T),
) {
    empty(&mut freed);
    // swallow: none, where a thread ends and keeps nothing the box is simply freed
    let _freed = from.try_with(|Free(free)| {
        if let Ok(mut free) = free.try_borrow_mut()
            && free.len() < MOST
        {
            free.push(freed);
        }
    });
}

/// What is kept in a box that was used before, and will be again.
pub(crate) trait Keep: Sized + 'static {
    /// The thread's boxes of this kind.
    fn free() -> &'static LocalKey<Free<Option<Self>>>;
}

/// A box of the thread's, as long as a value is in it. Small, however large the value: it is moved often.
pub(crate) struct Kept<T: Keep>(Option<Box<Option<T>>>);

impl<T: Keep> Kept<T> {
    #[inline]
    pub(crate) fn new(value: T) -> Self {
        let mut kept = take(T::free()).unwrap_or_default();
        *kept = Some(value);
        Self(Some(kept))
    }
}

impl<T: Keep> Drop for Kept<T> {
    #[inline]
    fn drop(&mut self) {
        if let Some(kept) = self.0.take() {
            keep(T::free(), kept, |value| *value = None);
        }
    }
}

impl<T: Keep> Deref for Kept<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        let value = self.0.as_deref().and_then(Option::as_ref);
        value.expect("it is there until this is dropped")
    }
}

impl<T: Keep> DerefMut for Kept<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        let value = self.0.as_deref_mut().and_then(Option::as_mut);
        value.expect("it is there until this is dropped")
    }
}

impl<T: Keep + fmt::Debug> fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        T::fmt(self, f)
    }
}
