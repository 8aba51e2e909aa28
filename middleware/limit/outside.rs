//! What the plumbing takes from outside: the models of `tests/models` put their own in its place.

pub(super) use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

pub(super) use tokio::time::{Sleep, sleep_until};
