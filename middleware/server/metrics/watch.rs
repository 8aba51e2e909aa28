//! Numbers of other layers, read when metrics are collected.

use std::{collections::BTreeMap, fmt, sync::Arc};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Gauge, Meter},
};

use crate::gauge::{Gauges, Kind, Metric, Reading};

/// A handle to be asked.
#[derive(Clone)]
pub(super) struct Handle(pub(super) Arc<dyn Gauges>);

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(&self.0.metrics()).finish()
    }
}

/// The handles, each with its instruments.
pub(super) struct Watched(Vec<Asked>);

struct Asked {
    handle: Handle,
    instruments: BTreeMap<&'static str, Instrument>,
}

enum Instrument {
    /// With what has been added for each set of attributes.
    Counter(Counter<u64>, BTreeMap<Vec<(&'static str, String)>, u64>),
    Gauge(Gauge<u64>),
}

impl Watched {
    /// Makes the instruments: it cannot be done while metrics are collected.
    pub(super) fn of(meter: &Meter, handles: &[Handle]) -> Self {
        let asked = handles.iter().map(|handle| Asked {
            handle: handle.clone(),
            instruments: handle
                .0
                .metrics()
                .iter()
                .map(|metric| (metric.name(), Instrument::of(meter, metric)))
                .collect(),
        });
        Self(asked.collect())
    }

    pub(super) fn read(&mut self) {
        for Asked {
            handle,
            instruments,
        } in &mut self.0
        {
            handle.0.read(&mut |reading| {
                // A handle that tells what it did not announce has no instrument for it.
                if let Some(instrument) = instruments.get_mut(reading.metric()) {
                    instrument.take(&reading);
                }
            });
        }
    }
}

impl Instrument {
    fn of(meter: &Meter, metric: &Metric) -> Self {
        let (unit, description) = (metric.unit(), metric.description());
        match metric.kind() {
            Kind::Counter => {
                let counter = meter.u64_counter(metric.name()).with_unit(unit);
                Self::Counter(
                    counter.with_description(description).build(),
                    BTreeMap::new(),
                )
            }
            Kind::Gauge => {
                let gauge = meter.u64_gauge(metric.name()).with_unit(unit);
                Self::Gauge(gauge.with_description(description).build())
            }
        }
    }

    fn take(&mut self, reading: &Reading<'_>) {
        let owned = reading
            .attributes()
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()));
        let attributes = || -> Vec<KeyValue> {
            owned
                .clone()
                .map(|(name, value)| KeyValue::new(name, value))
                .collect()
        };
        match self {
            Self::Counter(counter, added) => {
                let before = added.entry(owned.clone().collect()).or_default();
                counter.add(reading.value().saturating_sub(*before), &attributes());
                *before = reading.value();
            }
            Self::Gauge(gauge) => gauge.record(reading.value(), &attributes()),
        }
    }
}
