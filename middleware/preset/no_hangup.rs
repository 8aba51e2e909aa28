//! Where there is no such signal.

use std::io;

pub(super) struct Hangup;

impl Hangup {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self)
    }

    /// Never comes.
    pub(super) async fn next(&mut self) {
        std::future::pending().await
    }
}
