//! What the parts of one connection share: its bytes, its calls, and when it is due.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Waker,
    time::{Duration, Instant},
};

use super::{
    counts::{Closed, Counts},
    heads::Heads,
    limits::Limits,
};
use crate::context::{Belongings, Handover};

/// What a peer sent before it heard that the connection ends arrives within this time.
const UNDER_WAY: Duration = Duration::from_secs(1);

/// It is looked at again after so long at least and at most, whatever its limits are.
const SHORTEST: Duration = Duration::from_millis(1);
pub(super) const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// One connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) limits: Arc<Limits>,
    counts: Arc<Counts>,
    state: Mutex<State>,
    /// Whether it is to end with its calls.
    retiring: AtomicBool,
    /// Whether the server cuts off what still runs.
    cutting: AtomicBool,
    served: AtomicU64,
    /// What is kept until it is closed, if there is anything.
    belongings: OnceLock<Belongings>,
}

#[derive(Debug)]
struct State {
    heads: Heads,
    /// Since when the peer owes the rest of a head.
    owing: Option<Instant>,
    /// When something last came, or a call ended.
    active: Instant,
    /// Since when the peer takes nothing.
    blocked: Option<Instant>,
    running: usize,
    calls: Vec<Slot>,
    /// The call that was begun last, until its task is known.
    newest: Option<usize>,
    /// What the peer was told that it did too much of.
    flood: Option<Closed>,
}

/// One call that runs.
#[derive(Debug, Default)]
struct Slot {
    used: bool,
    /// Since when a part of its body waits to be taken, though more would be there.
    handed: Option<Instant>,
    /// Whether it alone is to be cut off.
    cut: bool,
    /// Its task, for HTTP/2.
    task: Option<Waker>,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// To close it at once.
    Close(Closed),
    /// To close it once its calls have ended.
    Retire(Closed),
    /// Nothing before this.
    At(Instant),
}

impl Conn {
    pub(super) fn new(limits: Arc<Limits>, counts: Arc<Counts>, now: Instant) -> Self {
        Self {
            limits,
            counts,
            state: Mutex::new(State {
                heads: Heads::new(),
                // The first head is owed from the start.
                owing: Some(now),
                active: now,
                blocked: None,
                running: 0,
                calls: Vec::new(),
                newest: None,
                flood: None,
            }),
            retiring: AtomicBool::new(false),
            cutting: AtomicBool::new(false),
            served: AtomicU64::new(0),
            belongings: OnceLock::new(),
        }
    }

    /// The way to what is kept until it is closed, also when it is handed over to another protocol.
    pub(super) fn handover(&self) -> Handover {
        self.belongings.get_or_init(Belongings::default).handover()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These bytes have come.
    ///
    /// Returns whether it speaks HTTP/2.
    pub(super) fn read(&self, bytes: &[u8], now: Instant) -> bool {
        let mut state = self.state();
        let running = state.running;
        state.heads.take(bytes, running);
        state.active = now;
        state.owing = match (state.heads.owes(), state.owing) {
            (true, since) => Some(since.unwrap_or(now)),
            (false, _) => None,
        };
        state.heads.is_two()
    }

    /// Whether the peer takes what is written.
    pub(super) fn wrote(&self, blocked: bool, now: Instant) {
        let mut state = self.state();
        state.blocked = blocked.then_some(now);
        state.active = now;
    }

    /// A call begins.
    pub(super) fn begin(self: &Arc<Self>) -> Call {
        self.counts.call_began();
        let mut state = self.state();
        state.heads.called();
        state.owing = state.owing.filter(|_| state.heads.owes());
        state.running = state.running.saturating_add(1);
        let free = state.calls.iter().position(|slot| !slot.used);
        let id = free.unwrap_or(state.calls.len());
        let slot = Slot {
            used: true,
            ..Slot::default()
        };
        match state.calls.get_mut(id) {
            Some(place) => *place = slot,
            None => state.calls.push(slot),
        }
        state.newest = Some(id);
        drop(state);
        Call {
            conn: Arc::clone(self),
            id,
            was_cut: false,
        }
    }

    /// The call that was begun last, for the task that is to run it.
    pub(super) fn take_newest(&self) -> Option<usize> {
        self.state().newest.take()
    }

    /// Whether a task that runs this call is to end it. The first time it leaves its waker.
    pub(super) fn is_cut(&self, call: usize, task: &Waker) -> bool {
        let mut state = self.state();
        let Some(slot) = state.calls.get_mut(call).filter(|slot| slot.used) else {
            return false;
        };
        if slot.task.is_none() {
            slot.task = Some(task.clone());
        }
        slot.cut
    }

    /// From now on it is not waited for what comes between calls, but for the rest of what is under way.
    pub(super) fn retire(&self) {
        self.retiring.store(true, Ordering::Relaxed);
    }

    /// From now on what still runs is answered or ended in the service's place.
    pub(super) fn cut(&self) {
        self.cutting.store(true, Ordering::Relaxed);
        let tasks: Vec<Waker> = {
            let mut state = self.state();
            let tasks = state.calls.iter_mut().filter_map(|slot| slot.task.take());
            tasks.collect()
        };
        for task in tasks {
            task.wake();
        }
    }

    pub(super) fn is_cutting(&self) -> bool {
        self.cutting.load(Ordering::Relaxed)
    }

    /// The peer is told that it did too much of this.
    pub(super) fn floods(&self, reason: Closed) {
        self.state().flood = Some(reason);
    }

    pub(super) fn flood(&self) -> Option<Closed> {
        self.state().flood
    }

    pub(super) fn is_two(&self) -> bool {
        self.state().heads.is_two()
    }

    /// How many calls it has served to their end.
    pub(super) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// What is due by now. A stream of HTTP/2 that nobody takes is cut off alone, if others of its connection go on.
    pub(super) fn due(&self, now: Instant) -> Due {
        let limits = &self.limits;
        let retiring = self.retiring.load(Ordering::Relaxed);
        let idle = if retiring {
            limits.idle.min(UNDER_WAY)
        } else {
            limits.idle
        };
        let mut state = self.state();
        let over = |since: Option<Instant>, limit| {
            since
                .and_then(|since| since.checked_add(limit))
                .map(|at| (at <= now, at))
        };
        // A stream in a task of its own may be handed something without the connection being asked again.
        let look = idle.min(limits.write_stall).clamp(SHORTEST, LONGEST);
        let mut next = now.checked_add(look).unwrap_or(now);
        let mut wait_for = |at: Instant| next = next.min(at);
        match over(state.owing, limits.head) {
            Some((true, _)) => return Due::Close(Closed::HeadTimeout),
            Some((false, at)) => wait_for(at),
            None => {}
        }
        match over(state.blocked, limits.write_stall) {
            Some((true, _)) => return Due::Close(Closed::WriteStalled),
            Some((false, at)) => wait_for(at),
            None => {}
        }
        if state.running == 0 {
            match over(Some(state.active), idle) {
                Some((true, _)) => return Due::Retire(Closed::Idle),
                Some((false, at)) => wait_for(at),
                None => {}
            }
        }
        let mut stalled = Vec::new();
        for slot in state.calls.iter_mut().filter(|slot| slot.used && !slot.cut) {
            match over(slot.handed, limits.write_stall) {
                Some((true, _)) => match slot.task.take() {
                    Some(task) => {
                        slot.cut = true;
                        stalled.push(task);
                    }
                    None => return Due::Close(Closed::WriteStalled),
                },
                Some((false, at)) => wait_for(at),
                None => {}
            }
        }
        drop(state);
        for task in stalled {
            task.wake();
        }
        Due::At(next)
    }
}

/// One call of a connection, from its head to its last byte.
#[derive(Debug)]
pub(super) struct Call {
    conn: Arc<Conn>,
    id: usize,
    was_cut: bool,
}

impl Call {
    pub(super) fn is_cut(&self) -> bool {
        self.conn.is_cutting()
    }

    /// It does not end by itself.
    pub(super) fn was_cut(&mut self) {
        self.was_cut = true;
    }

    /// A part of the body was handed on, or asked for again.
    pub(super) fn handed(&self, at: Option<Instant>) {
        let mut state = self.conn.state();
        if let Some(slot) = state.calls.get_mut(self.id) {
            slot.handed = at;
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let now = crate::clock::now();
        let mut state = self.conn.state();
        if let Some(slot) = state.calls.get_mut(self.id) {
            *slot = Slot::default();
        }
        state.running = state.running.saturating_sub(1);
        state.active = now;
        drop(state);
        self.conn.served.fetch_add(1, Ordering::Relaxed);
        self.conn.counts.call_ended(self.was_cut);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn conn() -> (Arc<Conn>, Instant) {
        let now = clock::now();
        let limits = Limits {
            head: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            write_stall: Duration::from_secs(30),
            ..Limits::default()
        };
        let conn = Conn::new(Arc::new(limits), Arc::default(), now);
        (Arc::new(conn), now)
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn half_a_head_is_due_and_a_whole_one_is_not() {
        let (conn, start) = conn();
        assert_eq!(conn.due(start), Due::At(after(start, 10)));
        conn.read(b"GET / HTTP/1.1\r\n", after(start, 9));
        assert_eq!(conn.due(after(start, 10)), Due::Close(Closed::HeadTimeout));
        let call = conn.begin();
        assert_eq!(conn.due(after(start, 11)), Due::At(after(start, 41)));
        drop(call);
        assert_eq!(conn.served(), 1);
    }

    #[test]
    fn a_quiet_connection_is_due_when_it_was_quiet_for_long() {
        let (conn, start) = conn();
        conn.read(b"GET / HTTP/1.1\r\n\r\n", start);
        let call = conn.begin();
        assert!(
            matches!(conn.due(after(start, 100)), Due::At(_)),
            "a call runs"
        );
        drop(call);
        let now = clock::now();
        assert_eq!(
            conn.due(now + Duration::from_secs(61)),
            Due::Retire(Closed::Idle)
        );
    }

    #[test]
    fn it_is_looked_at_again_later_whatever_the_limits_are() {
        for idle in [Duration::ZERO, Duration::MAX] {
            let limits = Limits {
                idle,
                write_stall: idle,
                ..Limits::default()
            };
            let now = clock::now();
            let conn = Arc::new(Conn::new(Arc::new(limits), Arc::default(), now));
            let call = conn.begin();
            let due = conn.due(now);
            assert!(matches!(due, Due::At(at) if at > now), "{idle:?}: {due:?}");
            drop(call);
        }
    }

    #[test]
    fn what_nobody_takes_is_due() {
        let (conn, start) = conn();
        conn.read(b"GET / HTTP/1.1\r\n\r\n", start);
        let call = conn.begin();
        call.handed(Some(after(start, 5)));
        assert_eq!(conn.due(after(start, 6)), Due::At(after(start, 35)));
        call.handed(None);
        assert!(matches!(conn.due(after(start, 36)), Due::At(_)));
        conn.wrote(true, after(start, 40));
        assert_eq!(conn.due(after(start, 70)), Due::Close(Closed::WriteStalled));
        conn.wrote(false, after(start, 70));
        assert!(matches!(conn.due(after(start, 71)), Due::At(_)));
    }

    #[test]
    fn a_stream_with_a_task_is_cut_off_alone() {
        let (conn, start) = conn();
        let call = conn.begin();
        let id = conn.take_newest().expect("it has just begun");
        assert!(!conn.is_cut(id, Waker::noop()));
        call.handed(Some(start));
        assert!(matches!(
            conn.due(after(start, 30)),
            Due::Close(Closed::HeadTimeout)
        ));
        conn.read(b"GET / HTTP/1.1\r\n\r\n", start);
        let another = conn.begin();
        assert!(matches!(conn.due(after(start, 30)), Due::At(_)));
        assert!(conn.is_cut(id, Waker::noop()));
        drop((call, another));
    }
}
