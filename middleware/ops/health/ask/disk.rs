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
    /// It looks on a thread of its own, one at a time: a file system that hangs, as over a network, fails the check, holds
    /// that one thread, and does not keep the process from ending.
    ///
    /// Not critical: most services answer with a full disk too. Say [`critical`](Self::critical) for those that write
    /// what they must not lose.
    pub fn disk(name: &'static str, path: impl Into<PathBuf>, min_free_bytes: u64) -> Self {
        let path: Arc<Path> = Arc::from(path.into());
        let one = Arc::new(Semaphore::new(1));
        Self::new(name, move || {
            let (path, one) = (Arc::clone(&path), Arc::clone(&one));
            in_turn(one, move || look(&path, min_free_bytes))
        })
        .not_critical()
    }
}

const HANGS: &str = "the file system does not answer";

/// Looks, unless somebody still does.
async fn in_turn(
    one: Arc<Semaphore>,
    look: impl FnOnce() -> Result<(), BoxError> + Send + 'static,
) -> Result<(), BoxError> {
    let turn = one.try_acquire_owned().ok().ok_or(HANGS)?;
    let looking = task::blocking("health_check", move || {
        let _turn = turn;
        look()
    });
    looking.await?
}

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
    use std::{sync::mpsc, time::Duration};

    use super::*;

    #[tokio::test]
    async fn one_that_hangs_fails_all_others_and_holds_one_thread() {
        let one = Arc::new(Semaphore::new(1));
        let (go, hangs) = mpsc::channel::<()>();
        let (began, begun) = mpsc::channel();
        let looking = in_turn(Arc::clone(&one), move || {
            began.send(()).expect("somebody waits");
            assert!(hangs.recv().is_err(), "it ends when `go` is dropped");
            Ok(())
        });
        // Its check has given up.
        drop(tokio::time::timeout(Duration::ZERO, looking).await);
        begun.recv().expect("it has begun");
        for _ in 0..10 {
            let found = in_turn(Arc::clone(&one), || panic!("who looks?")).await;
            assert_eq!(found.expect_err("one hangs").to_string(), HANGS);
        }
        drop(go);
        drop(one.acquire().await.expect("it is never closed"));
        in_turn(Arc::clone(&one), || Ok(()))
            .await
            .expect("it hangs no more");
    }

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
