//! From settings to a stack that runs.

use std::{
    env,
    error::Error,
    ffi::OsString,
    fmt,
    sync::{Arc, Mutex, OnceLock},
};

use super::{
    Setup,
    build::{self, Ingredients},
    config::{ConfigError, Program, Sources, Values},
    reload::Reloads,
    stack::{Logged, Parts, Stack},
    watch::{self, Watched},
};
use crate::{
    log,
    serve::Connections,
    server::access_log::Failures,
    telemetry::{self, Telemetry},
};

const SERVICE: &str = "OTEL_SERVICE_NAME";

impl Setup {
    /// Starts the log and the exporters of the program, makes the layers, and watches the file, if there is one. Within
    /// a tokio runtime, or the file is not watched.
    ///
    /// # Errors
    ///
    /// [`StartError`], which names the setting that is wrong and where it stands.
    pub fn start(mut self) -> Result<Stack, StartError> {
        let sources = self.all_sources();
        let (file, values) = self.values(&sources)?;
        let log = self.log.take();
        let own_filter = log.as_ref().and_then(log::Setup::own_filter);
        let own_filter = own_filter.map(str::to_owned);
        let on = values.switch("log.enabled");
        let log = on.then(|| self.start_log(log, &values)).transpose();
        let log = log.map_err(StartError::Log)?;
        let on = values.switch("telemetry.enabled");
        let telemetry = on.then(|| self.start_telemetry(&values)).transpose();
        let telemetry = telemetry.map_err(StartError::Telemetry)?;
        let log = log.map(|log| Logged { log, own_filter });
        let stack = self.assemble(Watched::new(sources, file), values, log, telemetry);
        watch::watch(&stack);
        Ok(stack)
    }

    /// Makes the layers and nothing else: no log, no exporters, no task, no signal. Spans and metrics go to the global
    /// providers as they are when the layers are applied. [`Stack::reload`] reads the file again.
    ///
    /// # Errors
    ///
    /// [`StartError::Config`].
    pub fn build(mut self) -> Result<Stack, StartError> {
        let sources = self.all_sources();
        let (file, values) = self.values(&sources)?;
        Ok(self.assemble(Watched::new(sources, file), values, None, None))
    }

    fn program(&self) -> Program {
        Program {
            limit: self.limit.is_some(),
            key: self.key.is_some(),
        }
    }

    fn values(&self, sources: &Sources) -> Result<(Option<String>, Values), StartError> {
        let read = || {
            let file = sources.read()?;
            let values = sources.values(file.as_deref(), self.program())?;
            Ok((file, values))
        };
        read().map_err(StartError::Config)
    }

    /// The name of the service, unless the environment gives another.
    fn own_name(&self) -> Option<&'static str> {
        (!gives_name(env::var_os(SERVICE))).then_some(self.name)
    }

    fn start_log(
        &self,
        setup: Option<log::Setup>,
        values: &Values,
    ) -> Result<log::Log, log::SetupError> {
        let setup = setup.unwrap_or_else(|| match self.own_name() {
            Some(name) => log::Setup::new().service(name),
            None => log::Setup::new(),
        });
        build::log(setup, values).init()
    }

    fn start_telemetry(&mut self, values: &Values) -> Result<Telemetry, telemetry::SetupError> {
        let setup = self.telemetry.take();
        let setup = setup.unwrap_or_else(|| match self.own_name() {
            Some(name) => telemetry::Setup::new().service(name),
            None => telemetry::Setup::new(),
        });
        build::telemetry(setup, values).init()
    }

    fn assemble(
        self,
        watched: Watched,
        values: Values,
        log: Option<Logged>,
        telemetry: Option<Telemetry>,
    ) -> Stack {
        let (program, reloads) = (self.program(), Reloads::default());
        let (connections, failures) = (Connections::default(), Failures::new());
        let built = build::layers(
            &values,
            Ingredients {
                name: self.name,
                key: self.key,
                limit: self.limit,
                rpc_methods: self.rpc_methods,
                metrics: self.metrics,
                health: &self.health,
                connections: &connections,
                failures: &failures,
                reloads: &reloads,
                log: log.as_ref().map(|logged| &logged.log),
                telemetry: telemetry.as_ref(),
            },
        );
        Stack::of(Parts {
            name: self.name,
            layers: built.layers,
            limit: built.limit,
            rate_limit: built.rate_limit,
            health: self.health,
            connections,
            failures,
            reloads,
            values: Mutex::new(values),
            watched: Arc::new(watched),
            program,
            watch: OnceLock::new(),
            log,
            telemetry,
        })
    }
}

/// Whether this value of the environment names the service. An empty one is none, as OpenTelemetry says.
fn gives_name(value: Option<OsString>) -> bool {
    value.is_some_and(|name| !name.is_empty())
}

/// Why there is no stack. A program that cannot start ends with 2, by convention.
#[non_exhaustive]
pub enum StartError {
    /// A setting is wrong.
    Config(ConfigError),
    /// The log could not be started.
    Log(log::SetupError),
    /// The exporters could not be started.
    Telemetry(telemetry::SetupError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Log(error) => error.fmt(f),
            Self::Telemetry(error) => error.fmt(f),
        }
    }
}

/// In words, with the causes: it is what a `main` prints that returns this.
impl fmt::Debug for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)?;
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl Error for StartError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Config(error) => error.source(),
            Self::Log(error) => error.source(),
            Self::Telemetry(error) => error.source(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_name_is_none() {
        for (value, gives) in [(None, false), (Some(""), false), (Some("shop"), true)] {
            assert_eq!(gives_name(value.map(OsString::from)), gives, "{value:?}");
        }
    }
}
