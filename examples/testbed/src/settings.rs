//! What the `TB_*` variables say. Nothing is ignored: a name or a value that is not understood is an error.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use axum::http::Uri;
use plimsoll::caller::TrustedProxies;

use crate::admission::Admission;
use crate::limited::{self, Limits};

/// Settings that have a name already, but nothing behind it yet.
const NOT_SUPPORTED_YET: &[&str] = &[
    "TB_RETRIES",
    "TB_RETRY_PCT",
    "TB_BREAKER_FAILS",
    "TB_BREAKER_OPEN_MS",
    "TB_BREAKER_PROBES",
    "TB_BREAKER_PROBE_MS",
    "TB_STALE_MS",
    "TB_SPOOL_DIR",
    "TB_SPOOL_MAX",
    "TB_SINK",
    "TB_CHAOS",
];

/// How the testbed runs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    /// `TB_HTTP`: HTTP/1.1, HTTP/2 without TLS, and gRPC as well. Default `127.0.0.1:0`.
    pub(crate) http: SocketAddr,
    /// `TB_GRPC`: tonic's own server. Default `127.0.0.1:0`.
    pub(crate) grpc: SocketAddr,
    /// `TB_ADMIN`: `/livez` and `/readyz`. Default `127.0.0.1:0`.
    pub(crate) admin: SocketAddr,
    /// `TB_LOG`: where log lines go. Default `stderr`.
    pub(crate) log: LogTo,
    /// `TB_UPSTREAM`: whom `/up/{path}` calls, `http://host:port`. Default none.
    pub(crate) upstream: Option<Uri>,
    /// `TB_TIMEOUT_MS`: how long a call may take, to its last byte. Default as long as it likes.
    pub(crate) timeout: Option<Duration>,
    /// `TB_BODY_MIN_BPS`: the least rate of a request's body, after a second. Default that of the layer.
    pub(crate) body_min_bps: Option<NonZeroU32>,
    /// `TB_BODY_MAX`: the most bytes of a request's body. Default 16 MiB.
    pub(crate) body_max: u64,
    /// `TB_TRUSTED`: proxies, as in `10.0.0.0/8, ::1`: what they say of callers and deadlines holds. Default none.
    pub(crate) trusted: TrustedProxies,
    /// `TB_HEADER_MS`: how long a head may take. Default that of the server.
    pub(crate) head_timeout: Option<Duration>,
    /// `TB_WRITE_MS`: how long a peer may take nothing. Default that of the server.
    pub(crate) write_stall: Option<Duration>,
    /// `TB_MAX_CONNS`: the most connections at once. Default that of the server.
    pub(crate) max_connections: Option<NonZeroUsize>,
    /// `TB_DRAIN_MS`: how long calls may go on after SIGTERM. Default 5000.
    pub(crate) drain: Duration,
    /// `TB_NOTICE_MS`: how much of that passes before the listeners close. Default half.
    pub(crate) notice: Option<Duration>,
    /// `TB_CHECK_MS`: how long a check of health may take. Default that of the check.
    pub(crate) check_timeout: Option<Duration>,
    /// How many calls are let in at once.
    pub(crate) admission: Admission,
    /// What holds for `/limited` and `/limited-redis`.
    pub(crate) limits: Limits,
}

/// Where log lines go.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum LogTo {
    Stdout,
    Stderr,
    File(PathBuf),
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingError {
    #[error("{0}: unknown setting")]
    Unknown(String),
    #[error("{0}: not supported yet")]
    NotSupportedYet(String),
    #[error("{name}={value}: expected {expected}")]
    Bad {
        name: String,
        value: String,
        expected: &'static str,
    },
}

impl Default for Settings {
    fn default() -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            http: any,
            grpc: any,
            admin: any,
            log: LogTo::Stderr,
            upstream: None,
            timeout: None,
            body_min_bps: None,
            body_max: 16 * 1024 * 1024,
            trusted: TrustedProxies::default(),
            head_timeout: None,
            write_stall: None,
            max_connections: None,
            drain: Duration::from_secs(5),
            notice: None,
            check_timeout: None,
            admission: Admission::default(),
            limits: Limits::default(),
        }
    }
}

impl Settings {
    /// Reads the variables that begin with `TB_`.
    ///
    /// # Errors
    ///
    /// When a name is unknown or not supported yet, or a value cannot be read; the error names it.
    pub(crate) fn from_vars(
        vars: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, SettingError> {
        let mut settings = Self::default();
        for (name, value) in vars {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("TB_") {
                settings.set(name, &value.to_string_lossy())?;
            }
        }
        Ok(settings)
    }

    /// Whether a listener lets the system choose its port.
    pub(crate) fn any_port(&self) -> bool {
        [self.http, self.grpc, self.admin]
            .iter()
            .any(|address| address.port() == 0)
    }

    fn set(&mut self, name: String, value: &str) -> Result<(), SettingError> {
        match name.as_str() {
            "TB_HTTP" => self.http = parse(name, value, "an address as in 127.0.0.1:8080")?,
            "TB_GRPC" => self.grpc = parse(name, value, "an address as in 127.0.0.1:8080")?,
            "TB_ADMIN" => self.admin = parse(name, value, "an address as in 127.0.0.1:8080")?,
            "TB_LOG" => self.log = parse(name, value, "stdout, stderr or a file")?,
            "TB_UPSTREAM" => self.upstream = Some(upstream(name, value)?),
            "TB_TIMEOUT_MS" => {
                let millis = parse(name, value, "a number of milliseconds")?;
                self.timeout = Some(Duration::from_millis(millis));
            }
            "TB_BODY_MIN_BPS" => {
                self.body_min_bps = Some(parse(name, value, "bytes per second, above 0")?);
            }
            "TB_BODY_MAX" => self.body_max = parse(name, value, "a number of bytes")?,
            "TB_TRUSTED" => self.trusted = parse(name, value, "networks as in 10.0.0.0/8, ::1")?,
            "TB_HEADER_MS" => {
                let millis = parse(name, value, "a number of milliseconds")?;
                self.head_timeout = Some(Duration::from_millis(millis));
            }
            "TB_WRITE_MS" => {
                let millis = parse(name, value, "a number of milliseconds")?;
                self.write_stall = Some(Duration::from_millis(millis));
            }
            "TB_MAX_CONNS" => {
                self.max_connections = Some(parse(name, value, "a number above 0")?);
            }
            "TB_DRAIN_MS" => {
                self.drain = Duration::from_millis(parse(name, value, "a number of milliseconds")?);
            }
            "TB_NOTICE_MS" => {
                let millis = parse(name, value, "a number of milliseconds")?;
                self.notice = Some(Duration::from_millis(millis));
            }
            "TB_CHECK_MS" => {
                let millis = parse(name, value, "a number of milliseconds")?;
                self.check_timeout = Some(Duration::from_millis(millis));
            }
            "TB_MAX_INFLIGHT" => {
                self.admission.max_in_flight = Some(parse(name, value, "a number above 0")?);
            }
            "TB_ADAPTIVE" => {
                let flag: u8 = parse(name, value, "0 or 1")?;
                self.admission.adaptive = flag != 0;
            }
            "TB_QUEUE" => self.admission.queue = Some(parse(name, value, "a number of calls")?),
            "TB_QUEUE_MS" => {
                let millis = parse(name, value, "a number of milliseconds")?;
                self.admission.queue_time = Some(Duration::from_millis(millis));
            }
            "TB_RATE" => self.limits.rate = parse(name, value, "calls a second")?,
            "TB_BURST" => self.limits.burst = Some(parse(name, value, "a number of calls")?),
            "TB_KEY_CAP" => self.limits.key_cap = parse(name, value, "a number above 0")?,
            "TB_REDIS" => self.limits.redis = Some(value.to_owned()),
            "TB_REDIS_POLICY" => match limited::when_away(value) {
                Some(policy) => self.limits.when_away = Some(policy),
                None => {
                    return Err(SettingError::Bad {
                        name,
                        value: value.to_owned(),
                        expected: "open, closed or local",
                    });
                }
            },
            "TB_REDIS_MS" => {
                let ms = parse(name, value, "a number of milliseconds")?;
                self.limits.redis_budget = Some(Duration::from_millis(ms));
            }
            other if NOT_SUPPORTED_YET.contains(&other) => {
                return Err(SettingError::NotSupportedYet(name));
            }
            _ => return Err(SettingError::Unknown(name)),
        }
        Ok(())
    }
}

impl FromStr for LogTo {
    type Err = EmptyName;

    fn from_str(value: &str) -> Result<Self, EmptyName> {
        match value {
            "" => Err(EmptyName),
            "stdout" => Ok(Self::Stdout),
            "stderr" => Ok(Self::Stderr),
            path => Ok(Self::File(PathBuf::from(path))),
        }
    }
}

/// A file without a name.
#[derive(Debug, PartialEq)]
pub(crate) struct EmptyName;

fn parse<T: FromStr>(name: String, value: &str, expected: &'static str) -> Result<T, SettingError> {
    match value.parse() {
        Ok(value) => Ok(value),
        Err(_) => Err(SettingError::Bad {
            name,
            value: value.to_owned(),
            expected,
        }),
    }
}

fn upstream(name: String, value: &str) -> Result<Uri, SettingError> {
    let expected = "an address as in http://127.0.0.1:8080";
    let uri: Uri = parse(name.clone(), value, expected)?;
    if uri.scheme_str() == Some("http") && uri.authority().is_some() && uri.path() == "/" {
        return Ok(uri);
    }
    Err(SettingError::Bad {
        name,
        value: value.to_owned(),
        expected,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<Settings, String> {
        let vars = vars.iter().map(|(name, value)| (name.into(), value.into()));
        Settings::from_vars(vars).map_err(|error| error.to_string())
    }

    #[test]
    fn reads_what_is_supported() {
        let settings = read(&[
            ("PATH", "/bin"),
            ("TB_HTTP", "127.0.0.1:1"),
            ("TB_GRPC", "[::1]:2"),
            ("TB_ADMIN", "127.0.0.1:3"),
            ("TB_LOG", "/tmp/log"),
            ("TB_UPSTREAM", "http://127.0.0.1:4"),
            ("TB_TIMEOUT_MS", "300"),
            ("TB_BODY_MIN_BPS", "1000"),
            ("TB_BODY_MAX", "4096"),
            ("TB_TRUSTED", "127.0.0.0/8"),
            ("TB_DRAIN_MS", "250"),
            ("TB_NOTICE_MS", "50"),
            ("TB_CHECK_MS", "900"),
            ("TB_MAX_INFLIGHT", "4"),
            ("TB_QUEUE", "8"),
            ("TB_QUEUE_MS", "500"),
            ("TB_ADAPTIVE", "1"),
        ])
        .expect("all of these are supported");
        assert!(!settings.any_port());
        assert_eq!(settings.log, LogTo::File("/tmp/log".into()));
        assert_eq!(settings.timeout, Some(Duration::from_millis(300)));
        assert_eq!(settings.body_min_bps.map(NonZeroU32::get), Some(1_000));
        assert_eq!(settings.body_max, 4_096);
        assert!(settings.trusted.trusts([127, 0, 0, 1].into()));
        assert_eq!(settings.drain, Duration::from_millis(250));
        assert_eq!(settings.notice, Some(Duration::from_millis(50)));
        assert_eq!(settings.check_timeout, Some(Duration::from_millis(900)));
        let admission = settings.admission;
        assert_eq!(admission.limit().handle().limit(), 4);
        assert_eq!(admission.queue, Some(8));
        assert_eq!(admission.queue_time, Some(Duration::from_millis(500)));
    }

    #[test]
    fn limits_that_cannot_be_are_named() {
        for (vars, says) in [
            (&[("TB_RATE", "0")][..], "TB_RATE, TB_BURST: no such quota"),
            (&[("TB_BURST", "0")], "TB_RATE, TB_BURST: no such quota"),
            (
                &[("TB_REDIS", "http://:hunter2@host")],
                "TB_REDIS: no such address",
            ),
            (&[("TB_REDIS_MS", "5")], "TB_REDIS_MS: there is no TB_REDIS"),
            (
                &[("TB_REDIS_POLICY", "open")],
                "TB_REDIS_POLICY: there is no TB_REDIS",
            ),
        ] {
            let limits = read(vars).expect("each value can be read").limits;
            let error = limits.layers(&TrustedProxies::default()).err().expect(says);
            assert_eq!(error.to_string(), says);
        }
        let redis = [("TB_REDIS", "redis://127.0.0.1:1/"), ("TB_REDIS_MS", "5")];
        let settings = read(&redis).expect("values");
        assert!(settings.limits.layers(&settings.trusted).is_ok());
    }

    #[test]
    fn names_what_it_refuses() {
        for (name, value, says) in [
            ("TB_HTPP", "127.0.0.1:1", "TB_HTPP: unknown setting"),
            ("TB_CHAOS", "5", "TB_CHAOS: not supported yet"),
            (
                "TB_MAX_INFLIGHT",
                "0",
                "TB_MAX_INFLIGHT=0: expected a number",
            ),
            ("TB_ADAPTIVE", "yes", "TB_ADAPTIVE=yes: expected 0 or 1"),
            ("TB_RATE", "-5", "TB_RATE=-5: expected calls a second"),
            ("TB_KEY_CAP", "0", "TB_KEY_CAP=0: expected a number"),
            (
                "TB_REDIS_POLICY",
                "ajar",
                "TB_REDIS_POLICY=ajar: expected open, closed or local",
            ),
            ("TB_HTTP", "here", "TB_HTTP=here: expected an address"),
            ("TB_LOG", "", "TB_LOG=: expected stdout"),
            (
                "TB_UPSTREAM",
                "https://a",
                "TB_UPSTREAM=https://a: expected",
            ),
            (
                "TB_UPSTREAM",
                "http://a/b",
                "TB_UPSTREAM=http://a/b: expected",
            ),
            ("TB_BODY_MIN_BPS", "0", "TB_BODY_MIN_BPS=0: expected bytes"),
            ("TB_TRUSTED", "all", "TB_TRUSTED=all: expected networks"),
            ("TB_DRAIN_MS", "-1", "TB_DRAIN_MS=-1: expected a number"),
        ] {
            let error = read(&[(name, value)]).expect_err(name);
            assert!(error.starts_with(says), "{error}");
        }
    }
}
