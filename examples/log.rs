//! `cargo run --example log --features access-log`: the whole program's log as JSON, and what became of it.
//!
//! ```sh
//! RUST_LOG=warn cargo run --example log --features access-log
//! ```

use std::time::Duration;

use plimsoll::log;
use tracing::{info, info_span, warn};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // First in `main`; what it returns lives to the end of it.
    let log = log::Setup::new()
        .service("shop")
        .version(env!("CARGO_PKG_VERSION"))
        .init()?;

    info!(port = 3000, "listening");
    let _order = info_span!("order", table = 7).entered();
    info!(coffee = "flat white", "order taken"); // the fields of the span are on the line
    warn!(note = "no \n sugar, \u{1b}[31mno milk", "odd order"); // one line, whatever a caller writes

    // A panic is a line too, of any thread.
    let broken = std::thread::spawn(|| panic!("the grinder is stuck")).join();
    info!(broken = broken.is_err(), "still open");

    // Lines are written by a thread of their own. What was lost, and why, is counted.
    log.flush(Duration::from_secs(2))?;
    info!(stats = ?log.stats(), "what became of the lines");
    Ok(())
}
