//! The way from a line to where lines go, which may be slow, full or broken without any call noticing.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError, Weak};
use std::thread::{self, Thread};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

use super::drain::Drain;
use super::form::Form;
pub(crate) use super::notice::Kind;
use super::notice::{Losses, Reason, Tally};
use super::queue::{Append, Queue, Signal};
use super::setup::SetupError;
use crate::{panics, task::supervise_thread};

/// What a queue holds by default, 8 MiB: half a minute of 500 access lines a second.
pub const DEFAULT_QUEUE_BYTES: usize = 8 * 1024 * 1024;

/// What happens to a line for which the queue has no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// It is dropped and counted. The default: a log that nobody reads must not stop the service.
    #[default]
    Drop,
    /// Whoever logs waits for room, at most this long; then the line is dropped and counted. Blocks the thread, and with
    /// it all calls that the thread runs: choose it where no line may be lost and latency does not count.
    BlockFor(Duration),
}

/// Writes lines to a sink from a thread of its own, behind a bounded queue.
///
/// Whoever logs appends to the queue and goes on: no system call, no lock that all threads share. The thread gathers
/// lines for up to 5 ms and hands them to the sink in few large writes; once nothing came for 200 ms it sleeps until
/// the next line. The lines of one thread keep their order.
///
/// A sink that fails loses the lines of that write, and they are counted; a line that the sink took in part is finished
/// before anything else is written. A sink that blocks fills the queue, then [`Overflow`] decides; one that panics is
/// used again for the next lines. Once the sink works again a line with `event="log_dropped"` tells what was lost:
/// `count` lines in all, by reason and kind, then at most every 10 s, with the number of notices `suppressed`. What the
/// sink itself logs comes back to it as further lines, so a sink should not log.
///
/// Clones share queue and thread. The thread ends once the last of them is dropped and the queue is drained, which
/// nobody waits for: call [`flush`](Self::flush) before.
///
/// Also a [`MakeWriter`], for other formatters: each `write` is one line, and should end with a newline.
#[derive(Clone)]
pub struct Writer {
    handle: Arc<Handle>,
}

/// The last handle lets the thread end.
struct Handle {
    shared: Arc<Shared>,
    overflow: Overflow,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.wake();
    }
}

/// What writers and the thread have in common.
pub(super) struct Shared {
    pub(super) queue: Queue,
    pub(super) asleep: AtomicBool,
    pub(super) closed: AtomicBool,
    pub(super) ended: AtomicBool,
    pub(super) flushes: Flushes,
    pub(super) drained: Drained,
    thread: OnceLock<Thread>,
    form: Mutex<Arc<Form>>,
}

/// Flushes are numbered; the thread tells the last number that it has done, and the last that failed.
#[derive(Default)]
pub(super) struct Flushes {
    asked: AtomicU64,
    done: AtomicU64,
    failed: AtomicU64,
    error: Mutex<Option<(io::ErrorKind, String)>>,
    signal: Signal,
}

impl Flushes {
    /// The last flush that somebody asked for.
    pub(super) fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    /// All up to this flush are done.
    pub(super) fn settle(&self, number: u64, error: Option<(io::ErrorKind, String)>) {
        if error.is_some() {
            *lock(&self.error) = error;
            self.failed.store(number, Ordering::SeqCst);
        }
        self.done.store(number, Ordering::SeqCst);
        self.signal.notify();
    }

    /// True if somebody waits.
    pub(super) fn pending(&self) -> bool {
        self.asked() != self.done.load(Ordering::SeqCst)
    }
}

/// What the thread counts.
#[derive(Default)]
pub(super) struct Drained(Mutex<(Tally, Losses)>);

impl Drained {
    pub(super) fn update(&self, change: impl FnOnce(&mut Tally, &mut Losses)) {
        let mut counts = lock(&self.0);
        let (written, losses) = &mut *counts;
        change(written, losses);
    }

    pub(super) fn read(&self) -> (Tally, Losses) {
        *lock(&self.0)
    }
}

/// Nothing that panics is ever done while one of these locks is held, and what they guard is always whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn form(&self) -> Arc<Form> {
        Arc::clone(&lock(&self.form))
    }

    fn wake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    fn on_thread(&self) -> bool {
        self.thread
            .get()
            .is_some_and(|thread| thread.id() == thread::current().id())
    }

    fn ask_flush(&self) -> u64 {
        let number = self
            .flushes
            .asked
            .fetch_add(1, Ordering::SeqCst)
            .saturating_add(1);
        self.wake();
        number
    }

    fn await_flush(&self, number: u64, patience: Duration) -> Result<(), FlushError> {
        let flushes = &self.flushes;
        // The thread cannot wait for itself: a sink that panics comes here by way of a panic hook.
        let patience = if self.on_thread() {
            Duration::ZERO
        } else {
            patience
        };
        let done =
            || flushes.done.load(Ordering::SeqCst) >= number || self.ended.load(Ordering::SeqCst);
        if !flushes.signal.wait(done, patience) {
            return Err(FlushError::TimedOut { patience });
        }
        if flushes.failed.load(Ordering::SeqCst) < number {
            return Ok(());
        }
        let error = match flushes.error.try_lock() {
            Ok(error) => error.clone(),
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().clone(),
            Err(TryLockError::WouldBlock) => None,
        };
        let (kind, text) = error.unwrap_or((io::ErrorKind::Other, "unknown".to_owned()));
        Err(FlushError::Failed {
            source: io::Error::new(kind, text),
        })
    }
}

impl Writer {
    /// Writes to `sink`, with a queue of [8 MiB](DEFAULT_QUEUE_BYTES) and [`Overflow::Drop`].
    ///
    /// # Errors
    ///
    /// If the thread cannot be started.
    pub fn new(sink: impl Write + Send + 'static) -> Result<Self, SetupError> {
        Self::with_queue(sink, DEFAULT_QUEUE_BYTES, Overflow::Drop)
    }

    /// Writes to `sink`, with a queue that holds at most `max_bytes` of lines.
    ///
    /// # Errors
    ///
    /// If `max_bytes` is zero, or if the thread cannot be started.
    pub fn with_queue(
        sink: impl Write + Send + 'static,
        max_bytes: usize,
        overflow: Overflow,
    ) -> Result<Self, SetupError> {
        if max_bytes == 0 {
            return Err(SetupError::NoQueue);
        }
        let shared = Arc::new(Shared {
            queue: Queue::new(max_bytes),
            asleep: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            flushes: Flushes::default(),
            drained: Drained::default(),
            thread: OnceLock::new(),
            form: Mutex::new(Arc::new(Form::default())),
        });
        panics::flush_by(last_flush);
        let mut drain = Drain::new(Arc::clone(&shared), Box::new(sink));
        let thread = supervise_thread("log", move || drain.run())
            .map_err(|source| SetupError::Thread { source })?;
        shared.thread.get_or_init(|| thread);
        let mut writers = lock(&WRITERS);
        writers.retain(|writer| writer.strong_count() > 0);
        writers.push(Arc::downgrade(&shared));
        drop(writers);
        Ok(Self {
            handle: Arc::new(Handle { shared, overflow }),
        })
    }

    /// Waits until all lines that were accepted before are in the sink and the sink is flushed, at most `patience`.
    ///
    /// Blocks the thread. Real time counts, also where tokio's clock is paused.
    ///
    /// # Errors
    ///
    /// [`FlushError::TimedOut`] if that took longer; the lines stay in the queue and are still written. Also when called
    /// by the sink itself, for which nothing can wait. [`FlushError::Failed`] if the sink failed; the lines that it failed
    /// to take are lost and counted.
    pub fn flush(&self, patience: Duration) -> Result<(), FlushError> {
        let shared = &self.handle.shared;
        shared.await_flush(shared.ask_flush(), patience)
    }

    /// What became of all lines so far.
    pub fn stats(&self) -> Stats {
        let shared = &self.handle.shared;
        // First what is written, then what was accepted: so a line is never written before it was accepted.
        let (written, mut losses) = shared.drained.read();
        let intake = shared.queue.intake();
        losses.add(intake.losses);
        let counts = |of: fn(Tally) -> u64| Counts {
            written: of(written),
            queue_full: of(losses.queue_full),
            write_error: of(losses.write_error),
            sink_panic: of(losses.sink_panic),
            nested: of(losses.nested),
            queued: of(intake.accepted)
                .saturating_sub(of(written))
                .saturating_sub(of(losses.write_error))
                .saturating_sub(of(losses.sink_panic)),
        };
        Stats {
            access: counts(|tally| tally.access),
            events: counts(|tally| tally.events),
            write_errors: losses.write_errors,
        }
    }

    /// Takes a whole line, its newline included.
    pub(super) fn append(&self, kind: Kind, line: &[u8]) {
        let shared = &self.handle.shared;
        let patience = match self.handle.overflow {
            // The thread must not wait for itself to make room.
            Overflow::BlockFor(patience) if !shared.on_thread() => patience,
            Overflow::BlockFor(_) | Overflow::Drop => Duration::ZERO,
        };
        let appended = shared.queue.append(kind, line, patience);
        // The thread says that it sleeps before it looks into the queue for the last time, and both take the shard's
        // lock: either it finds this line, or this finds it asleep.
        if shared.asleep.load(Ordering::Relaxed) {
            if shared.asleep.swap(false, Ordering::SeqCst) {
                shared.wake();
            }
        } else if appended == Append::Filling {
            shared.wake();
        }
    }

    /// Counts an event that was logged while another was formatted that was logged while another was.
    pub(super) fn drop_nested(&self, kind: Kind) {
        let shared = &self.handle.shared;
        shared.queue.refuse(kind, Reason::Nested);
        if shared.asleep.load(Ordering::Relaxed) {
            shared.wake();
        }
    }

    pub(super) fn set_form(&self, form: Arc<Form>) {
        *lock(&self.handle.shared.form) = form;
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Writer")
            .field("overflow", &self.handle.overflow)
            .finish_non_exhaustive()
    }
}

impl Write for Writer {
    /// Queues one line. Never fails: a line for which there is no room is counted.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.append(Kind::Event, line);
        Ok(line.len())
    }

    /// Does nothing; see [`Writer::flush`](Writer::flush).
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Writer {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// All writers whose thread still runs.
static WRITERS: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());

/// For a program that is about to die.
fn last_flush(patience: Duration) {
    if let Err(_unheard) = flush_all(patience) {
        // swallow: plimsoll.log.dropped The place where this would be said is the one that does not work.
    }
}

/// Flushes every [`Writer`] of the program, at most `patience` in all: before the process is ended by other means than
/// the end of `main`, as by [`std::process::exit`] or from a panic hook.
///
/// # Errors
///
/// The first error of [`Writer::flush`]; the other writers are flushed nevertheless.
pub fn flush_all(patience: Duration) -> Result<(), FlushError> {
    let writers = match WRITERS.try_lock() {
        Ok(writers) => writers.clone(),
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().clone(),
        // Somebody just makes a writer, perhaps the thread that panicked: there is nothing to wait for.
        Err(TryLockError::WouldBlock) => {
            return Err(FlushError::TimedOut {
                patience: Duration::ZERO,
            });
        }
    };
    let asked: Vec<_> = writers
        .iter()
        .filter_map(Weak::upgrade)
        .map(|shared| (shared.ask_flush(), shared))
        .collect();
    let each = u32::try_from(asked.len())
        .ok()
        .and_then(|writers| patience.checked_div(writers));
    let mut flushed = Ok(());
    for (number, shared) in asked {
        flushed = flushed.and(shared.await_flush(number, each.unwrap_or_default()));
    }
    flushed
}

/// Why a flush did not succeed.
#[derive(Debug)]
#[non_exhaustive]
pub enum FlushError {
    /// The sink took too long.
    TimedOut {
        /// How long was waited.
        patience: Duration,
    },
    /// The sink failed.
    Failed {
        /// What the sink said last.
        source: io::Error,
    },
}

impl fmt::Display for FlushError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut { patience } => {
                write!(out, "the log was not written within {patience:?}")
            }
            Self::Failed { .. } => out.write_str("the log could not be written"),
        }
    }
}

impl Error for FlushError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::TimedOut { .. } => None,
            Self::Failed { source } => Some(source),
        }
    }
}

/// What became of the lines of a [`Writer`]. The numbers only grow, but for `queued`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Lines of calls that ended, target `plimsoll::access`.
    pub access: Counts,
    /// All other lines.
    pub events: Counts,
    /// Writes and flushes that failed or panicked, however many lines they carried.
    pub write_errors: u64,
}

impl Stats {
    /// Lines that the sink took. The writer's own notices do not count.
    pub fn lines(&self) -> u64 {
        self.access.written.saturating_add(self.events.written)
    }

    /// Lines that were lost.
    pub fn dropped(&self) -> u64 {
        self.access.dropped().saturating_add(self.events.dropped())
    }

    /// Lines that wait for the sink.
    pub fn queued(&self) -> u64 {
        self.access.queued.saturating_add(self.events.queued)
    }
}

/// What became of lines of one kind. The sum of all is what was logged, exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// The sink took them.
    pub written: u64,
    /// Dropped since the queue had no room, reason `queue_full`.
    pub queue_full: u64,
    /// Dropped since the sink failed, reason `write_error`.
    pub write_error: u64,
    /// Dropped since the sink panicked, reason `sink_panic`.
    pub sink_panic: u64,
    /// Dropped since they were logged by the `Debug` of a value that was itself being logged so, reason `nested`.
    pub nested: u64,
    /// They wait for the sink.
    pub queued: u64,
}

impl Counts {
    /// Lines that were lost, for whatever reason.
    pub fn dropped(&self) -> u64 {
        [self.write_error, self.sink_panic, self.nested]
            .into_iter()
            .fold(self.queue_full, u64::saturating_add)
    }
}
