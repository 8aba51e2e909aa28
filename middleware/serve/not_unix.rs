//! Where there is no Unix: Ctrl-C.

use std::io;

use tokio::signal::ctrl_c;

pub(super) struct Signals;

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self)
    }

    pub(super) async fn next(&mut self) {
        if ctrl_c().await.is_err() {
            // No signal can come.
            std::future::pending::<()>().await;
        }
    }
}
