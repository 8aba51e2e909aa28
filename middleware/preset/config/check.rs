//! Settings that are each right and contradict each other.

use super::{ConfigError, Value, Values};
use crate::preset::caller;

/// What the program gives as values of its own, and no text can say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Program {
    /// The limit.
    pub(crate) limit: bool,
    /// What tells callers apart.
    pub(crate) key: bool,
}

/// Settings that shape a limit.
const OF_LIMIT: [&str; 9] = [
    "back_pressure.limit",
    "back_pressure.min",
    "back_pressure.max",
    "back_pressure.initial",
    "back_pressure.target",
    "back_pressure.max_waiting",
    "back_pressure.max_wait",
    "back_pressure.max_streams",
    "back_pressure.dry_run",
];
/// Settings of a limit that finds itself.
const ADAPTIVE: [&str; 4] = [
    "back_pressure.min",
    "back_pressure.max",
    "back_pressure.initial",
    "back_pressure.target",
];

type Check = fn(&Values, Program) -> Result<(), ConfigError>;

pub(super) fn check(values: &Values, program: Program) -> Result<(), ConfigError> {
    let checks: [Check; 5] = [times, rate_limit, limit, waiting, bodies];
    checks.iter().try_for_each(|check| check(values, program))
}

/// An error at the one of these that somebody set, the first if both.
fn between(values: &Values, one: &'static str, other: &'static str, problem: &str) -> ConfigError {
    let (at, than) = match values.is_set(one) {
        true => (one, other),
        false => (other, one),
    };
    let (value, than_value) = (values.shown(at), values.shown(than));
    let origin = &values.entry(than).1;
    let problem = format!("{value} {problem} `{than}`, {than_value} ({origin})");
    ConfigError::new(at, &values.entry(at).1, problem)
}

fn alone(values: &Values, name: &'static str, problem: &str) -> ConfigError {
    ConfigError::new(name, &values.entry(name).1, problem)
}

fn times(values: &Values, _: Program) -> Result<(), ConfigError> {
    let longer = |one, other| match (values.time(one), values.time(other)) {
        (Some(time), Some(most)) => time > most,
        _ => false,
    };
    // The default of the time to the head gives way to a shorter total.
    for (part, whole) in [
        ("timeout.head", "timeout.total"),
        ("timeout.idle", "timeout.total"),
    ] {
        if values.is_set(part) && longer(part, whole) {
            let problem = "contradicts the whole call's";
            return Err(between(values, part, whole, problem));
        }
    }
    if values.is_set("timeout.body_grace") && values.number("timeout.body_min_rate").is_none() {
        let problem = "there is no `timeout.body_min_rate` that it could be a grace of";
        return Err(alone(values, "timeout.body_grace", problem));
    }
    Ok(())
}

fn rate_limit(values: &Values, program: Program) -> Result<(), ConfigError> {
    let quotas = values.quotas("rate_limit.quotas").is_some();
    let key = values.text("rate_limit.key");
    let error = |name, problem| Err(alone(values, name, problem));
    let wanted = values.is_set("rate_limit.enabled") && values.switch("rate_limit.enabled");
    if wanted && !quotas {
        return error("rate_limit.enabled", "there are no `rate_limit.quotas`");
    }
    if quotas && key.is_none() && !program.key {
        let problem = "there is no `rate_limit.key` that tells callers apart";
        return error("rate_limit.quotas", problem);
    }
    if key.is_some() && program.key {
        return error("rate_limit.key", "the program gives a key of its own");
    }
    if key.is_some() && !quotas {
        return error("rate_limit.key", "there are no `rate_limit.quotas`");
    }
    let behind_proxies = key.is_some_and(caller::needs_proxies);
    let proxies = values.text("rate_limit.trusted_proxies").is_some();
    if behind_proxies && !proxies {
        let problem =
            "the caller behind proxies is known only where `rate_limit.trusted_proxies` names them";
        return error("rate_limit.key", problem);
    }
    if proxies && !behind_proxies {
        let problem = "nothing asks for it: that does the `rate_limit.key` `client`";
        return error("rate_limit.trusted_proxies", problem);
    }
    Ok(())
}

fn limit(values: &Values, program: Program) -> Result<(), ConfigError> {
    if program.limit
        && let Some(name) = OF_LIMIT.iter().find(|name| values.is_set(name))
    {
        return Err(alone(values, name, "the program gives a limit of its own"));
    }
    let fixed = matches!(values.get("back_pressure.limit"), Value::Count(_));
    if fixed && let Some(name) = ADAPTIVE.iter().find(|name| values.is_set(name)) {
        return Err(between(
            values,
            name,
            "back_pressure.limit",
            "is of an adaptive limit, and contradicts",
        ));
    }
    let number = |name| values.number(name).unwrap_or_default();
    let (min, max) = (number("back_pressure.min"), number("back_pressure.max"));
    if min > max {
        let problem = "is more than";
        return Err(between(
            values,
            "back_pressure.min",
            "back_pressure.max",
            problem,
        ));
    }
    let initial = number("back_pressure.initial");
    if values.is_set("back_pressure.initial") {
        for (bound, outside, problem) in [
            ("back_pressure.min", initial < min, "is less than"),
            ("back_pressure.max", initial > max, "is more than"),
        ] {
            if outside {
                return Err(between(values, "back_pressure.initial", bound, problem));
            }
        }
    }
    Ok(())
}

fn waiting(values: &Values, _: Program) -> Result<(), ConfigError> {
    let Some(wait) = values.time("back_pressure.max_wait") else {
        return Ok(());
    };
    if values.number("back_pressure.max_waiting") == Some(0) {
        let problem = "says how long calls wait, and nobody may by";
        let (one, other) = ("back_pressure.max_wait", "back_pressure.max_waiting");
        return Err(between(values, one, other, problem));
    }
    if !values.switch("back_pressure.enabled") {
        let problem = "says how long calls wait for a limit, and there is none by";
        let (one, other) = ("back_pressure.max_wait", "back_pressure.enabled");
        return Err(between(values, one, other, problem));
    }
    if values.switch("timeout.enabled") {
        for whole in ["timeout.head", "timeout.total"] {
            if values.time(whole).is_some_and(|time| wait >= time) {
                let problem = "is no less than the time that a call has, with its waiting, by";
                return Err(between(values, "back_pressure.max_wait", whole, problem));
            }
        }
    }
    Ok(())
}

fn bodies(values: &Values, _: Program) -> Result<(), ConfigError> {
    let most = u64::from(u32::MAX);
    let name = "timeout.body_min_rate";
    match values.number(name) {
        Some(rate) if rate > most => Err(alone(values, name, "is more than 4 GiB a second")),
        _ => Ok(()),
    }
}
