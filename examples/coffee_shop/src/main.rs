//! A coffee shop of two services in one process: `reception` takes orders over HTTP, `barista` makes them over gRPC.
//!
//! `cargo run -p coffee_shop` starts it and prints what to try. The addresses can be changed with `RECEPTION_ADDR`,
//! `BARISTA_ADDR` and `OPS_ADDR`; port 0 lets the system choose one.

mod barista;
mod failure;
mod menu;
mod ops;
mod orders;
mod reception;
mod shop;

/// What the two services say to each other, generated from `proto/coffee_shop.proto`.
#[allow(unreachable_pub)]
mod proto {
    tonic::include_proto!("coffee_shop.v1");
}

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use shop::Shop;

/// How long the calls that did not end in time may take to notice that the shop is closed.
const LAST_WAIT: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &error),
    };
    let code = runtime.block_on(async {
        let shop = match Shop::bind().await {
            Ok(shop) => shop,
            Err(error) => return fail(2, &error),
        };
        println!("{}", shop.what_to_try());
        match shop.serve().await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(1, &error),
        }
    });
    runtime.shutdown_timeout(LAST_WAIT);
    code
}

/// Says why the shop closes.
fn fail(code: u8, error: &dyn Error) -> ExitCode {
    eprint!("coffee_shop: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprint!(": {error}");
        cause = error.source();
    }
    eprintln!();
    ExitCode::from(code)
}
