mod outside {
    pub(super) use std::sync::PoisonError;

    pub(super) use shuttle::sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    };

    pub(super) use super::never::{Sleep, sleep_until};
}

mod never {
    use std::{
        pin::Pin,
        task::{Context, Poll},
        time::Instant,
    };

    #[derive(Debug)]
    pub(crate) struct Sleep;

    pub(crate) fn sleep_until(_: Instant) -> Sleep {
        Sleep
    }

    impl Sleep {
        pub(crate) fn reset(self: Pin<&mut Self>, _: Instant) {}
    }

    impl Future for Sleep {
        type Output = ();

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            Poll::Pending
        }
    }
}

#[path = "../../../../middleware/limit/bell.rs"]
mod bell;
#[path = "../../../../middleware/limit/controller/mod.rs"]
mod controller;
#[path = "../../../../middleware/limit/queue.rs"]
mod queue;
#[path = "../../../../middleware/limit/report.rs"]
mod report;
#[path = "../../../../middleware/limit/share.rs"]
mod share;
#[path = "../../../../middleware/limit/shared.rs"]
mod shared;
#[path = "../../../../middleware/limit/state.rs"]
mod state;
#[path = "../../../../middleware/limit/tally.rs"]
mod tally;
#[path = "../../../../middleware/limit/wait.rs"]
mod wait;
#[path = "../../../../middleware/limit/window.rs"]
mod window;

mod models;

pub(crate) use models::check;

/// As the real one.
fn start(initial: f64, adapts: bool) -> state::Start {
    state::Start {
        tuning: controller::Tuning {
            initial,
            min: 1.0,
            max: 1_000_000.0,
            target: 1.5,
            adapts,
        },
        bounds: queue::Bounds::default(),
        streams: 1_024,
    }
}
