//! Over real servers, whatever is spoken: see [`crate::world`].

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::future::join_all;
use http::StatusCode;
use http_body_util::{BodyExt as _, channel::Channel};
use plimsoll::{
    context::Priority, limit::LimitHandle, rejection::Reason, server::timeout::TimeoutLayer,
};
use tower::util::Either;

use crate::{
    common::{Dice, Lines, grpc, header},
    support::*,
    world::*,
};

#[tokio::test]
async fn streams_hold_their_permits_until_they_end() {
    for (server, speaks) in everywhere() {
        let limit = fixed(4);
        let world = World::new(server, speaks, sheds(shedding(&limit))).await;
        let mut streams = Vec::new();
        for _ in 0..4 {
            let mut answer = world.ask("Stream").await;
            assert_eq!(answer.status(), StatusCode::OK, "{server:?} {speaks:?}");
            // The head and the first of the body are there: the call is still in flight.
            let frame = answer.frame().await.expect("a frame").expect("no error");
            assert!(frame.is_data());
            streams.push(answer);
        }
        assert_eq!(limit.handle().in_flight(), 4);
        world.assert_rejected(&world.ask("One").await, Reason::Shed);
        drop(streams);
        until_idle(&limit).await;
        world.is_served().await;
    }
}

#[tokio::test]
async fn calls_wait_and_whoever_goes_away_leaves_the_room() {
    for (server, speaks) in everywhere() {
        let limit = fixed(2).max_wait(BOUND);
        let world = World::new(server, speaks, waits(queueing(&limit))).await;
        let handle = limit.handle();
        let of = |handle: &LimitHandle| (handle.in_flight(), handle.waiting());
        let calls: Vec<_> = (0..6).map(|_| world.spawn("One")).collect();
        until(&handle, |handle| of(handle) == (2, 4)).await;
        // Whoever comes after them waits.
        let leaves = world.spawn("One");
        until(&handle, |handle| of(handle) == (2, 5)).await;
        leaves.abort();
        until(&handle, |handle| handle.waiting() == 4).await;
        world.gate.lets(6);
        for call in calls {
            let answer = call.await.expect("it ends");
            assert_served(&answer);
        }
        until_idle(&limit).await;
        assert_eq!(handle.admitted(), 6, "{server:?} {speaks:?}");
    }
}

/// Nor is there an error line of each: the body never comes, and its caller is answered all the same.
#[tokio::test]
async fn a_rejection_reads_no_body_and_tells_when_to_come_back() {
    let lines = Lines::listen();
    for (server, speaks) in everywhere() {
        for (never, room) in [(false, false), (true, false), (false, true)] {
            let limit = fixed(1).max_waiting(0);
            let stack = match (never, room) {
                (true, _) => sheds(shedding(&limit).never_retry()),
                (_, true) => waits(queueing(&limit)),
                _ => sheds(shedding(&limit)),
            };
            let world = World::new(server, speaks, stack).await;
            let first = world.spawn("One");
            until(&limit.handle(), |handle| handle.in_flight() == 1).await;
            let mut request = world.request("One");
            let (sender, body) = Channel::<Bytes, std::convert::Infallible>::new(1);
            *request.method_mut() = http::Method::POST;
            *request.body_mut() = Body::new(body);
            let answer = world.send(request).await;
            let reason = if room {
                Reason::QueueFull
            } else {
                Reason::Shed
            };
            world.assert_rejected(&answer, reason);
            match (world.hint(&answer), never, speaks) {
                (None, true, Speaks::Http1 | Speaks::Http2) => {}
                (Some("-1"), true, Speaks::Grpc) => {}
                (Some(hint), false, _) => assert!(hint.parse::<u32>().is_ok_and(|hint| hint > 0)),
                other => panic!("{server:?} {other:?}"),
            }
            drop(sender);
            world.gate.lets(1);
            assert_served(&first.await.expect("it ends"));
            let told = lines.access(2).await;
            let told = told.iter().find(|line| line["outcome"] == reason.label());
            let told = told.expect("a line of the rejection");
            assert_ne!(told["level"], "ERROR");
            let read = told.get("bytes_in").map_or("0", String::as_str);
            assert_eq!(read, "0", "{server:?} {speaks:?}");
        }
    }
}

/// A connection that is open and asks nothing holds no permit, though its service is ready.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_hold_no_permits() {
    for server in SERVERS {
        let limit = fixed(16);
        let layer = queueing(&limit).hold_connections();
        let world = World::new(server, Speaks::Http1, waits(layer)).await;
        // Each opens a connection and keeps it.
        let connect = |speaks, count: usize| {
            let new = (0..count).map(|_| world.speaking(speaks));
            new.collect::<Vec<_>>()
        };
        let (one, two) = (connect(Speaks::Http1, 500), connect(Speaks::Http2, 50));
        for some in one.chunks(8).chain(two.chunks(8)) {
            join_all(some.iter().map(World::is_served)).await;
        }
        until_idle(&limit).await;
        let grpc = vec![connect(Speaks::Grpc, 1).remove(0); 16];
        for idle in [&one[..16], &two[..16], &grpc[..]] {
            let calls: Vec<_> = idle.iter().map(|world| world.spawn("One")).collect();
            until(&limit.handle(), |handle| handle.in_flight() == 16).await;
            world.gate.lets(16);
            for call in calls {
                assert_served(&call.await.expect("it ends"));
            }
            until_idle(&limit).await;
        }
        assert_eq!(limit.handle().rejected(), [], "{server:?}");
    }
}

#[tokio::test]
async fn a_limit_below_what_is_in_flight_lets_nobody_in_until_enough_have_ended() {
    for (server, speaks) in everywhere() {
        let limit = fixed(4);
        let handle = limit.handle();
        let world = World::new(server, speaks, sheds(shedding(&limit))).await;
        let calls: Vec<_> = (0..4).map(|_| world.spawn("One")).collect();
        until(&handle, |handle| handle.in_flight() == 4).await;
        handle.set(crate::support::calls(2));
        for left in [3, 2] {
            world.gate.lets(1);
            until(&handle, |handle| handle.in_flight() == left).await;
            world.assert_rejected(&world.ask("One").await, Reason::Shed);
        }
        world.gate.lets(1);
        until(&handle, |handle| handle.in_flight() == 1).await;
        world.gate.lets(1);
        for call in calls {
            assert_served(&call.await.expect("it ends"));
        }
        world.is_served().await;
        until_idle(&limit).await;
    }
}

/// What a stranger says of its priority counts for nothing; of a peer that is trusted it does.
#[tokio::test]
async fn the_priority_of_a_stranger_is_normal() {
    let somebody_else = "10.0.0.0/8".parse().expect("a network");
    let this_one = "127.0.0.0/8".parse().expect("a network");
    for (server, speaks) in everywhere() {
        for (trusted, priority) in [
            (&somebody_else, Priority::Normal),
            (&this_one, Priority::CriticalPlus),
        ] {
            let limit = fixed(1);
            let layer = shedding(&limit).priority_from(Clone::clone(trusted));
            let world = World::new(server, speaks, sheds(layer)).await;
            let first = world.spawn("One");
            until(&limit.handle(), |handle| handle.in_flight() == 1).await;
            let request = with(world.request("One"), "x-criticality", "critical-plus");
            world.assert_rejected(&world.send(request).await, Reason::Shed);
            let rejected = limit.handle().rejected();
            assert_eq!(rejected[0].priority, priority, "{server:?} {speaks:?}");
            world.gate.lets(1);
            assert_served(&first.await.expect("it ends"));
        }
    }
}

/// What a caller may write for its deadline: the answer, and whether it was begun.
#[tokio::test]
async fn hostile_deadlines_are_refused_or_capped() {
    let this_one = "127.0.0.0/8".parse().expect("a network");
    let timeout = TimeoutLayer::new()
        .total(Duration::from_secs(30))
        .deadline_from(this_one);
    for (server, speaks) in everywhere() {
        let limit = fixed(9);
        let (timeout, shed) = (timeout.clone().idle(None), shedding(&limit));
        let world = World::new(server, speaks, stack(timeout.clone(), Either::Left(shed))).await;
        let name = match speaks {
            Speaks::Grpc => "grpc-timeout",
            Speaks::Http1 | Speaks::Http2 => "x-request-deadline",
        };
        for (values, reason) in [
            (&["1Q"][..], Some(Reason::Malformed)),
            (&["1S", "1S"], Some(Reason::Malformed)),
            (&["-1S"], Some(Reason::Malformed)),
            (&["100000000S"], Some(Reason::Malformed)),
            (&["0S"], Some(Reason::Deadline)),
            (&["99999999H"], None),
        ] {
            let request = world.request("One");
            let request = values
                .iter()
                .fold(request, |request, value| with(request, name, value));
            world.gate.lets(usize::from(reason.is_none()));
            let answer = world.send(request).await;
            match reason {
                Some(reason) => world.assert_rejected(&answer, reason),
                None => assert_served(&answer),
            }
        }
        let counts = timeout.counts();
        let counted = (counts.malformed, counts.deadline, counts.capped);
        assert_eq!(counted, (4, 1, 1), "{server:?} {speaks:?}");
        assert_eq!(limit.handle().admitted(), 1, "the others never began");
        until_idle(&limit).await;
    }
}

/// Whether the call waits or is served when its deadline passes: it is told, and gone. Who waits is never begun.
#[tokio::test]
async fn a_deadline_that_passes_ends_a_call_in_the_queue_and_in_its_handler() {
    for (server, speaks) in everywhere() {
        let limit = fixed(1).max_wait(BOUND);
        let handle = limit.handle();
        let timeout = TimeoutLayer::new().deadline_from("127.0.0.0/8".parse().expect("a network"));
        let stack = stack(timeout, Either::Right(queueing(&limit)));
        let world = World::new(server, speaks, stack).await;
        let name = match speaks {
            Speaks::Grpc => "grpc-timeout",
            Speaks::Http1 | Speaks::Http2 => "x-request-deadline",
        };
        let hurried = async || world.send(with(world.request("One"), name, "300m")).await;
        world.assert_rejected(&hurried().await, Reason::Deadline);
        until_idle(&limit).await;
        assert_eq!(handle.admitted(), 1, "its handler was begun, and dropped");
        let first = world.spawn("One");
        until(&handle, |handle| handle.in_flight() == 1).await;
        world.assert_rejected(&hurried().await, Reason::Deadline);
        assert_eq!((handle.admitted(), handle.waiting()), (2, 0));
        world.gate.lets(1);
        assert_served(&first.await.expect("it ends"));
        until_idle(&limit).await;
    }
}

#[tokio::test]
async fn a_handler_that_never_ends_gives_its_place_back_in_time() {
    for (server, speaks) in everywhere() {
        let limit = fixed(1);
        let timeout = TimeoutLayer::new().head(ms(50));
        let stack = stack(timeout.clone(), Either::Left(shedding(&limit)));
        let world = World::new(server, speaks, stack).await;
        world.assert_rejected(&world.ask("Never").await, Reason::Timeout);
        until_idle(&limit).await;
        // By the same limit, and in no hurry.
        let patient = World::new(server, speaks, sheds(shedding(&limit))).await;
        patient.is_served().await;
        assert_eq!(timeout.counts().head, 1, "{server:?} {speaks:?}");
    }
}

/// A caller who takes nothing keeps its place, and no more than that, until its connection ends.
#[tokio::test]
async fn a_body_that_nobody_reads_holds_one_place_until_its_connection_ends() {
    for (server, speaks) in everywhere() {
        let limit = fixed(2);
        let world = World::new(server, speaks, sheds(shedding(&limit))).await;
        let unread = world.another();
        let answer = unread.ask("Stream").await;
        assert_eq!(limit.handle().in_flight(), 1);
        for _ in 0..3 {
            world.is_served().await;
        }
        until(&limit.handle(), |handle| handle.in_flight() == 1).await;
        drop((answer, unread));
        until_idle(&limit).await;
    }
}

/// 200 calls for each server and language, 20,000 with `PLIMSOLL_LONG=1`, each dropped at some point.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_who_leave_at_any_time_leave_nothing_behind() {
    let long = std::env::var("PLIMSOLL_LONG").is_ok_and(|long| long == "1");
    let rounds = if long { 2_500 } else { 25 };
    for (server, speaks) in everywhere() {
        let limit = fixed(3).max_wait(BOUND);
        let handle = limit.handle();
        let world = World::new(server, speaks, waits(queueing(&limit))).await;
        let mut dice = Dice(5);
        for _ in 0..rounds {
            let calls: Vec<_> = (0..8)
                .map(|place| world.spawn(if place < 4 { "One" } else { "Stream" }))
                .collect();
            // Some leave before they have come, some while they wait, and some are served meanwhile.
            let here = usize::try_from(dice.roll(5)).expect("small");
            until(&handle, |handle| {
                handle.in_flight() + handle.waiting() >= here
            })
            .await;
            for call in calls {
                world.gate.lets(usize::from(dice.roll(2) == 0));
                for _ in 0..dice.roll(200) {
                    tokio::task::yield_now().await;
                }
                call.abort();
            }
            until_idle(&limit).await;
        }
        world.is_served().await;
        assert!(handle.admitted() > rounds, "{server:?} {speaks:?}");
        assert_eq!(handle.rejected(), [], "{server:?} {speaks:?}");
    }
}

/// axum and tonic on one port: each is told in its own words.
#[tokio::test]
async fn both_protocols_on_one_port_are_told_in_their_own_words() {
    for server in SERVERS {
        let limit = fixed(1);
        let http = World::new(server, Speaks::Http2, sheds(shedding(&limit))).await;
        let first = http.spawn("One");
        until(&limit.handle(), |handle| handle.in_flight() == 1).await;
        let channel = grpc::channel(http.address).await;
        let told = grpc::one(channel, "espresso").await;
        assert_eq!(
            told.expect_err("it is shed").code(),
            tonic::Code::Unavailable
        );
        let told = http.ask("One").await;
        http.assert_rejected(&told, Reason::Shed);
        assert_eq!(
            header(&told, "content-type"),
            Some("application/problem+json")
        );
        http.gate.lets(1);
        assert_served(&first.await.expect("it ends"));
    }
}
