//! Whether there is room on a disk.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::statvfs;
use tokio::sync::Semaphore;

use crate::{observe::BoxError, ops::health::Check, task};

impl Check {
    /// A check that the file system of this path has at least so many bytes free for programs that are not root's. On
    /// Unix only.
    ///
    /// It looks on a thread for blocking work, one at a time: a file system that hangs, as over a network, fails the
    /// check and holds one thread.
    ///
    /// Not critical: most services answer with a full disk too. Say [`critical`](Self::critical) for those that write
    /// what they must not lose.
    pub fn disk(name: &'static str, path: impl Into<PathBuf>, min_free_bytes: u64) -> Self {
        let path: Arc<Path> = Arc::from(path.into());
        let one = Arc::new(Semaphore::new(1));
        Self::new(name, move || {
            let (path, one) = (Arc::clone(&path), Arc::clone(&one));
            async move {
                let turn = one.try_acquire_owned().ok().ok_or(HANGS)?;
                let looking = task::blocking("health_check", move || {
                    let _turn = turn;
                    look(&path, min_free_bytes)
                });
                looking.await?
            }
        })
        .not_critical()
    }
}

const HANGS: &str = "the file system does not answer";

fn look(path: &Path, min_free: u64) -> Result<(), BoxError> {
    let found = statvfs(path)?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    if free >= min_free {
        return Ok(());
    }
    Err(format!("{free} bytes are free, {min_free} are wanted").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fails_below_its_bytes_and_where_there_is_nothing() {
        look(Path::new("/"), 0).expect("some");
        let error = look(Path::new("/"), u64::MAX)
            .expect_err("less")
            .to_string();
        assert!(error.ends_with(&format!("are free, {} are wanted", u64::MAX)));
        look(Path::new("/no/such/path"), 0).expect_err("no such path");
    }
}
