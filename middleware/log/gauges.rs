use super::{Log, Writer, writer::Counts};
use crate::gauge::{Gauges, Kind, Metric, Reading};

const LINES: Metric = Metric::new(
    "plimsoll.log.lines",
    Kind::Counter,
    "{line}",
    "Log lines that the sink took.",
);
pub(crate) const DROPPED: Metric = Metric::new(
    "plimsoll.log.dropped",
    Kind::Counter,
    "{line}",
    "Log lines that were lost, by reason.",
);
pub(crate) const WRITE_ERRORS: Metric = Metric::new(
    "plimsoll.log.write_errors",
    Kind::Counter,
    "{error}",
    "Writes and flushes of the log that failed.",
);

/// `plimsoll.log.lines`, `plimsoll.log.dropped` and `plimsoll.log.write_errors`; `kind` is `access` or `event`.
impl Gauges for Writer {
    fn metrics(&self) -> &'static [Metric] {
        const { &[LINES, DROPPED, WRITE_ERRORS] }
    }

    fn read(&self, tell: &mut dyn FnMut(Reading<'_>)) {
        let stats = self.stats();
        for (kind, counts) in [("access", stats.access), ("event", stats.events)] {
            tell(Reading::new(&LINES, counts.written).with(&[("kind", kind)]));
            for (reason, count) in dropped(&counts) {
                tell(Reading::new(&DROPPED, count).with(&[("kind", kind), ("reason", reason)]));
            }
        }
        tell(Reading::new(&WRITE_ERRORS, stats.write_errors));
    }
}

/// As its [`Writer`].
impl Gauges for Log {
    fn metrics(&self) -> &'static [Metric] {
        self.writer().metrics()
    }

    fn read(&self, tell: &mut dyn FnMut(Reading<'_>)) {
        self.writer().read(tell);
    }
}

fn dropped(counts: &Counts) -> [(&'static str, u64); 4] {
    [
        ("queue_full", counts.queue_full),
        ("write_error", counts.write_error),
        ("sink_panic", counts.sink_panic),
        ("nested", counts.nested),
    ]
}
