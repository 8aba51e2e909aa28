//! Work that may block, for ever too, and keeps nothing from ending.

use std::{error::Error, fmt, future::poll_fn, io, pin::Pin, thread};

use tokio::{
    runtime::Handle,
    sync::oneshot::{self, Receiver},
};

use super::{Death, died};
use crate::{clock, panics};

/// Why work on a thread has no result. It was told and counted as the death of a task.
#[derive(Debug)]
pub(crate) enum Undone {
    /// It panicked.
    Panicked,
    /// The system had no thread left for it.
    NoThread(io::Error),
}

impl fmt::Display for Undone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Panicked => "it panicked",
            Self::NoThread(_) => "no thread could be started for it",
        })
    }
}

impl Error for Undone {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Panicked => None,
            Self::NoThread(source) => Some(source),
        }
    }
}

/// Begins work that may block on a thread of its own, and waits for what comes of it. A panic is told as that of
/// [`spawn`](super::spawn).
///
/// It is none of tokio's threads for such work: a runtime that ends waits for those, and has none left where a program keeps
/// all of them at work. Nothing waits for this one, so work that hangs keeps its thread until the process ends. Where it may
/// be begun again and again the work itself must hold its turn.
///
/// Cancel: the work goes on.
pub(crate) fn blocking<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<T, Undone>> + Send {
    panics::install_hook();
    let (done, end) = oneshot::channel();
    let runtime = Handle::try_current();
    let thread = thread::Builder::new().name(format!("plimsoll-{name}"));
    let begun = thread.spawn(move || {
        // The work may spawn tasks, as it might on a thread of tokio's.
        let _entered = runtime.as_ref().map(Handle::enter);
        let result = panics::catch("task", false, work).map_err(|facts| {
            died(name, Death::Panicked(Some(&facts)));
            Undone::Panicked
        });
        // swallow: none, whoever waited has left
        let _unheard = done.send(result);
    });
    let begun = begun.map(drop).map_err(|error| {
        died(name, Death::NotBegun(&error));
        Undone::NoThread(error)
    });
    async move {
        begun?;
        wait(end).await
    }
}

async fn wait<T>(mut end: Receiver<Result<T, Undone>>) -> Result<T, Undone> {
    // A clock that a test has paused goes on by itself once all rest. It stands for work on tokio's threads, and so it does
    // for this: whoever waits does not rest.
    let restless = clock::is_paused();
    let ended = poll_fn(|context| {
        let polled = Pin::new(&mut end).poll(context);
        if restless && polled.is_pending() {
            context.waker().wake_by_ref();
        }
        polled
    });
    match ended.await {
        Ok(result) => result,
        // It panicked once more, in the telling of it.
        Err(_unsent) => Err(Undone::Panicked),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use tokio::runtime::{Builder, Runtime};

    use super::*;
    use crate::task::deaths;

    /// Longer than anything here takes.
    const BOUND: Duration = Duration::from_secs(20);

    fn deaths_of(name: &str) -> u64 {
        let deaths = deaths();
        let found = deaths.iter().find(|(known, _)| *known == name);
        found.map_or(0, |(_, count)| *count)
    }

    /// With one thread for what blocks.
    fn runtime() -> Runtime {
        let mut builder = Builder::new_current_thread();
        let builder = builder.enable_all().max_blocking_threads(1);
        builder.build().expect("a runtime")
    }

    #[tokio::test]
    async fn a_panic_is_told_and_counted() {
        let end = blocking("a_panicking_thread", || panic!("oh")).await;
        assert!(matches!(end, Err::<(), _>(Undone::Panicked)));
        assert_eq!(deaths_of("a_panicking_thread"), 1);
        let end = blocking("a_good_thread", || Handle::try_current().is_ok()).await;
        assert!(end.expect("a result"), "it may spawn tasks");
        assert_eq!(deaths_of("a_good_thread"), 0);
    }

    #[test]
    fn a_panic_that_nobody_waits_for_is_told_as_well() {
        drop(blocking("a_forgotten_thread", || panic!("oh")));
        while deaths_of("a_forgotten_thread") == 0 {
            thread::yield_now();
        }
    }

    #[test]
    fn a_runtime_ends_while_work_hangs() {
        let (go, hangs) = mpsc::channel::<()>();
        let (ended, end) = mpsc::channel();
        thread::spawn(move || {
            let runtime = runtime();
            let (began, begun) = mpsc::channel();
            runtime.block_on(async {
                drop(blocking("a_hung_thread", move || {
                    began.send(()).expect("somebody waits");
                    assert!(hangs.recv().is_err(), "it ends when `go` is dropped");
                }));
                begun.recv_timeout(BOUND).expect("it has begun");
            });
            drop(runtime);
            ended.send(()).expect("somebody waits");
        });
        end.recv_timeout(BOUND).expect("in time");
        drop(go);
    }

    #[test]
    fn work_begins_while_all_of_tokios_threads_are_busy() {
        let (go, busy) = mpsc::channel::<()>();
        let runtime = runtime();
        drop(runtime.spawn_blocking(move || busy.recv()));
        let done = async {
            let work = blocking("a_thread_of_its_own", || 5);
            tokio::time::timeout(BOUND, work).await
        };
        let done = runtime.block_on(done);
        drop(go);
        assert_eq!(done.expect("in time").expect("a result"), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_clock_stands_while_it_works() {
        let began = clock::now();
        let work = blocking("a_thread_in_a_test", || {
            (0..1_000).for_each(|_| thread::yield_now());
        });
        let done = tokio::time::timeout(BOUND, work).await;
        done.expect("in time").expect("no panic");
        assert_eq!(clock::now(), began);
    }
}
