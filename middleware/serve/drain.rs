//! How a server ends: nothing new, what runs to its end, and a bound on all of it.

use std::time::Duration;

use tokio::time::timeout;

use crate::task;

/// Where a server is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Serving,
    /// Nothing new is accepted, connections end with their calls.
    Draining,
    /// What still runs is ended in the service's place.
    Cutting,
    /// What did not even take that is dropped.
    Ended,
}

/// How a server that is asked to stop goes about it. Three steps, each bounded:
///
/// 1. [`Health`](crate::ops::health::Health) says `draining`, and all goes on for [`notice`](Self::notice), so that whoever sends
///    calls sees it. What [`on_drain`](super::Server::on_drain) was given is done in that time, and may take 5 s of it.
/// 2. The listeners close, connections are told to end (`Connection: close`, GOAWAY), and calls end by themselves,
///    within [`deadline`](Self::deadline).
/// 3. What still runs is cut off: callers get 503, status 14 of gRPC, or a body that is cut. Its outcome is `drained`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    pub(super) notice: Duration,
    pub(super) deadline: Duration,
}

/// What is to be done before a drain may take so long, all of it.
const HOOKS: Duration = Duration::from_secs(5);

/// For what is cut off to be told so.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(500);

impl Drain {
    /// The usual times.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long the server goes on as before, but for its readiness. Default: 5 s. Kubernetes takes a pod out of its
    /// endpoints while it signals it, not before, and that takes some seconds. It begins when the server is asked to end, and
    /// lasts longer only where [`on_drain`](super::Server::on_drain) does.
    #[must_use]
    pub fn notice(mut self, notice: Duration) -> Self {
        self.notice = notice;
        self
    }

    /// How long calls may take from then on. Default: 20 s; with the notice that leaves 5 s of the 30 s after which
    /// Kubernetes kills by default, of which cutting off what still runs takes one at most.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            notice: Duration::from_secs(5),
            deadline: Duration::from_secs(20),
        }
    }
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Calls that ended by themselves while it drained.
    pub drained: u64,
    /// Calls that were cut off.
    pub cut: u64,
    /// Connections that were open at the end of the deadline.
    pub connections_cut: u64,
    /// Connections that had been handed over to another protocol, such as WebSocket, and were cut off: nobody waits for
    /// these, since they end when they like.
    pub upgraded_cut: u64,
}

impl Report {
    /// What a process should end with: 0, or 3 when calls were cut off.
    pub fn exit_code(&self) -> u8 {
        if self.cut == 0 { 0 } else { 3 }
    }
}

/// Runs all of these at once, each where it may block: none keeps another from its work, or the server from ending.
pub(super) async fn run_all(hooks: Vec<Box<dyn FnOnce() + Send>>, cut: impl Future) {
    let running: Vec<_> = hooks
        .into_iter()
        .map(|hook| task::blocking("on_drain", hook))
        .collect();
    let all = async {
        for hook in running {
            // swallow: plimsoll.tasks.died a panic is told there, and the rest goes on
            let _ended = hook.await;
        }
    };
    tokio::select! {
        done = timeout(HOOKS, all) => if done.is_ok() { return },
        _ = cut => {}
    }
    tracing::warn!(
        target: "plimsoll::serve",
        event = "drain_hook_late",
        "what is to be done before the drain is not done; the server drains without it"
    );
}
