//! An open loop: calls start when the schedule says so, whatever became of those before.
//!
//! A call that finds no free connection waits for one here; its clock runs since its intended start. A call that waits
//! past its deadline is not sent any more and has failed.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep_until, timeout_at},
};

use crate::{
    account::{Answer, Record},
    schedule::{Arrival, Class},
};

/// How long answers are waited for after the last deadline.
const GRACE: Duration = Duration::from_millis(500);

/// A place for one call at a time: a connection, or a part of one.
pub(crate) trait Link: Send + 'static {
    /// `None` if the connection is of no use any more.
    fn call(&mut self, class: Class) -> impl Future<Output = Option<Answer>> + Send;
}

/// Opens connections.
pub(crate) trait Dial: Send + Sync + 'static {
    type Link: Link;

    fn dial(&self) -> impl Future<Output = io::Result<Self::Link>> + Send;
}

/// How the callers behave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Callers {
    /// What is answered later is of no use to them.
    pub(crate) deadline: Duration,
    /// Whether they hang up then, or go on waiting.
    pub(crate) hang_up: bool,
}

/// What is known after a run.
pub(crate) struct Run {
    pub(crate) records: Vec<Record>,
    /// Connections that were opened because one broke or was hung up.
    pub(crate) reopened: u64,
}

struct Shared<D: Dial> {
    dial: D,
    callers: Callers,
    start: Instant,
    state: Mutex<State<D::Link>>,
    all_ended: Notify,
}

struct State<L> {
    idle: Vec<L>,
    /// Indices of calls for which there was no connection.
    waiting: VecDeque<usize>,
    records: Vec<Record>,
    ended: usize,
    reopened: u64,
}

/// Makes the calls over `links`, and ends a little after the deadline of the last one, answered or not.
pub(crate) async fn run<D: Dial>(
    dial: D,
    links: Vec<D::Link>,
    arrivals: &[Arrival],
    start: Instant,
    callers: Callers,
) -> Run {
    let shared = Arc::new(Shared {
        dial,
        callers,
        start,
        state: Mutex::new(State {
            idle: links,
            waiting: VecDeque::new(),
            records: arrivals.iter().copied().map(Record::new).collect(),
            ended: 0,
            reopened: 0,
        }),
        all_ended: Notify::new(),
    });
    let mut calls = JoinSet::new();
    for (index, arrival) in arrivals.iter().enumerate() {
        sleep_until(start + arrival.at).await;
        if let Some(link) = shared.begin(index) {
            calls.spawn(Arc::clone(&shared).work(link, index));
        }
        while let Some(ended) = calls.try_join_next() {
            ended.expect("a call does not panic");
        }
    }
    let last = arrivals.last().map_or(Duration::ZERO, |last| last.at);
    let patience = start + last + callers.deadline + GRACE;
    let all_ended = timeout_at(patience, shared.wait_for_all()).await;
    if all_ended.is_err() {
        calls.shutdown().await;
    }
    let mut state = shared.lock();
    Run {
        records: std::mem::take(&mut state.records),
        reopened: state.reopened,
    }
}

impl<D: Dial> Shared<D> {
    /// Notes the start of a call and takes a connection for it, or queues it.
    fn begin(&self, index: usize) -> Option<D::Link> {
        let now = self.start.elapsed();
        let mut state = self.lock();
        state.records[index].started = Some(now);
        let link = state.idle.pop();
        if link.is_none() {
            state.waiting.push_back(index);
        }
        link
    }

    /// Makes a call, and after it those that wait.
    async fn work(self: Arc<Self>, mut link: D::Link, mut index: usize) {
        loop {
            let (class, gone) = {
                let mut state = self.lock();
                let record = &mut state.records[index];
                record.sent = true;
                let gone = self.start + record.arrival.at + self.callers.deadline;
                (record.arrival.class, gone)
            };
            let answer = if self.callers.hang_up {
                timeout_at(gone, link.call(class)).await.unwrap_or_default()
            } else {
                link.call(class).await
            };
            self.end(index, answer.unwrap_or(Answer::Failed));
            if answer.is_none() {
                drop(link);
                match self.dial.dial().await {
                    Ok(fresh) => link = fresh,
                    // The connection is lost for the run; what waits is served by the others.
                    Err(_) => return,
                }
                self.lock().reopened += 1;
            }
            match self.next_waiting() {
                Some(next) => index = next,
                None => return self.lock().idle.push(link),
            }
        }
    }

    fn end(&self, index: usize, answer: Answer) {
        let now = self.start.elapsed();
        let mut state = self.lock();
        state.records[index].ended = Some((now, answer));
        self.count_end(&mut state);
    }

    /// The first call that waits and whose deadline has not passed.
    fn next_waiting(&self) -> Option<usize> {
        let now = self.start.elapsed();
        let mut state = self.lock();
        while let Some(index) = state.waiting.pop_front() {
            if now <= state.records[index].arrival.at + self.callers.deadline {
                return Some(index);
            }
            self.count_end(&mut state);
        }
        None
    }

    fn count_end(&self, state: &mut State<D::Link>) {
        state.ended += 1;
        if state.ended == state.records.len() {
            self.all_ended.notify_one();
        }
    }

    async fn wait_for_all(&self) {
        let done = {
            let state = self.lock();
            state.ended == state.records.len()
        };
        if !done {
            self.all_ended.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<D::Link>> {
        self.state
            .lock()
            .expect("nothing panics while it holds the lock")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use tokio::time::sleep;

    use super::*;
    use crate::{
        account::Tally,
        case::{Variant, tests::case},
        schedule::arrivals,
    };

    const PATIENT: Callers = Callers {
        deadline: Duration::from_secs(1),
        hang_up: false,
    };

    /// A server that takes `service` for each call, and answers each third by 503 and each seventh by a hang-up if it
    /// is `moody`.
    #[derive(Clone)]
    struct Fake {
        service: Duration,
        moody: bool,
        seen: Arc<AtomicU64>,
    }

    impl Fake {
        fn new(service: Duration) -> Self {
            Self {
                service,
                moody: false,
                seen: Arc::default(),
            }
        }

        fn links(&self, number: usize) -> Vec<Self> {
            vec![self.clone(); number]
        }
    }

    impl Link for Fake {
        async fn call(&mut self, _: Class) -> Option<Answer> {
            let call = self.seen.fetch_add(1, Relaxed);
            sleep(self.service).await;
            match call {
                call if self.moody && call.is_multiple_of(7) => None,
                call if self.moody && call.is_multiple_of(3) => {
                    Some(Answer::Rejected { hint: true })
                }
                _ => Some(Answer::Served),
            }
        }
    }

    impl Dial for Fake {
        type Link = Self;

        async fn dial(&self) -> io::Result<Self> {
            Ok(self.clone())
        }
    }

    async fn calls(fake: &Fake, links: usize, percent: u32, callers: Callers) -> (Run, Tally) {
        let case = case(Variant::NoLimit, percent);
        let start = Instant::now() + Duration::from_millis(10);
        let links = fake.links(links);
        let run = run(fake.clone(), links, &arrivals(&case), start, callers).await;
        let tally = Tally::of(
            &run.records,
            Duration::ZERO,
            case.length(),
            callers.deadline,
        );
        (run, tally)
    }

    #[tokio::test(start_paused = true)]
    async fn starts_keep_to_the_schedule_however_slow_the_answers_are() {
        let fake = Fake::new(Duration::from_secs(3_600));
        let (run, tally) = calls(&fake, 10_000, 100, PATIENT).await;
        assert!(tally.offered > 1_400, "{tally:?}");
        assert_eq!((tally.sent, tally.failed), (tally.offered, tally.offered));
        // tokio's timer counts in milliseconds.
        let late = run
            .records
            .iter()
            .map(|record| record.started.unwrap() - record.arrival.at);
        assert!(late.max().unwrap() <= Duration::from_millis(1));
        assert_eq!(tally.late_starts, 0.0);
        assert!(tally.adds_up());
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_a_connection_has_waited() {
        // 20 connections of 100 ms carry half of 400 calls a second.
        let fake = Fake::new(Duration::from_millis(100));
        let (_, tally) = calls(&fake, 20, 100, PATIENT).await;
        assert!(tally.adds_up(), "{tally:?}");
        let unsent = tally.offered - tally.sent;
        let answered = tally.in_time + tally.late;
        assert_eq!(tally.offered, answered + tally.failed);
        assert_eq!(tally.failed, unsent);
        assert!(unsent > tally.offered / 4, "{tally:?}");
        assert!(tally.p99_ms > 1_000.0, "{tally:?}");
        assert!(tally.late > 0);
    }

    #[tokio::test(start_paused = true)]
    async fn every_kind_of_answer_adds_up_and_broken_connections_are_opened_anew() {
        let mut fake = Fake::new(Duration::from_millis(10));
        fake.moody = true;
        let (run, tally) = calls(&fake, 100, 100, PATIENT).await;
        assert!(tally.adds_up(), "{tally:?}");
        assert_eq!(run.reopened, fake.seen.load(Relaxed).div_ceil(7));
        assert_eq!(tally.failed, run.reopened);
        assert!(tally.rejected > 0 && tally.hinted == tally.rejected);
        assert_eq!(tally.late, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn impatient_callers_hang_up_at_their_deadline() {
        let callers = Callers {
            hang_up: true,
            ..PATIENT
        };
        let fake = Fake::new(Duration::from_secs(3_600));
        let (run, tally) = calls(&fake, 10_000, 50, callers).await;
        assert_eq!(tally.failed, tally.offered);
        assert_eq!(run.reopened, tally.offered);
        let waited = run
            .records
            .iter()
            .map(|record| record.ended.unwrap().0 - record.arrival.at);
        assert!(waited.max().unwrap() < Duration::from_millis(1_005));
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_without_calls_ends_at_once() {
        let fake = Fake::new(Duration::ZERO);
        let before = Instant::now();
        let run = run(fake.clone(), fake.links(1), &[], before, PATIENT).await;
        assert!(run.records.is_empty());
        assert_eq!(before.elapsed(), Duration::ZERO);
    }
}
