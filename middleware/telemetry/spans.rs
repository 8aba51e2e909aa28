//! The queue of spans that wait for their export, and the thread that exports them. What does not fit is counted.

use std::{
    collections::VecDeque,
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_executor::block_on;
use opentelemetry::Context;
use opentelemetry_sdk::{
    error::{OTelSdkError, OTelSdkResult},
    trace::{Span, SpanData, SpanExporter, SpanProcessor},
};

use super::counts::{Counts, Exporter};
use crate::task::supervise_thread;

/// How long a flush waits that was given no deadline.
const FLUSH: Duration = Duration::from_secs(5);

/// How much waits for how long, as `OTEL_BSP_*` say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) queue: usize,
    pub(super) batch: usize,
    pub(super) delay: Duration,
}

/// Takes spans that have ended and exports them in batches, on a thread of its own. Clones share it.
#[derive(Clone)]
pub(super) struct SpanQueue(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// There is something to do for the thread.
    work: Condvar,
    /// Something was done by the thread.
    done: Condvar,
    limits: Limits,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<SpanData>,
    /// Spans that are being exported.
    under_way: usize,
    /// Whether all that waits is to be exported now.
    hurried: bool,
    closed: bool,
    /// Whether those under way have been counted as lost.
    abandoned: bool,
}

impl SpanQueue {
    pub(super) fn start<E: SpanExporter + 'static>(
        exporter: E,
        limits: Limits,
        counts: Arc<Counts>,
    ) -> Result<Self, io::Error> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
            limits,
            counts,
        });
        let theirs = Arc::clone(&shared);
        supervise_thread("spans", move || theirs.run(&exporter))?;
        Ok(Self(shared))
    }

    /// Nobody waits any more: what has not been exported counts as lost.
    pub(super) fn abandon(&self) {
        let mut state = self.0.lock();
        state.closed = true;
        self.0.lose_all(&mut state, "abandoned");
        self.0.work.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run<E: SpanExporter>(&self, exporter: &E) {
        // The exporter's own requests are no part of any trace.
        let _suppressed = Context::enter_telemetry_suppressed_scope();
        while let Some(batch) = self.next_batch() {
            let spans = batch.len();
            if spans == 0 {
                continue;
            }
            let exported = catch_unwind(AssertUnwindSafe(|| block_on(exporter.export(batch))));
            let failed = match exported {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("the exporter panicked".to_owned()),
            };
            if let Some(error) = &failed {
                self.counts.failed(Exporter::Traces, error);
            }
            let mut state = self.lock();
            state.under_way = 0;
            let counted = std::mem::take(&mut state.abandoned);
            drop(state);
            if failed.is_some() && !counted {
                self.counts.dropped(count(spans), "export_failed");
            }
            self.done.notify_all();
        }
        if let Err(error) = exporter.shutdown() {
            self.counts.failed(Exporter::Traces, &error.to_string());
        }
        self.done.notify_all();
    }

    /// Waits for a batch that is full, due or hurried. `None` once it is closed and empty.
    fn next_batch(&self) -> Option<Vec<SpanData>> {
        let state = self.lock();
        let idle = |state: &mut State| {
            state.queue.len() < self.limits.batch && !state.hurried && !state.closed
        };
        let waited = self.work.wait_timeout_while(state, self.limits.delay, idle);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.queue.is_empty() {
            state.hurried = false;
            if state.closed {
                return None;
            }
        }
        let batch = state.queue.len().min(self.limits.batch);
        let batch: Vec<SpanData> = state.queue.drain(..batch).collect();
        state.under_way = batch.len();
        Some(batch)
    }

    fn lose_all(&self, state: &mut State, reason: &'static str) {
        let mut lost = state.queue.len();
        state.queue.clear();
        if state.under_way > 0 && !state.abandoned {
            state.abandoned = true;
            lost = lost.saturating_add(state.under_way);
        }
        self.counts.dropped(count(lost), reason);
    }

    /// Waits until nothing is left.
    fn drain(&self, patience: Duration) -> OTelSdkResult {
        let mut state = self.lock();
        state.hurried = true;
        self.work.notify_all();
        let busy = |state: &mut State| !state.queue.is_empty() || state.under_way > 0;
        let waited = self.done.wait_timeout_while(state, patience, busy);
        let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(state);
        if timeout.timed_out() {
            return Err(OTelSdkError::Timeout(patience));
        }
        Ok(())
    }
}

impl SpanProcessor for SpanQueue {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        let shared = &*self.0;
        let mut state = shared.lock();
        if state.closed || state.queue.len() >= shared.limits.queue {
            let reason = if state.closed { "closed" } else { "queue_full" };
            drop(state);
            shared.counts.dropped(1, reason);
            return;
        }
        state.queue.push_back(span);
        let full = state.queue.len() >= shared.limits.batch;
        drop(state);
        if full {
            shared.work.notify_one();
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.drain(FLUSH)
    }

    fn shutdown_with_timeout(&self, patience: Duration) -> OTelSdkResult {
        self.0.lock().closed = true;
        let drained = self.0.drain(patience);
        if drained.is_err() {
            let mut state = self.0.lock();
            self.0.lose_all(&mut state, "shutdown");
        }
        drained
    }
}

impl fmt::Debug for SpanQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpanQueue")
            .field("limits", &self.0.limits)
            .finish_non_exhaustive()
    }
}

fn count(spans: usize) -> u64 {
    u64::try_from(spans).unwrap_or(u64::MAX)
}
