//! The last minutes: what the page draws, and what its rates and percentiles are reckoned from. In fixed memory.

use std::{
    collections::VecDeque,
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Value, json};

use super::{
    figures::{Calls, Figures, Place, Times, as_float},
    numbers::{millis, rounded, unix_ms},
};
use crate::outcome::Fault;

/// Five minutes of samples.
pub(super) const SAMPLES: usize = 300;
/// Rates are those of so many samples, about seconds.
const RATE: u64 = 5;
/// Percentiles are those of so many, of which one in [`STRIDE`] is kept.
const WINDOW: u64 = 60;
const STRIDE: u64 = 10;
/// So many routes are shown, those with most calls.
const ROUTES: usize = 50;

/// One second.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    number: u64,
    at: SystemTime,
    /// Calls, errors and rejections a second; `None` while none is counted, and in the first second.
    rates: Option<[f64; 3]>,
    in_flight: Option<i64>,
    limits: Vec<Level>,
}

/// How a limit stood.
#[derive(Clone, Copy, Debug)]
pub(super) struct Level {
    pub(super) limit: usize,
    pub(super) in_flight: usize,
    pub(super) waiting: usize,
}

#[derive(Debug)]
struct Mark {
    number: u64,
    at: Instant,
    figures: Figures,
}

/// The last minutes of a service.
#[derive(Debug, Default)]
pub(super) struct Board {
    samples: VecDeque<Sample>,
    /// The newest last.
    marks: VecDeque<Mark>,
    next: u64,
    /// The service's name and version, which stay when metrics end.
    service: [Option<String>; 2],
}

impl Board {
    /// Takes a sample.
    pub(super) fn push(
        &mut self,
        now: Instant,
        at: SystemTime,
        figures: Option<Figures>,
        limits: Vec<Level>,
    ) {
        let number = self.next;
        self.next = number.saturating_add(1);
        let in_flight = figures.as_ref().and_then(|figures| figures.in_flight);
        if let Some(figures) = &figures {
            self.service = [figures.service.clone(), figures.version.clone()];
        }
        let rates = figures.and_then(|figures| {
            let last = self.marks.back().filter(|_| in_flight.is_some());
            let rates = last.map(|last| {
                let faults: [fn(Fault) -> bool; 3] =
                    [|_| true, |f| f == Fault::Server, |f| f == Fault::Load];
                faults.map(|with| {
                    let since = figures.ended(with).saturating_sub(last.figures.ended(with));
                    per_second(since, now.saturating_duration_since(last.at))
                })
            });
            self.marks.push_back(Mark {
                number,
                at: now,
                figures,
            });
            rates
        });
        self.marks.retain(|mark| {
            let age = number.saturating_sub(mark.number);
            age <= RATE || (age <= WINDOW && mark.number.is_multiple_of(STRIDE))
        });
        if self.samples.len() >= SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample {
            number,
            at,
            rates,
            in_flight,
            limits,
        });
    }

    /// The service's name and version.
    pub(super) fn service(&self) -> &[Option<String>; 2] {
        &self.service
    }

    /// The figures of the last sample; `None` without metrics, and once they have ended.
    pub(super) fn figures(&self) -> Option<&Figures> {
        self.newest().map(|mark| &mark.figures)
    }

    /// The same, if calls are counted in them.
    pub(super) fn calls(&self) -> Option<&Figures> {
        self.counted().map(|mark| &mark.figures)
    }

    /// The last so many samples as rows: number, milliseconds of Unix time, rates of calls, errors and rejections,
    /// of each limit what it was, how many were in flight and how many waited; and all calls in flight.
    pub(super) fn samples(&self, last: usize) -> Value {
        let skipped = self.samples.len().saturating_sub(last);
        let rows = self.samples.iter().skip(skipped).map(|sample| {
            let [calls, errors, rejected] = match sample.rates {
                Some(rates) => rates.map(rounded),
                None => [Value::Null, Value::Null, Value::Null],
            };
            let limits = sample.limits.iter();
            let limits: Vec<Value> = limits
                .map(|level| json!([level.limit, level.in_flight, level.waiting]))
                .collect();
            json!([
                sample.number,
                unix_ms(sample.at),
                calls,
                errors,
                rejected,
                limits,
                sample.in_flight
            ])
        });
        rows.collect()
    }

    /// Calls a second, by whose fault they ended as they did.
    pub(super) fn rate(&self, with: impl Fn(Fault) -> bool) -> Option<f64> {
        self.recent(|figures| figures.ended(&with))
    }

    /// How fast a count grew lately.
    pub(super) fn recent(&self, count: impl Fn(&Figures) -> u64) -> Option<f64> {
        let (newest, before) = (self.counted()?, self.before(RATE)?);
        let since = count(&newest.figures).saturating_sub(count(&before.figures));
        Some(per_second(
            since,
            newest.at.saturating_duration_since(before.at),
        ))
    }

    /// Each route, those with most calls of the last minute first.
    pub(super) fn routes(&self) -> Option<Value> {
        let newest = self.counted()?;
        let before = self.before(WINDOW);
        let known = |place: &Place| {
            let calls = before.and_then(|before| before.figures.routes.get(place));
            calls.copied().unwrap_or_default()
        };
        let routes = newest.figures.routes.iter();
        let mut routes: Vec<(&Place, &Calls, Calls)> = routes
            .map(|(place, calls)| {
                let known = known(place);
                let lately = Calls {
                    errors: calls.errors.saturating_sub(known.errors),
                    times: calls.times.since(&known.times),
                };
                (place, calls, lately)
            })
            .collect();
        routes.sort_by_cached_key(|(place, calls, lately)| {
            let most = |times: &Times| std::cmp::Reverse(times.count());
            (most(&lately.times), most(&calls.times), (*place).clone())
        });
        let shown = routes.into_iter().take(ROUTES);
        let shown = shown.map(|(place, calls, lately)| {
            let rate = self.recent(|figures| {
                let calls = figures.routes.get(place);
                calls.map_or(0, |calls| calls.times.count())
            });
            let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|share| quantile(&lately.times, share));
            json!({
                "protocol": place.protocol,
                "route": place.name,
                "rate": rate.map(rounded),
                "calls_1m": lately.times.count(),
                "errors_1m": lately.errors,
                "calls": calls.times.count(),
                "errors": calls.errors,
                "p50_ms": p50,
                "p95_ms": p95,
                "p99_ms": p99,
            })
        });
        Some(shown.collect())
    }

    /// How long calls waited for a limit in the last minute: how many did, the median and the 99th percentile.
    pub(super) fn waits(&self, limit: &str) -> Value {
        let of = |mark: &Mark| mark.figures.waits.get(limit).copied();
        let now = self.newest().and_then(of).unwrap_or_default();
        let before = self.before(WINDOW).and_then(of).unwrap_or_default();
        let lately = now.since(&before);
        json!({
            "waited_1m": lately.count(),
            "p50_ms": quantile(&lately, 0.5),
            "p99_ms": quantile(&lately, 0.99),
        })
    }

    /// What the last sample saw. What is older is no news: it serves to reckon, and is never told as it is.
    fn newest(&self) -> Option<&Mark> {
        let newest = self.marks.back()?;
        (newest.number.saturating_add(1) == self.next).then_some(newest)
    }

    /// The same, if calls are counted: what was not there before was none.
    fn counted(&self) -> Option<&Mark> {
        self.newest()
            .filter(|mark| mark.figures.in_flight.is_some())
    }

    /// What was known so many samples before the newest, or the first that is known after that.
    fn before(&self, samples: u64) -> Option<&Mark> {
        let newest = self.newest()?.number;
        let mut marks = self.marks.iter();
        marks.find(|mark| newest.saturating_sub(mark.number) <= samples)
    }
}

fn per_second(count: u64, time: Duration) -> f64 {
    if time.is_zero() {
        return 0.0;
    }
    as_float(count) / time.as_secs_f64()
}

fn quantile(times: &Times, share: f64) -> Option<Value> {
    let seconds = times.quantile(share)?;
    Some(millis(
        Duration::try_from_secs_f64(seconds).unwrap_or_default(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(calls: u64) -> Figures {
        Figures {
            in_flight: Some(0),
            outcomes: [("ok".to_owned(), calls), ("shed".to_owned(), calls / 2)].into(),
            ..Figures::default()
        }
    }

    #[test]
    fn a_day_takes_no_more_room_than_five_minutes() {
        let (mut board, start) = (Board::default(), Instant::now());
        let level = Level {
            limit: 10,
            in_flight: 3,
            waiting: 0,
        };
        for second in 0..86_400_u64 {
            let now = start + Duration::from_secs(second);
            let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
            board.push(now, wall, Some(figures(second * 100)), vec![level]);
            assert!(board.samples.len() <= SAMPLES && board.marks.len() <= 12);
        }
        assert_eq!(board.samples.len(), SAMPLES);
        let samples = board.samples(2);
        assert_eq!(
            samples,
            json!([
                [86_398, 86_398_000_u64, 150.0, 0.0, 50.0, [[10, 3, 0]], 0],
                [86_399, 86_399_000_u64, 150.0, 0.0, 50.0, [[10, 3, 0]], 0],
            ])
        );
        assert_eq!(board.rate(|fault| fault == Fault::Load), Some(50.0));
        assert_eq!(
            board.samples(usize::MAX).as_array().map(Vec::len),
            Some(SAMPLES)
        );
    }

    /// As where the layer that counts is off: nobody knows, and nothing would be good news.
    #[test]
    fn while_no_call_is_counted_nothing_is_told_of_calls() {
        let (mut board, now) = (Board::default(), Instant::now());
        let mut second = |figures| {
            board.push(now, SystemTime::UNIX_EPOCH, Some(figures), Vec::new());
            (
                board.rate(|_| true),
                board.routes().is_some(),
                board.calls().is_some(),
            )
        };
        for _ in 0..2 {
            assert_eq!(second(Figures::default()), (None, false, false));
        }
        assert_eq!(second(figures(1)), (Some(0.0), true, true));
        assert_eq!(
            board.samples(2),
            json!([
                [1, 0, null, null, null, [], null],
                [2, 0, 0.0, 0.0, 0.0, [], 0]
            ])
        );
    }

    #[test]
    fn a_first_sample_has_no_rate_and_a_clock_that_stands_divides_nothing() {
        let (mut board, now) = (Board::default(), Instant::now());
        assert_eq!(board.rate(|_| true), None);
        board.push(now, SystemTime::UNIX_EPOCH, Some(figures(10)), Vec::new());
        assert_eq!(board.samples(1), json!([[0, 0, null, null, null, [], 0]]));
        board.push(now, SystemTime::UNIX_EPOCH, Some(figures(20)), Vec::new());
        assert_eq!(board.rate(|_| true), Some(0.0));
        // Without metrics: nothing that was known is told as if it were so still.
        board.push(now, SystemTime::UNIX_EPOCH, None, Vec::new());
        assert_eq!(board.rate(|_| true), None);
        assert!(board.figures().is_none() && board.routes().is_none());
        assert_eq!(
            board.samples(1),
            json!([[2, 0, null, null, null, [], null]])
        );
    }
}
