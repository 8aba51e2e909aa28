//! Every setting there is, once: its name, what it may be, what it is unless told otherwise, and whether it can be changed
//! while the program runs.

use tracing_subscriber::filter::Targets;

use super::value::Kind;
use crate::{preset::caller, server::rate_limit::TrustedProxies};

/// With this all names in the environment begin.
pub(crate) const PREFIX: &str = "PLIMSOLL_";

/// One setting.
pub(crate) struct Key {
    /// `section.name`, as in a file; in the environment `PLIMSOLL_SECTION_NAME`.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// As it would be written.
    pub(crate) default: &'static str,
    /// Whether a reload changes it.
    pub(crate) live: bool,
}

const fn fixed(name: &'static str, kind: Kind, default: &'static str) -> Key {
    Key {
        name,
        kind,
        default,
        live: false,
    }
}

const fn live(name: &'static str, kind: Kind, default: &'static str) -> Key {
    Key {
        name,
        kind,
        default,
        live: true,
    }
}

const LEVELS: Kind = Kind::Word(&["error", "warn", "info", "debug", "trace"]);
const SINK: Kind = Kind::MaybeText(|text| match text {
    "" => Err("`stdout`, `stderr`, the path of a file, or `none`".to_owned()),
    _ => Ok(()),
});
const PEERS: Kind = Kind::MaybeText(|text| match text.parse::<TrustedProxies>() {
    Ok(_) => Ok(()),
    Err(error) => Err(format!("networks, as in `10.0.0.0/8, ::1`: {error}")),
});
const FILTER: Kind = Kind::MaybeText(|text| {
    let expected = "a filter, as in `info,hyper=warn`";
    match text.parse::<Targets>() {
        // Nothing is a filter too, and lets errors through only: nobody means that.
        Ok(_) if text.is_empty() => Err(format!("{expected}, or `none`")),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{expected}: {error}")),
    }
});

/// All of them. Sections bear the names of layers.
pub(crate) static KEYS: &[Key] = &[
    fixed("log.enabled", Kind::Switch, "true"),
    fixed("log.to", SINK, "none"),
    live("log.filter", FILTER, "none"),
    fixed(
        "log.schema",
        Kind::Word(&["plain", "otel", "ecs", "gcp"]),
        "plain",
    ),
    fixed("log.queue", Kind::Size, "8 MiB"),
    fixed("telemetry.enabled", Kind::Switch, "true"),
    fixed("telemetry.otlp_endpoint", Kind::MaybeUrl, "none"),
    fixed(
        "telemetry.otlp_protocol",
        Kind::Word(&["auto", "grpc", "http"]),
        "auto",
    ),
    fixed("telemetry.interval", Kind::MaybeTime, "none"),
    fixed("request_id.enabled", Kind::Switch, "true"),
    fixed("request_id.trust", Kind::Word(&["keep", "replace"]), "keep"),
    fixed(
        "request_id.make",
        Kind::Word(&["uuid_v4", "uuid_v7"]),
        "uuid_v4",
    ),
    fixed("trace_context.enabled", Kind::Switch, "true"),
    fixed(
        "trace_context.trust",
        Kind::Word(&["join", "restart"]),
        "join",
    ),
    fixed(
        "trace_context.sampled_by_callers",
        Kind::MaybeCount(1),
        "none",
    ),
    fixed("access_log.enabled", Kind::Switch, "true"),
    fixed("access_log.rejections", LEVELS, "warn"),
    fixed("access_log.client_errors", LEVELS, "info"),
    fixed("access_log.sample_successes", Kind::Count(1), "1"),
    fixed("metrics.enabled", Kind::Switch, "true"),
    fixed("metrics.max_series", Kind::Within(1, 1_000_000), "1800"),
    fixed("timeout.enabled", Kind::Switch, "true"),
    live("timeout.head", Kind::MaybeTime, "30s"),
    live("timeout.total", Kind::MaybeTime, "none"),
    live("timeout.idle", Kind::MaybeTime, "none"),
    fixed("timeout.body_min_rate", Kind::MaybeSize, "500 B"),
    fixed("timeout.body_grace", Kind::Time, "20s"),
    fixed("timeout.deadline_from", PEERS, "none"),
    fixed("rate_limit.enabled", Kind::Switch, "true"),
    live("rate_limit.quotas", Kind::Quotas, "none"),
    fixed(
        "rate_limit.key",
        Kind::MaybeText(caller::understands),
        "none",
    ),
    fixed("rate_limit.trusted_proxies", PEERS, "none"),
    fixed(
        "rate_limit.max_keys",
        Kind::Within(1, 100_000_000),
        "100000",
    ),
    fixed(
        "rate_limit.headers",
        Kind::Word(&["draft10", "legacy", "both", "none"]),
        "draft10",
    ),
    live("rate_limit.dry_run", Kind::Switch, "false"),
    fixed("back_pressure.enabled", Kind::Switch, "true"),
    live("back_pressure.limit", Kind::Limit, "adaptive"),
    live("back_pressure.min", Kind::Count(1), "1"),
    live("back_pressure.max", Kind::Count(1), "1000000"),
    fixed("back_pressure.initial", Kind::Count(1), "16"),
    fixed("back_pressure.target", Kind::Ratio(1.05, 4.0), "1.5"),
    live("back_pressure.max_waiting", Kind::MaybeCount(0), "none"),
    live("back_pressure.max_wait", Kind::MaybeTime, "none"),
    fixed("back_pressure.max_streams", Kind::Count(0), "1024"),
    live("back_pressure.dry_run", Kind::Switch, "false"),
    fixed("back_pressure.priority_from", PEERS, "none"),
    fixed("body_limit.enabled", Kind::Switch, "true"),
    live("body_limit.max", Kind::Size, "2 MiB"),
    fixed("catch_panic.enabled", Kind::Switch, "true"),
    fixed("catch_panic.backtraces", Kind::Switch, "false"),
    fixed("serve.head_timeout", Kind::Time, "10s"),
    fixed("serve.idle_timeout", Kind::Time, "75s"),
    fixed("serve.write_stall", Kind::Time, "30s"),
    fixed("serve.max_connections", Kind::Count(1), "10000"),
    fixed("serve.max_connection_age", Kind::MaybeTime, "none"),
    fixed("serve.notice", Kind::MaybeTime, "5s"),
    fixed("serve.deadline", Kind::Time, "20s"),
    fixed("reload.enabled", Kind::Switch, "true"),
    fixed("reload.every", Kind::Time, "1s"),
];

/// The setting of this name.
pub(crate) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The section and the name in it.
pub(crate) fn parts(name: &str) -> (&str, &str) {
    name.split_once('.').unwrap_or((name, ""))
}

/// The settings of a section, or all sections if there is none of that name: what might have been meant.
pub(crate) fn known(section: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for key in KEYS {
        let (of, name) = parts(key.name);
        if of == section {
            names.push(name);
        }
    }
    if !names.is_empty() {
        return format!("[{section}] has {}", names.join(", "));
    }
    for key in KEYS {
        let (of, _) = parts(key.name);
        if names.last() != Some(&of) {
            names.push(of);
        }
    }
    format!("the sections are {}", names.join(", "))
}

/// The name of a setting in the environment.
pub(crate) fn variable(name: &str) -> String {
    let name = name.replace('.', "_");
    format!("{PREFIX}{}", name.to_ascii_uppercase())
}
