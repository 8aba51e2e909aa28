//! A coffee shop of two services in one process: `reception` takes orders over HTTP, `barista` makes them over gRPC.
//!
//! `cargo run -p coffee_shop` starts it and prints what to try. The addresses can be changed with `RECEPTION_ADDR`,
//! `BARISTA_ADDR` and `OPS_ADDR`; port 0 lets the system choose one. All the rest is set by a file that `PLIMSOLL_CONFIG`
//! names, as `examples/coffee_shop/coffee_shop.toml`, or by variables such as `PLIMSOLL_TIMEOUT_HEAD`.

mod barista;
mod failure;
mod menu;
mod orders;
mod reception;
mod shop;

/// What the two services say to each other, generated from `proto/coffee_shop.proto`.
#[allow(unreachable_pub)]
mod proto {
    tonic::include_proto!("coffee_shop.v1");
}

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use plimsoll::preset::StartError;

use shop::{BindError, ServeError, Shop};

/// How long the calls that did not end in time may take to notice that the shop is closed.
const LAST_CALLS: Duration = Duration::from_millis(500);

/// How long the last export may take.
const LAST_EXPORT: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        // What the one who starts it can put right.
        Err(error) if error.is::<BindError>() || error.is::<StartError>() => fail(2, &*error),
        Err(error) => match error.downcast_ref() {
            Some(ServeError::Token(_)) => fail(2, &*error),
            _ => fail(1, &*error),
        },
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Runtime::new()?;
    let (stacks, served) = runtime.block_on(async {
        let shop = Shop::bind().await?;
        // One line of JSON for each event; metrics to be scraped; both metrics and traces go to a collector if
        // OTEL_EXPORTER_OTLP_ENDPOINT names one.
        let stacks = shop.stacks()?;
        writeln!(io::stdout(), "{}", shop.what_to_try())?;
        let served = shop.serve(&stacks).await;
        // After the last call, so that its span and its counts are among what is exported.
        let (reception, barista) = tokio::join!(
            stacks.reception.shutdown(LAST_EXPORT),
            stacks.barista.shutdown(LAST_EXPORT),
        );
        for error in [reception, barista].into_iter().filter_map(Result::err) {
            tracing::warn!(%error, "not all was exported");
        }
        Ok::<_, Box<dyn Error>>((stacks, served))
    })?;
    // Calls that are still there end here, and each writes its line.
    runtime.shutdown_timeout(LAST_CALLS);
    // The last lines are written when the log goes, with its stack.
    drop(stacks);
    Ok(served?)
}

/// Says why the shop closes.
fn fail(code: u8, error: &dyn Error) -> ExitCode {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    if writeln!(io::stderr(), "coffee_shop: {text}").is_err() {
        tracing::error!(error = text, "stderr is closed");
    }
    ExitCode::from(code)
}
