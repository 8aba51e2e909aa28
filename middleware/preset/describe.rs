//! A stack in words, for whoever runs it.

use super::stack::Parts;

/// What is told of a layer: its settings, and what they are called there.
type Told = &'static [(&'static str, &'static str)];

/// The layers whose settings say all, outermost first, with those in between left out.
const BEFORE: &[(&str, &str, Told)] = &[
    (
        "request_id",
        "request_id.enabled",
        &[("trust", "request_id.trust"), ("make", "request_id.make")],
    ),
    (
        "trace_context",
        "trace_context.enabled",
        &[
            ("trust", "trace_context.trust"),
            ("sampled by callers", "trace_context.sampled_by_callers"),
        ],
    ),
    (
        "access_log",
        "access_log.enabled",
        &[
            ("rejections", "access_log.rejections"),
            ("client errors", "access_log.client_errors"),
            ("one in", "access_log.sample_successes"),
        ],
    ),
    (
        "metrics",
        "metrics.enabled",
        &[("max series", "metrics.max_series")],
    ),
    (
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
];
const AFTER: &[(&str, &str, Told)] = &[
    (
        "body_limit",
        "body_limit.enabled",
        &[("max", "body_limit.max")],
    ),
    (
        "catch_panic",
        "catch_panic.enabled",
        &[("backtraces", "catch_panic.backtraces")],
    ),
];

impl Parts {
    pub(super) fn describe(&self) -> Vec<(&'static str, String)> {
        let mut all: Vec<_> = BEFORE.iter().map(|layer| self.settings(layer)).collect();
        all.push(("rate_limit", self.quotas()));
        all.push(("back_pressure", self.in_flight()));
        all.extend(AFTER.iter().map(|layer| self.settings(layer)));
        all
    }

    fn settings(
        &self,
        &(layer, switch, told): &(&'static str, &'static str, Told),
    ) -> (&'static str, String) {
        let values = self.values();
        if !values.switch(switch) {
            return (layer, "off".to_owned());
        }
        let settings = told
            .iter()
            .map(|(what, name)| format!("{what} {}", values.shown(name)));
        let settings: Vec<String> = settings.collect();
        (layer, format!("on: {}", settings.join(", ")))
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
        let kind = match (self.program.limit, values.word("back_pressure.limit")) {
            (true, _) => "of the program".to_owned(),
            (false, "adaptive") => {
                let (min, max) = ("back_pressure.min", "back_pressure.max");
                format!("adaptive, {} to {}", values.shown(min), values.shown(max))
            }
            (false, _) => "fixed".to_owned(),
        };
        let waiting = match self.program.limit {
            true => String::new(),
            false => format!(
                ", may wait: {} calls, {}",
                found_out(values.shown("back_pressure.max_waiting").to_string()),
                found_out(values.shown("back_pressure.max_wait").to_string()),
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
