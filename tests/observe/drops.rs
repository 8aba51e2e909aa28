//! Calls that are dropped, fail or panic before their end.

use super::*;

/// Answers with what the future becomes.
fn watched<F, B, E>(
    future: F,
) -> (
    impl Future<Output = Result<Response<ResponseBody<B, Watch>>, E>>,
    Ends,
)
where
    F: Future<Output = Result<Response<B>, E>>,
    E: fmt::Display + 'static,
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let layer = WatchLayer::default();
    let mut future = Some(future);
    let mut service = layer.layer(service_fn(move |_: Request<Body>| {
        future.take().expect("called once")
    }));
    (service.call(get("/")), layer.0)
}

#[tokio::test]
async fn an_error_before_the_head_passes_unchanged_and_is_told() {
    let (future, ends) = watched(async { Err::<Response<Script>, &str>("no beans") });
    assert_eq!(future.await.err(), Some("no beans"));
    assert_eq!(ends.take(), ["failed: no beans"]);
}

#[tokio::test]
async fn a_call_that_is_dropped_before_its_head_is_told_after_its_future_is_gone() {
    let (future, ends) = watched(std::future::pending::<Result<Response<Script>, Infallible>>());
    drop(future);
    assert_eq!(ends.take(), ["dropped"], "never polled");

    let alive = Arc::new(());
    let held = Arc::clone(&alive);
    let (future, ends) = watched(async move {
        let _held = held;
        Yield::default().await;
        std::future::pending::<Result<Response<Script>, Infallible>>().await
    });
    let mut future = Box::pin(future);
    poll_fn(|context| {
        assert!(future.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
    assert_eq!(ends.take(), [""; 0]);
    drop(future);
    assert_eq!(ends.take(), ["dropped"]);
    assert_eq!(Arc::strong_count(&alive), 1);
}

#[tokio::test]
async fn a_body_that_is_dropped_in_the_midst_is_told() {
    let (response, ends) = answer(get("/"), response([Step::Data(b"ok"), Step::Hang])).await;
    let mut body = response.into_body();
    body.frame().await.expect("a frame").expect("data");
    drop(body);
    assert_eq!(ends.take(), ["dropped"]);
}

/// Runs this and says whether it panicked.
fn panics(run: impl FnOnce()) -> bool {
    std::panic::catch_unwind(AssertUnwindSafe(run)).is_err()
}

/// Polls once and catches a panic, as a layer further out may.
async fn poll_catching<F: Future>(mut future: Pin<&mut F>) -> Option<Poll<F::Output>> {
    poll_fn(|context| {
        let polled =
            std::panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))).ok();
        Poll::Ready(polled)
    })
    .await
}

#[test]
fn a_panic_in_call_is_told() {
    let layer = WatchLayer::default();
    let mut service = layer.layer(service_fn(
        |_| -> std::future::Ready<Result<Response<Script>, Infallible>> { panic!("in call") },
    ));
    assert!(panics(|| drop(service.call(get("/")))));
    assert_eq!(layer.0.take(), ["panicked"]);
}

#[tokio::test]
async fn a_panic_in_poll_is_told_though_it_is_caught_before_the_future_is_dropped() {
    let (future, ends) = watched(async {
        Yield::default().await;
        if true {
            panic!("in poll");
        }
        Ok::<Response<Script>, Infallible>(response([]))
    });
    let mut future = Box::pin(future);
    assert!(poll_catching(future.as_mut()).await.is_some());
    assert!(poll_catching(future.as_mut()).await.is_none());
    drop(future);
    assert_eq!(ends.take(), ["panicked"]);
}

#[tokio::test]
async fn a_panic_in_the_body_is_told_though_it_is_caught_before_the_body_is_dropped() {
    let (response, ends) = answer(
        get("/"),
        with_length("9", response([Step::Data(b"ok"), Step::Panic("in body")])),
    )
    .await;
    let mut body = response.into_body();
    body.frame().await.expect("a frame").expect("data");
    assert!(poll_catching(pin!(body.frame())).await.is_none());
    drop(body);
    assert_eq!(ends.take(), ["panicked"]);
}

#[tokio::test]
async fn a_panic_in_a_destructor_is_told_once() {
    let (response, ends) = answer(
        get("/"),
        Response::new(Script::of([Step::Hang]).with_bomb()),
    )
    .await;
    assert!(panics(|| drop(response)));
    assert_eq!(ends.take(), ["panicked"]);

    let bomb = common::Bomb("the future panics in drop");
    let (future, ends) = watched(async move {
        let _bomb = bomb;
        std::future::pending::<Result<Response<Script>, Infallible>>().await
    });
    assert!(panics(|| drop(future)));
    assert_eq!(ends.take(), ["panicked"]);
}

#[tokio::test]
async fn a_panic_of_somebody_else_leaves_the_next_call_alone() {
    let (future, _) = watched(async {
        if true {
            panic!("in poll");
        }
        Ok::<Response<Script>, Infallible>(response([]))
    });
    assert!(poll_catching(pin!(future)).await.is_none());
    assert!(plimsoll::context::RequestId::current().is_none());
    let (got, ends) = answer_read(get("/"), response([Step::Data(b"ok")])).await;
    assert_eq!((got.text(), ends), ("ok", vec!["complete".to_owned()]));
}
