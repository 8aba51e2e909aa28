//! What became of the calls: every one that was offered is counted once.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::schedule::{Arrival, Class};

/// Starts that come later than this after the intended time are the generator's fault.
const LATE_START: Duration = Duration::from_millis(5);

/// How a call was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Served,
    /// 503, or UNAVAILABLE, and whether it said when to come back.
    Rejected {
        hint: bool,
    },
    /// Any other answer, or none.
    Failed,
}

/// What is known about one call; times count from the start of the run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    pub(crate) arrival: Arrival,
    /// When the generator came to it.
    pub(crate) started: Option<Duration>,
    /// Whether it went out on a connection.
    pub(crate) sent: bool,
    pub(crate) ended: Option<(Duration, Answer)>,
}

impl Record {
    pub(crate) fn new(arrival: Arrival) -> Self {
        Self {
            arrival,
            started: None,
            sent: false,
            ended: None,
        }
    }

    /// From the intended start: what waited in the generator waited.
    fn latency(&self) -> Option<Duration> {
        let (ended, _) = self.ended?;
        Some(ended.saturating_sub(self.arrival.at))
    }
}

/// The calls whose intended start lies in one stretch of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tally {
    pub(crate) seconds: f64,
    pub(crate) offered: u64,
    pub(crate) sent: u64,
    pub(crate) in_time: u64,
    pub(crate) late: u64,
    pub(crate) rejected: u64,
    /// Of the rejected ones.
    pub(crate) hinted: u64,
    pub(crate) failed: u64,
    /// Milliseconds of what was served, in time or not.
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Share of the starts that were late.
    pub(crate) late_starts: f64,
    /// Share of each of [`Class::SAID`] that was served in time.
    pub(crate) classes: Vec<f64>,
}

impl Tally {
    /// Counts the calls that were to start from `from` until `to`.
    pub(crate) fn of(records: &[Record], from: Duration, to: Duration, deadline: Duration) -> Self {
        let mut tally = Self {
            seconds: (to.saturating_sub(from)).as_secs_f64(),
            ..Self::default()
        };
        let mut latencies = Vec::new();
        let mut late_starts = 0_u64;
        let mut classes = [(0_u64, 0_u64); Class::SAID.len()];
        let range = from..to;
        for record in records
            .iter()
            .filter(|record| range.contains(&record.arrival.at))
        {
            tally.offered += 1;
            tally.sent += u64::from(record.sent);
            let started = record.started.unwrap_or(Duration::MAX);
            late_starts += u64::from(started.saturating_sub(record.arrival.at) > LATE_START);
            let latency = record.latency().unwrap_or(Duration::MAX);
            let in_time = latency <= deadline;
            match record.ended.map(|(_, answer)| answer) {
                Some(Answer::Served) if in_time => tally.in_time += 1,
                Some(Answer::Served) => tally.late += 1,
                Some(Answer::Rejected { hint }) => {
                    tally.rejected += 1;
                    tally.hinted += u64::from(hint);
                }
                Some(Answer::Failed) | None => tally.failed += 1,
            }
            let served = matches!(record.ended, Some((_, Answer::Served)));
            if served {
                latencies.push(latency.as_micros() as f64 / 1e3);
            }
            let class = Class::SAID
                .iter()
                .position(|class| *class == record.arrival.class);
            if let Some((offered, answered)) = class.and_then(|class| classes.get_mut(class)) {
                *offered += 1;
                *answered += u64::from(served && in_time);
            }
        }
        latencies.sort_by(f64::total_cmp);
        tally.p50_ms = quantile(&latencies, 0.5);
        tally.p99_ms = quantile(&latencies, 0.99);
        tally.late_starts = share(late_starts, tally.offered);
        tally.classes = classes
            .iter()
            .map(|(offered, answered)| share(*answered, *offered))
            .collect();
        tally
    }

    /// Calls a second that were served in time.
    pub(crate) fn goodput(&self) -> f64 {
        self.in_time as f64 / self.seconds
    }

    pub(crate) fn rejected_share(&self) -> f64 {
        share(self.rejected, self.offered)
    }

    /// Whether every call is counted once.
    pub(crate) fn adds_up(&self) -> bool {
        let answered = self.in_time + self.late + self.rejected;
        self.offered == answered + self.failed && answered <= self.sent && self.sent <= self.offered
    }
}

/// How many calls were answered in time in each tenth of a second of the run.
pub(crate) fn series(records: &[Record], length: Duration, deadline: Duration) -> Vec<u32> {
    let mut tenths = vec![0; length.as_millis().div_ceil(100) as usize];
    for record in records {
        let Some((ended, Answer::Served)) = record.ended else {
            continue;
        };
        let in_time = record.latency().is_some_and(|latency| latency <= deadline);
        let tenth = tenths.get_mut((ended.as_millis() / 100) as usize);
        if let (true, Some(tenth)) = (in_time, tenth) {
            *tenth += 1;
        }
    }
    tenths
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    part as f64 / whole as f64
}

/// The value below which a share of the sorted values lie; 0 if there are none.
fn quantile(sorted: &[f64], at: f64) -> f64 {
    let index = (sorted.len() as f64 * at) as usize;
    let last = sorted.len().saturating_sub(1);
    sorted.get(index.min(last)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(1);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn record(at: u64, ended: Option<(u64, Answer)>) -> Record {
        let arrival = Arrival {
            at: ms(at),
            class: Class::Critical,
        };
        Record {
            arrival,
            started: Some(ms(at)),
            sent: ended.is_some(),
            ended: ended.map(|(at, answer)| (ms(at), answer)),
        }
    }

    #[test]
    fn each_call_is_counted_once() {
        let records = [
            record(100, Some((200, Answer::Served))),
            record(200, Some((1_201, Answer::Served))),
            record(300, Some((301, Answer::Rejected { hint: true }))),
            record(400, Some((500, Answer::Failed))),
            record(500, None),
            record(5_000, Some((5_001, Answer::Served))),
        ];
        let tally = Tally::of(&records, ms(0), ms(1_000), DEADLINE);
        assert_eq!((tally.offered, tally.sent), (5, 4));
        assert_eq!((tally.in_time, tally.late), (1, 1));
        assert_eq!((tally.rejected, tally.hinted, tally.failed), (1, 1, 2));
        assert!(tally.adds_up());
        assert_eq!(tally.goodput(), 1.0);
        assert_eq!(tally.classes[0], 0.2);
        assert_eq!((tally.p50_ms, tally.p99_ms), (1_001.0, 1_001.0));
    }

    #[test]
    fn a_late_start_is_told_from_one_in_time() {
        let mut late = record(100, None);
        late.started = Some(ms(106));
        let records = [late, record(200, None)];
        assert_eq!(
            Tally::of(&records, ms(0), ms(1_000), DEADLINE).late_starts,
            0.5
        );
    }

    #[test]
    fn the_clock_runs_from_the_intended_start() {
        let mut delayed = record(100, Some((1_150, Answer::Served)));
        delayed.started = Some(ms(300));
        let tally = Tally::of(&[delayed], ms(0), ms(1_000), DEADLINE);
        assert_eq!((tally.in_time, tally.late), (0, 1));
        assert_eq!(tally.p50_ms, 1_050.0);
    }

    #[test]
    fn the_series_counts_answers_in_time_when_they_come() {
        let records = [
            record(0, Some((250, Answer::Served))),
            record(0, Some((1_500, Answer::Served))),
            record(0, Some((260, Answer::Rejected { hint: false }))),
        ];
        assert_eq!(series(&records, ms(300), DEADLINE), [0, 0, 1]);
    }
}
