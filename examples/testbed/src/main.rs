//! A server that misbehaves on demand: the tests of plimsoll drive it as a process of its own.
//!
//! Settings come from `TB_*` variables (see [`settings`]), routes are in [`http`] and [`grpc`], the layers under test
//! are put together in [`layers`]. SIGTERM or Ctrl-C drains and ends with 0; settings that cannot be used end with 2.

mod admin;
mod failure;
mod grpc;
mod http;
mod layers;
mod panics;
mod serve;
mod settings;
mod stream;
mod upstream;

use std::process::ExitCode;
use std::time::Duration;

use settings::Settings;

/// How long calls that did not end in time may take to notice that the runtime is gone.
const LAST_WAIT: Duration = Duration::from_millis(400);

fn main() -> ExitCode {
    let settings = match Settings::from_vars(std::env::vars_os()) {
        Ok(settings) => settings,
        Err(error) => return fail(2, &error),
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &error),
    };
    let served = runtime.block_on(async {
        let listeners = serve::Listeners::bind(&settings).await?;
        if settings.any_port() {
            println!("{}", listeners.announcement()?);
        }
        serve::run(listeners, &settings).await
    });
    // Calls that are still there end here, and each writes its line before the log is flushed.
    runtime.shutdown_timeout(LAST_WAIT);
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ serve::Error::Listen { .. }) => fail(2, &error),
        Err(error) => fail(1, &error),
    }
}

/// Says why the program ends.
fn fail(code: u8, error: &dyn std::error::Error) -> ExitCode {
    eprintln!("testbed: {}", failure::chain(error));
    ExitCode::from(code)
}
