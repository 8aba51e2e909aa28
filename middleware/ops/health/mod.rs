//! Whether the service lives, is ready and has started, told to whoever probes it.
//!
//! ```
//! use plimsoll::ops::health::{Check, Health};
//!
//! # fn serve() -> axum::Router {
//! let health = Health::new()
//!     .check(Check::tcp("database", "127.0.0.1:5432"))
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
//! What the public is told is one word. Causes go to the log, one line for each change, and to
//! [`Health::details`], for a listener that only operators reach.

mod check;
#[cfg(feature = "health-grpc")]
mod grpc;
mod http;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use tokio::sync::watch;

pub use self::check::{Check, Finding};
#[cfg(feature = "health-grpc")]
pub use self::grpc::GrpcHealth;
use crate::{
    gauge::{Gauges, Kind, Metric, Reading},
    task,
};

const FAILURES: Metric = Metric::new(
    "plimsoll.health.check_failures",
    Kind::Counter,
    "{check}",
    "Checks of health that failed or took too long, by check.",
);

/// The health of a service: its phase, and the checks of what it needs. Clones share both.
#[derive(Clone)]
pub struct Health {
    parts: Arc<Parts>,
    phase: Arc<watch::Sender<Phase>>,
}

#[derive(Clone, Default)]
struct Parts {
    checks: Vec<Arc<Check>>,
    signals: Vec<Signal>,
    tasks: Vec<&'static str>,
    services: Vec<String>,
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
            phase: Arc::new(watch::Sender::new(Phase::Running)),
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

    /// Follows something that tells at once how it stands, such as how full a limit is. It is asked by each probe and
    /// must not block.
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
        self.phase.send_replace(Phase::Starting);
        self
    }

    /// The service has started. A service that drains stays draining.
    pub fn started(&self) {
        self.phase.send_if_modified(|phase| {
            let starting = *phase == Phase::Starting;
            if starting {
                *phase = Phase::Running;
            }
            starting
        });
    }

    /// From now on the service is not ready, and never again. Call it first when shutting down: those who send calls
    /// need a while to see it.
    pub fn drain(&self) {
        self.phase.send_replace(Phase::Draining);
    }

    /// How the service is now. Runs the checks whose last result is too old, all at once.
    ///
    /// Cancel safe: a check that has begun goes on, and the next one to ask hears its result.
    pub async fn status(&self) -> Status {
        match self.whole() {
            Some(status) => status,
            None => worst(&self.items().await),
        }
    }

    /// How the service is, and why. Unlike [`Health::status`] it asks the checks also while starting and draining.
    pub async fn report(&self) -> Report {
        let items = self.items().await;
        Report {
            status: self.whole().unwrap_or_else(|| worst(&items)),
            items,
        }
    }

    /// What the phase says, before anything else is asked.
    fn whole(&self) -> Option<Status> {
        match *self.phase.borrow() {
            Phase::Starting => Some(Status::Starting),
            Phase::Draining => Some(Status::Draining),
            Phase::Running => None,
        }
    }

    fn has_started(&self) -> bool {
        *self.phase.borrow() != Phase::Starting
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
        for check in &parts.checks {
            check.begin();
        }
        for check in &parts.checks {
            let finding = check.find().await;
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
            .field("phase", &*self.phase.borrow())
            .field("checks", &self.parts.checks)
            .field("tasks", &self.parts.tasks)
            .finish_non_exhaustive()
    }
}
