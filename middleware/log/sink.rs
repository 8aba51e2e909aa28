//! Where lines go: a standard stream, a file, or whatever the user gives.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use super::setup::SetupError;

/// Chosen before anything is opened.
pub(super) enum Sink {
    Stdout,
    Stderr,
    File(PathBuf),
    Given(Box<dyn Write + Send>),
}

impl Sink {
    pub(super) fn open(self) -> Result<Box<dyn Write + Send>, SetupError> {
        let stream = |stream| move |source| SetupError::Stream { stream, source };
        Ok(match self {
            Self::Stdout => stdout().map_err(stream("stdout"))?,
            Self::Stderr => stderr().map_err(stream("stderr"))?,
            Self::File(path) => {
                Box::new(append(&path).map_err(|source| SetupError::File { path, source })?)
            }
            Self::Given(writer) => writer,
        })
    }

    /// True if lines go to where a person reads them.
    pub(super) fn is_terminal(&self) -> bool {
        match self {
            Self::Stdout => io::stdout().is_terminal(),
            Self::Stderr => io::stderr().is_terminal(),
            Self::File(_) | Self::Given(_) => false,
        }
    }
}

fn append(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

// A descriptor of our own: std's handle is locked while it writes, so that a blocked log would block all who print.
#[cfg(unix)]
fn stdout() -> io::Result<Box<dyn Write + Send>> {
    use std::os::fd::AsFd;
    Ok(Box::new(File::from(
        io::stdout().as_fd().try_clone_to_owned()?,
    )))
}

#[cfg(unix)]
fn stderr() -> io::Result<Box<dyn Write + Send>> {
    use std::os::fd::AsFd;
    Ok(Box::new(File::from(
        io::stderr().as_fd().try_clone_to_owned()?,
    )))
}

#[cfg(not(unix))]
fn stdout() -> io::Result<Box<dyn Write + Send>> {
    Ok(Box::new(io::stdout()))
}

#[cfg(not(unix))]
fn stderr() -> io::Result<Box<dyn Write + Send>> {
    Ok(Box::new(io::stderr()))
}
