//! The thread that writes: it takes the lines out of the queue and hands them to the sink.

use std::any::Any;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use tracing::Level;

use super::escape;
use super::form::NONE;
use super::line::{Again, Line};
use super::notice::{Kind, Losses, Notice, Notices, Reason, Tally};
use super::queue::Lines;
use super::scratch::Stamp;
use super::writer::Shared;
use crate::clock;

/// Between two looks into the queue: long enough to gather lines, short enough that nobody waits for them.
const POLL: Duration = Duration::from_millis(5);

/// After so many looks for nothing, 200 ms, the thread sleeps until it is woken.
const IDLE_POLLS: u32 = 40;

/// Between two attempts to say what was lost, while there is nothing else to write.
const RETRY: Duration = Duration::from_secs(1);

/// Lines are gathered up to this many bytes for one write. A pipe holds as much on Linux.
const BATCH: usize = 64 * 1024;

/// A line that the sink took in part is tried for this long before it is given up.
const GIVE_UP: Duration = Duration::from_secs(1);

/// Why a write failed, for the notice and for those who wait for a flush.
type Failure = (Reason, io::ErrorKind, String);

pub(super) struct Drain {
    shared: Arc<Shared>,
    sink: Box<dyn Write + Send>,
    taken: Lines,
    batch: Lines,
    torn: Option<Torn>,
    /// The sink holds half a line that was given up: the next write starts on a new line.
    mend: bool,
    notices: Notices,
    line: Line,
    stamp: Stamp,
    /// Of the current pass.
    failure: Option<Failure>,
    last_failure: String,
}

/// The rest of a line that the sink took in part.
struct Torn {
    rest: Vec<u8>,
    /// What was lost if it is given up; nothing if it was the thread's own.
    kind: Option<Kind>,
    /// What it takes of the queue.
    bytes: usize,
    since: Instant,
}

impl Drain {
    pub(super) fn new(shared: Arc<Shared>, sink: Box<dyn Write + Send>) -> Self {
        Self {
            shared,
            sink,
            taken: Lines::default(),
            batch: Lines::default(),
            torn: None,
            mend: false,
            notices: Notices::default(),
            line: Line::default(),
            stamp: Stamp::default(),
            failure: None,
            last_failure: String::new(),
        }
    }

    pub(super) fn run(&mut self) {
        let mut idle = 0_u32;
        loop {
            let flush = self.shared.flushes.asked();
            let closing = self.shared.closed.load(Ordering::Acquire);
            let moved = self.pass(closing);
            if self.shared.flushes.pending() {
                let error = self
                    .failure
                    .as_ref()
                    .map(|(_, kind, text)| (*kind, text.clone()));
                self.shared.flushes.settle(flush, error);
            }
            if closing && !moved {
                break;
            }
            idle = if moved { 0 } else { idle.saturating_add(1) };
            self.wait(idle);
        }
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared
            .flushes
            .settle(self.shared.flushes.asked(), None);
    }

    /// Writes all that is in the queue. True if there was something.
    fn pass(&mut self, closing: bool) -> bool {
        self.failure = None;
        let hurried = closing || self.shared.flushes.pending();
        self.finish_torn(hurried);
        if self.torn.is_some() {
            return false;
        }
        let mut moved = false;
        let mut refused = Losses::default();
        let mut taken = std::mem::take(&mut self.taken);
        for shard in 0.. {
            if self.torn.is_some() && !hurried {
                break;
            }
            let Some(intake) = self.shared.queue.take(shard, &mut taken) else {
                break;
            };
            refused.add(intake.losses);
            moved |= !taken.is_empty();
            if self.batch.bytes.len().saturating_add(taken.bytes.len()) > BATCH {
                self.write_batch();
            }
            if taken.bytes.len() > BATCH {
                std::mem::swap(&mut self.batch, &mut taken);
                self.write_batch();
            } else {
                self.batch.append(&taken);
            }
            taken.clear();
        }
        self.taken = taken;
        self.write_batch();
        self.say(refused, closing);
        if moved || hurried {
            self.flush_sink();
        }
        moved
    }

    /// Hands the batch to the sink. What the sink does not take is lost, but for a line that it took in part.
    fn write_batch(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let mut batch = std::mem::take(&mut self.batch);
        let (done, failure) = match self.torn {
            // The rest of a line has to come first.
            Some(_) => (0, self.failure.as_ref().map(|(reason, ..)| *reason)),
            None => self.put(&batch.bytes),
        };
        let mut written = Tally::default();
        let mut losses = Losses::default();
        let mut released = batch.bytes.len();
        let mut end = 0_usize;
        for &(length, kind) in &batch.marks {
            let start = end;
            end = end.saturating_add(length as usize);
            match failure {
                None => written.count(kind),
                Some(_) if end <= done => written.count(kind),
                Some(_) if start < done => {
                    released = released.saturating_sub(length as usize);
                    let rest = batch.bytes.get(done..end).unwrap_or_default();
                    self.tear(rest, Some(kind), length as usize);
                }
                Some(reason) => losses.of(reason).count(kind),
            }
        }
        self.count(written, losses);
        self.shared.queue.release(released);
        batch.clear();
        self.batch = batch;
    }

    /// Writes the rest of a line that the sink took in part. If it still does not, the line is given up after a while, or at
    /// once if somebody waits for a flush.
    fn finish_torn(&mut self, hurried: bool) {
        let Some(mut torn) = self.torn.take() else {
            return;
        };
        let (done, failure) = self.put(&torn.rest);
        torn.rest.drain(..done.min(torn.rest.len()));
        let waited = clock::now().saturating_duration_since(torn.since);
        let mut written = Tally::default();
        let mut losses = Losses::default();
        match (failure, torn.kind) {
            (None, None) => {}
            (None, Some(kind)) => written.count(kind),
            (Some(_), _) if !hurried && waited < GIVE_UP => {
                self.torn = Some(torn);
                return;
            }
            (Some(reason), kind) => {
                self.mend = true;
                // If only the newline is missing the line is whole: mending adds it.
                let whole = torn.rest == b"\n";
                match kind {
                    Some(kind) if whole => written.count(kind),
                    Some(kind) => losses.of(reason).count(kind),
                    None => {}
                }
            }
        }
        self.count(written, losses);
        self.shared.queue.release(torn.bytes);
    }

    fn tear(&mut self, rest: &[u8], kind: Option<Kind>, bytes: usize) {
        self.torn = Some(Torn {
            rest: rest.to_vec(),
            kind,
            bytes,
            since: clock::now(),
        });
    }

    fn count(&self, written: Tally, losses: Losses) {
        self.shared.drained.update(|all_written, all_losses| {
            all_written.add(written);
            all_losses.add(losses);
        });
    }

    /// Says what was lost, if it is time to, as the thread's own line: it does not go through the queue, where it could be
    /// lost itself.
    fn say(&mut self, refused: Losses, closing: bool) {
        if self.failure.is_some() || self.torn.is_some() {
            return;
        }
        let now = clock::now();
        let (_, mut losses) = self.shared.drained.read();
        losses.add(refused);
        let Some(notice) = self.notices.due(losses, now, closing) else {
            return;
        };
        let mut line = std::mem::take(&mut self.line);
        let bytes = self.compose(&mut line, notice);
        match self.put(bytes) {
            (_, None) => self.notices.said(now),
            (0, Some(_)) => {}
            // Once its rest is written it will have been said.
            (done, Some(_)) => {
                self.notices.said(now);
                self.tear(bytes.get(done..).unwrap_or_default(), None, 0);
            }
        }
        self.line = line;
    }

    fn compose<'a>(&mut self, line: &'a mut Line, notice: Notice) -> &'a [u8] {
        let form = self.shared.form();
        let message = form.own_head(line, &mut self.stamp, &Level::WARN, "plimsoll::log");
        let losses = notice.losses;
        let lines = losses.lines();
        let texts = [
            (message, "log lines were lost"),
            (form.own_name("event"), "log_dropped"),
            (form.own_name("error"), self.last_failure.as_str()),
        ];
        for (key, value) in texts {
            if !value.is_empty() && line.begin(key, &NONE, Again::Skip) {
                line.bytes().push(b'"');
                escape::push_text(line.bytes(), value);
                line.bytes().push(b'"');
                line.end();
            }
        }
        let numbers = [
            ("count", Some(lines.total())),
            ("access", Some(lines.access)),
            ("events", Some(lines.events)),
            ("queue_full", nonzero(losses.queue_full.total())),
            ("write_error", nonzero(losses.write_error.total())),
            ("sink_panic", nonzero(losses.sink_panic.total())),
            ("nested", nonzero(losses.nested.total())),
            ("write_errors", nonzero(losses.write_errors)),
            ("suppressed", Some(notice.suppressed)),
        ];
        for (key, value) in numbers {
            if let Some(value) = value
                && line.begin(key, &NONE, Again::Skip)
            {
                escape::push_integer(line.bytes(), value);
                line.end();
            }
        }
        self.last_failure.clear();
        line.finish()
    }

    /// Writes all of `bytes`, and tells how many the sink took.
    fn put(&mut self, bytes: &[u8]) -> (usize, Option<Reason>) {
        if self.mend {
            match self.put_raw(b"\n") {
                (_, None) => self.mend = false,
                (_, failure) => return (0, failure),
            }
        }
        self.put_raw(bytes)
    }

    fn put_raw(&mut self, bytes: &[u8]) -> (usize, Option<Reason>) {
        let mut done = 0_usize;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let wrote = catch_unwind(AssertUnwindSafe(|| self.sink.write(rest)));
            let failed = match wrote {
                Ok(Ok(0)) => Err(io::Error::from(io::ErrorKind::WriteZero)),
                Ok(Ok(bytes)) => {
                    done = done.saturating_add(bytes.min(rest.len()));
                    continue;
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
                // A pipe that does not block and is full: the same as one that blocks.
                Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock && !self.closed() => {
                    thread::park_timeout(POLL);
                    continue;
                }
                Ok(Err(error)) => Err(error),
                Err(payload) => Ok(payload),
            };
            return (done, Some(self.fail(failed)));
        }
        (done, None)
    }

    fn flush_sink(&mut self) {
        match catch_unwind(AssertUnwindSafe(|| self.sink.flush())) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                self.fail(Err(error));
            }
            Err(payload) => {
                self.fail(Ok(payload));
            }
        }
    }

    /// Counts and remembers what went wrong: an error, or what a panic threw.
    fn fail(&mut self, failed: Result<Box<dyn Any + Send>, io::Error>) -> Reason {
        let failure = match failed {
            Err(error) => (Reason::WriteError, error.kind(), error.to_string()),
            Ok(payload) => {
                // Dropping what was thrown may panic again. Its text stays out of the log: it may be a secret.
                std::mem::forget(payload);
                (
                    Reason::SinkPanic,
                    io::ErrorKind::Other,
                    "the sink panicked".to_owned(),
                )
            }
        };
        self.shared.drained.update(|_, losses| {
            losses.write_errors = losses.write_errors.saturating_add(1);
        });
        let reason = failure.0;
        self.last_failure.clone_from(&failure.2);
        self.failure = Some(failure);
        reason
    }

    fn closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }

    fn wait(&self, idle: u32) {
        let shared = &self.shared;
        if shared.flushes.pending() {
            return;
        }
        if idle < IDLE_POLLS {
            thread::park_timeout(POLL);
            return;
        }
        shared.asleep.store(true, Ordering::SeqCst);
        if !shared.queue.is_empty() || shared.flushes.pending() || self.closed() {
            shared.asleep.store(false, Ordering::SeqCst);
        } else if self.notices.unsaid() || self.torn.is_some() {
            thread::park_timeout(RETRY);
        } else {
            thread::park();
        }
        shared.asleep.store(false, Ordering::SeqCst);
    }
}

fn nonzero(count: u64) -> Option<u64> {
    (count > 0).then_some(count)
}
