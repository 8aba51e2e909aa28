//! A stack in words, for whoever runs it.

use std::time::Duration;

use super::{
    config::{Value, Values},
    stack::Parts,
};

/// What is told of a layer: its settings, and what they are called there.
type Told = &'static [(&'static str, &'static str)];

/// One layer of the stack.
pub(super) struct Described {
    pub(super) name: &'static str,
    how: How,
}

enum How {
    /// Its settings say all: the switch, and those that are told.
    Settings(&'static str, Told),
    Quotas,
    InFlight,
}

const fn settings(name: &'static str, switch: &'static str, told: Told) -> Described {
    let how = How::Settings(switch, told);
    Described { name, how }
}

/// All of them, outermost first.
pub(super) static LAYERS: [Described; 9] = [
    settings(
        "request_id",
        "request_id.enabled",
        &[("trust", "request_id.trust"), ("make", "request_id.make")],
    ),
    settings(
        "trace_context",
        "trace_context.enabled",
        &[
            ("trust", "trace_context.trust"),
            ("sampled by callers", "trace_context.sampled_by_callers"),
        ],
    ),
    settings(
        "access_log",
        "access_log.enabled",
        &[
            ("rejections", "access_log.rejections"),
            ("client errors", "access_log.client_errors"),
            ("one in", "access_log.sample_successes"),
        ],
    ),
    settings(
        "metrics",
        "metrics.enabled",
        &[("max series", "metrics.max_series")],
    ),
    settings(
        "timeout",
        "timeout.enabled",
        &[
            ("head", "timeout.head"),
            ("total", "timeout.total"),
            ("idle", "timeout.idle"),
            ("body at least", "timeout.body_min_rate"),
            ("after", "timeout.body_grace"),
        ],
    ),
    Described {
        name: "rate_limit",
        how: How::Quotas,
    },
    Described {
        name: "back_pressure",
        how: How::InFlight,
    },
    settings(
        "body_limit",
        "body_limit.enabled",
        &[("max", "body_limit.max")],
    ),
    settings(
        "catch_panic",
        "catch_panic.enabled",
        &[("backtraces", "catch_panic.backtraces")],
    ),
];

impl Parts {
    /// How a layer stands: `on: ..` with what limits it, or `off`.
    pub(super) fn state(&self, layer: &Described) -> String {
        match layer.how {
            How::Settings(switch, told) => self.settings(switch, told),
            How::Quotas => self.quotas(),
            How::InFlight => self.in_flight(),
        }
    }

    fn settings(&self, switch: &'static str, told: Told) -> String {
        let values = self.values();
        if !values.switch(switch) {
            return "off".to_owned();
        }
        let settings = told
            .iter()
            .map(|(what, name)| format!("{what} {}", self.held(&values, name)));
        let settings: Vec<String> = settings.collect();
        format!("on: {}", settings.join(", "))
    }

    /// A setting as it holds: the program or an operator may have changed it by a handle.
    pub(super) fn held(&self, values: &Values, name: &'static str) -> String {
        let (timeout, body_limit) = (&self.layers.timeout, &self.layers.body_limit);
        let (limit, rate_limit) = (&self.limit, &self.rate_limit);
        let time = |time: Option<Duration>| time.map_or(Value::None, Value::Time);
        let count = |calls: usize| Value::Count(u64::try_from(calls).unwrap_or(u64::MAX));
        let value = match (name, rate_limit, limit.between()) {
            ("log.filter", ..) => match &self.log {
                Some(logged) => return logged.log.filter(),
                None => return values.shown(name).to_string(),
            },
            ("timeout.head", ..) => time(timeout.current_head()),
            ("timeout.total", ..) => time(timeout.current_total()),
            ("timeout.idle", ..) => time(timeout.current_idle()),
            ("rate_limit.quotas", Some(handle), _) => match handle.quotas(handle.policy()) {
                Some(quotas) => Value::Quotas(quotas),
                None => Value::None,
            },
            ("rate_limit.dry_run", Some(handle), _) => Value::Switch(handle.is_dry_run()),
            ("back_pressure.limit", ..) if limit.is_adaptive() => Value::Word("adaptive"),
            ("back_pressure.limit", ..) => count(limit.limit()),
            ("back_pressure.min", _, Some((min, _))) => count(min),
            ("back_pressure.max", _, Some((_, max))) => count(max),
            ("back_pressure.max_waiting", ..) => limit.max_waiting().map_or(Value::None, count),
            ("back_pressure.max_wait", ..) => time(limit.max_wait()),
            ("back_pressure.dry_run", ..) => Value::Switch(limit.is_dry_run()),
            ("body_limit.max", ..) => Value::Size(body_limit.max_bytes()),
            _ => return values.shown(name).to_string(),
        };
        value.to_string()
    }

    fn quotas(&self) -> String {
        let Some(handle) = &self.rate_limit else {
            let has_quotas = self.values().quotas("rate_limit.quotas").is_some();
            return match has_quotas {
                true => "off".to_owned(),
                false => "off: no quotas".to_owned(),
            };
        };
        let values = self.values();
        let key = match self.program.key {
            true => "a key of the program".to_owned(),
            false => values.shown("rate_limit.key").to_string(),
        };
        let quotas = handle.quotas(handle.policy());
        let quotas = quotas.map_or_else(String::new, |quotas| quotas.to_string());
        let dry = dry(handle.is_dry_run());
        format!("on: {quotas} by {key}{dry}")
    }

    fn in_flight(&self) -> String {
        let values = self.values();
        if !values.switch("back_pressure.enabled") {
            return "off".to_owned();
        }
        let handle = &self.limit;
        let kind = if self.program.limit {
            "of the program".to_owned()
        } else if handle.is_adaptive() {
            let (min, max) = ("back_pressure.min", "back_pressure.max");
            let held = |name| self.held(&values, name);
            format!("adaptive, {} to {}", held(min), held(max))
        } else if handle.can_adapt() {
            "held".to_owned()
        } else {
            "fixed".to_owned()
        };
        let waiting = match self.program.limit {
            true => String::new(),
            false => format!(
                ", may wait: {} calls, {}",
                found_out(self.held(&values, "back_pressure.max_waiting")),
                found_out(self.held(&values, "back_pressure.max_wait")),
            ),
        };
        format!(
            "on: limit {} ({kind}), {} in flight, {} waiting{waiting}{}",
            handle.limit(),
            handle.in_flight(),
            handle.waiting(),
            dry(handle.is_dry_run()),
        )
    }
}

fn dry(dry_run: bool) -> &'static str {
    if dry_run { ", dry run" } else { "" }
}

/// What is not set is found out.
fn found_out(shown: String) -> String {
    if shown == "none" {
        "as is found out".to_owned()
    } else {
        shown
    }
}
