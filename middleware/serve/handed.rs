//! Connections that were handed over to another protocol: not waited for, and cut off at the end.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

/// The bytes of one connection, as whoever has them now reads and writes.
#[derive(Debug, Default)]
pub(super) struct Over {
    /// Whether the connection is about to be handed over, or was. From then on who waits for bytes is remembered.
    is_handed: AtomicBool,
    end: Mutex<End>,
}

#[derive(Debug, Default)]
struct End {
    cut: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Read,
    Write,
}

impl Over {
    /// An answer is on its way after which the connection speaks another protocol. To be told before it is sent.
    pub(super) fn hand(&self) {
        self.is_handed.store(true, Ordering::Relaxed);
    }

    /// What the bytes said, or that they were cut off.
    #[inline]
    pub(super) fn watch<R>(
        &self,
        side: Side,
        polled: Poll<io::Result<R>>,
        context: &Context<'_>,
    ) -> Poll<io::Result<R>> {
        if self.is_handed.load(Ordering::Relaxed) {
            self.watch_handed(side, polled, context)
        } else {
            polled
        }
    }

    #[cold]
    fn watch_handed<R>(
        &self,
        side: Side,
        polled: Poll<io::Result<R>>,
        context: &Context<'_>,
    ) -> Poll<io::Result<R>> {
        let mut end = self.end();
        if end.cut {
            return Poll::Ready(Err(cut_off()));
        }
        if polled.is_pending() {
            let waiting = match side {
                Side::Read => &mut end.reader,
                Side::Write => &mut end.writer,
            };
            match waiting {
                Some(task) => task.clone_from(context.waker()),
                None => *waiting = Some(context.waker().clone()),
            }
        }
        polled
    }

    pub(super) fn is_cut(&self) -> bool {
        self.end().cut
    }

    /// From now on its bytes fail.
    pub(super) fn cut(&self) {
        let waiting = {
            let mut end = self.end();
            end.cut = true;
            [end.reader.take(), end.writer.take()]
        };
        for task in waiting.into_iter().flatten() {
            task.wake();
        }
    }

    fn end(&self) -> MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the server has shut down")
}

/// All of one server.
#[derive(Debug, Default)]
pub(super) struct HandedOver(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    next: Key,
    open: BTreeMap<Key, Weak<Over>>,
}

/// By what one of them is found again.
pub(super) type Key = u64;

impl HandedOver {
    pub(super) fn insert(&self, over: &Arc<Over>) -> Key {
        let mut known = self.known();
        let key = known.next;
        known.next = key.wrapping_add(1);
        known.open.insert(key, Arc::downgrade(over));
        key
    }

    pub(super) fn remove(&self, key: Key) {
        self.known().open.remove(&key);
    }

    pub(super) fn len(&self) -> usize {
        self.known().open.len()
    }

    /// How many of all there are besides these. None comes or goes here while all are counted: it is counted there before
    /// it comes, and until after it has gone.
    pub(super) fn besides(&self, all: impl FnOnce() -> usize) -> usize {
        let known = self.known();
        all().saturating_sub(known.open.len())
    }

    pub(super) fn cut(&self) {
        let all: Vec<Arc<Over>> = {
            let known = self.known();
            known.open.values().filter_map(Weak::upgrade).collect()
        };
        for over in all {
            over.cut();
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(over: &Over, polled: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
        over.watch(Side::Read, polled, &Context::from_waker(Waker::noop()))
    }

    #[test]
    fn bytes_that_were_handed_over_fail_once_they_are_cut_off() {
        let over = Over::default();
        assert!(watched(&over, Poll::Pending).is_pending());
        over.hand();
        assert!(matches!(
            watched(&over, Poll::Ready(Ok(()))),
            Poll::Ready(Ok(()))
        ));
        assert!(watched(&over, Poll::Pending).is_pending());
        over.cut();
        assert!(over.is_cut());
        assert!(matches!(
            watched(&over, Poll::Pending),
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::ConnectionAborted
        ));
    }

    #[test]
    fn all_that_are_there_are_cut_off_and_others_are_forgotten() {
        let all = HandedOver::default();
        let (gone, here) = (Arc::new(Over::default()), Arc::new(Over::default()));
        let key = all.insert(&gone);
        all.insert(&here);
        all.remove(key);
        assert_eq!(all.len(), 1);
        all.cut();
        assert!(here.is_cut() && !gone.is_cut());
    }
}
