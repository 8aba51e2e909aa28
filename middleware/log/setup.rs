//! From settings to a log that runs.

use std::env::{self, VarError};
use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;

use tracing_subscriber::Layer;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use super::Log;
use super::filter::{Filter, targets};
use super::form::Identity;
use super::json::JsonLayer;
use super::schema::Schema;
use super::sink::Sink;
use super::writer::{DEFAULT_QUEUE_BYTES, Overflow, Writer};
use crate::panics;

/// Names of the service are on every line; longer ones than this, in bytes, are refused.
const MAX_NAME: usize = 256;
const ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";

/// Settings of the program's log. [`init`](Self::init) starts it.
///
/// ```
/// let log = plimsoll::log::Setup::new()
///     .service("reception")
///     .filter("info,hyper=warn")
///     .to_writer(std::io::sink())
///     .init()?;
/// tracing::info!("open");
/// log.flush(std::time::Duration::from_secs(1))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "settings do nothing until `init` is called"]
pub struct Setup {
    identity: Identity,
    schema: Schema,
    filter: Option<String>,
    sink: Sink,
    max_queue_bytes: usize,
    overflow: Overflow,
    pretty_on_terminal: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self::new()
    }
}

impl Setup {
    /// All defaults: JSON lines to stdout, `info` and above.
    pub fn new() -> Self {
        Self {
            identity: Identity::default(),
            schema: Schema::default(),
            filter: None,
            sink: Sink::Stdout,
            max_queue_bytes: DEFAULT_QUEUE_BYTES,
            overflow: Overflow::default(),
            pretty_on_terminal: false,
        }
    }

    /// The name of the service, on every line, at most 256 bytes. Default: the environment's `OTEL_SERVICE_NAME`, else
    /// `service.name` of `OTEL_RESOURCE_ATTRIBUTES`, else none.
    pub fn service(mut self, name: impl Into<String>) -> Self {
        self.identity.service = Some(name.into());
        self
    }

    /// The version of the service, on every line, at most 256 bytes; a git commit serves well. Default: `service.version`
    /// of `OTEL_RESOURCE_ATTRIBUTES`, else none.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.identity.version = Some(version.into());
        self
    }

    /// Where the service is deployed, such as `production`, on every line, at most 256 bytes. Default:
    /// `deployment.environment.name` of `OTEL_RESOURCE_ATTRIBUTES`, else none.
    pub fn deployment(mut self, deployment: impl Into<String>) -> Self {
        self.identity.deployment = Some(deployment.into());
        self
    }

    /// Under which names a line tells its facts. Default: [`Schema::Plain`].
    pub fn schema(mut self, schema: Schema) -> Self {
        self.schema = schema;
        self
    }

    /// Which events are written: a level, and levels for targets, such as `info,hyper=warn`; see
    /// [`Targets`](tracing_subscriber::filter::Targets). Default:
    /// the environment's `RUST_LOG`, else `info`.
    pub fn filter(mut self, directives: impl Into<String>) -> Self {
        self.filter = Some(directives.into());
        self
    }

    /// What [`filter`](Self::filter) was given.
    pub(crate) fn own_filter(&self) -> Option<&str> {
        self.filter.as_deref()
    }

    /// Writes to stdout. The default, since containers and service managers collect it.
    pub fn to_stdout(mut self) -> Self {
        self.sink = Sink::Stdout;
        self
    }

    /// Writes to stderr.
    pub fn to_stderr(mut self) -> Self {
        self.sink = Sink::Stderr;
        self
    }

    /// Appends to a file, which is made if need be. It stays open: rotate it by copying and truncating.
    pub fn to_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.sink = Sink::File(path.into());
        self
    }

    /// Writes to `sink`, from the log's thread only. It may block, fail and even panic without any call noticing.
    pub fn to_writer(mut self, sink: impl Write + Send + 'static) -> Self {
        self.sink = Sink::Given(Box::new(sink));
        self
    }

    /// How many bytes of lines may wait for the sink, at least 1. Default: [8 MiB](DEFAULT_QUEUE_BYTES).
    pub fn max_queue_bytes(mut self, max_bytes: usize) -> Self {
        self.max_queue_bytes = max_bytes;
        self
    }

    /// What happens to a line for which there is no room. Default: [`Overflow::Drop`].
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// Writes text for people instead of JSON where stdout or stderr is a terminal. Default: always JSON, so that what
    /// is seen while developing is what runs.
    pub fn pretty_on_terminal(mut self) -> Self {
        self.pretty_on_terminal = true;
        self
    }

    /// Starts the log: from now on it takes the events of the whole program, those of the `log` crate included, and a
    /// line for each panic, in place of the panic hook that was there before. A panic that is about to end the process
    /// flushes the log first, for up to 2 s.
    ///
    /// # Errors
    ///
    /// [`SetupError`], which names the setting that is wrong.
    pub fn init(self) -> Result<Log, SetupError> {
        self.init_with(environment)
    }

    fn init_with(
        self,
        variable: impl Fn(&'static str) -> Result<Option<String>, SetupError>,
    ) -> Result<Log, SetupError> {
        let filter = Filter::new(targets(self.filter.as_deref(), &variable)?);
        let (identity, ignored) = identify(self.identity, &variable)?;
        let pretty = self.pretty_on_terminal && self.sink.is_terminal();
        if self.max_queue_bytes == 0 {
            return Err(SetupError::NoQueue);
        }
        let writer = Writer::with_queue(self.sink.open()?, self.max_queue_bytes, self.overflow)?;
        let json = JsonLayer::new(writer.clone())
            .schema(self.schema)
            .identity(identity);
        let layer = match pretty {
            true => tracing_subscriber::fmt::layer()
                .with_ansi(false)
                .with_writer(writer.clone())
                .boxed(),
            false => json.boxed(),
        };
        tracing_subscriber::registry()
            .with(layer)
            .with(filter.clone())
            .try_init()
            .map_err(|source| SetupError::AlreadySet { source })?;
        panics::write_all_panics();
        if let Some(error) = ignored {
            tracing::warn!(
                target: "plimsoll::log",
                event = "setting_ignored",
                error = %error,
                "the resource attributes of the environment are not used",
            );
        }
        Ok(Log { writer, filter })
    }
}

impl fmt::Debug for Setup {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Setup")
            .field("identity", &self.identity)
            .field("schema", &self.schema)
            .field("filter", &self.filter)
            .field("max_queue_bytes", &self.max_queue_bytes)
            .field("overflow", &self.overflow)
            .finish_non_exhaustive()
    }
}

pub(super) fn environment(name: &'static str) -> Result<Option<String>, SetupError> {
    match env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => Err(bad_variable(name, "it is not UTF-8")),
    }
}

/// Also what is wrong with the attributes of the environment: all of them are ignored then, and that is said, as
/// OpenTelemetry asks of a resource (specification of its SDK, "Specifying resource information via an environment variable").
fn identify(
    set: Identity,
    variable: impl Fn(&'static str) -> Result<Option<String>, SetupError>,
) -> Result<(Identity, Option<SetupError>), SetupError> {
    let attributes = variable(ATTRIBUTES).and_then(|list| attributes(&list.unwrap_or_default()));
    let (found, ignored) = match attributes {
        Ok(found) => (found, None),
        Err(error) => (Identity::default(), Some(error)),
    };
    let name = variable("OTEL_SERVICE_NAME")?.filter(|name| !name.is_empty());
    let identity = Identity {
        service: set.service.or(name).or(found.service),
        version: set.version.or(found.version),
        deployment: set.deployment.or(found.deployment),
    };
    for (setting, value) in [
        ("service", &identity.service),
        ("version", &identity.version),
        ("deployment", &identity.deployment),
    ] {
        if value.as_ref().is_some_and(|value| value.len() > MAX_NAME) {
            return Err(SetupError::TooLong { setting });
        }
    }
    Ok((identity, ignored))
}

/// What the attributes tell of who logs.
fn attributes(list: &str) -> Result<Identity, SetupError> {
    let mut found = Identity::default();
    for attribute in list.split(',').filter(|one| !one.trim().is_empty()) {
        let Some((key, value)) = attribute.split_once('=') else {
            return Err(bad_variable(ATTRIBUTES, "an attribute has no `=`"));
        };
        let value = decode(value.trim())
            .ok_or_else(|| bad_variable(ATTRIBUTES, "a value is not percent-encoded UTF-8"))?;
        match key.trim() {
            "service.name" => found.service = Some(value),
            "service.version" => found.version = Some(value),
            "deployment.environment.name" => found.deployment = Some(value),
            _ => {}
        }
    }
    Ok(found)
}

/// Percent-decodes (RFC 3986, section 2.1).
fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let mut hex = || char::from(bytes.next()?).to_digit(16);
        decoded.push(match byte {
            b'%' => u8::try_from(hex()?.checked_mul(16)?.checked_add(hex()?)?)
                .expect("two hex digits are a byte"),
            _ => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

fn bad_variable(variable: &'static str, problem: &'static str) -> SetupError {
    SetupError::Variable { variable, problem }
}

/// Why the log could not be started. Each names the setting that is wrong.
#[derive(Debug)]
#[non_exhaustive]
pub enum SetupError {
    /// The filter cannot be understood.
    Filter {
        /// `filter`, or `RUST_LOG` if it came from the environment.
        setting: &'static str,
        /// What it said.
        directives: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// A variable of the environment cannot be understood.
    Variable {
        /// Its name.
        variable: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// `service`, `version` or `deployment` is longer than 256 bytes.
    TooLong {
        /// Which of them.
        setting: &'static str,
    },
    /// The queue has no room for any line.
    NoQueue,
    /// The file cannot be written.
    File {
        /// Where it should be.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// A standard stream cannot be used.
    Stream {
        /// `stdout` or `stderr`.
        stream: &'static str,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The thread that writes could not be started.
    Thread {
        /// What the system said.
        source: io::Error,
    },
    /// The program has a subscriber, or a logger of the `log` crate, already.
    AlreadySet {
        /// Which of them.
        source: TryInitError,
    },
}

impl fmt::Display for SetupError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter {
                setting,
                directives,
                ..
            } => write!(out, "{setting} cannot be understood: {directives:?}"),
            Self::Variable { variable, problem } => {
                write!(out, "{variable} cannot be understood: {problem}")
            }
            Self::TooLong { setting } => write!(out, "{setting} is longer than {MAX_NAME} bytes"),
            Self::NoQueue => {
                out.write_str("max_queue_bytes is zero, so every line would be dropped")
            }
            Self::File { path, .. } => {
                write!(out, "the log file {} cannot be written", path.display())
            }
            Self::Stream { stream, .. } => write!(out, "{stream} cannot be used for the log"),
            Self::Thread { .. } => {
                out.write_str("the thread that writes the log could not be started")
            }
            Self::AlreadySet { .. } => {
                out.write_str("the program has a subscriber or a logger already")
            }
        }
    }
}

impl Error for SetupError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Filter { source, .. } => Some(source),
            Self::File { source, .. } | Self::Stream { source, .. } | Self::Thread { source } => {
                Some(source)
            }
            Self::AlreadySet { source } => Some(source),
            Self::Variable { .. } | Self::TooLong { .. } | Self::NoQueue => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Variables = [(&'static str, &'static str)];

    fn variable(set: &Variables) -> impl Fn(&'static str) -> Result<Option<String>, SetupError> {
        move |name| {
            Ok(set
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned()))
        }
    }

    fn identity(set: &Variables) -> Result<Identity, SetupError> {
        identify(Identity::default(), variable(set)).map(|(identity, _)| identity)
    }

    #[test]
    fn the_environment_names_the_service() {
        let attributes =
            "service.name=a,service.version=1%2C2 , deployment.environment.name=prod,x=y,";
        let found = identity(&[("OTEL_RESOURCE_ATTRIBUTES", attributes)]).expect("valid");
        assert_eq!(found.service.as_deref(), Some("a"));
        assert_eq!(found.version.as_deref(), Some("1,2"));
        assert_eq!(found.deployment.as_deref(), Some("prod"));
        let set = [
            ("OTEL_RESOURCE_ATTRIBUTES", attributes),
            ("OTEL_SERVICE_NAME", "b"),
        ];
        assert_eq!(identity(&set).expect("valid").service.as_deref(), Some("b"));
        let given = Identity {
            service: Some("c".to_owned()),
            ..Identity::default()
        };
        assert_eq!(
            identify(given, variable(&set))
                .expect("valid")
                .0
                .service
                .as_deref(),
            Some("c")
        );
        assert_eq!(identity(&[]).expect("valid"), Identity::default());
    }

    #[test]
    fn a_wrong_setting_is_named() {
        let said = |error: SetupError| error.to_string();
        for wrong in [
            "service.version=1,service.name",
            "service.version=1,service.name=%2",
            "service.version=1,service.name=%zz",
            "service.version=1,service.name=%ff",
        ] {
            let set = [("OTEL_RESOURCE_ATTRIBUTES", wrong)];
            let (found, ignored) = identify(Identity::default(), variable(&set)).expect(wrong);
            assert_eq!(found, Identity::default(), "all of them or none");
            let ignored = said(ignored.expect(wrong));
            assert!(ignored.starts_with("OTEL_RESOURCE_ATTRIBUTES cannot be understood"));
        }
        let error =
            targets(None, variable(&[("RUST_LOG", "info,hyper=loud")])).expect_err("no such level");
        assert_eq!(
            error.to_string(),
            "RUST_LOG cannot be understood: \"info,hyper=loud\""
        );
        assert!(error.source().is_some());
        let error = targets(Some("a=b=c"), variable(&[])).expect_err("no such level");
        assert!(said(error).starts_with("filter cannot be understood"));
        let error = Setup::new()
            .service("x".repeat(257))
            .init_with(variable(&[]))
            .expect_err("too long");
        assert_eq!(said(error), "service is longer than 256 bytes");
        let error = Setup::new()
            .max_queue_bytes(0)
            .init_with(variable(&[]))
            .expect_err("no room");
        assert!(said(error).starts_with("max_queue_bytes is zero"));
        let error = Setup::new()
            .to_file("/no/such/folder/log")
            .init_with(variable(&[]))
            .expect_err("no folder");
        assert_eq!(
            said(error),
            "the log file /no/such/folder/log cannot be written"
        );
    }
}
