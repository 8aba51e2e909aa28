//! A server that misbehaves on demand: the tests of plimsoll drive it as a process of its own.
//!
//! Settings come from `TB_*` variables (see [`settings`]), routes are in [`http`] and [`grpc`], the layers under test
//! are put together in [`layers`]. SIGTERM or Ctrl-C drains and ends with 0, or 3 if calls
//! were cut off; settings that cannot be used end with 2.

mod admission;
mod failure;
mod grpc;
mod health;
mod http;
mod layers;
mod limited;
mod panics;
mod serve;
mod settings;
mod stream;
mod upstream;

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use plimsoll::log::{Log, Setup, SetupError, Writer};
use plimsoll::serve::Report;
use plimsoll::telemetry;

use settings::{LogTo, Settings};

/// How long calls that did not end in time may take to notice that the runtime is gone.
const LAST_CALLS: Duration = Duration::from_secs(2);

/// How long the last export of metrics and spans may take.
const LAST_EXPORT: Duration = Duration::from_secs(10);

/// How long the log may take to write its last lines.
const LAST_LINES: Duration = Duration::from_secs(2);

/// The log cannot write where it should.
#[derive(Debug, thiserror::Error)]
#[error("TB_LOG: the log cannot start")]
struct NoLog(#[from] SetupError);

fn main() -> ExitCode {
    let settings = match Settings::from_vars(std::env::vars_os()) {
        Ok(settings) => settings,
        Err(error) => return fail(2, &error),
    };
    let log = match start_log(&settings.log) {
        Ok(log) => log,
        Err(error) => return fail(2, &error),
    };
    let code = match serve(&settings, log.writer()) {
        Ok(report) => ExitCode::from(report.exit_code()),
        Err(
            error
            @ (serve::Error::Listen { .. } | serve::Error::Limits(_) | serve::Error::Check(_)),
        ) => fail(2, &error),
        Err(error) => fail(1, &error),
    };
    if let Err(error) = log.flush(LAST_LINES) {
        say(&error);
        // Its drop would wait once more for a sink that does not take the lines.
        std::mem::forget(log);
    }
    code
}

fn start_log(to: &LogTo) -> Result<Log, NoLog> {
    let setup = Setup::new().service("testbed");
    let setup = match to {
        LogTo::Stdout => setup.to_stdout(),
        LogTo::Stderr => setup.to_stderr(),
        LogTo::File(path) => setup.to_file(path),
    };
    Ok(setup.init()?)
}

fn serve(settings: &Settings, log: &Writer) -> Result<Report, serve::Error> {
    let runtime = tokio::runtime::Runtime::new()?;
    let served = runtime.block_on(async {
        let listeners = serve::Listeners::bind(settings).await?;
        if settings.any_port() {
            writeln!(std::io::stdout(), "{}", listeners.announcement()?)?;
        }
        let telemetry = telemetry::Setup::new().service("testbed").init()?;
        let served = serve::run(listeners, settings, &telemetry, log).await;
        if let Err(error) = telemetry.shutdown(LAST_EXPORT).await {
            tracing::warn!(error = failure::chain(&error), "not all was exported");
        }
        served
    });
    // Calls that are still there end here, and each writes its line.
    runtime.shutdown_timeout(LAST_CALLS);
    served
}

/// Says why the program ends.
fn fail(code: u8, error: &dyn Error) -> ExitCode {
    say(error);
    ExitCode::from(code)
}

/// Tells an error to whoever started the program. Unlike `eprintln!` it does not panic if nobody listens.
fn say(error: &dyn Error) {
    let told = writeln!(std::io::stderr(), "testbed: {}", failure::chain(error));
    if told.is_err() {
        tracing::error!(error = failure::chain(error), "stderr is closed");
    }
}
