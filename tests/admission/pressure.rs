use std::{
    future::{Future as _, poll_fn},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use axum::body::Body;
use http::{HeaderValue, Request, StatusCode};
use plimsoll::{
    context::Priority,
    rejection::Reason,
    server::{access_log::AccessLogLayer, request_id::RequestIdLayer, timeout::TimeoutLayer},
};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};

use crate::{
    common::{Lines, header, post},
    support::*,
};

#[tokio::test(start_paused = true)]
async fn waits_for_a_place_and_then_calls() {
    let (till, limit) = (Till::closed(), fixed(1));
    let service = till.behind(queueing(&limit));
    let first = spawn(&service, request());
    let second = spawn(&service, request());
    settle().await;
    assert_eq!(till.started(), 1);
    let handle = limit.handle();
    assert_eq!((handle.in_flight(), handle.waiting()), (1, 1));
    till.serve(2);
    for call in [first, second] {
        assert_served(&call.await.expect("it ends"));
    }
    assert_eq!((till.started(), till.most()), (2, 1));
    assert_eq!(
        (handle.in_flight(), handle.waiting(), handle.admitted()),
        (0, 0, 2)
    );
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_too_long_is_sent_away_and_never_served() {
    let limit = fixed(1).max_wait(ms(300));
    let (till, service, _first) = occupied(queueing(&limit)).await;
    let before = tokio::time::Instant::now();
    let second = ask(&service, request()).await;
    assert_rejected(&second, Reason::QueueTimeout);
    assert!((ms(300)..ms(310)).contains(&before.elapsed()));
    assert_eq!(till.started(), 1);
    let grpc = post("application/grpc");
    let third = ask(&service, grpc).await;
    assert_eq!(header(&third, "grpc-status"), Some("14"));
    assert_eq!(rejected(&limit.handle(), Reason::QueueTimeout), 2);
    assert_eq!(limit.handle().waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_full_room_turns_the_newest_away_as_long_as_it_does_not_stand() {
    let (till, limit) = (Till::closed(), fixed(1).max_waiting(2));
    let service = till.behind(queueing(&limit));
    let first: Vec<_> = (0..3).map(|_| spawn(&service, request())).collect();
    settle().await;
    let fourth = ask(&service, request()).await;
    assert_rejected(&fourth, Reason::QueueFull);
    till.serve(3);
    for call in first {
        assert_served(&call.await.expect("it ends"));
    }
    assert_eq!(rejected(&limit.handle(), Reason::QueueFull), 1);
}

#[tokio::test(start_paused = true)]
async fn without_places_nobody_waits() {
    let limit = fixed(1).max_waiting(0);
    let (_, service, _first) = occupied(queueing(&limit)).await;
    let second = ask(&service, request()).await;
    assert_rejected(&second, Reason::QueueFull);
}

/// First in, first out for a burst; last in, first out once the queue has stood.
#[tokio::test(start_paused = true)]
async fn the_last_is_first_once_the_queue_has_stood() {
    let limit = fixed(1).max_wait(ms(60_000));
    let till = Till::closed();
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&order);
    let served = till.behind(tower::layer::util::Identity::new());
    let noted = tower::service_fn(move |request: Request<Body>| {
        let name = request.uri().path().to_owned();
        seen.lock().expect("no panic").push(name);
        served.clone().oneshot(request)
    });
    let service = queueing(&limit).layer(noted).any();
    let at = |path: &str| {
        Request::builder()
            .uri(path)
            .body(Body::empty())
            .expect("a request")
    };
    let mut calls = Vec::new();
    for path in ["/0", "/1", "/2"] {
        calls.push(spawn(&service, at(path)));
        settle().await;
    }
    till.serve(1);
    settle().await;
    // 1 is in, 2 waits; a second later more come: this queue stands.
    tokio::time::advance(ms(1_100)).await;
    for path in ["/3", "/4"] {
        calls.push(spawn(&service, at(path)));
        settle().await;
    }
    till.serve(9);
    for call in calls {
        assert_served(&call.await.expect("it ends"));
    }
    let order = order.lock().expect("no panic").clone();
    assert_eq!(order, ["/0", "/1", "/4", "/3", "/2"]);
}

#[tokio::test(start_paused = true)]
async fn the_highest_priority_is_called_first_and_the_lowest_sent_away_first() {
    let limit = fixed(1).max_waiting(2);
    let (till, service, _first) = occupied(queueing(&limit).priority_by(by_header)).await;
    let low = spawn(&service, of(Priority::Sheddable));
    let middle = spawn(&service, of(Priority::Normal));
    settle().await;
    let high = spawn(&service, of(Priority::CriticalPlus));
    assert_rejected(&low.await.expect("it ends"), Reason::QueueFull);
    till.serve(1);
    settle().await;
    till.serve(1);
    assert_served(&high.await.expect("it ends"));
    assert!(!middle.is_finished());
    let again = service.clone().oneshot(of(Priority::Sheddable));
    till.serve(2);
    assert_served(&middle.await.expect("it ends"));
    assert_served(&again.await.expect("infallible"));
    let rejected = limit.handle().rejected();
    assert_eq!(
        (rejected.len(), rejected[0].priority),
        (1, Priority::Sheddable)
    );
}

#[tokio::test(start_paused = true)]
async fn a_hog_does_not_keep_another_caller_waiting() {
    let (till, limit) = (
        Till::closed(),
        fixed(10).max_waiting(40).max_wait(ms(60_000)),
    );
    let service = till.behind(queueing(&limit).fair_share(by_user()));
    let hogs: Vec<_> = (0..1_000)
        .map(|_| spawn(&service, from_user("hog")))
        .collect();
    settle().await;
    let modest: Vec<_> = (0..20)
        .map(|_| spawn(&service, from_user("modest")))
        .collect();
    settle().await;
    assert_eq!(limit.handle().waiting(), 40);
    assert!(
        modest.iter().all(|call| !call.is_finished()),
        "those of the hog go"
    );
    // Two rounds of ten: the second is shared.
    till.serve(10);
    settle().await;
    till.serve(10);
    settle().await;
    let served = modest.iter().filter(|call| call.is_finished()).count();
    assert!((4..=10).contains(&served), "{served} of 10");
    till.serve(1_000);
    for call in modest {
        assert_served(&call.await.expect("it ends"));
    }
    for call in hogs {
        drop(call.await.expect("it ends"));
    }
    assert_eq!(
        (limit.handle().in_flight(), limit.handle().waiting()),
        (0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn the_body_of_a_call_that_waits_is_not_read() {
    let limit = fixed(1);
    let (_, service, _first) = occupied(queueing(&limit)).await;
    let polls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&polls);
    let frames = futures_util::stream::poll_fn(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        Poll::Ready(Some(Ok::<_, std::convert::Infallible>("bean")))
    });
    let second = spawn(&service, Request::new(Body::from_stream(frames)));
    tokio::time::advance(ms(100)).await;
    settle().await;
    assert_eq!(polls.load(Ordering::SeqCst), 0);
    drop(second.await.expect("it ends"));
    assert_eq!(polls.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_while_it_waits_leaves_the_room() {
    let (till, limit) = (Till::closed(), fixed(1));
    let service = till.behind(queueing(&limit));
    let first = spawn(&service, request());
    let second = spawn(&service, request());
    let third = spawn(&service, request());
    settle().await;
    second.abort();
    settle().await;
    assert_eq!(limit.handle().waiting(), 1);
    till.serve(2);
    assert_served(&first.await.expect("it ends"));
    assert_served(&third.await.expect("it ends"));
    assert_eq!(till.started(), 2);
    assert_eq!(
        (limit.handle().in_flight(), limit.handle().waiting()),
        (0, 0)
    );
}

/// The permit was its own already, and it had not been told.
#[tokio::test(start_paused = true)]
async fn a_permit_that_nobody_fetches_goes_to_the_next() {
    let limit = fixed(1);
    let (till, mut service, first) = occupied(queueing(&limit)).await;
    let ready = service.ready().await.expect("infallible");
    let mut second = Box::pin(ready.call(request()));
    poll_fn(|context| {
        assert!(second.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
    let third = spawn(&service, request());
    settle().await;
    till.serve(1);
    assert_served(&first.await.expect("it ends"));
    assert_eq!(
        (limit.handle().in_flight(), limit.handle().waiting()),
        (1, 1)
    );
    drop(second);
    assert_eq!(
        (limit.handle().in_flight(), limit.handle().waiting()),
        (1, 0)
    );
    till.serve(1);
    assert_served(&third.await.expect("it ends"));
    assert_eq!(till.started(), 2);
    assert_eq!(limit.handle().in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_line_of_the_call_tells_how_long_it_waited() {
    let lines = Lines::listen();
    let (till, outer, inner) = (Till::closed(), fixed(1), fixed(1));
    let stack = (
        RequestIdLayer::new(),
        AccessLogLayer::new(),
        queueing(&inner),
    );
    let services = [
        till.behind(stack),
        till.behind((queueing(&outer), AccessLogLayer::new())),
    ];
    for service in services {
        let first = spawn(&service, request());
        settle().await;
        let second = spawn(&service, request());
        settle().await;
        tokio::time::advance(ms(40)).await;
        till.serve(2);
        for call in [first, second] {
            assert_served(&call.await.expect("it ends"));
        }
        let lines = lines.take_access();
        let waits: Vec<_> = lines
            .iter()
            .map(|line| line.get("queue_ms").cloned())
            .collect();
        assert_eq!(waits.len(), 2);
        assert_eq!(waits[0], None);
        let waited: f64 = waits[1]
            .as_ref()
            .expect("it waited")
            .parse()
            .expect("a number");
        assert!((40.0..42.0).contains(&waited), "{waited}");
    }
}

#[tokio::test(start_paused = true)]
async fn readiness_waits_for_room_if_asked_to_and_wakes_once() {
    let (till, limit) = (Till::closed(), fixed(1).max_waiting(1).max_wait(ms(60_000)));
    let service = till.behind(queueing(&limit).hold_connections());
    let handle = limit.handle();
    let first = spawn(&service, request());
    settle().await;
    let second = spawn(&service, request());
    settle().await;
    assert!(!handle.has_room());
    let mut held = tower_test::mock::Spawn::new(service.clone());
    assert!(held.poll_ready::<Request<Body>>().is_pending());
    assert!(!held.is_woken());
    tokio::time::advance(ms(500)).await;
    settle().await;
    assert!(!held.is_woken(), "it does not spin");
    let mut room = tokio_test::task::spawn(handle.room());
    assert!(room.poll().is_pending());
    till.serve(1);
    settle().await;
    assert!(held.is_woken() && room.is_woken());
    assert!(held.poll_ready::<Request<Body>>().is_ready() && room.poll().is_ready());
    till.serve(1);
    for call in [first, second] {
        assert_served(&call.await.expect("it ends"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_lets_nobody_wait() {
    let (till, limit) = (Till::closed(), fixed(1).dry_run());
    let service = till.behind(queueing(&limit));
    let calls = [spawn(&service, request()), spawn(&service, request())];
    settle().await;
    assert_eq!((till.started(), limit.handle().would_shed()), (2, 1));
    till.serve(2);
    for call in calls {
        assert_eq!(call.await.expect("it ends").status(), StatusCode::OK);
    }
}

#[tokio::test(start_paused = true)]
async fn patience_is_short_by_default() {
    let limit = fixed(1);
    let (_, service, _first) = occupied(queueing(&limit)).await;
    let before = tokio::time::Instant::now();
    let second = ask(&service, request()).await;
    assert_rejected(&second, Reason::QueueTimeout);
    assert!(
        before.elapsed() <= Duration::from_millis(250),
        "{:?}",
        before.elapsed()
    );
}

fn with_deadline(left: &'static str) -> Request<Body> {
    let mut request = post("application/grpc");
    let left = HeaderValue::from_static(left);
    request.headers_mut().insert("grpc-timeout", left);
    request
}

/// Its time is up while it waits: the handler never starts.
#[tokio::test(start_paused = true)]
async fn whoever_cannot_be_in_time_is_not_served() {
    let (till, limit) = (Till::closed(), fixed(1).max_wait(ms(60_000)));
    let stack = ServiceBuilder::new()
        .layer(TimeoutLayer::new())
        .layer(queueing(&limit))
        .into_inner();
    let service = till.behind(stack);
    let first = spawn(&service, request());
    settle().await;
    let before = tokio::time::Instant::now();
    let second = service.clone().oneshot(with_deadline("50m")).await;
    let second = second.expect("infallible");
    assert_eq!(header(&second, "grpc-status"), Some("4"));
    assert_eq!(reason(&second), Some("deadline"));
    assert!(
        (ms(45)..ms(60)).contains(&before.elapsed()),
        "{:?}",
        before.elapsed()
    );
    settle().await;
    assert_eq!((limit.handle().waiting(), till.started()), (0, 1));
    // One whose time is up when it comes does not even wait, though there is a place.
    till.serve(1);
    assert_served(&first.await.expect("it ends"));
    let late = service.clone().oneshot(with_deadline("0m")).await;
    assert_eq!(reason(&late.expect("infallible")), Some("deadline"));
    assert_eq!((limit.handle().in_flight(), till.started()), (0, 1));
}

/// Once it is known how long a call takes, whoever has less time left than that goes at once.
#[tokio::test(start_paused = true)]
async fn whoever_has_too_little_time_left_does_not_wait_for_it() {
    let limit = fixed(2).max_wait(ms(60_000));
    let slow = tower::service_fn(|_: Request<Body>| async {
        // sleeps: on the paused clock
        tokio::time::sleep(ms(100)).await;
        Ok::<_, std::convert::Infallible>(http::Response::new(Body::empty()))
    });
    let stack = ServiceBuilder::new()
        .layer(TimeoutLayer::new())
        .layer(queueing(&limit));
    let service = stack.service(slow).any();
    for _ in 0..120 {
        drop(service.clone().oneshot(request()).await);
    }
    let _running = [spawn(&service, request()), spawn(&service, request())];
    settle().await;
    let before = tokio::time::Instant::now();
    let hurried = service.clone().oneshot(with_deadline("90m")).await;
    assert_eq!(reason(&hurried.expect("infallible")), Some("deadline"));
    assert_eq!(before.elapsed(), ms(0));
    assert_eq!(rejected(&limit.handle(), Reason::Deadline), 1);
}
