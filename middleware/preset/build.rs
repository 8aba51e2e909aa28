//! From values to layers.

use std::num::NonZeroU32;

use tracing::Level;

use super::{caller, config::Values, reload::Reloads, stack::Layers};
use crate::{
    caller::{Key, TrustedProxies},
    limit::{Limit, LimitHandle},
    log::{self, Log, Schema},
    ops::health::Health,
    serve::{Connections, Drain},
    server::{
        access_log::{AccessLogLayer, Failures},
        back_pressure::BackPressureLayer,
        body_limit::BodyLimitLayer,
        catch_panic::CatchPanicLayer,
        metrics::MetricsLayer,
        rate_limit::{Quota, QuotaHeaders, RateLimitHandle, RateLimitLayer},
        request_id::{self, RequestIdLayer},
        timeout::TimeoutLayer,
        trace_context::{self, TraceContextLayer},
    },
    task::Deaths,
    telemetry::{self, Otlp, Telemetry},
};

/// So many series more than ours are kept by the exporters, so that ours are met first.
const MORE_SERIES: usize = 200;

/// What a program gives that no text can say, and what the layers tell of.
pub(super) struct Ingredients<'a> {
    pub(super) name: &'static str,
    pub(super) key: Option<Key>,
    pub(super) limit: Option<Limit>,
    pub(super) rpc_methods: Vec<String>,
    pub(super) metrics: Vec<Box<dyn FnOnce(MetricsLayer) -> MetricsLayer>>,
    pub(super) health: &'a Health,
    pub(super) connections: &'a Connections,
    pub(super) failures: &'a Failures,
    pub(super) reloads: &'a Reloads,
    pub(super) log: Option<&'a Log>,
    pub(super) telemetry: Option<&'a Telemetry>,
}

/// The layers, and what changes them.
pub(super) struct Built {
    pub(super) layers: Layers,
    pub(super) limit: LimitHandle,
    pub(super) rate_limit: Option<RateLimitHandle>,
}

pub(super) fn layers(values: &Values, mut given: Ingredients<'_>) -> Built {
    let limit = given.limit.take();
    let limit = limit.unwrap_or_else(|| limit_of(values).named(given.name));
    let handle = limit.handle();
    let rate_limit = rate_limit(values, given.key.take());
    let quotas = values.quotas("rate_limit.quotas").is_some();
    let limited = (quotas && values.switch("rate_limit.enabled")).then(|| rate_limit.handle());
    let traces = match given.telemetry {
        Some(telemetry) => TraceContextLayer::new(telemetry.tracer().clone()),
        None => TraceContextLayer::global(),
    };
    let inner = Inner {
        timeout: timeout(values),
        catch_panic: catch_panic(values),
        trace_context: trace_context(values, traces).rpc_methods(given.rpc_methods.clone()),
    };
    let access_log = access_log(values).recent(given.failures);
    let metrics = metrics(values, given, &inner, &handle, limited.as_ref());
    let back_pressure =
        BackPressureLayer::new(limit).enabled(values.switch("back_pressure.enabled"));
    let layers = Layers {
        request_id: request_id(values),
        trace_context: inner.trace_context,
        access_log,
        metrics,
        timeout: inner.timeout,
        rate_limit,
        back_pressure: match proxies(values, "back_pressure.priority_from") {
            Some(peers) => back_pressure.priority_from(peers),
            None => back_pressure,
        },
        body_limit: BodyLimitLayer::new(values.number("body_limit.max").unwrap_or(u64::MAX))
            .enabled(values.switch("body_limit.enabled")),
        catch_panic: inner.catch_panic,
    };
    Built {
        layers,
        limit: handle,
        rate_limit: limited,
    }
}

/// Layers that tell numbers of their own.
struct Inner {
    timeout: TimeoutLayer,
    catch_panic: CatchPanicLayer,
    trace_context: TraceContextLayer,
}

fn metrics(
    values: &Values,
    given: Ingredients<'_>,
    inner: &Inner,
    limit: &LimitHandle,
    rate_limit: Option<&RateLimitHandle>,
) -> MetricsLayer {
    let on = |name| values.switch(name);
    let mut metrics = match given.telemetry {
        Some(telemetry) => MetricsLayer::new(telemetry.meter()),
        None => MetricsLayer::global(),
    };
    metrics = metrics
        .enabled(on("metrics.enabled"))
        .rpc_methods(given.rpc_methods)
        .watch(given.health.clone())
        .watch(given.connections.clone())
        .watch(given.reloads.clone());
    if let Some(series) = values.count("metrics.max_series") {
        metrics = metrics.max_series(series);
    }
    if on("trace_context.enabled") {
        metrics = metrics.watch(inner.trace_context.clone());
    }
    if on("timeout.enabled") {
        metrics = metrics.watch(inner.timeout.clone());
    }
    if let Some(rate_limit) = rate_limit {
        metrics = metrics.watch(rate_limit.clone());
    }
    if on("back_pressure.enabled") {
        metrics = metrics.watch(limit.clone());
    }
    if on("catch_panic.enabled") {
        metrics = metrics.watch(inner.catch_panic.clone());
    }
    // These two are of the whole process, and told by the one who has its log.
    if let Some(log) = given.log {
        metrics = metrics.watch(log.writer().clone()).watch(Deaths);
    }
    given
        .metrics
        .into_iter()
        .fold(metrics, |metrics, add| add(metrics))
}

fn request_id(values: &Values) -> RequestIdLayer {
    let trust = match values.word("request_id.trust") {
        "replace" => request_id::Trust::Replace,
        _ => request_id::Trust::Keep,
    };
    let layer = RequestIdLayer::new()
        .trust(trust)
        .enabled(values.switch("request_id.enabled"));
    match values.word("request_id.make") {
        "uuid_v7" => layer.uuid_v7(),
        _ => layer,
    }
}

fn trace_context(values: &Values, layer: TraceContextLayer) -> TraceContextLayer {
    let trust = match values.word("trace_context.trust") {
        "restart" => trace_context::Trust::Restart,
        _ => trace_context::Trust::Join,
    };
    let layer = layer
        .trust(trust)
        .enabled(values.switch("trace_context.enabled"));
    match values.count32("trace_context.sampled_by_callers") {
        Some(most) => layer.sampled_by_callers(most),
        None => layer,
    }
}

fn access_log(values: &Values) -> AccessLogLayer {
    let layer = AccessLogLayer::new()
        .rejections_at(level(values.word("access_log.rejections")))
        .client_errors_at(level(values.word("access_log.client_errors")))
        .enabled(values.switch("access_log.enabled"));
    match values.count32("access_log.sample_successes") {
        Some(NonZeroU32::MIN) | None => layer,
        Some(one_in) => layer.sample_successes(one_in),
    }
}

fn level(word: &str) -> Level {
    word.parse().expect("the words are those of levels")
}

fn timeout(values: &Values) -> TimeoutLayer {
    let layer = TimeoutLayer::new()
        .head(values.time("timeout.head"))
        .total(values.time("timeout.total"))
        .idle(values.time("timeout.idle"))
        .enabled(values.switch("timeout.enabled"));
    let grace = values.time("timeout.body_grace").unwrap_or_default();
    let layer = match values.count32("timeout.body_min_rate") {
        Some(rate) if values.is_set("timeout.body_min_rate") => layer.min_rate(rate, grace),
        // The rate is the layer's own: not for gRPC, whose streams may be silent.
        Some(_) => layer.grace(grace),
        None => layer.no_min_rate(),
    };
    match proxies(values, "timeout.deadline_from") {
        Some(peers) => layer.deadline_from(peers),
        None => layer,
    }
}

/// Without quotas it is off, and as small as can be.
fn rate_limit(values: &Values, own: Option<Key>) -> RateLimitLayer {
    let proxies = proxies(values, "rate_limit.trusted_proxies").unwrap_or_default();
    let key = values.text("rate_limit.key");
    let key = key.map(|text| caller::read(text, &proxies).expect("it was understood before"));
    let Some(quotas) = values.quotas("rate_limit.quotas") else {
        let quota = Quota::per_second(1)
            .whole()
            .expect("one a second is a quota");
        let layer = RateLimitLayer::new(Key::everyone(), quota);
        return layer.max_keys(std::num::NonZeroUsize::MIN).enabled(false);
    };
    let key = key.or(own).expect("quotas without a key were refused");
    let headers = match values.word("rate_limit.headers") {
        "legacy" => QuotaHeaders::Legacy,
        "both" => QuotaHeaders::Both,
        "none" => QuotaHeaders::None,
        _ => QuotaHeaders::Draft10,
    };
    let mut layer = RateLimitLayer::new(key, quotas.clone())
        .headers(headers)
        .enabled(values.switch("rate_limit.enabled"));
    if let Some(keys) = values.count("rate_limit.max_keys") {
        layer = layer.max_keys(keys);
    }
    if values.switch("rate_limit.dry_run") {
        layer = layer.dry_run();
    }
    layer
}

fn limit_of(values: &Values) -> Limit {
    let count = |name| values.count(name);
    let mut limit = match count("back_pressure.limit") {
        Some(calls) => Limit::fixed(calls),
        None => Limit::adaptive(),
    };
    if let (Some(min), Some(max)) = (count("back_pressure.min"), count("back_pressure.max")) {
        limit = limit.between(min, max);
    }
    if let Some(calls) = count("back_pressure.initial") {
        limit = limit.initial(calls);
    }
    if let Some(times) = values.ratio("back_pressure.target") {
        limit = limit.target(times);
    }
    if let Some(calls) = values.number("back_pressure.max_waiting") {
        limit = limit.max_waiting(whole(calls));
    }
    if let Some(wait) = values.time("back_pressure.max_wait") {
        limit = limit.max_wait(wait);
    }
    if let Some(streams) = values.number("back_pressure.max_streams") {
        limit = limit.max_streams(whole(streams));
    }
    match values.switch("back_pressure.dry_run") {
        true => limit.dry_run(),
        false => limit,
    }
}

pub(super) fn whole(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn catch_panic(values: &Values) -> CatchPanicLayer {
    let layer = CatchPanicLayer::new().enabled(values.switch("catch_panic.enabled"));
    match values.switch("catch_panic.backtraces") {
        true => layer.backtraces(),
        false => layer,
    }
}

fn proxies(values: &Values, name: &'static str) -> Option<TrustedProxies> {
    let text = values.text(name)?;
    Some(text.parse().expect("it was understood before"))
}

/// What is set of the log; the rest is the program's.
pub(super) fn log(mut setup: log::Setup, values: &Values) -> log::Setup {
    setup = match values.text("log.to") {
        Some("stdout") => setup.to_stdout(),
        Some("stderr") => setup.to_stderr(),
        Some(path) => setup.to_file(path),
        None => setup,
    };
    if let Some(directives) = values.text("log.filter") {
        setup = setup.filter(directives);
    }
    if values.is_set("log.schema") {
        setup = setup.schema(match values.word("log.schema") {
            "otel" => Schema::Otel,
            "ecs" => Schema::Ecs,
            "gcp" => Schema::Gcp,
            _ => Schema::Plain,
        });
    }
    if let Some(bytes) = values
        .number("log.queue")
        .filter(|_| values.is_set("log.queue"))
    {
        setup = setup.max_queue_bytes(whole(bytes));
    }
    setup
}

/// What is set of the exporters; the rest is the program's.
pub(super) fn telemetry(mut setup: telemetry::Setup, values: &Values) -> telemetry::Setup {
    if let Some(url) = values.text("telemetry.otlp_endpoint") {
        setup = setup.otlp_endpoint(url);
    }
    setup = match values.word("telemetry.otlp_protocol") {
        "grpc" => setup.otlp_protocol(Otlp::Grpc),
        "http" => setup.otlp_protocol(Otlp::Http),
        _ => setup,
    };
    if let Some(interval) = values.time("telemetry.interval") {
        setup = setup.export_interval(interval);
    }
    match values
        .count("metrics.max_series")
        .filter(|_| values.is_set("metrics.max_series"))
    {
        Some(series) => setup.max_series(series.saturating_add(MORE_SERIES)),
        None => setup,
    }
}

/// How a server ends.
pub(super) fn drain(values: &Values) -> Drain {
    let time = |name| values.time(name).unwrap_or_default();
    Drain::new()
        .notice(time("serve.notice"))
        .deadline(time("serve.deadline"))
}
