//! One series of calls, resolved once: held instruments and the samples that wait for them.

use std::sync::{Arc, OnceLock};

use opentelemetry::metrics::{BoundCounter, BoundHistogram};

use super::{
    instruments::{Instruments, Names},
    labels::{Labels, Wire},
    objective::Objective,
};

/// How many samples wait in a place of their own before they go to the instrument together. A batch takes the
/// instrument's lock once in so many calls; more would only make the pause longer.
pub(super) const BATCH: usize = 32;

/// What is measured of one call, in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) duration: f64,
    /// Negative if there was no head.
    pub(super) head: f64,
}

/// The instruments of one set of labels.
pub(super) struct Series {
    labels: Labels,
    names: Names,
    duration: BoundHistogram<f64>,
    /// Bound when there is something to record, since a bound instrument shows itself at once.
    head: OnceLock<BoundHistogram<f64>>,
    ended: BoundCounter<u64>,
    objectives: Vec<Held>,
}

/// An objective's counters.
struct Held {
    limit: Option<f64>,
    events: BoundCounter<u64>,
    good: BoundCounter<u64>,
}

impl Series {
    pub(super) fn new(
        labels: Labels,
        names: Names,
        instruments: &Instruments,
        objectives: &[Objective],
    ) -> Self {
        let covering = objectives
            .iter()
            .filter(|objective| objective.covers(&labels, &names));
        let objectives = covering
            .map(|objective| Held {
                limit: objective.limit(&labels),
                events: instruments.slo_events.bind(&objective.attributes()),
                good: instruments.slo_good.bind(&objective.attributes()),
            })
            .collect();
        Self {
            duration: instruments
                .duration(labels.asked.wire)
                .bind(&names.of_duration(&labels)),
            head: OnceLock::new(),
            ended: instruments.ended.bind(&names.of_count(&labels)),
            objectives,
            names,
            labels,
        }
    }

    pub(super) fn wire(&self) -> Wire {
        self.labels.asked.wire
    }

    pub(super) fn is_overflow(&self) -> bool {
        self.labels.is_overflow()
    }

    /// Hands samples to the instruments.
    pub(super) fn record(&self, samples: &[Sample], instruments: &Instruments) {
        for sample in samples {
            self.duration.record(sample.duration);
            if sample.head >= 0.0 {
                let head = self.head.get_or_init(|| {
                    let attributes = self.names.of_head(&self.labels);
                    instruments.time_to_head.bind(&attributes)
                });
                head.record(sample.head);
            }
        }
        for objective in &self.objectives {
            let all = u64::try_from(samples.len()).unwrap_or(u64::MAX);
            objective.events.add(all);
            let good = objective.limit.map_or(0, |limit| {
                let good = samples.iter().filter(|sample| sample.duration <= limit);
                u64::try_from(good.count()).unwrap_or(u64::MAX)
            });
            objective.good.add(good);
        }
    }

    /// Counts calls that ended.
    pub(super) fn count(&self, calls: u64) {
        self.ended.add(calls);
    }
}

/// What one thread's calls added to a series and has not been handed on.
pub(super) struct Tally {
    pub(super) series: Arc<Series>,
    pub(super) samples: Vec<Sample>,
    pub(super) ended: u64,
}

impl Tally {
    pub(super) fn of(series: Arc<Series>) -> Self {
        Self {
            series,
            samples: Vec::new(),
            ended: 0,
        }
    }

    #[inline]
    pub(super) fn add(&mut self, sample: Sample, instruments: &Instruments) {
        self.ended = self.ended.saturating_add(1);
        self.samples.push(sample);
        if self.samples.len() >= BATCH {
            self.series.record(&self.samples, instruments);
            self.samples.clear();
        }
    }
}
