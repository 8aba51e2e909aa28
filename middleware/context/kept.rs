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

/// A box that was kept, or a new one.
#[inline]
pub(crate) fn take<T: Default>(from: &'static LocalKey<Free<T>>) -> Box<T> {
    let taken = from.try_with(|Free(free)| free.try_borrow_mut().ok()?.pop());
    taken.ok().flatten().unwrap_or_default()
}

/// Keeps a box, unless there are enough. Before, it is made as if it were new.
#[inline]
pub(crate) fn keep<T>(
    from: &'static LocalKey<Free<T>>,
    mut used: Box<T>,
    clear: impl FnOnce(&mut T),
) {
    clear(&mut used);
    // swallow: none, where a thread ends and keeps nothing the box is simply freed
    let _freed = from.try_with(|Free(free)| {
        if let Ok(mut free) = free.try_borrow_mut()
            && free.len() < MOST
        {
            free.push(used);
        }
    });
}

/// What lies in boxes that are used again.
pub(crate) trait Keep: Default + 'static {
    /// The thread's boxes of this kind.
    fn free() -> &'static LocalKey<Free<Self>>;
}

/// A box of the thread's. It is small, however large what lies in it: for what is moved often.
pub(crate) struct Kept<T: Keep>(Option<Box<T>>);

impl<T: Keep> Default for Kept<T> {
    #[inline]
    fn default() -> Self {
        Self(Some(take(T::free())))
    }
}

impl<T: Keep> Drop for Kept<T> {
    #[inline]
    fn drop(&mut self) {
        if let Some(used) = self.0.take() {
            keep(T::free(), used, |value| *value = T::default());
        }
    }
}

impl<T: Keep> Deref for Kept<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.0
            .as_deref()
            .expect("it is there until this is dropped")
    }
}

impl<T: Keep> DerefMut for Kept<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.0
            .as_deref_mut()
            .expect("it is there until this is dropped")
    }
}

impl<T: Keep + fmt::Debug> fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        T::fmt(self, f)
    }
}
