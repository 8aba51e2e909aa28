//! The file is read again, and what it says now holds.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{
    build::whole,
    config::{ConfigError, Key, Values},
    stack::{Logged, Parts},
};
use crate::{
    context,
    gauge::{Gauges, Kind, Metric, Reading},
    ops::change,
};

pub(super) const TARGET: &str = "plimsoll::preset";

const RELOADS: Metric = Metric::new(
    "plimsoll.config.reloads",
    Kind::Counter,
    "{reload}",
    "How often the configuration was read again, by result.",
);

/// What came of reading a file again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reloaded {
    /// The settings that hold from now on.
    pub changed: Vec<&'static str>,
    /// Those that are different in the file and hold only after a restart.
    pub needs_restart: Vec<&'static str>,
}

/// How often a file was read again. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Reloads {
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    applied: AtomicU64,
    rejected: AtomicU64,
}

impl Reloads {
    /// It was taken, whether or not it said something new.
    pub fn applied(&self) -> u64 {
        self.counts.applied.load(Ordering::Relaxed)
    }

    /// It was wrong, or could not be read, and nothing was changed.
    pub fn rejected(&self) -> u64 {
        self.counts.rejected.load(Ordering::Relaxed)
    }
}

/// `plimsoll.config.reloads` with `result` = `applied`, `rejected`.
impl Gauges for Reloads {
    fn metrics(&self) -> &'static [Metric] {
        const { &[RELOADS] }
    }

    fn read(&self, tell: &mut dyn FnMut(Reading<'_>)) {
        for (result, count) in [("applied", self.applied()), ("rejected", self.rejected())] {
            tell(Reading::new(&RELOADS, count).with(&[("result", result)]));
        }
    }
}

impl Parts {
    /// Takes what the file says, or nothing of it. For whoever has its turn.
    pub(super) fn take(
        &self,
        file: Result<Option<String>, ConfigError>,
    ) -> Result<Reloaded, ConfigError> {
        let sources = &self.watched.sources;
        let told = file.and_then(|file| sources.values(file.as_deref(), self.program));
        match told {
            Ok(told) => {
                let reloaded = self.change(&told);
                self.reloads.counts.applied.fetch_add(1, Ordering::Relaxed);
                Ok(reloaded)
            }
            Err(error) => {
                self.reloads.counts.rejected.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    target: TARGET,
                    event = "config_rejected",
                    stack = self.name,
                    key = error.key(),
                    error = context::chain(&error),
                    "the configuration is wrong; nothing was changed"
                );
                Err(error)
            }
        }
    }

    fn change(&self, told: &Values) -> Reloaded {
        let mut values = self.values();
        let mut reloaded = Reloaded {
            changed: Vec::new(),
            needs_restart: Vec::new(),
        };
        values.adopt_origins(told);
        let changes = values.changes(told).filter(|key| self.has(key));
        let changes: Vec<&'static Key> = changes.collect();
        // What waits for a restart may be what makes the rest right: then all of it waits.
        let mut next = values.clone();
        for key in changes.iter().filter(|key| self.is_applicable(key, told)) {
            next.adopt(key, told);
        }
        let agree = next.check(self.program).is_ok();
        for key in &changes {
            if agree && self.is_applicable(key, told) {
                let (from, to) = (self.held(&values, key.name), told.shown(key.name));
                change::tell("file", key.name, &from, &to);
                values.adopt(key, told);
                reloaded.changed.push(key.name);
            } else {
                tracing::warn!(
                    target: TARGET,
                    event = "setting_needs_restart",
                    stack = self.name,
                    setting = key.name,
                    now = self.held(&values, key.name),
                    wanted = %told.shown(key.name),
                    "the setting holds after a restart"
                );
                reloaded.needs_restart.push(key.name);
            }
        }
        for name in &reloaded.changed {
            self.apply(name, &values);
        }
        reloaded
    }

    /// Whether this setting is of a part that this stack has: another one may have the log, or the exporters.
    fn has(&self, key: &Key) -> bool {
        match key.name.split_once('.') {
            Some(("log", _)) => self.log.is_some(),
            Some(("telemetry", _)) => self.telemetry.is_some(),
            _ => true,
        }
    }

    /// Whether a change of this setting can be made while calls run.
    fn is_applicable(&self, key: &Key, told: &Values) -> bool {
        match key.name {
            // One that was made fixed finds nothing.
            "back_pressure.limit" => told.number(key.name).is_some() || self.limit.can_adapt(),
            "back_pressure.min" | "back_pressure.max" => self.limit.can_adapt(),
            // Without quotas, or switched off, nobody is counted.
            "rate_limit.dry_run" => self.rate_limit.is_some(),
            // The table of callers was made for so many quotas, or not at all.
            "rate_limit.quotas" => {
                let many = |values: &Values| {
                    let quotas = values.quotas(key.name)?;
                    Some(quotas.as_slice().len())
                };
                let (Some(handle), Some(wanted)) = (&self.rate_limit, many(told)) else {
                    return false;
                };
                wanted <= handle.most_quotas()
            }
            _ => key.live,
        }
    }

    fn apply(&self, name: &str, values: &Values) {
        let layers = &self.layers;
        match name {
            "log.filter" => {
                if let Some(Logged { log, own_filter }) = &self.log {
                    let wanted = values.text("log.filter").or(own_filter.as_deref());
                    let set = log.set_filter(wanted);
                    set.unwrap_or_else(|error| {
                        tracing::error!(target: TARGET, event = "config_rejected", error = %error, "the filter stays")
                    });
                }
            }
            "timeout.head" => layers.timeout.set_head(values.time("timeout.head")),
            "timeout.total" => layers.timeout.set_total(values.time("timeout.total")),
            "timeout.idle" => layers.timeout.set_idle(values.time("timeout.idle")),
            "rate_limit.quotas" => {
                if let (Some(handle), Some(quotas)) =
                    (&self.rate_limit, values.quotas("rate_limit.quotas"))
                {
                    let set = handle.set_quotas(handle.policy(), quotas.clone());
                    set.expect("there is room for so many, and no route weighs anything");
                }
            }
            "rate_limit.dry_run" => {
                if let Some(handle) = &self.rate_limit {
                    handle.set_dry_run(values.switch("rate_limit.dry_run"));
                }
            }
            "back_pressure.limit" => match values.count("back_pressure.limit") {
                Some(calls) => self.limit.hold(calls),
                None => {
                    let adapts = self.limit.adapt();
                    debug_assert!(adapts, "one that cannot is not asked to");
                }
            },
            "back_pressure.min" | "back_pressure.max" => {
                let bounds = values.count("back_pressure.min");
                if let Some((min, max)) = bounds.zip(values.count("back_pressure.max")) {
                    self.limit.set_between(min, max);
                }
            }
            "back_pressure.max_waiting" | "back_pressure.max_wait" => self.limit.set_waiting(
                values.number("back_pressure.max_waiting").map(whole),
                values.time("back_pressure.max_wait"),
            ),
            "back_pressure.dry_run" => {
                self.limit
                    .set_dry_run(values.switch("back_pressure.dry_run"));
            }
            "body_limit.max" => {
                let bytes = values.number("body_limit.max").unwrap_or(u64::MAX);
                layers.body_limit.set_max_bytes(bytes);
            }
            _ => unreachable!("only settings that are live are applied"),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::preset::config::KEYS;

    /// In one schedule, for the table of callers has a scheduler's locks in tests of the library.
    #[test]
    fn every_setting_that_is_live_can_be_applied() {
        shuttle::check_random(apply_all, 1);
    }

    fn apply_all() {
        let set = [
            ("PLIMSOLL_RATE_LIMIT_QUOTAS", "1/s"),
            ("PLIMSOLL_RATE_LIMIT_KEY", "everyone"),
        ];
        let stack = crate::preset::server("shop").variables(set).build();
        let stack = stack.expect("nothing is wrong with it");
        let values = stack.parts.values().clone();
        let live = KEYS.iter().filter(|key| key.live);
        let applied = live.map(|key| stack.parts.apply(key.name, &values));
        assert!(applied.count() > 10);
    }
}
