use std::{env, error::Error, fmt, io, sync::Arc, time::Duration};

use opentelemetry::{
    InstrumentationScope, KeyValue, global, metrics::MeterProvider, trace::TracerProvider,
};
use opentelemetry_otlp::{ExporterBuildError, MetricExporter, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    metrics::{Aggregation, Instrument, InstrumentKind, PeriodicReader, SdkMeterProvider, Stream},
    trace::{SdkTracerProvider, SpanExporter as _},
};

use super::{
    Telemetry,
    counts::Counts,
    metrics::Counted,
    prometheus::Reader,
    spans::{Limits, SpanQueue},
};
use crate::server::metrics::DURATION_BOUNDARIES;

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
const DISABLED: &str = "OTEL_SDK_DISABLED";

/// The most series of one metric: the SDK's own default.
const MAX_SERIES: usize = 2_000;

/// What an exporter over OTLP speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Otlp {
    /// gRPC, commonly on port 4317. Needs a tokio runtime that runs until the shutdown.
    Grpc,
    /// Protocol Buffers over HTTP/1.1, commonly on port 4318.
    Http,
}

/// The two kinds of what is exported, with their own variables.
#[derive(Clone, Copy)]
enum Signal {
    Traces,
    Metrics,
}

/// Sets up the export of metrics and traces.
///
/// What is not set here comes from the standard `OTEL_*` variables; `docs/telemetry.md` lists them. Metrics can always be
/// scraped; over OTLP both are exported if an endpoint is set, here or by `OTEL_EXPORTER_OTLP_ENDPOINT`.
#[derive(Clone)]
#[must_use = "nothing is exported until `init`"]
pub struct Setup {
    resource: Vec<KeyValue>,
    endpoint: Option<String>,
    protocol: Option<Otlp>,
    max_series: usize,
    interval: Option<Duration>,
}

impl Setup {
    /// As the environment says.
    pub fn new() -> Self {
        Self {
            resource: Vec::new(),
            endpoint: None,
            protocol: None,
            max_series: MAX_SERIES,
            interval: None,
        }
    }

    /// The service's name. Default: `OTEL_SERVICE_NAME`, else `service.name` of `OTEL_RESOURCE_ATTRIBUTES`.
    pub fn service(self, name: impl Into<String>) -> Self {
        self.attribute("service.name", name)
    }

    /// An attribute of the resource, such as `service.version`. It wins over `OTEL_RESOURCE_ATTRIBUTES`.
    pub fn attribute(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.resource.push(KeyValue::new(key, value.into()));
        self
    }

    /// Where a collector listens, such as `http://localhost:4317`. For HTTP it is the base: `/v1/traces` and `/v1/metrics`
    /// are added. Default: `OTEL_EXPORTER_OTLP_ENDPOINT`, else nothing is exported over OTLP.
    pub fn otlp_endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    /// What the collector speaks. Default: `OTEL_EXPORTER_OTLP_PROTOCOL` (`grpc`, `http/protobuf`), else HTTP, as
    /// OpenTelemetry says.
    pub fn otlp_protocol(mut self, protocol: Otlp) -> Self {
        self.protocol = Some(protocol);
        self
    }

    /// The most series of one metric, in all; what is past it goes into one more. Default: 2,000, as in the SDK. Each
    /// series of a histogram is 17 lines of a scrape.
    pub fn max_series(mut self, series: std::num::NonZeroUsize) -> Self {
        self.max_series = series.get();
        self
    }

    /// The time between two exports of metrics over OTLP. Default: `OTEL_METRIC_EXPORT_INTERVAL`, else 60 s.
    pub fn export_interval(mut self, interval: Duration) -> Self {
        self.interval = Some(interval);
        self
    }

    /// Starts it, and makes the providers the global ones.
    ///
    /// # Errors
    ///
    /// [`SetupError`], which names the setting that is wrong.
    pub fn init(self) -> Result<Telemetry, SetupError> {
        let resource = Resource::builder()
            .with_attributes(self.resource.clone())
            .build();
        let counts = Arc::<Counts>::default();
        let disabled = env::var(DISABLED).is_ok_and(|value| value.eq_ignore_ascii_case("true"));
        let (meters, tracers, spans, reader) = if disabled {
            (
                SdkMeterProvider::builder().build(),
                SdkTracerProvider::builder().build(),
                None,
                None,
            )
        } else {
            let reader = Reader::new();
            let meters = self.meters(&resource, &reader, &counts)?;
            let (tracers, spans) = self.tracers(resource, &counts)?;
            (meters, tracers, spans, Some(reader))
        };
        global::set_meter_provider(meters.clone());
        global::set_tracer_provider(tracers.clone());
        let scope = InstrumentationScope::builder("plimsoll")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        let meter = meters.meter_with_scope(scope.clone());
        counts.tell(&meter);
        Ok(Telemetry {
            meter,
            tracer: tracers.tracer_with_scope(scope),
            reader,
            meters,
            tracers,
            spans,
            counts,
        })
    }

    fn meters(
        &self,
        resource: &Resource,
        reader: &Reader,
        counts: &Arc<Counts>,
    ) -> Result<SdkMeterProvider, SetupError> {
        let max_series = self.max_series;
        let mut builder = SdkMeterProvider::builder()
            .with_resource(resource.clone())
            .with_view(move |instrument: &Instrument| view(instrument, max_series))
            .with_reader(reader.clone());
        if let Some(protocol) = self.exported(Signal::Metrics)? {
            let exporter = Counted {
                inner: self.metric_exporter(protocol)?,
                counts: Arc::clone(counts),
            };
            let mut reader = PeriodicReader::builder(exporter);
            if let Some(interval) = self.interval {
                reader = reader.with_interval(interval);
            }
            builder = builder.with_reader(reader.build());
        }
        Ok(builder.build())
    }

    fn tracers(
        &self,
        resource: Resource,
        counts: &Arc<Counts>,
    ) -> Result<(SdkTracerProvider, Option<SpanQueue>), SetupError> {
        let builder = SdkTracerProvider::builder().with_resource(resource.clone());
        let Some(protocol) = self.exported(Signal::Traces)? else {
            return Ok((builder.build(), None));
        };
        let mut exporter = self.span_exporter(protocol)?;
        exporter.set_resource(&resource);
        let limits = Limits {
            queue: number("OTEL_BSP_MAX_QUEUE_SIZE", 2_048)?,
            batch: number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)?,
            delay: Duration::from_millis(number("OTEL_BSP_SCHEDULE_DELAY", 5_000)?),
        };
        let spans = SpanQueue::start(exporter, limits, Arc::clone(counts))
            .map_err(|source| SetupError::Thread { source })?;
        let provider = builder.with_span_processor(spans.clone()).build();
        Ok((provider, Some(spans)))
    }

    /// What a signal is exported by, if it is.
    fn exported(&self, signal: Signal) -> Result<Option<Otlp>, SetupError> {
        let (chosen, endpoint, protocol) = signal.variables();
        if env::var(chosen).is_ok_and(|value| value == "none") {
            return Ok(None);
        }
        let wanted = self.endpoint.is_some()
            || [ENDPOINT, endpoint].iter().any(|name| set(name).is_some())
            || set(chosen).is_some_and(|value| value.split(',').any(|name| name == "otlp"));
        if !wanted {
            return Ok(None);
        }
        if let Some(protocol) = self.protocol {
            return Ok(Some(protocol));
        }
        let named = [protocol, PROTOCOL];
        let named = named.iter().find_map(|name| Some((*name, set(name)?)));
        match named {
            None => Ok(Some(Otlp::Http)),
            Some((_, value)) if value == "http/protobuf" => Ok(Some(Otlp::Http)),
            Some((_, value)) if value == "grpc" => Ok(Some(Otlp::Grpc)),
            Some((variable, value)) => Err(SetupError::Variable { variable, value }),
        }
    }

    /// Why an exporter could not be made, without the endpoint: it may hold a password.
    fn unmade(&self, signal: Signal, source: ExporterBuildError) -> SetupError {
        let (_, endpoint, _) = signal.variables();
        let known = [self.endpoint.clone(), set(endpoint), set(ENDPOINT)];
        let known: Vec<String> = known.into_iter().flatten().collect();
        let hidden = |mut text: String| {
            for url in known.iter().map(|url| url.trim_end_matches('/')) {
                if !url.is_empty() {
                    text = text.replace(url, "..");
                }
            }
            text
        };
        let source = match source {
            ExporterBuildError::InvalidConfiguration(text) => {
                ExporterBuildError::InvalidConfiguration(hidden(text))
            }
            ExporterBuildError::InternalFailure(text) => {
                ExporterBuildError::InternalFailure(hidden(text))
            }
        };
        SetupError::Exporter { source }
    }

    fn span_exporter(&self, protocol: Otlp) -> Result<SpanExporter, SetupError> {
        let builder = SpanExporter::builder();
        let built = match (protocol, &self.endpoint) {
            (Otlp::Grpc, None) => in_runtime(|| builder.with_tonic().build())?,
            (Otlp::Grpc, Some(url)) => {
                in_runtime(|| builder.with_tonic().with_endpoint(url).build())?
            }
            (Otlp::Http, None) => builder.with_http().build(),
            (Otlp::Http, Some(url)) => {
                let url = format!("{}/v1/traces", url.trim_end_matches('/'));
                builder.with_http().with_endpoint(url).build()
            }
        };
        built.map_err(|source| self.unmade(Signal::Traces, source))
    }

    fn metric_exporter(&self, protocol: Otlp) -> Result<MetricExporter, SetupError> {
        let builder = MetricExporter::builder();
        let built = match (protocol, &self.endpoint) {
            (Otlp::Grpc, None) => in_runtime(|| builder.with_tonic().build())?,
            (Otlp::Grpc, Some(url)) => {
                in_runtime(|| builder.with_tonic().with_endpoint(url).build())?
            }
            (Otlp::Http, None) => builder.with_http().build(),
            (Otlp::Http, Some(url)) => {
                let url = format!("{}/v1/metrics", url.trim_end_matches('/'));
                builder.with_http().with_endpoint(url).build()
            }
        };
        built.map_err(|source| self.unmade(Signal::Metrics, source))
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self::new()
    }
}

impl Signal {
    /// What is exported at all, where to, and how.
    fn variables(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Traces => (
                "OTEL_TRACES_EXPORTER",
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
            ),
            Self::Metrics => (
                "OTEL_METRICS_EXPORTER",
                "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
                "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
            ),
        }
    }
}

/// Without the endpoint, which may hold a password.
impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup")
            .field("resource", &self.resource)
            .field("protocol", &self.protocol)
            .field("max_series", &self.max_series)
            .field("interval", &self.interval)
            .finish_non_exhaustive()
    }
}

/// Every metric has its cap; histograms of seconds have the conventions' boundaries, whoever made them.
fn view(instrument: &Instrument, max_series: usize) -> Option<Stream> {
    let mut stream = Stream::builder().with_cardinality_limit(max_series);
    if instrument.kind() == InstrumentKind::Histogram && instrument.unit() == "s" {
        stream = stream.with_aggregation(Aggregation::ExplicitBucketHistogram {
            boundaries: DURATION_BOUNDARIES.to_vec(),
            record_min_max: true,
        });
    }
    // It fails for boundaries that are out of order and a limit of zero: neither can be.
    stream.build().ok()
}

fn in_runtime<T>(build: impl FnOnce() -> T) -> Result<T, SetupError> {
    tokio::runtime::Handle::try_current()
        .map(|_| build())
        .map_err(|source| SetupError::NoRuntime { source })
}

fn set(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|value| !value.is_empty())
}

/// A positive number.
fn number<N>(variable: &'static str, default: N) -> Result<N, SetupError>
where
    N: std::str::FromStr + PartialOrd + Default,
{
    let Some(value) = set(variable) else {
        return Ok(default);
    };
    match value.parse() {
        Ok(number) if number > N::default() => Ok(number),
        _ => Err(SetupError::Variable { variable, value }),
    }
}

/// Why the export could not be set up.
#[derive(Debug)]
#[non_exhaustive]
pub enum SetupError {
    /// A variable has a value that is not known.
    Variable {
        /// Its name.
        variable: &'static str,
        /// Its value.
        value: String,
    },
    /// An exporter over OTLP could not be made: its endpoint is no URL, for one.
    Exporter {
        /// Why.
        source: ExporterBuildError,
    },
    /// OTLP over gRPC needs a tokio runtime, and this was called outside of one.
    NoRuntime {
        /// Why.
        source: tokio::runtime::TryCurrentError,
    },
    /// No thread could be started.
    Thread {
        /// Why.
        source: io::Error,
    },
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable { variable, value } => write!(f, "{variable} cannot be {value:?}"),
            Self::Exporter { .. } => f.write_str("the exporter over OTLP could not be made"),
            Self::NoRuntime { .. } => f.write_str("OTLP over gRPC needs a tokio runtime"),
            Self::Thread { .. } => f.write_str("no thread could be started for the export"),
        }
    }
}

impl Error for SetupError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Variable { .. } => None,
            Self::Exporter { source } => Some(source),
            Self::NoRuntime { source } => Some(source),
            Self::Thread { source } => Some(source),
        }
    }
}
