//! A case runs in a process of its own, told over a pipe what to do next: the global subscriber, the
//! panic hook and the heap are its own, and the parent can interleave the cases as it likes.

use std::{
    hint::black_box,
    io::{self, BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Instant,
};

use super::{
    Case,
    alloc::{self, Allocations},
    sink,
    traffic::Subject,
};

/// The word that makes this program a worker; the case's name follows.
pub(crate) const WORKER: &str = "worker";

/// The parent's end of the pipe. Dropping it closes the pipe, which ends the worker.
pub(crate) struct Worker {
    name: &'static str,
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    pub(crate) fn start(case: &Case) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        Self::start_as(&mut command, case, Stdio::inherit())
    }

    /// Starts `command`, with the worker's arguments added.
    pub(crate) fn start_as(
        command: &mut Command,
        case: &Case,
        stderr: Stdio,
    ) -> Result<Self, String> {
        let mut child = command
            .args([WORKER, case.name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .map_err(|error| format!("{:?} does not start: {error}", command.get_program()))?;
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        Ok(Self {
            name: case.name,
            child,
            orders,
            answers,
        })
    }

    /// Nanoseconds that a batch of `calls` took.
    pub(crate) fn time(&mut self, calls: u64) -> Result<u64, String> {
        Ok(self.order("time", calls)?[0])
    }

    /// What a batch of `calls` allocated.
    pub(crate) fn allocations(&mut self, calls: u64) -> Result<Allocations, String> {
        let counted = self.order("allocations", calls)?;
        Ok(Allocations {
            new: counted[0],
            resized: counted[1],
        })
    }

    /// A batch of `calls` within [`measured_frame`].
    pub(crate) fn instructions(&mut self, calls: u64) -> Result<(), String> {
        self.order("instructions", calls).map(|_| ())
    }

    /// Ends the worker; returns what it wrote to stderr, if that is a pipe.
    pub(crate) fn finish(mut self) -> Result<String, String> {
        self.orders = None;
        let output = self.child.wait_with_output();
        let output = output.map_err(|error| format!("{}: {error}", self.name))?;
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn order(&mut self, order: &str, calls: u64) -> Result<[u64; 2], String> {
        let failed = |what: String| format!("{}: {what}", self.name);
        let orders = self.orders.as_mut().expect("the pipe is open");
        writeln!(orders, "{order} {calls}").map_err(|error| failed(error.to_string()))?;
        let mut answer = String::new();
        self.answers
            .read_line(&mut answer)
            .map_err(|error| failed(error.to_string()))?;
        let mut numbers = answer.split_whitespace().map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(first)), Some(Ok(second))) => Ok([first, second]),
            _ => Err(failed(answer)),
        }
    }
}

/// The worker's side: obeys until the pipe is closed. Each order is answered by a line of two numbers,
/// or by a line that says what went wrong.
pub(crate) fn obey(case: &Case) -> io::Result<()> {
    let mut subject = (case.make)();
    let mut answers = io::stdout();
    for order in io::stdin().lines() {
        match carry_out(&order?, &mut subject) {
            Ok([first, second]) => writeln!(answers, "{first} {second}")?,
            Err(what) => writeln!(answers, "{what}")?,
        }
    }
    Ok(())
}

fn carry_out(order: &str, subject: &mut Subject) -> Result<[u64; 2], String> {
    let (order, calls) = order.split_once(' ').ok_or("an order without a number")?;
    let calls: u64 = calls.parse().map_err(|error| format!("{error}"))?;
    let before = sink::lines();
    let answer = match order {
        "time" => {
            let start = Instant::now();
            subject.call(calls)?;
            let nanoseconds = start.elapsed().as_nanos() as u64;
            subject.settle(before, calls)?;
            [nanoseconds, 0]
        }
        "allocations" => {
            let (done, counted) = alloc::count(|| {
                subject.call(calls)?;
                subject.settle(before, calls)
            });
            done?;
            [counted.new, counted.resized]
        }
        "instructions" => {
            measured_frame(subject, calls)?;
            subject.settle(before, calls)?;
            [0, 0]
        }
        unknown => return Err(format!("an unknown order: {unknown}")),
    };
    Ok(answer)
}

/// The one frame that callgrind collects in, found by its name.
#[inline(never)]
fn measured_frame(subject: &mut Subject, calls: u64) -> Result<(), String> {
    black_box(subject).call(calls)
}
