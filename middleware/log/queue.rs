//! Where lines wait for the thread that writes them.
//!
//! Each thread appends to its own shard, so that threads do not wait for each other. A shard takes room from the whole
//! queue's account in pieces: the account is touched once for many lines.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::Duration;

use super::notice::{Kind, Losses, Reason, Tally};

/// No more shards than this, however many cores.
const MAX_SHARDS: usize = 64;

/// A shard holds on to at most this share of the queue, and all shards together to at most an eighth.
const SHARE: usize = 8;

/// Memory of a drained shard that is kept for the next lines, in bytes.
const KEPT: usize = 256 * 1024;

/// A shard with this much is not left waiting: its memory stays below what is kept.
const MUCH: usize = KEPT / 2;

/// Lines of some threads, in the order in which each thread wrote them.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub(super) bytes: Vec<u8>,
    /// Length of each line and whether it is an access line.
    pub(super) marks: Vec<(u32, Kind)>,
}

impl Lines {
    pub(super) fn push(&mut self, kind: Kind, line: &[u8]) {
        self.bytes.extend_from_slice(line);
        self.marks.push((line.len() as u32, kind));
    }

    pub(super) fn append(&mut self, other: &Self) {
        self.bytes.extend_from_slice(&other.bytes);
        self.marks.extend_from_slice(&other.marks);
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
        self.marks.clear();
        self.marks.shrink_to(KEPT / 64);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }
}

/// What happened to lines before they reached the thread.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Intake {
    pub(super) accepted: Tally,
    pub(super) losses: Losses,
}

#[derive(Debug, Default)]
struct Shard {
    lines: Lines,
    /// Bytes that may be appended without asking the account.
    room: usize,
    intake: Intake,
}

/// Apart from its neighbours, so that two threads never write to one line of the cache.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded(Mutex<Shard>);

impl Padded {
    fn lock(&self) -> MutexGuard<'_, Shard> {
        // Nothing panics while it holds the lock, and what is inside is whole at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(super) struct Queue {
    shards: Box<[Padded]>,
    max_bytes: usize,
    /// Bytes that no shard has taken.
    free: AtomicUsize,
    /// What a shard takes at once.
    piece: usize,
    /// Threads that wait for room.
    waiting: AtomicUsize,
    gate: Mutex<()>,
    room: Condvar,
}

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Append {
    /// It is in the queue.
    Accepted,
    /// It is, and much waits: the thread should look now.
    Filling,
    /// It is not.
    Full,
}

impl Queue {
    pub(super) fn new(max_bytes: usize) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let shards = cores.saturating_mul(4).next_power_of_two().min(MAX_SHARDS);
        Self {
            shards: (0..shards).map(|_| Padded::default()).collect(),
            max_bytes,
            free: AtomicUsize::new(max_bytes),
            piece: (max_bytes / SHARE).checked_div(shards).unwrap_or_default(),
            waiting: AtomicUsize::new(0),
            gate: Mutex::new(()),
            room: Condvar::new(),
        }
    }

    /// Takes a line. If there is no room, waits for it at most `patience`.
    pub(super) fn append(&self, kind: Kind, line: &[u8], patience: Duration) -> Append {
        let Some(shard) = self.shard() else {
            return Append::Full;
        };
        let mut shard_lines = shard.lock();
        let mut appended = Append::Accepted;
        if shard_lines.room < line.len() {
            let mut taken = self.take_piece(line.len().saturating_sub(shard_lines.room));
            if taken.is_none() && !patience.is_zero() {
                drop(shard_lines);
                // All that the line needs: others may use up the shard's room meanwhile.
                taken = self.wait_for(line.len(), patience);
                shard_lines = shard.lock();
            }
            let Some(taken) = taken else {
                shard_lines.intake.losses.of(Reason::QueueFull).count(kind);
                return Append::Full;
            };
            shard_lines.room = shard_lines.room.saturating_add(taken);
            if self.free.load(Ordering::Relaxed) < self.max_bytes / 2 {
                appended = Append::Filling;
            }
        }
        shard_lines.room = shard_lines.room.saturating_sub(line.len());
        let waiting = shard_lines.lines.bytes.len();
        shard_lines.lines.push(kind, line);
        if waiting < MUCH && shard_lines.lines.bytes.len() >= MUCH {
            appended = Append::Filling;
        }
        shard_lines.intake.accepted.count(kind);
        appended
    }

    /// Counts a line that was never written.
    pub(super) fn refuse(&self, kind: Kind, reason: Reason) {
        if let Some(shard) = self.shard() {
            shard.lock().intake.losses.of(reason).count(kind);
        }
    }

    /// Swaps out the lines of one shard; `into` must be empty. Tells what happened to that shard's lines so far, or `None`
    /// behind the last shard.
    pub(super) fn take(&self, shard: usize, into: &mut Lines) -> Option<Intake> {
        let mut shard = self.shards.get(shard)?.lock();
        if shard.lines.is_empty() {
            // An idle shard gives back what it holds.
            let idle = std::mem::take(&mut shard.room);
            if idle > 0 {
                self.release(idle);
            }
        } else {
            std::mem::swap(&mut shard.lines, into);
        }
        Some(shard.intake)
    }

    /// The bytes of lines that were taken are free again: the lines are written or lost.
    pub(super) fn release(&self, bytes: usize) {
        self.free.fetch_add(bytes, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            drop(self.gate.lock().unwrap_or_else(PoisonError::into_inner));
            self.room.notify_all();
        }
    }

    /// What happened to all lines so far.
    pub(super) fn intake(&self) -> Intake {
        self.shards
            .iter()
            .fold(Intake::default(), |mut sum, shard| {
                let intake = shard.lock().intake;
                sum.accepted.add(intake.accepted);
                sum.losses.add(intake.losses);
                sum
            })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.shards
            .iter()
            .all(|shard| shard.lock().lines.is_empty())
    }

    fn shard(&self) -> Option<&Padded> {
        self.shards
            .get(thread_number() & self.shards.len().wrapping_sub(1))
    }

    fn take_piece(&self, needed: usize) -> Option<usize> {
        let piece = self.piece.max(needed);
        self.take_exactly(piece)
            .or_else(|| self.take_exactly(needed))
    }

    fn take_exactly(&self, bytes: usize) -> Option<usize> {
        let left = |free: usize| free.checked_sub(bytes);
        match self
            .free
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, left)
        {
            Ok(_) => Some(bytes),
            Err(_too_little) => None,
        }
    }

    /// Waits in real time, whatever tokio's clock says: a paused clock must not make this wait for ever.
    fn wait_for(&self, needed: usize, patience: Duration) -> Option<usize> {
        if needed > self.max_bytes {
            return None;
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut taken = None;
        let gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.room.wait_timeout_while(gate, patience, |()| {
            taken = self.take_exactly(needed);
            taken.is_none()
        });
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        taken
    }
}

/// A number for the current thread, given in turn.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    thread_local! {
        static NUMBER: Cell<usize> = const { Cell::new(0) };
    }
    match NUMBER.get() {
        0 => {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            NUMBER.set(number);
            number
        }
        number => number,
    }
}

/// Something others wait for, in a way that works even if the waiting thread panicked while it held the lock.
#[derive(Debug, Default)]
pub(super) struct Signal {
    gate: Mutex<()>,
    changed: Condvar,
}

impl Signal {
    /// Waits until `done`, at most `patience`. True if it is done.
    pub(super) fn wait(&self, done: impl Fn() -> bool, mut patience: Duration) -> bool {
        /// Between two looks, should the lock be held.
        const PAUSE: Duration = Duration::from_millis(1);
        loop {
            let gate = match self.gate.try_lock() {
                Ok(gate) => gate,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    if done() || patience.is_zero() {
                        return done();
                    }
                    thread::sleep(PAUSE.min(patience));
                    patience = patience.saturating_sub(PAUSE);
                    continue;
                }
            };
            let waited = self
                .changed
                .wait_timeout_while(gate, patience, |()| !done());
            drop(waited.unwrap_or_else(PoisonError::into_inner));
            return done();
        }
    }

    pub(super) fn notify(&self) {
        drop(self.gate.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] = b"0123456789\n";

    fn fill(queue: &Queue) -> usize {
        let mut accepted = 0;
        while queue.append(Kind::Event, LINE, Duration::ZERO) != Append::Full {
            accepted += 1;
        }
        accepted
    }

    fn drain(queue: &Queue) -> usize {
        let mut lines = Lines::default();
        let mut bytes = 0;
        for shard in 0.. {
            if queue.take(shard, &mut lines).is_none() {
                return bytes;
            }
            bytes += lines.bytes.len();
            lines.clear();
        }
        bytes
    }

    #[test]
    fn holds_no_more_than_its_bytes_and_all_of_them_again_when_drained() {
        let queue = Queue::new(10_000);
        for _ in 0..3 {
            let accepted = fill(&queue);
            assert_eq!(accepted, 10_000 / LINE.len());
            let bytes = drain(&queue);
            assert_eq!(bytes, accepted * LINE.len());
            queue.release(bytes);
            assert_eq!(drain(&queue), 0);
            assert_eq!(queue.free.load(Ordering::Relaxed), 10_000);
        }
        assert_eq!(
            queue.intake().losses.queue_full,
            Tally {
                access: 0,
                events: 3
            }
        );
    }

    #[test]
    fn taken_lines_count_until_they_are_released() {
        let queue = Queue::new(1_000);
        let bytes = fill(&queue) * LINE.len();
        assert_eq!(drain(&queue), bytes);
        assert_eq!(fill(&queue), 0);
        queue.release(bytes);
        assert_eq!(fill(&queue), bytes / LINE.len());
    }

    #[test]
    fn who_waits_for_room_gets_it() {
        let queue = Queue::new(LINE.len());
        assert_eq!(fill(&queue), 1);
        let patience = Duration::from_secs(60);
        thread::scope(|scope| {
            let waiter = scope.spawn(|| queue.append(Kind::Access, LINE, patience));
            while queue.waiting.load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
            queue.release(drain(&queue));
            assert_ne!(waiter.join().expect("no panic"), Append::Full);
        });
        assert_eq!(
            queue.append(Kind::Event, &[b'x'; 64], patience),
            Append::Full
        );
    }

    #[test]
    fn waits_no_longer_than_told() {
        let queue = Queue::new(1);
        assert_eq!(
            queue.append(Kind::Event, LINE, Duration::from_secs(3600)),
            Append::Full
        );
        assert!(!Signal::default().wait(|| false, Duration::from_millis(1)));
        assert!(Signal::default().wait(|| true, Duration::ZERO));
        let signal = Signal::default();
        let _held = signal.gate.lock().expect("free");
        assert!(!signal.wait(|| false, Duration::from_millis(2)));
    }
}
