//! Background tasks whose death is seen: each is a line, a count, and for [`supervise`] a restart.
//!
//! A bare `tokio::spawn` whose handle is dropped loses a panic without a word.

#[cfg(any(feature = "health", feature = "serve", feature = "telemetry"))]
mod blocking;

use std::{
    collections::BTreeMap,
    error::Error,
    fmt, io, mem,
    panic::{self, AssertUnwindSafe},
    pin::Pin,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use pin_project_lite::pin_project;
use tokio::task::JoinHandle;
use tracing::field;

#[cfg(any(feature = "health", feature = "serve", feature = "telemetry"))]
pub(crate) use self::blocking::{Undone, blocking};
use crate::{
    clock,
    context::{self, in_current_call},
    gauge::{Gauges, Kind, Metric, Reading},
    panics::{self, Fate, PanicFacts},
};

/// The wait before the first restart; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// A task that ran this long begins anew with [`FIRST_WAIT`].
const HEALTHY: Duration = Duration::from_secs(60);

static DEATHS: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());
/// How many of them were panics.
static PANICS: AtomicU64 = AtomicU64::new(0);
/// How many supervised tasks of each name are dead just now.
static DOWN: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());

/// A handle of a task. Dropping it lets the task run on; awaiting it tells how it ended.
///
/// Cancel safe: awaiting may stop and begin again.
#[derive(Debug)]
pub struct Task<T>(JoinHandle<Result<T, TaskEnd>>);

impl<T> Task<T> {
    /// Drops the task's future as soon as it yields.
    pub fn abort(&self) {
        self.0.abort();
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, TaskEnd>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|joined| match joined {
                Ok(result) => result,
                // Its panics were caught within: what is left is an abort, or a runtime that shuts down.
                Err(_) => Err(TaskEnd::Aborted),
            })
    }
}

/// How a task ended that has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TaskEnd {
    /// It panicked; the log tells the text.
    Panicked,
    /// It was aborted, or its runtime shut down.
    Aborted,
}

impl fmt::Display for TaskEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Panicked => "the task panicked",
            Self::Aborted => "the task was aborted",
        })
    }
}

impl Error for TaskEnd {}

/// Runs a future in a task of its own. Its panic is a line `event="task_died"` and counts in [`deaths`].
/// Its log lines and outbound calls bear the ids of the call that spawned it.
///
/// The name is that of the kind of task, such as `send_receipt`: it is a label of a metric.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub fn spawn<F>(name: &'static str, future: F) -> Task<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    panics::install_hook();
    Task(launch(in_current_call(Seen {
        caught: Caught::new(name, future),
    })))
}

/// As [`spawn`], for a task that belongs to no call.
pub(crate) fn spawn_apart<F>(name: &'static str, future: F) -> Task<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    panics::install_hook();
    Task(launch(Seen {
        caught: Caught::new(name, future),
    }))
}

/// Keeps a task running for as long as the process does: whenever the future panics or returns, that is a line
/// `event="task_died"`, counts in [`deaths`], and after a wait a fresh one is made. The wait is 100 ms at first and
/// doubles up to 30 s; a task that lasted a minute begins anew.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub fn supervise<M, F>(name: &'static str, mut make: M) -> Task<()>
where
    M: FnMut() -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    panics::install_hook();
    Task(launch(async move {
        let mut backoff = Backoff::new();
        loop {
            backoff.begins();
            let ended = match panics::catch("task", false, &mut make) {
                Ok(future) => Caught::new(name, future).await,
                Err(facts) => Err(facts),
            };
            match ended {
                Ok(()) => died(name, Death::Returned),
                Err(facts) => died(name, Death::Panicked(Some(&facts))),
            }
            let down = Down::new(name);
            tokio::time::sleep(backoff.next()).await;
            drop(down);
        }
    }))
}

/// As [`supervise`], on a thread of its own and until the work returns. The text of a panic is the hook's to tell: the thread
/// that writes the log must not be asked to log each panic of its sink.
///
/// # Errors
///
/// When the system has no thread left.
pub(crate) fn supervise_thread(
    name: &'static str,
    mut work: impl FnMut() + Send + 'static,
) -> io::Result<Thread> {
    let thread = thread::Builder::new().name(format!("plimsoll-{name}"));
    let thread = thread.spawn(move || {
        let mut backoff = Backoff::new();
        while panic::catch_unwind(AssertUnwindSafe(&mut work)).is_err() {
            died(name, Death::Panicked(None));
            let down = Down::new(name);
            thread::sleep(backoff.next());
            drop(down);
            backoff.begins();
        }
    })?;
    Ok(thread.thread().clone())
}

/// The waits between the lives of a task.
struct Backoff {
    wait: Duration,
    began: Instant,
}

impl Backoff {
    fn new() -> Self {
        Self {
            wait: FIRST_WAIT,
            began: clock::now(),
        }
    }

    fn begins(&mut self) {
        self.began = clock::now();
    }

    /// The wait after a life that ends now.
    fn next(&mut self) -> Duration {
        if clock::now().saturating_duration_since(self.began) >= HEALTHY {
            self.wait = FIRST_WAIT;
        }
        let longer = self.wait.saturating_mul(2).min(LONGEST_WAIT);
        mem::replace(&mut self.wait, longer)
    }
}

/// How often tasks of each name died since the process began.
pub fn deaths() -> Vec<(&'static str, u64)> {
    let deaths = DEATHS.lock().unwrap_or_else(PoisonError::into_inner);
    deaths.iter().map(|(name, count)| (*name, *count)).collect()
}

/// Whether a supervised task of this name is dead just now and waits to be started again: what readiness may follow.
pub fn is_down(name: &str) -> bool {
    let down = DOWN.lock().unwrap_or_else(PoisonError::into_inner);
    down.get(name).is_some_and(|count| *count > 0)
}

/// Held while a supervised task is dead.
struct Down(&'static str);

impl Down {
    fn new(name: &'static str) -> Self {
        let mut down = DOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let count = down.entry(name).or_default();
        *count = count.saturating_add(1);
        Self(name)
    }
}

impl Drop for Down {
    fn drop(&mut self) {
        let mut down = DOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = down.get_mut(self.0) {
            *count = count.saturating_sub(1);
        }
    }
}

/// The numbers of all tasks of the process, for whoever reports them: `plimsoll.tasks.died` by task, and those that
/// panicked as `plimsoll.panics` with `where="task"`.
#[derive(Clone, Copy, Debug)]
pub struct Deaths;

pub(crate) const DIED: Metric = Metric::new(
    "plimsoll.tasks.died",
    Kind::Counter,
    "{task}",
    "Background tasks that panicked, could not begin, or returned though they should not.",
);

impl Gauges for Deaths {
    fn metrics(&self) -> &'static [Metric] {
        const { &[DIED, panics::PANICS] }
    }

    fn read(&self, tell: &mut dyn FnMut(Reading<'_>)) {
        for (task, count) in deaths() {
            tell(Reading::new(&DIED, count).with(&[("task", task)]));
        }
        let panicked = PANICS.load(Ordering::Relaxed);
        tell(Reading::new(&panics::PANICS, panicked).with(&[("where", "task")]));
    }
}

/// How a task died.
#[derive(Clone, Copy)]
enum Death<'a> {
    /// Though it should not.
    Returned,
    /// What is known of it, unless the hook tells.
    Panicked(Option<&'a PanicFacts>),
    /// There was no thread for it.
    NotBegun(&'a io::Error),
}

fn died(name: &'static str, death: Death<'_>) {
    let (how, facts, error) = match death {
        Death::Returned => ("returned", None, None),
        Death::Panicked(facts) => ("panicked", facts, None),
        Death::NotBegun(error) => ("not_begun", None, Some(error)),
    };
    {
        let mut deaths = DEATHS.lock().unwrap_or_else(PoisonError::into_inner);
        let count = deaths.entry(name).or_default();
        *count = count.saturating_add(1);
    }
    if matches!(death, Death::Panicked(_)) {
        PANICS.fetch_add(1, Ordering::Relaxed);
    }
    // A task of a call may quote its request.
    let text = facts.map(|facts| context::redact(&facts.text));
    let location = facts.and_then(PanicFacts::location);
    tracing::error!(
        target: "plimsoll::task",
        event = "task_died",
        task = name,
        how,
        panic = text.as_deref(),
        location,
        error = error.map(field::display),
        "a background task died",
    );
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place where tasks are spawned: their death is seen"
)]
fn launch<F: Future<Output: Send> + Send + 'static>(future: F) -> JoinHandle<F::Output> {
    tokio::spawn(future)
}

pin_project! {
    /// A future whose panic is caught, also one of its destructor.
    struct Caught<F> {
        name: &'static str,
        // `None` once it has ended.
        #[pin]
        future: Option<F>,
    }

    impl<F> PinnedDrop for Caught<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if this.future.is_some()
                && let Err(facts) = panics::catch("drop", false, || this.future.set(None))
            {
                died(this.name, Death::Panicked(Some(&facts)));
            }
        }
    }
}

impl<F> Caught<F> {
    fn new(name: &'static str, future: F) -> Self {
        Self {
            name,
            future: Some(future),
        }
    }
}

impl<F: Future> Future for Caught<F> {
    type Output = Result<F::Output, PanicFacts>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut future = self.project().future;
        let polled = panics::catch("task", false, || {
            let polled = future
                .as_mut()
                .as_pin_mut()
                .map_or(Poll::Pending, |future| future.poll(context));
            if polled.is_ready() {
                future.set(None);
            }
            polled
        });
        match polled {
            Ok(polled) => polled.map(Ok),
            Err(facts) => {
                // It has died of the first panic: another one is told, and counts no second death.
                if let Err(another) = panics::catch("drop", false, || future.set(None)) {
                    another.write_line(Fate::Caught);
                }
                Poll::Ready(Err(facts))
            }
        }
    }
}

pin_project! {
    /// A future whose panic is told and counted. Written by hand: an `async` block would move the future once more.
    struct Seen<F> {
        #[pin]
        caught: Caught<F>,
    }
}

impl<F: Future> Future for Seen<F> {
    type Output = Result<F::Output, TaskEnd>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let caught = self.project().caught;
        let name = caught.name;
        caught.poll(context).map(|ended| {
            ended.map_err(|facts| {
                died(name, Death::Panicked(Some(&facts)));
                TaskEnd::Panicked
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;

    fn deaths_of(name: &str) -> u64 {
        deaths()
            .iter()
            .find(|(known, _)| *known == name)
            .map_or(0, |(_, count)| *count)
    }

    #[tokio::test]
    async fn a_panic_is_told_and_counted() {
        let end = spawn("a_panicking_task", async { panic!("oh") }).await;
        assert_eq!(end, Err::<(), _>(TaskEnd::Panicked));
        assert_eq!(deaths_of("a_panicking_task"), 1);
        assert_eq!(spawn("a_good_task", async { 5 }).await, Ok(5));
        assert_eq!(deaths_of("a_good_task"), 0);
    }

    #[tokio::test]
    async fn an_aborted_task_says_so() {
        let task = spawn("an_endless_task", std::future::pending::<()>());
        task.abort();
        assert_eq!(task.await, Err(TaskEnd::Aborted));
    }

    #[tokio::test(start_paused = true)]
    async fn a_supervised_task_comes_back_each_time_later() {
        let starts = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&starts);
        let task = supervise("a_failing_task", move || {
            let start = counted.fetch_add(1, Ordering::Relaxed);
            async move {
                assert!(
                    start.is_multiple_of(2),
                    "odd starts panic, even ones return"
                )
            }
        });
        // 100 + 200 + 400 + 800 ms: the fifth start is due after 1.5 s. The clock is paused: this takes no time.
        tokio::time::sleep(Duration::from_millis(1_550)).await;
        assert_eq!(starts.load(Ordering::Relaxed), 5);
        assert_eq!(deaths_of("a_failing_task"), 5);
        assert!(is_down("a_failing_task") && !is_down("another_task"));
        task.abort();
        assert_eq!(task.await, Err(TaskEnd::Aborted));
        assert!(!is_down("a_failing_task"));
    }
}
