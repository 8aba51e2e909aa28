//! Whether there is memory left.

use std::{future::ready, io};

use crate::{memory, observe::BoxError, ops::health::Check};

impl Check {
    /// A check that this process uses less than this share of the memory it may use, from 0 to 1; what lies outside is
    /// taken for the nearest.
    ///
    /// What it may use is the limit of its cgroup, version 2 or 1, else all memory of the machine; what it uses is its
    /// resident set. 0.9 is a good share: below the 0.95 from which a [`MemoryGate`](crate::limit::MemoryGate) sheds even
    /// the calls that matter most. Where there is no `/proc` it fails, and says so.
    ///
    /// Not critical, since replicas tend to fill alike: a full one that is [taken out](Self::critical) leaves its calls to
    /// others that are nearly full.
    pub fn memory(name: &'static str, share: f64) -> Self {
        let share = if share.is_nan() {
            1.0
        } else {
            share.clamp(0.0, 1.0)
        };
        Self::new(name, move || ready(look(share))).not_critical()
    }
}

fn look(share: f64) -> Result<(), BoxError> {
    let numbers = || -> io::Result<_> { Ok((memory::resident_set()?, memory::limit()?.get())) };
    let (used, limit) = numbers()?;
    if used as f64 <= limit as f64 * share {
        return Ok(());
    }
    Err(format!("{used} of {limit} bytes of memory are used").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fails_above_its_share_only() {
        look(1.0).expect("less than all");
        let error = look(0.0).expect_err("more than nothing").to_string();
        assert!(error.ends_with(" bytes of memory are used"), "{error}");
    }
}
