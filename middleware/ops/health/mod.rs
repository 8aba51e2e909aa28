//! Whether the service lives, is ready and has started, told to whoever probes it.
//!
//! ```
//! use plimsoll::ops::health::{Check, Health};
//!
//! # fn serve() -> axum::Router {
//! let health = Health::new()
//!     .check(Check::tcp("database", "127.0.0.1:5432"))
//!     .check(Check::disk("spool", "/var/spool", 1 << 30))
//!     .check(Check::new("mailer", || async { ask_the_mailer().await }).not_critical());
//!
//! // On a listener of their own, or merged after the last `.layer(..)`: probes pass no limiter.
//! health.routes() // /livez, /readyz, /startupz
//! # }
//! # async fn ask_the_mailer() -> Result<(), std::io::Error> { Ok(()) }
//! ```
//!
//! Three questions, three answers:
//!
//! - *Does it live?* `/livez` says so as long as the process answers. It asks nobody: a dependency that is away is no
//!   reason to restart this process.
//! - *Is it ready?* `/readyz` asks the [checks](Check). A critical one that fails makes the service `unavailable` (503),
//!   any other `degraded` (200: better in part than not at all). [`Health::drain`] makes it `draining` (503).
//! - *Has it started?* `/startupz` says `starting` (503) until [`Health::started`], for services that
//!   [start slowly](Health::starting).
//!
//! What the public is told is one word. Causes go to the log, one line for each change (`event="health_check_failed"`,
//! `"health_check_recovered"`, `"readiness_changed"`), and to [`Health::details`], for a listener that only operators reach.

mod ask;
mod check;
#[cfg(feature = "health-grpc")]
mod grpc;
mod http;
#[cfg(feature = "health-grpc")]
mod messages;
#[cfg(any(feature = "load-shed", feature = "back-pressure", feature = "serve"))]
mod saturation;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

pub use self::ask::InvalidUrl;
pub use self::check::{Check, Finding};
#[cfg(feature = "health-grpc")]
pub use self::grpc::GrpcHealth;
use crate::{
    gauge::{Gauges, Kind, Metric, Reading},
    task,
};

pub(crate) const FAILURES: Metric = Metric::new(
    "plimsoll.health.check_failures",
    Kind::Counter,
    "{check}",
    "Checks of health that failed or took too long, by check.",
);

/// The health of a service: its phase, and the checks of what it needs. Clones share the phase; a clone that is given
/// another check has it alone, so add them first.
#[derive(Clone)]
pub struct Health {
    parts: Arc<Parts>,
    shared: Arc<Shared>,
}

#[derive(Clone, Default)]
struct Parts {
    checks: Vec<Arc<Check>>,
    signals: Vec<Signal>,
    tasks: Vec<&'static str>,
}

struct Shared {
    life: watch::Sender<Life>,
    /// What the log was told last.
    told: Mutex<Status>,
}

/// What watchers wait for changes of.
struct Life {
    phase: Phase,
    /// The names that gRPC is asked about.
    services: BTreeSet<String>,
}

#[derive(Clone)]
struct Signal {
    name: &'static str,
    tell: Arc<dyn Fn() -> Status + Send + Sync>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Running,
    Draining,
}

/// How a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Status {
    /// All is well.
    Ok,
    /// Something that is not critical is away: the service answers, in part.
    Degraded,
    /// It has not finished starting.
    Starting,
    /// It is shutting down, and takes no new calls.
    Draining,
    /// Something that it cannot do without is away.
    Unavailable,
}

impl Status {
    /// The word on the wire.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Starting => "starting",
            Self::Draining => "draining",
            Self::Unavailable => "unavailable",
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Self::Ok => "the service is ready",
            Self::Degraded => "the service is ready, and does without something",
            Self::Starting => "the service starts",
            Self::Draining => "the service takes no new calls",
            Self::Unavailable => "the service is not ready",
        }
    }

    /// Whether calls should be sent to this service.
    pub fn is_ready(self) -> bool {
        matches!(self, Self::Ok | Self::Degraded)
    }
}

/// What was found out about each thing that was asked.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The service as a whole.
    pub status: Status,
    /// Each check, signal and task: its name, how it stands, and for checks what was found.
    pub items: Vec<Item>,
}

/// One thing that readiness depends on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Item {
    /// Its name.
    pub name: &'static str,
    /// What it means for the service.
    pub status: Status,
    /// What the check found; `None` for signals and tasks.
    pub finding: Option<Finding>,
}

impl Health {
    /// A service that has started and depends on nothing.
    pub fn new() -> Self {
        Self {
            parts: Arc::default(),
            shared: Arc::new(Shared {
                life: watch::Sender::new(Life {
                    phase: Phase::Running,
                    services: BTreeSet::new(),
                }),
                told: Mutex::new(Status::Ok),
            }),
        }
    }

    /// Adds a check. A second one of the same name replaces the first.
    #[must_use]
    pub fn check(mut self, check: Check) -> Self {
        let checks = &mut Arc::make_mut(&mut self.parts).checks;
        checks.retain(|known| known.name() != check.name());
        checks.push(Arc::new(check));
        self
    }

    /// Follows something that tells at once how it stands. It is asked by each probe and must not block. A limit has a
    /// method of its own, `saturation`.
    #[must_use]
    pub fn signal(
        mut self,
        name: &'static str,
        tell: impl Fn() -> Status + Send + Sync + 'static,
    ) -> Self {
        let tell = Arc::new(tell);
        Arc::make_mut(&mut self.parts)
            .signals
            .push(Signal { name, tell });
        self
    }

    /// Follows the background task that [`task::supervise`] runs by this name: while it is dead and waits to be
    /// started again, the service is `unavailable`.
    #[must_use]
    pub fn task(mut self, name: &'static str) -> Self {
        Arc::make_mut(&mut self.parts).tasks.push(name);
        self
    }

    /// Begins as `starting`, until [`Health::started`].
    #[must_use]
    pub fn starting(self) -> Self {
        self.enter(|_| Some(Phase::Starting));
        self
    }

    /// The service has started. A service that drains stays draining.
    pub fn started(&self) {
        self.enter(|phase| (phase == Phase::Starting).then_some(Phase::Running));
    }

    /// From now on the service is not ready, and never again. Call it first when shutting down: those who send calls
    /// need a while to see it.
    pub fn drain(&self) {
        self.enter(|_| Some(Phase::Draining));
        self.tell(Status::Draining, &[]);
    }

    fn enter(&self, next: impl FnOnce(Phase) -> Option<Phase>) {
        self.shared.life.send_if_modified(|life| {
            let phase = next(life.phase).unwrap_or(life.phase);
            let changes = phase != life.phase;
            life.phase = phase;
            changes
        });
    }

    /// How the service is now. Runs the checks whose last result is too old, all at once.
    ///
    /// Cancel safe: a check that has begun goes on, and the next one to ask hears its result.
    pub async fn status(&self) -> Status {
        let items = match self.whole() {
            Some(_) => Vec::new(),
            None => self.items().await,
        };
        self.judge(&items)
    }

    /// How the service is, and why. Unlike [`Health::status`] it asks the checks also while starting and draining.
    ///
    /// Cancel: checks that run go on, and whoever asks next has their result.
    pub async fn report(&self) -> Report {
        let items = self.items().await;
        let status = self.judge(&items);
        Report { status, items }
    }

    /// What all of it means, and a line if that is news.
    fn judge(&self, items: &[Item]) -> Status {
        // It may drain since the first was asked.
        let status = self.whole().unwrap_or_else(|| worst(items));
        self.tell(status, items);
        status
    }

    fn tell(&self, status: Status, items: &[Item]) {
        let mut told = self
            .shared
            .told
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let was = std::mem::replace(&mut *told, status);
        drop(told);
        if was == status {
            return;
        }
        let (readiness, was) = (status.label(), was.label());
        let because: Vec<_> = items
            .iter()
            .filter(|item| item.status == status && status > Status::Ok)
            .map(|item| item.name)
            .collect();
        let because = (!because.is_empty()).then(|| because.join(", "));
        let what = status.sentence();
        match status {
            Status::Degraded | Status::Unavailable => tracing::warn!(
                target: "plimsoll::health",
                event = "readiness_changed",
                readiness,
                was,
                because,
                "{what}"
            ),
            Status::Ok | Status::Starting | Status::Draining => tracing::info!(
                target: "plimsoll::health",
                event = "readiness_changed",
                readiness,
                was,
                "{what}"
            ),
        }
    }

    /// What the phase says, before anything else is asked.
    pub(super) fn whole(&self) -> Option<Status> {
        match self.shared.life.borrow().phase {
            Phase::Starting => Some(Status::Starting),
            Phase::Draining => Some(Status::Draining),
            Phase::Running => None,
        }
    }

    fn has_started(&self) -> bool {
        self.shared.life.borrow().phase != Phase::Starting
    }

    async fn items(&self) -> Vec<Item> {
        let parts = &self.parts;
        let signals = parts.signals.iter().map(|signal| Item {
            name: signal.name,
            status: (signal.tell)(),
            finding: None,
        });
        let tasks = parts.tasks.iter().map(|name| Item {
            name,
            status: if task::is_down(name) {
                Status::Unavailable
            } else {
                Status::Ok
            },
            finding: None,
        });
        let mut items: Vec<Item> = signals.chain(tasks).collect();
        // Begun all at once; each runs in a task of its own.
        let asked: Vec<_> = parts.checks.iter().map(|check| check.begin()).collect();
        for (check, asked) in parts.checks.iter().zip(asked) {
            let finding = check.find(asked).await;
            items.push(Item {
                name: check.name(),
                status: check.meaning(&finding),
                finding: Some(finding),
            });
        }
        items
    }
}

fn worst(items: &[Item]) -> Status {
    let worst = items.iter().map(|item| item.status).max();
    worst.unwrap_or(Status::Ok)
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

/// `plimsoll.health.check_failures` by check.
impl Gauges for Health {
    fn metrics(&self) -> &'static [Metric] {
        const { &[FAILURES] }
    }

    fn read(&self, tell: &mut dyn FnMut(Reading<'_>)) {
        for check in &self.parts.checks {
            tell(Reading::new(&FAILURES, check.failures()).with(&[("check", check.name())]));
        }
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health")
            .field("phase", &self.shared.life.borrow().phase)
            .field("checks", &self.parts.checks)
            .field("tasks", &self.parts.tasks)
            .finish_non_exhaustive()
    }
}
