//! Acquire, cancel, resize and the queue, in schedules drawn at random.

use std::{future::poll_fn, task::Poll};

use shuttle::{
    future::block_on,
    rand::{Rng as _, thread_rng},
    sync::atomic::AtomicUsize,
    thread,
};

use super::{
    controller::Sample,
    outside::{Arc, Ordering},
    shared::{Admitted, Shared},
    start,
    state::{Ask, Seat},
};
use crate::context::Priority;

/// All of them.
pub(crate) fn check() {
    let models: [(&str, fn()); 5] = [
        ("every permit comes back", every_permit_comes_back),
        (
            "a limit that moves loses nobody",
            a_limit_that_moves_loses_nobody,
        ),
        ("never more than the limit", never_more_than_the_limit),
        (
            "a dry run leaves nobody waiting",
            a_dry_run_leaves_nobody_waiting,
        ),
        ("the bell wakes", the_bell_wakes),
    ];
    for (name, model) in models {
        model();
        println!("{name}: holds");
    }
}

const SCHEDULES: usize = 3_000;
const MOST: usize = 3;

fn ask() -> Ask {
    Ask {
        priority: Priority::Normal,
        deadline: None,
        caller: None,
        streams: false,
    }
}

fn one() -> Arc<Shared> {
    Arc::new(Shared::new("model", start(1.0, false), false))
}

/// How many are in, and were at once.
#[derive(Default)]
struct Inside(AtomicUsize);

impl Inside {
    fn work(&self, shared: &Shared, seat: Seat) {
        let inside = self.0.fetch_add(1, Ordering::SeqCst) + 1;
        assert!(inside <= MOST, "{inside} at once");
        thread::yield_now();
        self.0.fetch_sub(1, Ordering::SeqCst);
        shared.give_back(seat, Sample::Served(0.01), shared.now());
    }
}

/// Waits for a permit, or gives up on the way. Whether it was let in.
fn call(shared: &Arc<Shared>, inside: &Inside, gives_up: bool) -> bool {
    match Shared::enter_or_wait(shared, shared.now(), &ask()) {
        Ok(Admitted::Now(seat)) => inside.work(shared, seat),
        Ok(Admitted::Later(wait)) => {
            let mut wait = Box::pin(wait);
            if gives_up {
                // Polled once, so that there is a waker; then dropped, whatever was told meanwhile.
                block_on(poll_fn(|context| {
                    if let Poll::Ready(Ok(seat)) = wait.as_mut().poll(context) {
                        inside.work(shared, seat);
                    }
                    Poll::Ready(())
                }));
                thread::yield_now();
                return false;
            }
            let seat = block_on(wait).expect("nobody is sent away");
            inside.work(shared, seat);
        }
        Err(reason) => panic!("{reason:?}"),
    }
    true
}

/// And nobody waits for ever.
fn every_permit_comes_back() {
    shuttle::check_random(
        || {
            let (shared, inside) = (one(), Arc::new(Inside::default()));
            let callers: Vec<_> = (0..4)
                .map(|caller| {
                    let (shared, inside) = (Arc::clone(&shared), Arc::clone(&inside));
                    thread::spawn(move || {
                        for _ in 0..2 {
                            let gives_up = caller > 1 && thread_rng().gen_bool(0.7);
                            call(&shared, &inside, gives_up);
                        }
                    })
                })
                .collect();
            for caller in callers {
                caller.join().expect("no panic");
            }
            assert_eq!((shared.in_flight(), shared.waiting()), (0, 0));
        },
        SCHEDULES,
    );
}

/// Though the only place is taken to the end, whether they came before it was switched on or meanwhile.
fn a_dry_run_leaves_nobody_waiting() {
    shuttle::check_random(
        || {
            let (shared, inside) = (one(), Arc::new(Inside::default()));
            let first = Shared::enter_or_wait(&shared, shared.now(), &ask());
            let Ok(Admitted::Now(first)) = first else {
                panic!("there is room");
            };
            let callers: Vec<_> = (0..MOST)
                .map(|_| {
                    let (shared, inside) = (Arc::clone(&shared), Arc::clone(&inside));
                    thread::spawn(move || assert!(call(&shared, &inside, false)))
                })
                .collect();
            let switched = Arc::clone(&shared);
            let operator = thread::spawn(move || switched.set_dry_run(true));
            for thread in callers.into_iter().chain([operator]) {
                thread.join().expect("no panic");
            }
            assert_eq!((shared.in_flight(), shared.waiting()), (1, 0));
            shared.give_back(first, Sample::Served(0.01), shared.now());
            assert_eq!(shared.in_flight(), 0);
        },
        SCHEDULES,
    );
}

fn a_limit_that_moves_loses_nobody() {
    shuttle::check_random(
        || {
            let (shared, inside) = (one(), Arc::new(Inside::default()));
            let callers: Vec<_> = (0..4)
                .map(|_| {
                    let (shared, inside) = (Arc::clone(&shared), Arc::clone(&inside));
                    thread::spawn(move || assert!(call(&shared, &inside, false)))
                })
                .collect();
            let resized = Arc::clone(&shared);
            let operator = thread::spawn(move || {
                for limit in [3, 1, 3, 1] {
                    resized.set_limit(limit);
                }
            });
            for thread in callers.into_iter().chain([operator]) {
                thread.join().expect("no panic");
            }
            assert_eq!((shared.in_flight(), shared.waiting()), (0, 0));
            assert_eq!(shared.limit(), 1);
        },
        SCHEDULES,
    );
}

/// The refusal that takes no lock admits nobody.
fn never_more_than_the_limit() {
    shuttle::check_random(
        || {
            let (shared, inside) = (one(), Arc::new(Inside::default()));
            shared.set_limit(MOST);
            let callers: Vec<_> = (0..4)
                .map(|_| {
                    let (shared, inside) = (Arc::clone(&shared), Arc::clone(&inside));
                    thread::spawn(move || {
                        for _ in 0..2 {
                            if let Ok(seat) = shared.enter(shared.now(), &ask()) {
                                inside.work(&shared, seat);
                            }
                        }
                    })
                })
                .collect();
            for caller in callers {
                caller.join().expect("no panic");
            }
            assert_eq!(shared.in_flight(), 0);
            // And when all have gone there is a place.
            shared.enter(shared.now(), &ask()).expect("a place");
        },
        SCHEDULES,
    );
}

/// Whoever looks, finds no room and hangs itself on the bell is woken when there is some.
fn the_bell_wakes() {
    shuttle::check_random(
        || {
            let shared = one();
            let now = shared.now();
            // One in flight and a full room.
            shared.enter(now, &ask()).expect("a place");
            let mut waiting = Vec::new();
            // That anybody may wait is known once somebody has.
            while waiting.is_empty() || shared.has_room() {
                match Shared::enter_or_wait(&shared, now, &ask()) {
                    Ok(Admitted::Later(wait)) => waiting.push(wait),
                    _ => panic!("it has to wait"),
                }
            }
            let watched = Arc::clone(&shared);
            let watcher = thread::spawn(move || {
                let mut rope = None;
                block_on(poll_fn(|context| {
                    if watched.has_room() {
                        return Poll::Ready(());
                    }
                    rope = Some(watched.bell.hang(rope, context.waker()));
                    match watched.has_room() {
                        true => Poll::Ready(()),
                        false => Poll::Pending,
                    }
                }));
            });
            drop(waiting.pop());
            watcher.join().expect("it is woken");
        },
        500,
    );
}
