//! What the parts of one connection share: its bytes, its calls, and when it is due.

#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
    time::{Duration, Instant},
};

use super::{
    counts::{Closed, Counts},
    handed::Over,
    heads::{Framing, Heads},
    limits::Limits,
};
use crate::{
    clock,
    context::{Belongings, Handover},
};

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
    pub(super) over: Arc<Over>,
    state: Mutex<State>,
    /// Whether nothing is due before that which was when it was last asked.
    calm: AtomicBool,
    /// Whether a stream of it was cut off alone.
    cut_one: AtomicBool,
    /// Whether it is to end with its calls.
    retiring: AtomicBool,
    /// Whether the server cuts off what still runs.
    cutting: AtomicBool,
    /// What is kept until it is closed, if there is anything.
    /// The task that runs it.
    task: OnceLock<Waker>,
    belongings: OnceLock<Belongings>,
}

#[derive(Debug)]
struct State {
    heads: Heads,
    /// Since when the peer owes the rest of a head, as far as anybody looked.
    owing: Option<Instant>,
    /// When a call ended, or the peer was seen to have sent something.
    active: Instant,
    /// Whether something came since, while no call ran.
    came: bool,
    /// Since when the peer takes nothing.
    blocked: Option<Instant>,
    running: usize,
    served: u64,
    /// The calls of HTTP/2.
    calls: Vec<Slot>,
    /// Which of these places are free.
    free: Vec<usize>,
    /// How many of them wait for the peer.
    waiting: usize,
    /// The one that was begun last, until its task is known.
    newest: Option<usize>,
    /// What the peer was told that it did too much of, or too slowly.
    fault: Option<Closed>,
    /// The flood that it may end for.
    flood: Option<Closed>,
}

/// One call of HTTP/2 that runs.
#[derive(Debug, Default)]
struct Slot {
    used: bool,
    /// Whether its task waits for the service.
    served: bool,
    /// Else since when it waits for the peer to take a part of its body.
    waits: Option<Instant>,
    /// Whether it alone is to be cut off.
    cut: bool,
    /// Its task.
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
    pub(super) fn new(
        limits: Arc<Limits>,
        counts: Arc<Counts>,
        over: Arc<Over>,
        now: Instant,
    ) -> Self {
        Self {
            limits,
            counts,
            over,
            state: Mutex::new(State {
                heads: Heads::new(),
                // The first head is owed from the start.
                owing: Some(now),
                active: now,
                came: false,
                blocked: None,
                running: 0,
                served: 0,
                calls: Vec::new(),
                free: Vec::new(),
                waiting: 0,
                newest: None,
                fault: None,
                flood: None,
            }),
            calm: AtomicBool::new(false),
            cut_one: AtomicBool::new(false),
            retiring: AtomicBool::new(false),
            cutting: AtomicBool::new(false),
            task: OnceLock::new(),
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

    /// Changes what is known.
    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state();
        let result = change(&mut state);
        self.calm.store(state.is_calm(), Ordering::Relaxed);
        result
    }

    /// These bytes have come. When is not asked: most are a head whose call begins at once; [`due`](Self::due) sees to the
    /// others.
    ///
    /// Returns whether it speaks HTTP/2.
    pub(super) fn read(&self, bytes: &[u8]) -> bool {
        self.change(|state| {
            let running = state.running;
            state.heads.take(bytes, running);
            state.came = running == 0;
            if !state.heads.owes() {
                state.owing = None;
            }
            state.heads.is_two()
        })
    }

    /// Whether the peer takes what is written.
    pub(super) fn wrote(&self, blocked: bool, now: Instant) {
        self.change(|state| {
            state.blocked = blocked.then_some(now);
            state.active = now;
        });
    }

    /// A call of HTTP/1 begins.
    pub(super) fn begin(self: &Arc<Self>, body: Framing) -> Call {
        self.change(|state| {
            state.heads.called(body);
            state.begun();
        });
        self.call(None)
    }

    /// A call of HTTP/2 begins, in a task of its own.
    pub(super) fn begin_stream(self: &Arc<Self>) -> Call {
        let id = self.change(|state| {
            state.begun();
            let id = state.free.pop().unwrap_or(state.calls.len());
            match state.calls.get_mut(id) {
                Some(slot) => slot.used = true,
                None => state.calls.push(Slot {
                    used: true,
                    ..Slot::default()
                }),
            }
            state.newest = Some(id);
            id
        });
        self.call(Some(id))
    }

    fn call(self: &Arc<Self>, id: Option<usize>) -> Call {
        self.counts.call_began();
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

    /// Whether a task that runs this call is to end it.
    pub(super) fn is_cut(&self, call: usize) -> bool {
        let is_cut = || self.state().calls.get(call).is_some_and(|slot| slot.cut);
        self.cut_one.load(Ordering::Relaxed) && is_cut()
    }

    /// It runs in this task, always.
    pub(super) fn runs_in(&self, task: &Waker) {
        self.task.get_or_init(|| task.clone());
    }

    /// The task that runs this call waits: for the service, if that has just said so, else for the peer.
    pub(super) fn waits(&self, call: usize, task: &Waker) {
        let (is_new, begins) = self.change(|state| {
            let Some(slot) = state.calls.get_mut(call).filter(|slot| slot.used) else {
                return (false, false);
            };
            let begins = !std::mem::take(&mut slot.served) && slot.waits.is_none();
            if begins {
                slot.waits = Some(clock::now());
                state.waiting = state.waiting.saturating_add(1);
            }
            let is_new = slot.task.is_none();
            if is_new {
                slot.task = Some(task.clone());
            }
            (is_new, begins)
        });
        // The connection may rest since before it was known that something is due.
        if begins && let Some(task) = self.task.get() {
            task.wake_by_ref();
        }
        // It may be cut off since before it was known whom to wake.
        if is_new && self.is_cutting() {
            task.wake_by_ref();
        }
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

    /// The peer is told that it did this.
    pub(super) fn blame(&self, fault: Closed) {
        self.state().fault = Some(fault);
    }

    pub(super) fn fault(&self) -> Option<Closed> {
        self.state().fault
    }

    /// What flood it was, if it ends for one.
    pub(super) fn suspect(&self, flood: Closed) {
        self.state().flood = Some(flood);
    }

    pub(super) fn flood(&self) -> Option<Closed> {
        self.state().flood
    }

    /// A task of the connection begins that is no call's: a stream that was handed over to another protocol.
    pub(super) fn hold(self: &Arc<Self>) -> Held {
        self.change(|state| state.running = state.running.saturating_add(1));
        Held(Arc::clone(self))
    }

    pub(super) fn is_two(&self) -> bool {
        self.state().heads.is_two()
    }

    /// How many calls it has served to their end.
    pub(super) fn served(&self) -> u64 {
        self.state().served
    }

    /// Whether nothing is due before that which was when it was last asked.
    pub(super) fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
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
        if std::mem::take(&mut state.came) {
            state.active = now;
            self.calm.store(state.is_calm(), Ordering::Relaxed);
        }
        if state.heads.owes() {
            state.owing.get_or_insert(now);
        }
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
            match over(slot.waits, limits.write_stall) {
                Some((true, _)) => match slot.task.take() {
                    Some(task) => {
                        slot.cut = true;
                        self.cut_one.store(true, Ordering::Relaxed);
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
    /// Its place, for HTTP/2.
    id: Option<usize>,
    was_cut: bool,
}

impl Call {
    pub(super) fn is_cut(&self) -> bool {
        self.conn.is_cutting()
    }

    /// Its answer hands the connection over to another protocol.
    pub(super) fn hands_over(&self) {
        self.conn.over.hand();
    }

    /// Should its connection end now, it is for this.
    pub(super) fn blame(&self, fault: Closed) {
        self.conn.blame(fault);
    }

    /// It does not end by itself.
    pub(super) fn was_cut(&mut self) {
        self.was_cut = true;
    }

    /// Its task is about to wait for the service, not for the peer.
    pub(super) fn waits(&self) {
        if let Some(id) = self.id
            && let Some(slot) = self.conn.state().calls.get_mut(id)
        {
            slot.served = true;
        }
    }

    /// More of its body is asked for: what was handed on is taken.
    pub(super) fn taken(&self) {
        if let Some(id) = self.id {
            self.conn.change(|state| state.taken(id));
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let task = self.conn.change(|state| {
            state.ended();
            state.served = state.served.saturating_add(1);
            self.id.and_then(|id| state.release(id))
        });
        // Not under the lock: it may be the last to know of its task.
        drop(task);
        self.conn.counts.call_ended(self.was_cut);
    }
}

impl State {
    fn is_calm(&self) -> bool {
        !self.came && !self.heads.owes() && self.blocked.is_none() && self.waiting == 0
    }

    /// A call begins.
    fn begun(&mut self) {
        self.came = false;
        // Whatever was wrong with the one before, it went on.
        self.fault = None;
        if !self.heads.owes() {
            self.owing = None;
        }
        self.running = self.running.saturating_add(1);
    }

    /// Something ended that ran.
    fn ended(&mut self) {
        self.running = self.running.saturating_sub(1);
        if self.running == 0 {
            self.active = clock::now();
            self.heads.ended();
        }
    }

    /// The call in this place does not wait for the peer any more.
    fn taken(&mut self, id: usize) {
        let slot = self.calls.get_mut(id);
        if slot.is_some_and(|slot| slot.waits.take().is_some()) {
            self.waiting = self.waiting.saturating_sub(1);
        }
    }

    /// The call in this place has ended.
    fn release(&mut self, id: usize) -> Option<Waker> {
        self.taken(id);
        self.free.push(id);
        let slot = self.calls.get_mut(id)?;
        slot.used = false;
        slot.served = false;
        slot.cut = false;
        slot.task.take()
    }
}

/// A stream of HTTP/2 that speaks another protocol. Its connection does not rest meanwhile.
#[derive(Debug)]
pub(super) struct Held(Arc<Conn>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.change(State::ended);
    }
}
