//! Counts heap allocations: the one file of the suite that needs `unsafe`.

#![allow(
    unsafe_code,
    reason = "a global allocator cannot be written without it"
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

/// The system's allocator. While switched on it counts what every thread asks of it; switched off it
/// costs one load, so that it does not blur the wall time.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static SWITCHED_ON: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static REALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// How often memory was asked for, or an allocation resized.
#[derive(Clone, Copy)]
pub(crate) struct Allocations {
    pub(crate) new: u64,
    pub(crate) resized: u64,
}

/// What all threads allocate while `work` runs.
pub(crate) fn count<R>(work: impl FnOnce() -> R) -> (R, Allocations) {
    ALLOCATIONS.store(0, Relaxed);
    REALLOCATIONS.store(0, Relaxed);
    SWITCHED_ON.store(true, Relaxed);
    let result = work();
    SWITCHED_ON.store(false, Relaxed);
    let counted = Allocations {
        new: ALLOCATIONS.load(Relaxed),
        resized: REALLOCATIONS.load(Relaxed),
    };
    (result, counted)
}

fn note(counter: &AtomicU64) {
    if SWITCHED_ON.load(Relaxed) {
        counter.fetch_add(1, Relaxed);
    }
}

// SAFETY: every call is passed on unchanged to the system's allocator, which keeps the promises of
// `GlobalAlloc`; the counters are atomics and allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(&ALLOCATIONS);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(&ALLOCATIONS);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        note(&REALLOCATIONS);
        unsafe { System.realloc(at, layout, new_size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }
}
