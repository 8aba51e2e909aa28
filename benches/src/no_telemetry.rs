//! The exporters take minutes to build, so they are there only if they are asked for.

pub(crate) const SERVER: &str = "telemetry-server";

const MISSING: &str = "run: cargo run --release -p plimsoll-benches --features telemetry -- ..";

pub(crate) fn scrape() -> Result<(), String> {
    Err(MISSING.to_owned())
}

pub(crate) fn collector(_seconds: u64) -> Result<(), String> {
    Err(MISSING.to_owned())
}

pub(crate) fn serve(_collector: &str) -> Result<(), String> {
    Err(MISSING.to_owned())
}
