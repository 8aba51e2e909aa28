//! One thing that the service needs, and how it is asked.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpStream, ToSocketAddrs},
    sync::Mutex,
    time::timeout,
};

use super::Status;
use crate::{
    clock, context,
    observe::BoxError,
    task::{Task, spawn},
};

/// Below the second after which a kubelet gives up on a probe by default, so that the probe still hears the answer.
const TIMEOUT: Duration = Duration::from_millis(800);
/// Half of the ten seconds between two probes of a kubelet by default.
const KEEP: Duration = Duration::from_secs(5);

/// A named check of something that the service needs.
///
/// It runs when somebody asks and its last result is older than [`keep`](Self::keep): however many probes there are, a
/// dependency is asked at most once in that time, by one at a time.
pub struct Check {
    name: &'static str,
    critical: bool,
    timeout: Duration,
    keep: Duration,
    ask: Arc<Ask>,
    state: Mutex<State>,
    /// How many results there were.
    found: AtomicU64,
    failures: AtomicU64,
}

type Ask = dyn Fn() -> Answer + Send + Sync;
type Answer = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

#[derive(Default)]
struct State {
    last: Option<Finding>,
    /// It goes on when whoever waits for it leaves.
    running: Option<Task<Finding>>,
}

/// When somebody asked, and after how many results.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    found: u64,
    at: Instant,
}

/// What a check found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Finding {
    /// When the check ended.
    pub at: Instant,
    /// How long it took.
    pub took: Duration,
    /// Why it failed, with its causes; `None` if it did not.
    pub error: Option<String>,
}

impl Check {
    /// A check that asks this. An `Err`, a panic, and no answer within the [timeout](Self::timeout) are failures.
    ///
    /// [Critical](Self::critical), with a [timeout](Self::timeout) of 800 ms, [kept](Self::keep) for 5 s. What is asked
    /// runs in a task of its own and is dropped when its time is up. What the error says, with its causes, goes to the
    /// log and to [`Health::details`](super::Health::details), and not to the public: leave secrets out of it.
    pub fn new<A, F, E>(name: &'static str, ask: A) -> Self
    where
        A: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let ask = move || -> Answer {
            let answer = ask();
            Box::pin(async move { answer.await.map_err(Into::into) })
        };
        Self {
            name,
            critical: true,
            timeout: TIMEOUT,
            keep: KEEP,
            ask: Arc::new(ask),
            state: Mutex::default(),
            found: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }

    /// A check that something accepts connections at this address. [Critical](Self::critical), as those of
    /// [`Check::new`] are.
    pub fn tcp<A>(name: &'static str, address: A) -> Self
    where
        A: ToSocketAddrs + Clone + Send + Sync + 'static,
    {
        Self::new(name, move || connect(address.clone()))
    }

    /// The service cannot do without: when this fails it is `unavailable`, and not ready. Default, but for those checks
    /// that say otherwise.
    #[must_use]
    pub fn critical(mut self) -> Self {
        self.critical = true;
        self
    }

    /// The service can do without: when this fails it is `degraded`, and still ready.
    #[must_use]
    pub fn not_critical(mut self) -> Self {
        self.critical = false;
        self
    }

    /// How long an answer may take. Default: 800 ms, since a kubelet gives up on a probe after a second.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long a result counts. Default: 5 s, half the time between two probes of a kubelet. 0: each probe asks, but
    /// those that come while it is asked share the answer.
    #[must_use]
    pub fn keep(mut self, keep: Duration) -> Self {
        self.keep = keep;
        self
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// How often it failed.
    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// What a result means for the service.
    pub(super) fn meaning(&self, finding: &Finding) -> Status {
        match (&finding.error, self.critical) {
            (None, _) => Status::Ok,
            (Some(_), true) => Status::Unavailable,
            (Some(_), false) => Status::Degraded,
        }
    }

    /// Begins to ask, if the last result is too old and nobody asks already.
    pub(super) fn begin(&self) -> Asked {
        let asked = Asked {
            found: self.found.load(Ordering::Relaxed),
            at: clock::now(),
        };
        // Whoever holds the state is about to ask, or has just done so.
        if let Ok(mut state) = self.state.try_lock() {
            self.begin_in(&mut state);
        }
        asked
    }

    fn begin_in(&self, state: &mut State) {
        let fresh = state.last.as_ref().is_some_and(|last| self.counts(last));
        if !fresh && state.running.is_none() {
            let (ask, limit) = (Arc::clone(&self.ask), self.timeout);
            let run = async move { run(&*ask, limit).await };
            state.running = Some(spawn("health_check", run));
        }
    }

    fn counts(&self, found: &Finding) -> bool {
        clock::now().saturating_duration_since(found.at) < self.keep
    }

    /// The last result if it counts still, or was found since somebody asked, else a new one.
    pub(super) async fn find(&self, asked: Asked) -> Finding {
        let mut state = self.state.lock().await;
        loop {
            let is_new = self.found.load(Ordering::Relaxed) != asked.found;
            if let Some(last) = &state.last
                && (is_new && last.at >= asked.at || self.counts(last))
            {
                return last.clone();
            }
            self.begin_in(&mut state);
            // One may have ended long ago, when whoever had asked had left: then it is asked once more.
            if let Some(running) = &mut state.running {
                let found = running.await.unwrap_or_else(|end| Finding {
                    at: clock::now(),
                    took: Duration::ZERO,
                    error: Some(end.to_string()),
                });
                state.running = None;
                self.note(state.last.as_ref(), &found);
                state.last = Some(found);
                self.found.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Counts failures, and writes a line for each change.
    fn note(&self, last: Option<&Finding>, found: &Finding) {
        let failed_before = last.is_some_and(|last| last.error.is_some());
        if let Some(error) = &found.error {
            self.failures.fetch_add(1, Ordering::Relaxed);
            if !failed_before {
                let (check, critical) = (self.name, self.critical);
                tracing::warn!(
                    target: "plimsoll::health",
                    event = "health_check_failed",
                    check,
                    critical,
                    error,
                    "something that the service needs is away"
                );
            }
        } else if failed_before {
            tracing::info!(
                target: "plimsoll::health",
                event = "health_check_recovered",
                check = self.name,
                "something that the service needs is back"
            );
        }
    }
}

async fn run(ask: &Ask, limit: Duration) -> Finding {
    let began = clock::now();
    let answer = timeout(limit, ask()).await;
    let at = clock::now();
    Finding {
        at,
        took: at.saturating_duration_since(began),
        error: match answer {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(context::chain(&*error)),
            Err(_) => Some(format!("no answer within {} ms", limit.as_millis())),
        },
    }
}

async fn connect(address: impl ToSocketAddrs) -> Result<(), std::io::Error> {
    TcpStream::connect(address).await.map(drop)
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check")
            .field("name", &self.name)
            .field("critical", &self.critical)
            .field("timeout", &self.timeout)
            .field("keep", &self.keep)
            .finish_non_exhaustive()
    }
}
