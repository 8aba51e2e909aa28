//! What the listeners and connections of one server share.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::watch;
use tracing::field;

use super::{
    counts::{Closed, Counts, Ended},
    drain::Phase,
    handed::{HandedOver, Key},
    limits::Limits,
};
use crate::{clock, limit::ReadDelay, report::Report};

const TARGET: &str = "plimsoll::serve";

pub(super) struct Shared {
    pub(super) limits: Arc<Limits>,
    pub(super) counts: Arc<Counts>,
    pub(super) phase: watch::Sender<Phase>,
    /// Told whenever a connection was closed.
    changed: watch::Sender<()>,
    /// Connections that speak another protocol by now, and are not waited for.
    upgraded: HandedOver,
    began: Instant,
    faults: Report,
    /// The first fault that no line told of.
    example: Mutex<Option<Fault>>,
    pub(super) delay: Option<ReadDelay>,
    room: Option<Room>,
}

/// What went wrong with one connection, and whose it was.
#[derive(Debug)]
struct Fault {
    ended: Ended,
    peer: Option<SocketAddr>,
}

/// Says when one more connection may be accepted.
pub(super) type Room = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

impl Shared {
    pub(super) fn new(limits: Limits, counts: Arc<Counts>) -> Self {
        Self {
            limits: Arc::new(limits),
            counts,
            phase: watch::Sender::new(Phase::Serving),
            changed: watch::Sender::new(()),
            upgraded: HandedOver::default(),
            began: clock::now(),
            faults: Report::default(),
            example: Mutex::default(),
            delay: None,
            room: None,
        }
    }

    pub(super) fn with(self, delay: Option<ReadDelay>, room: Option<Room>) -> Self {
        Self {
            delay,
            room,
            ..self
        }
    }

    /// Waits until a connection may be accepted.
    pub(super) async fn room(&self) {
        if let Some(room) = &self.room {
            room().await;
        }
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
        if phase >= Phase::Cutting {
            self.upgraded.cut();
        }
    }

    /// Whether one more connection may be open. From now on it is, or it was refused.
    pub(super) fn admit(&self, peer: Option<SocketAddr>) -> bool {
        if self.counts.open_within(self.limits.connections) {
            return true;
        }
        self.refused(Closed::ConnCap, None, peer);
        false
    }

    /// No connection came of it, for this reason.
    pub(super) fn refused(&self, reason: Closed, why: Option<String>, peer: Option<SocketAddr>) {
        self.counts.refused(reason);
        let ended = Ended::unserved(reason, why);
        self.tell(Some(Fault { ended, peer }));
    }

    /// A connection was handed over to another protocol. It is open, and nobody waits for its end.
    pub(super) fn upgraded(&self, over: &Arc<super::handed::Over>) -> Key {
        let key = self.upgraded.insert(over);
        self.changed.send_replace(());
        // It came too late to be cut off with the others.
        if *self.phase.borrow() >= Phase::Cutting {
            over.cut();
        }
        key
    }

    /// How many connections speak another protocol.
    pub(super) fn open_upgraded(&self) -> usize {
        self.upgraded.len()
    }

    /// How many connections are open that are to end.
    pub(super) fn open(&self) -> usize {
        self.upgraded.besides(|| self.counts.open())
    }

    /// A connection is closed.
    pub(super) fn closed(&self, ended: Ended, peer: Option<SocketAddr>, upgraded: Option<Key>) {
        // First it is one that is waited for again: the other way round it would be taken off the open ones twice for a
        // moment, and a call that runs would not be waited for.
        if let Some(key) = upgraded {
            self.upgraded.remove(key);
        }
        self.counts.closed(ended.reason);
        let is_fault = ended.reason.is_fault();
        self.tell(is_fault.then_some(Fault { ended, peer }));
        self.changed.send_replace(());
    }

    /// Waits until no connection is open that is to end.
    pub(super) async fn all_closed(&self) {
        self.closed_to(Self::open).await;
    }

    /// Waits until no connection is open at all.
    pub(super) async fn all_gone(&self) {
        self.closed_to(|shared| shared.counts.open()).await;
    }

    async fn closed_to(&self, open: impl Fn(&Self) -> usize) {
        let mut changed = self.changed.subscribe();
        while open(self) > 0 {
            // swallow: none, the sender is here
            let _changed = changed.changed().await;
        }
    }

    /// Tells what has come together, if it is time.
    pub(super) fn report(&self) {
        self.tell(None);
    }

    fn tell(&self, fault: Option<Fault>) {
        let since = clock::now().saturating_duration_since(self.began);
        let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let happened = fault.is_some();
        if let Some(fault) = fault {
            self.example().get_or_insert(fault);
        }
        if self.faults.is_due(happened, millis.saturating_add(1)) {
            self.tell_faults();
        }
    }

    fn example(&self) -> MutexGuard<'_, Option<Fault>> {
        self.example.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sum since the last line, and the first of them as an example.
    #[cold]
    pub(super) fn tell_faults(&self) {
        let faults = self.counts.faults();
        let all = faults.iter().map(|(_, count)| count).sum();
        let connections = self.faults.news(all);
        if connections == 0 {
            return;
        }
        let first = self.example().take();
        let reasons: Vec<String> = faults
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| format!("{} {count}", reason.label()))
            .collect();
        tracing::warn!(
            target: TARGET,
            event = "conn_closed",
            connections,
            reasons = reasons.join(", "),
            reason = first.as_ref().map(|first| first.ended.reason.label()),
            error = first.as_ref().and_then(|first| first.ended.why.as_deref()),
            served = first.as_ref().map(|first| first.ended.served),
            peer = first.as_ref().and_then(|first| first.peer).map(field::display),
            "connections were refused or closed for their faults"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use super::*;

    #[test]
    fn what_is_open_counts_however_many_others_come_are_upgraded_and_go() {
        let shared = Shared::new(Limits::default(), Arc::default());
        assert!(shared.admit(None), "the one that stays");
        let ended = AtomicBool::new(false);
        thread::scope(|threads| {
            threads.spawn(|| {
                let over = Arc::default();
                for _ in 0..20_000 {
                    assert!(shared.admit(None));
                    let key = shared.upgraded(&over);
                    shared.closed(Ended::unserved(Closed::Eof, None), None, Some(key));
                }
                ended.store(true, Ordering::Relaxed);
            });
            let mut fewest = usize::MAX;
            while !ended.load(Ordering::Relaxed) {
                fewest = fewest.min(shared.open());
            }
            assert!(fewest >= 1, "it would not be waited for");
        });
        assert_eq!(shared.open(), 1);
    }
}
