//! What a layer's handle tells when it is asked: its limit, how much is in flight, how often it did what.
//!
//! A layer that keeps such numbers implements [`Gauges`] for its handle and knows nothing of metrics; `metrics` and a
//! status page ask the handles they were given. Nothing is told between two questions, so that being watched costs a
//! call nothing.
//!
//! ```
//! use plimsoll::gauge::{Gauges, Kind, Metric, Reading};
//!
//! struct Beans(u64);
//!
//! const BEANS: Metric = Metric::new("shop.beans", Kind::Gauge, "g", "Beans in the hopper.");
//!
//! impl Gauges for Beans {
//!     fn metrics(&self) -> &'static [Metric] {
//!         const { &[BEANS] }
//!     }
//!
//!     fn read(&self, tell: &mut dyn FnMut(Reading<'_>)) {
//!         tell(Reading::new(&BEANS, self.0).with(&[("kind", "arabica")]));
//!     }
//! }
//! ```

/// A handle that can be asked for its numbers.
pub trait Gauges: Send + Sync {
    /// What it can tell: the same as long as it lives.
    fn metrics(&self) -> &'static [Metric];

    /// Tells all values as they are now. It must not block: it is asked while metrics are collected.
    fn read(&self, tell: &mut dyn FnMut(Reading<'_>));
}

/// One metric: its name in OpenTelemetry's manner and what its values mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    description: &'static str,
}

/// How values of a metric follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// It only grows, as long as the handle lives.
    Counter,
    /// It goes up and down.
    Gauge,
}

impl Metric {
    /// A metric with its unit (UCUM, such as `s`, `By` or `{call}`) and one sentence.
    pub const fn new(
        name: &'static str,
        kind: Kind,
        unit: &'static str,
        description: &'static str,
    ) -> Self {
        Self {
            name,
            kind,
            unit,
            description,
        }
    }

    /// The name, such as `plimsoll.panics`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// How its values follow one another.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The unit, by UCUM.
    pub fn unit(&self) -> &'static str {
        self.unit
    }

    /// What it means.
    pub fn description(&self) -> &'static str {
        self.description
    }
}

/// One value of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading<'a> {
    metric: &'static str,
    value: u64,
    attributes: &'a [(&'static str, &'a str)],
}

impl<'a> Reading<'a> {
    /// A value without attributes.
    pub fn new(metric: &Metric, value: u64) -> Self {
        Self {
            metric: metric.name,
            value,
            attributes: &[],
        }
    }

    /// With these attributes. Their values come from closed sets or from the program's own settings, never from a caller.
    #[must_use]
    pub fn with(self, attributes: &'a [(&'static str, &'a str)]) -> Self {
        Self { attributes, ..self }
    }

    /// The name of the metric.
    pub fn metric(&self) -> &'static str {
        self.metric
    }

    /// The value.
    pub fn value(&self) -> u64 {
        self.value
    }

    /// The attributes.
    pub fn attributes(&self) -> &'a [(&'static str, &'a str)] {
        self.attributes
    }
}
