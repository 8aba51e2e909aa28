//! Runs one case: a server in a process of its own on one core, the generator in this one on the other.

use std::{
    io::{BufRead, BufReader, Lines, Write},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    account::{Tally, series},
    case::{Case, Change, Protocol, Scenario},
    client::{Grpc, Http1, PLACES},
    generator::{self, Callers, Dial, Run},
    machine::{self, Ticks},
    schedule::arrivals,
    server,
};

/// The word that makes this program a server; the case follows as JSON.
pub(crate) const SERVER: &str = "server";

/// Between the last connection and the first call.
const CALM: Duration = Duration::from_millis(200);

/// A run is void if more starts than this were late, or the generator's core was busier than that.
const MOST_LATE_STARTS: f64 = 0.01;
const MOST_BUSY: f64 = 0.7;
/// Or if others took more of the server's core.
const MOST_OTHERS: f64 = 0.1;

/// What a run found. One line of the file of results.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) case: Case,
    /// From the end of the warm-up to the end, whatever happened in between.
    pub(crate) all: Tally,
    /// While all was well, while capacity was reduced, in the first five seconds of that, and after it.
    pub(crate) before: Tally,
    pub(crate) reduced: Tally,
    pub(crate) first: Tally,
    pub(crate) after: Tally,
    /// Calls answered in time in each tenth of a second.
    pub(crate) series: Vec<u32>,
    /// Processor time of the server from the end of the warm-up to the end, in seconds.
    pub(crate) server_cpu: f64,
    /// Share of the time that the generator was busy.
    pub(crate) generator_busy: f64,
    /// Share of the time that something else than the server took of its core.
    pub(crate) others_busy: f64,
    /// Connections opened anew.
    pub(crate) reopened: u64,
    /// Whether both came before whatever else ran.
    #[serde(default)]
    pub(crate) urgent: bool,
}

impl Row {
    /// Why nothing should be concluded from this run.
    pub(crate) fn void(&self) -> Option<String> {
        if !self.all.adds_up() {
            return Some("does not add up".to_owned());
        }
        if self.all.late_starts > MOST_LATE_STARTS {
            return Some(format!(
                "{:.1} % of starts late",
                self.all.late_starts * 100.0
            ));
        }
        if self.generator_busy > MOST_BUSY {
            return Some(format!(
                "generator {:.0} % busy",
                self.generator_busy * 100.0
            ));
        }
        if self.others_busy > MOST_OTHERS && !self.urgent {
            return Some(format!(
                "others took {:.0} % of the server's core",
                self.others_busy * 100.0
            ));
        }
        None
    }

    /// Seconds from the return of capacity until calls were answered in time at 90 % of `full` a second, for a second.
    pub(crate) fn recovered_after(&self, full: f64) -> Option<f64> {
        let restored = (self.case.reduced().1.as_millis() / 100) as usize;
        let tenths = self.series.get(restored..)?;
        let enough = |second: &[u32]| f64::from(second.iter().sum::<u32>()) >= 0.9 * full;
        let after = tenths.windows(10).position(enough)?;
        Some(after as f64 / 10.0)
    }
}

/// `cores` are the server's and the generator's, on which this thread is.
pub(crate) fn run(case: &Case, cores: [usize; 2], urgent: bool) -> Result<Row, String> {
    let server = RunningServer::start(case, cores)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let address = server.address;
    let (run, controlled) = runtime.block_on(async {
        match case.protocol {
            Protocol::Http => load(case, cores, server, Http1 { address }).await,
            Protocol::Grpc => load(case, cores, server, Grpc::new(address)).await,
        }
    })?;
    let tally = |from, to| Tally::of(&run.records, from, to, case.backend.deadline());
    let (from, to) = case.reduced();
    let first = to.min(from + Duration::from_secs(5));
    Ok(Row {
        case: *case,
        all: tally(case.measured_from(), case.length()),
        before: tally(case.measured_from(), from),
        reduced: tally(from, to),
        first: tally(from, first),
        after: tally(to, case.length()),
        series: series(&run.records, case.length(), case.backend.deadline()),
        server_cpu: controlled.server_cpu.as_secs_f64(),
        generator_busy: controlled.generator_busy,
        others_busy: controlled.others_busy,
        reopened: run.reopened,
        urgent,
    })
}

async fn load<D: Dial>(
    case: &Case,
    cores: [usize; 2],
    server: RunningServer,
    dial: D,
) -> Result<(Run, Controlled), String> {
    let mut links = Vec::with_capacity(PLACES);
    for _ in 0..PLACES {
        links.push(
            dial.dial()
                .await
                .map_err(|error| format!("cannot connect: {error}"))?,
        );
    }
    let start = Instant::now() + CALM;
    let control = control(case, cores, server, start);
    let callers = Callers {
        deadline: case.backend.deadline(),
        hang_up: case.scenario == Scenario::Impatient,
    };
    let run = generator::run(dial, links, &arrivals(case), start.into(), callers).await;
    let controlled = control.join().expect("the control thread does not panic")?;
    Ok((run, controlled))
}

/// What is seen from outside between the end of the warm-up and the end.
struct Controlled {
    server_cpu: Duration,
    generator_busy: f64,
    others_busy: f64,
    /// Runs until this is dropped: answers are awaited a little longer than calls are made.
    _server: RunningServer,
}

/// Changes the backend when the case says so and measures processor time, in a thread of its own: the generator's waits
/// for nothing.
fn control(
    case: &Case,
    [server_core, _]: [usize; 2],
    mut server: RunningServer,
    start: Instant,
) -> JoinHandle<Result<Controlled, String>> {
    let mut steps: Vec<(Duration, Option<Change>)> = case
        .changes()
        .into_iter()
        .map(|(at, change)| (at, Some(change)))
        .collect();
    let from = case.measured_from();
    let to = case.length();
    steps.push((from, None));
    steps.push((to, None));
    steps.sort_by_key(|(at, _)| *at);
    thread::spawn(move || {
        let mut measured = Vec::new();
        for (at, change) in steps {
            thread::sleep((start + at).saturating_duration_since(Instant::now()));
            let cpu = server.order(change)?;
            if change.is_none() {
                measured.push((cpu, Ticks::of(server_core)?, machine::cpu_time()));
            }
        }
        let [before, after] = measured[..] else {
            return Err("a run is measured from its warm-up to its end".to_owned());
        };
        let server_cpu = after.0.saturating_sub(before.0);
        let share = |cpu: Duration| cpu.as_secs_f64() / (to - from).as_secs_f64();
        Ok(Controlled {
            server_cpu,
            others_busy: after.1.busy_since(before.1) - share(server_cpu),
            generator_busy: share(after.2.saturating_sub(before.2)),
            _server: server,
        })
    })
}

/// A server's process; killed when dropped.
struct RunningServer {
    process: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    address: SocketAddr,
}

impl RunningServer {
    fn start(case: &Case, [server, generator]: [usize; 2]) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let case = serde_json::to_string(case).map_err(|error| error.to_string())?;
        let mut process = Command::new(program)
            .args([SERVER, &case])
            .env(machine::CORES, format!("{server},{generator}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("the server does not start: {error}"))?;
        let orders = process.stdin.take().expect("stdin is a pipe");
        let answers = process.stdout.take().expect("stdout is a pipe");
        let mut server = Self {
            process,
            orders,
            answers: BufReader::new(answers).lines(),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        };
        let port = server.answer()?;
        let port = port
            .parse()
            .map_err(|error| format!("no port: {port}: {error}"))?;
        server.address.set_port(port);
        Ok(server)
    }

    /// Tells the server of a change, or of none; returns its processor time so far.
    fn order(&mut self, change: Option<Change>) -> Result<Duration, String> {
        writeln!(self.orders, "{}", server::order(change))
            .map_err(|error| format!("the server is gone: {error}"))?;
        let nanoseconds = self.answer()?;
        let nanoseconds = nanoseconds
            .parse()
            .map_err(|error| format!("{nanoseconds}: {error}"))?;
        Ok(Duration::from_nanos(nanoseconds))
    }

    fn answer(&mut self) -> Result<String, String> {
        match self.answers.next() {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(error)) => Err(error.to_string()),
            None => Err("the server ended too early".to_owned()),
        }
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        let killed = self.process.kill().and_then(|()| self.process.wait());
        killed.expect("a child of this process can be killed");
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::case::{Variant, tests::case};

    /// What a server would give that serves all it can and rejects the rest at once.
    pub(crate) fn ideal(case: Case) -> Row {
        let offered = 1_000.0 * case.load();
        let in_time = offered.min(1_000.0);
        let all = Tally {
            seconds: 1_000.0 / case.backend.capacity(),
            offered: offered as u64,
            sent: offered as u64,
            in_time: in_time as u64,
            rejected: (offered - in_time) as u64,
            p50_ms: 20.0,
            p99_ms: 100.0,
            classes: vec![1.0, 0.5, 0.0],
            ..Tally::default()
        };
        Row {
            case,
            before: all.clone(),
            reduced: all.clone(),
            first: all.clone(),
            after: all.clone(),
            all,
            series: vec![40; 100],
            server_cpu: 0.1,
            generator_busy: 0.2,
            others_busy: 0.0,
            reopened: 0,
            urgent: false,
        }
    }

    #[test]
    fn runs_of_a_slow_generator_are_void() {
        let mut row = ideal(case(Variant::NoLimit, 200));
        assert_eq!(row.void(), None);
        row.others_busy = 0.12;
        assert_eq!(row.void().unwrap(), "others took 12 % of the server's core");
        row.urgent = true;
        assert_eq!(row.void(), None);
        row.generator_busy = 0.71;
        assert_eq!(row.void().unwrap(), "generator 71 % busy");
        row.all.late_starts = 0.02;
        assert_eq!(row.void().unwrap(), "2.0 % of starts late");
        row.all.failed = 1;
        assert_eq!(row.void().unwrap(), "does not add up");
    }

    #[test]
    fn recovery_counts_from_the_return_of_capacity_to_the_first_good_second() {
        let mut case = case(Variant::NoLimit, 70);
        case.lengths.reduced = 1_000;
        case.lengths.restored = 4_000;
        let mut row = ideal(case);
        // 5 s until the capacity is back, 1.5 s of nothing, then 300 a second.
        row.series = [vec![30; 50], vec![0; 15], vec![30; 25]].concat();
        assert_eq!(row.recovered_after(300.0), Some(1.4));
        assert_eq!(row.recovered_after(400.0), None);
    }
}
