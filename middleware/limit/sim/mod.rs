//! The limit in front of simulated servers, in virtual time: what it was designed by, as a test.
//!
//! An open-loop source sends requests with a deadline through a limit into a server that the limit cannot see. Goodput
//! are responses within the deadline, as a share of the lesser of what was offered and what the server can do.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, VecDeque},
};

mod tests;
mod workloads;

use super::{
    controller::Sample,
    queue::Bounds,
    start,
    state::{Ask, Seat, Start, State},
    window::Seconds,
};
use crate::context::Priority;

pub(super) use workloads::Dice;
pub(super) use workloads::{WORKLOADS, Work, Workload};

/// The room is looked at so often, as timers of those who wait do.
const TICK: Seconds = 0.01;

/// Orders by time.
#[derive(Clone, Copy, PartialEq)]
struct At(f64, usize);

impl Eq for At {}

impl Ord for At {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0).then(self.1.cmp(&other.1))
    }
}

impl PartialOrd for At {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The hidden server. Requests are numbers.
struct Server {
    load: Workload,
    servers: f64,
    slow: f64,
    busy: f64,
    queue: VecDeque<usize>,
    /// Ends of work: by the clock of the workers, or of the work done by each who shares.
    ends: BinaryHeap<Reverse<At>>,
    delays: BinaryHeap<Reverse<At>>,
    /// Ends of those that hang, which need no worker.
    hanging: BinaryHeap<Reverse<At>>,
    done: f64,
    last: Seconds,
}

impl Server {
    fn new(load: Workload) -> Self {
        Self {
            load,
            servers: load.servers,
            slow: 1.0,
            busy: 0.0,
            queue: VecDeque::new(),
            ends: BinaryHeap::new(),
            delays: BinaryHeap::new(),
            hanging: BinaryHeap::new(),
            done: 0.0,
            last: 0.0,
        }
    }

    /// Work done in a second for each who shares.
    fn pace(&self) -> f64 {
        let here = self.ends.len() as f64;
        let lost = if here > self.servers {
            1.0 + self.load.thrash * (here - self.servers)
        } else {
            1.0
        };
        (self.servers / here).min(1.0) / lost / self.slow
    }

    fn advance(&mut self, now: Seconds) {
        if self.load.shares_cores && !self.ends.is_empty() {
            self.done += (now - self.last) * self.pace();
        }
        self.last = now;
    }

    fn next(&self) -> Seconds {
        let end = self.ends.peek().map(|Reverse(At(at, _))| *at);
        let end = match end {
            Some(end) if self.load.shares_cores => {
                self.last + (end - self.done).max(0.0) / self.pace()
            }
            Some(end) => end,
            None => f64::INFINITY,
        };
        let waits = [self.delays.peek(), self.hanging.peek()];
        let waits = waits.into_iter().flatten().map(|Reverse(At(at, _))| *at);
        waits.fold(end, f64::min)
    }

    fn begin(&mut self, now: Seconds, who: usize, requests: &[Request]) {
        let before = requests[who].before;
        if let Some(hangs) = requests[who].hangs {
            self.hanging.push(Reverse(At(now + hangs, who)));
        } else if before > 0.0 {
            self.delays.push(Reverse(At(now + before, who)));
        } else if self.load.shares_cores {
            self.advance(now);
            self.ends
                .push(Reverse(At(self.done + requests[who].work, who)));
        } else if self.busy < self.servers {
            self.run(now, who, requests);
        } else {
            self.queue.push_back(who);
        }
    }

    fn run(&mut self, now: Seconds, who: usize, requests: &[Request]) {
        self.busy += 1.0;
        let end = now + requests[who].work * self.slow;
        self.ends.push(Reverse(At(end, who)));
    }

    /// Who is done now, if it is not only the wait before the work.
    fn step(&mut self, now: Seconds, requests: &[Request]) -> Option<usize> {
        self.advance(now);
        let hanging = self.hanging.peek().map(|Reverse(At(at, _))| *at);
        if hanging.is_some_and(|at| at <= now + 1e-12) {
            return self.hanging.pop().map(|Reverse(At(_, who))| who);
        }
        let delay = self.delays.peek().map(|Reverse(At(at, _))| *at);
        if delay.is_some_and(|at| at <= now + 1e-12) {
            let Reverse(At(_, who)) = self.delays.pop()?;
            let end = self.done + requests[who].work;
            self.ends.push(Reverse(At(end, who)));
            return None;
        }
        let Reverse(At(_, who)) = self.ends.pop()?;
        if !self.load.shares_cores {
            self.busy -= 1.0;
            self.fill(now, requests);
        }
        Some(who)
    }

    fn change(&mut self, now: Seconds, servers: f64, slow: f64, requests: &[Request]) {
        self.advance(now);
        self.servers = servers;
        self.slow = slow;
        self.fill(now, requests);
    }

    fn fill(&mut self, now: Seconds, requests: &[Request]) {
        while self.busy < self.servers
            && let Some(next) = self.queue.pop_front()
        {
            self.run(now, next, requests);
        }
    }
}

struct Request {
    arrived: Seconds,
    admitted: Seconds,
    work: f64,
    before: f64,
    /// It hangs for so long, and needs no worker.
    hangs: Option<Seconds>,
    /// Its caller does not wait for the end.
    is_cancelled: bool,
    class: usize,
    seat: Seat,
}

/// What is to happen.
#[derive(Clone, Copy)]
pub(super) struct Scenario {
    pub(super) load: Workload,
    /// Offered load, as a multiple of the capacity.
    pub(super) times: f64,
    pub(super) end: Seconds,
    /// A quarter of the servers, or services four times slower, between these times.
    pub(super) fault: Option<(Fault, Seconds, Seconds)>,
    /// Nobody waits.
    pub(super) sheds: bool,
    pub(super) seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fault {
    QuarterCapacity,
    FourTimesSlower,
    /// This share of the calls hangs for so long, in something that is not the server's.
    Hangs(f64, Seconds),
    /// Every caller hangs up at some point of the call.
    Cancels,
}

/// What became of the requests: when each came, how long it took or why not, and its class.
pub(super) struct Outcome {
    load: Workload,
    times: f64,
    /// Arrival, latency (`None`: rejected), class.
    requests: Vec<(Seconds, Option<Seconds>, usize)>,
}

impl Outcome {
    fn offered(
        &self,
        from: Seconds,
        to: Seconds,
    ) -> impl Iterator<Item = &(Seconds, Option<Seconds>, usize)> {
        self.requests
            .iter()
            .filter(move |(arrived, ..)| (from..to).contains(arrived))
    }

    fn is_good(&self, latency: Option<Seconds>) -> bool {
        latency.is_some_and(|latency| latency <= self.load.deadline)
    }

    /// Good responses to what came in this time, as a share of what was possible.
    pub(super) fn goodput(&self, from: Seconds, to: Seconds) -> f64 {
        let good = self
            .offered(from, to)
            .filter(|(_, latency, _)| self.is_good(*latency));
        let offered = self.offered(from, to).count() as f64;
        (good.count() as f64 / offered.min(self.load.capacity * (to - from))).min(1.0)
    }

    /// Good responses that came out in this time, as a share of what this part of the capacity allows.
    pub(super) fn goodput_out(&self, from: Seconds, to: Seconds, share: f64) -> f64 {
        let good = self.requests.iter().filter(|(arrived, latency, _)| {
            self.is_good(*latency)
                && latency.is_some_and(|latency| (from..to).contains(&(arrived + latency)))
        });
        let possible = self.load.capacity * self.times.min(share) * (to - from);
        (good.count() as f64 / possible).min(1.0)
    }

    pub(super) fn rejected(&self, from: Seconds, to: Seconds) -> f64 {
        let rejected = self
            .offered(from, to)
            .filter(|(_, latency, _)| latency.is_none());
        rejected.count() as f64 / self.offered(from, to).count() as f64
    }

    pub(super) fn p99(&self, from: Seconds, to: Seconds) -> f64 {
        let mut latencies: Vec<f64> = self
            .offered(from, to)
            .filter_map(|(_, latency, _)| *latency)
            .collect();
        latencies.sort_by(f64::total_cmp);
        latencies[latencies.len() * 99 / 100]
    }

    /// The share of a class that was answered in time.
    pub(super) fn answered(&self, class: usize, from: Seconds, to: Seconds) -> f64 {
        let of_class = || self.offered(from, to).filter(|(_, _, of)| *of == class);
        let good = of_class().filter(|(_, latency, _)| self.is_good(*latency));
        good.count() as f64 / of_class().count() as f64
    }
}

/// The classes of the requests: 20 %, 30 % and 50 %.
const CLASSES: [Priority; 3] = [Priority::Critical, Priority::Normal, Priority::Sheddable];

pub(super) fn run(scenario: &Scenario) -> Outcome {
    run_with(scenario, start(16.0, true))
}

pub(super) fn run_with(scenario: &Scenario, start: Start) -> Outcome {
    let start = Start {
        bounds: Bounds::default(),
        ..start
    };
    let mut world = World {
        state: State::new(start),
        server: Server::new(scenario.load),
        requests: Vec::new(),
        answered: Vec::new(),
    };
    world.run(scenario);
    let requests = world.requests.iter().zip(world.answered);
    Outcome {
        load: scenario.load,
        times: scenario.times,
        requests: requests
            .filter(|(_, answer)| *answer != Some(f64::INFINITY))
            .map(|(request, answer)| (request.arrived, answer, request.class))
            .collect(),
    }
}

struct World {
    state: State<usize>,
    server: Server,
    requests: Vec<Request>,
    /// The latency; `None`: rejected; infinite: not ended yet.
    answered: Vec<Option<Seconds>>,
}

impl World {
    fn run(&mut self, scenario: &Scenario) {
        let mut dice = Dice::new(scenario.seed);
        let load = scenario.load;
        let mean_gap = 1.0 / (load.capacity * scenario.times);
        let mut arrival = dice.exponential(mean_gap);
        let mut tick = TICK;
        let mut changes: VecDeque<(Seconds, f64, f64)> = VecDeque::new();
        if let Some((fault, from, to)) = scenario.fault {
            let least = if load.shares_cores { 0.0 } else { 1.0 };
            let (share, slow) = match fault {
                Fault::QuarterCapacity => (0.25, 1.0),
                Fault::FourTimesSlower => (1.0, 4.0),
                Fault::Hangs(..) | Fault::Cancels => (1.0, 1.0),
            };
            changes.push_back((from, (load.servers * share).max(least), slow));
            changes.push_back((to, load.servers, 1.0));
        }
        loop {
            let change = changes.front().map_or(f64::INFINITY, |change| change.0);
            let served = self.server.next();
            let now = arrival.min(served).min(tick).min(change);
            if now >= scenario.end {
                return;
            }
            if now == arrival {
                let roll = dice.roll();
                let class = usize::from(roll >= 0.2) + usize::from(roll >= 0.5);
                let work = load.work.draw(&mut dice);
                let before = if load.before > 0.0 {
                    dice.exponential(load.before)
                } else {
                    0.0
                };
                let fault = scenario.fault;
                let fault = fault.filter(|(_, from, to)| (*from..*to).contains(&now));
                let hangs = match fault {
                    Some((Fault::Hangs(share, time), ..)) => (dice.roll() < share).then_some(time),
                    Some((Fault::Cancels, ..)) => Some(before + work * dice.roll()),
                    _ => None,
                };
                let request = Request {
                    arrived: now,
                    admitted: now,
                    work,
                    before,
                    hangs,
                    is_cancelled: matches!(fault, Some((Fault::Cancels, ..))),
                    class,
                    seat: Seat::default(),
                };
                self.arrive(now, request, scenario.sheds);
                arrival = now + dice.exponential(mean_gap);
            } else if now == served {
                if let Some(who) = self.server.step(now, &self.requests) {
                    self.end(now, who);
                }
            } else if now == tick {
                self.call(now);
                tick += TICK;
            } else if let Some((_, servers, slow)) = changes.pop_front() {
                self.server.change(now, servers, slow, &self.requests);
            }
        }
    }

    fn arrive(&mut self, now: Seconds, request: Request, sheds: bool) {
        let who = self.requests.len();
        let class = request.class;
        self.requests.push(request);
        self.answered.push(Some(f64::INFINITY));
        let ask = Ask {
            priority: CLASSES[class],
            deadline: None,
            caller: None,
            streams: false,
        };
        if sheds {
            match self.state.enter(now, &ask) {
                Ok(seat) => self.begin(now, who, seat),
                Err(_) => self.answered[who] = None,
            }
            return;
        }
        match self.state.enter_or_wait(now, &ask) {
            Ok(seat) => self.begin(now, who, seat),
            Err(Some(_)) => self.answered[who] = None,
            Err(None) => {
                if let Some(out) = self.state.wait(now, &ask, who).out {
                    self.answered[out.who] = None;
                }
            }
        }
        self.call(now);
    }

    fn begin(&mut self, now: Seconds, who: usize, seat: Seat) {
        self.requests[who].admitted = now;
        self.requests[who].seat = seat;
        self.server.begin(now, who, &self.requests);
    }

    fn end(&mut self, now: Seconds, who: usize) {
        let request = &self.requests[who];
        let (answer, sample) = if request.is_cancelled {
            (None, Sample::Cancelled)
        } else {
            let served = Sample::Served(now - request.admitted);
            (Some(now - request.arrived), served)
        };
        self.answered[who] = answer;
        self.state.end(now, request.seat, sample);
        self.call(now);
    }

    fn call(&mut self, now: Seconds) {
        while let Some(turn) = self.state.turn(now) {
            match turn.verdict {
                Ok(seat) => self.begin(now, turn.who, seat),
                Err(_) => self.answered[turn.who] = None,
            }
        }
    }
}
