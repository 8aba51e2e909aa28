//! The examples of the README and the guide, compiled.

#[doc = include_str!("../README.md")]
struct Readme;
#[doc = include_str!("../docs/access-log.md")]
struct AccessLog;
#[doc = include_str!("../docs/adopt.md")]
struct Adopt;
#[doc = include_str!("../docs/back-pressure.md")]
struct BackPressure;
#[doc = include_str!("../docs/body-limit.md")]
struct BodyLimit;
#[doc = include_str!("../docs/catch-panic.md")]
struct CatchPanic;
#[doc = include_str!("../docs/configuration.md")]
struct Configuration;
#[doc = include_str!("../docs/health.md")]
struct Health;
#[doc = include_str!("../docs/kubernetes.md")]
struct Kubernetes;
#[doc = include_str!("../docs/load-shed.md")]
struct LoadShed;
#[doc = include_str!("../docs/log.md")]
struct Log;
#[doc = include_str!("../docs/metrics.md")]
struct Metrics;
#[doc = include_str!("../docs/migrate.md")]
struct Migrate;
#[doc = include_str!("../docs/ops.md")]
struct Ops;
#[doc = include_str!("../docs/preset.md")]
struct Preset;
#[doc = include_str!("../docs/propagate.md")]
struct Propagate;
#[doc = include_str!("../docs/rate-limit.md")]
struct RateLimit;
#[doc = include_str!("../docs/request-id.md")]
struct RequestId;
#[doc = include_str!("../docs/serve.md")]
struct Serve;
#[doc = include_str!("../docs/start-axum.md")]
struct StartAxum;
#[doc = include_str!("../docs/start-both.md")]
struct StartBoth;
#[doc = include_str!("../docs/start-tonic.md")]
struct StartTonic;
#[doc = include_str!("../docs/telemetry.md")]
struct Telemetry;
#[doc = include_str!("../docs/timeout.md")]
struct Timeout;
#[doc = include_str!("../docs/tracing.md")]
struct Tracing;
