//! What the listeners and connections of one server share.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use tokio::sync::watch;
use tracing::field;

use super::{
    counts::{Closed, Counts, Ended},
    drain::Phase,
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
    /// Connections that speak another protocol by now, and are nobody's here.
    upgraded: AtomicUsize,
    began: Instant,
    faults: Report,
    pub(super) delay: Option<ReadDelay>,
    room: Option<Room>,
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
            upgraded: AtomicUsize::new(0),
            began: clock::now(),
            faults: Report::default(),
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
    }

    /// Whether one more connection may be open. From now on it is, or it was refused.
    pub(super) fn admit(&self, peer: Option<SocketAddr>) -> bool {
        if self.counts.open() >= self.limits.connections {
            self.counts.refused(Closed::ConnCap);
            self.tell(Some((Ended::unserved(Closed::ConnCap), peer)));
            return false;
        }
        self.counts.opened();
        true
    }

    pub(super) fn accept_failed(&self, error: &io::Error) {
        self.counts.refused(Closed::Emfile);
        tracing::debug!(target: TARGET, %error, "no connection could be accepted");
        self.tell(Some((Ended::unserved(Closed::Emfile), None)));
    }

    /// Why; that it did is told with the connection's end.
    pub(super) fn handshake_failed(&self, error: &(dyn std::error::Error + 'static)) {
        tracing::debug!(target: TARGET, error, "a handshake failed");
    }

    /// A connection was handed over to another protocol. It is open, and nobody waits for its end.
    pub(super) fn upgraded(&self) {
        self.upgraded.fetch_add(1, Ordering::Relaxed);
        self.changed.send_replace(());
    }

    /// How many connections are open that are to end.
    pub(super) fn open(&self) -> usize {
        let upgraded = self.upgraded.load(Ordering::Relaxed);
        self.counts.open().saturating_sub(upgraded)
    }

    /// A connection is closed.
    pub(super) fn closed(&self, ended: Ended, peer: Option<SocketAddr>, upgraded: bool) {
        if upgraded {
            self.upgraded.fetch_sub(1, Ordering::Relaxed);
        }
        self.counts.closed(ended.reason);
        self.tell(ended.reason.is_fault().then_some((ended, peer)));
        self.changed.send_replace(());
    }

    /// Waits until no connection is open.
    pub(super) async fn all_closed(&self) {
        let mut changed = self.changed.subscribe();
        while self.open() > 0 {
            // swallow: none, the sender is here
            let _changed = changed.changed().await;
        }
    }

    /// Tells what has come together, if it is time.
    pub(super) fn report(&self) {
        self.tell(None);
    }

    fn tell(&self, fault: Option<(Ended, Option<SocketAddr>)>) {
        let since = clock::now().saturating_duration_since(self.began);
        let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        if self
            .faults
            .is_due(fault.is_some(), millis.saturating_add(1))
        {
            self.tell_faults(fault);
        }
    }

    /// The sum, and the last of them as an example.
    #[cold]
    fn tell_faults(&self, last: Option<(Ended, Option<SocketAddr>)>) {
        let faults = self.counts.faults();
        let all = faults.iter().map(|(_, count)| count).sum();
        let connections = self.faults.news(all);
        if connections == 0 {
            return;
        }
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
            reason = last.map(|(ended, _)| ended.reason.label()),
            served = last.map(|(ended, _)| ended.served),
            peer = last.and_then(|(_, peer)| peer).map(field::display),
            "connections were refused or closed for their faults"
        );
    }
}
