//! How the shop is asked to close.

use std::io;

/// Ends at the first Ctrl-C or SIGTERM. From this call on neither ends the process at once.
#[cfg(unix)]
pub(crate) fn asked_to_close() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Ends at the first Ctrl-C. From this call on it does not end the process at once.
#[cfg(windows)]
pub(crate) fn asked_to_close() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = tokio::signal::windows::ctrl_c()?;
    Ok(async move {
        interrupt.recv().await;
    })
}
