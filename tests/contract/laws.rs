//! The laws, one test each.

/// A row: the laws, for one layer.
macro_rules! laws {
    ($name:ident, $layer:expr) => {
        mod $name {
            use super::*;

            #[tokio::test]
            async fn calls_the_very_instance_that_was_ready() {
                let (probe, seen) = Probe::new();
                let mut service = $layer.layer(probe);
                service.ready().await.expect("a probe is ready");
                let mut clone = service.clone();
                service.call(request()).await.expect("it answers");
                assert_eq!(
                    seen.unready(),
                    0,
                    "an instance was called that nobody had asked"
                );
                clone.call(request()).await.expect("it answers");
                assert_eq!(seen.unready(), 1, "the clone of a ready service was ready");
                clone
                    .ready()
                    .await
                    .expect("a probe is ready")
                    .call(request())
                    .await
                    .expect("it answers");
                assert_eq!((seen.unready(), seen.calls()), (1, 3));
            }

            #[tokio::test]
            async fn readiness_is_that_of_the_inner_service() {
                let (mock, mut handle) =
                    tower_test::mock::pair::<Request<Full<Bytes>>, Response<ProbeBody>>();
                let mut service = $layer.layer(mock);
                let mut asking = task::spawn(());
                handle.allow(0);
                assert_pending!(asking.enter(|context, _| service.poll_ready(context)));
                handle.allow(1);
                assert!(asking.is_woken(), "the waker of poll_ready was lost");
                assert_ready_ok!(asking.enter(|context, _| service.poll_ready(context)));
            }

            #[tokio::test]
            async fn an_error_of_readiness_passes_unchanged() {
                let (mock, mut handle) =
                    tower_test::mock::pair::<Request<Full<Bytes>>, Response<ProbeBody>>();
                let mut service = $layer.layer(mock);
                handle.send_error(ProbeError(5));
                let mut asking = task::spawn(());
                let error =
                    assert_ready_err!(asking.enter(|context, _| service.poll_ready(context)));
                assert_eq!(error.to_string(), ProbeError(5).to_string());
            }

            #[tokio::test]
            async fn a_pending_future_wakes_and_answers() {
                let gate = Gate::default();
                let (probe, _) = Probe::new();
                let mut service = $layer.layer(Probe {
                    gate: gate.clone(),
                    ..probe
                });
                gate.close();
                let mut call = task::spawn(
                    service
                        .ready()
                        .await
                        .expect("a probe is ready")
                        .call(request()),
                );
                assert!(call.poll().is_pending());
                assert!(!call.is_woken());
                gate.open();
                assert!(call.is_woken(), "the waker of the future was lost");
                assert_eq!(assert_ready_ok!(call.poll()).status(), StatusCode::OK);
            }

            #[tokio::test]
            async fn a_pending_body_wakes_and_goes_on() {
                let gate = Gate::default();
                let (probe, _) = Probe::new();
                let body = ProbeBody {
                    gate: gate.clone(),
                    ..ProbeBody::of(["late"])
                };
                let service = $layer.layer(Probe { body, ..probe });
                let mut body = Box::pin(
                    service
                        .oneshot(request())
                        .await
                        .expect("it answers")
                        .into_body(),
                );
                gate.close();
                let mut polling = task::spawn(());
                assert!(
                    polling
                        .enter(|context, _| body.as_mut().poll_frame(context))
                        .is_pending()
                );
                gate.open();
                assert!(polling.is_woken(), "the waker of the body was lost");
                let frame =
                    assert_ready!(polling.enter(|context, _| body.as_mut().poll_frame(context)));
                assert_eq!(
                    frame
                        .expect("a frame")
                        .expect("no error")
                        .into_data()
                        .expect("data"),
                    "late"
                );
            }

            #[tokio::test]
            async fn a_dropped_future_gives_all_back() {
                let gate = Gate::default();
                let (probe, seen) = Probe::new();
                let mut service = $layer.layer(Probe {
                    gate: gate.clone(),
                    ..probe
                });
                let at_rest = seen.held();
                gate.close();
                // Before the first poll, and after it.
                drop(
                    service
                        .ready()
                        .await
                        .expect("a probe is ready")
                        .call(request()),
                );
                assert_eq!(seen.held(), at_rest);
                let mut call = task::spawn(
                    service
                        .ready()
                        .await
                        .expect("a probe is ready")
                        .call(request()),
                );
                assert!(call.poll().is_pending());
                assert!(seen.held() > at_rest);
                drop(call);
                assert_eq!(seen.held(), at_rest);
                gate.open();
                service
                    .ready()
                    .await
                    .expect("it goes on")
                    .call(request())
                    .await
                    .expect("it answers");
                assert_eq!(seen.held(), at_rest);
            }

            #[tokio::test]
            async fn a_dropped_body_gives_all_back() {
                let (probe, seen) = Probe::new();
                let mut service = $layer.layer(Probe {
                    body: ProbeBody::of(["one", "two"]),
                    ..probe
                });
                let at_rest = seen.held();
                for frames in 0..=2 {
                    let answer = service
                        .ready()
                        .await
                        .expect("a probe is ready")
                        .call(request())
                        .await;
                    let mut body = Box::pin(answer.expect("it answers").into_body());
                    for _ in 0..frames {
                        body.frame().await.expect("a frame").expect("no error");
                    }
                    assert!(seen.held() > at_rest);
                    drop(body);
                    assert_eq!(seen.held(), at_rest, "after {frames} frames");
                }
            }

            #[tokio::test]
            async fn a_body_that_has_ended_stays_ended() {
                let (probe, _) = Probe::new();
                let service = $layer.layer(Probe {
                    body: ProbeBody::of(["one"]),
                    ..probe
                });
                let mut body = Box::pin(
                    service
                        .oneshot(request())
                        .await
                        .expect("it answers")
                        .into_body(),
                );
                assert!(body.frame().await.is_some());
                for _ in 0..3 {
                    assert!(body.frame().await.is_none());
                    assert!(body.is_end_stream());
                    assert_eq!(body.size_hint().exact(), Some(0));
                }
            }

            #[tokio::test]
            async fn errors_pass_unchanged() {
                let (probe, seen) = Probe::new();
                let mut service = $layer.layer(Probe {
                    fails: true,
                    ..probe
                });
                let at_rest = seen.held();
                let error: ProbeError =
                    match service.ready().await.expect("ready").call(request()).await {
                        Err(error) => error,
                        Ok(_) => panic!("an error became an answer"),
                    };
                assert_eq!((error, seen.held()), (ProbeError(7), at_rest));
            }

            #[tokio::test]
            async fn errors_of_the_body_pass_unchanged() {
                let (probe, _) = Probe::new();
                let body = ProbeBody {
                    fails: true,
                    ..ProbeBody::of(["one"])
                };
                let service = $layer.layer(Probe { body, ..probe });
                let mut body = Box::pin(
                    service
                        .oneshot(request())
                        .await
                        .expect("it answers")
                        .into_body(),
                );
                body.frame().await.expect("a frame").expect("no error yet");
                let error = body
                    .frame()
                    .await
                    .expect("a frame")
                    .expect_err("the body fails");
                let error: Box<dyn Error + Send + Sync> = error.into();
                assert_eq!(error.downcast_ref(), Some(&ProbeError(8)), "{error}");
                assert!(body.frame().await.is_none(), "nothing comes after an error");
            }

            #[tokio::test]
            async fn a_body_keeps_its_size_its_end_and_its_frames() {
                for (body, size, frames) in [
                    (ProbeBody::of([]), Some(0), vec![]),
                    (
                        ProbeBody::of(["one", "three"]),
                        Some(8),
                        vec!["one", "three"],
                    ),
                    (
                        ProbeBody {
                            unsized_: true,
                            ..ProbeBody::of(["one", "three"])
                        },
                        None,
                        vec!["one", "three"],
                    ),
                    (
                        ProbeBody {
                            trailers: true,
                            ..ProbeBody::of(["one"])
                        },
                        Some(3),
                        vec!["one", "trailers"],
                    ),
                ] {
                    let (probe, _) = Probe::new();
                    let service = $layer.layer(Probe { body, ..probe });
                    let mut body = Box::pin(
                        service
                            .oneshot(request())
                            .await
                            .expect("it answers")
                            .into_body(),
                    );
                    assert_eq!(body.size_hint().exact(), size);
                    assert_eq!(body.is_end_stream(), frames.is_empty());
                    let mut left = frames.len();
                    for expected in frames {
                        match body
                            .frame()
                            .await
                            .expect("a frame")
                            .expect("no error")
                            .into_data()
                        {
                            Ok(data) => assert_eq!(data, expected),
                            Err(frame) => {
                                assert_eq!(expected, "trailers");
                                assert_eq!(
                                    frame.into_trailers().expect("trailers")["x-checksum"],
                                    "9"
                                );
                            }
                        }
                        left -= 1;
                        assert_eq!(body.is_end_stream(), left == 0, "{left} frames left");
                    }
                    assert!(body.frame().await.is_none());
                }
            }

            #[tokio::test]
            async fn a_request_keeps_all_it_had() {
                let (probe, seen) = Probe::new();
                let service = $layer.layer(probe);
                let mut request = Request::put("/a/b?c=d")
                    .header("x-own", "kept")
                    .body(Full::from("body"))
                    .expect("valid");
                request.extensions_mut().insert("an extension");
                service.oneshot(request).await.expect("it answers");
                let request = seen.last();
                assert_eq!(
                    (request.method(), request.uri().to_string().as_str()),
                    (&Method::PUT, "/a/b?c=d")
                );
                assert_eq!(request.headers()["x-own"], "kept");
                assert_eq!(request.extensions().get::<&str>(), Some(&"an extension"));
                let body = request.into_body().collect().await.expect("a body");
                assert_eq!(body.to_bytes(), "body");
            }

            #[tokio::test]
            async fn an_answer_keeps_all_it_had() {
                let (probe, _) = Probe::new();
                let answer = $layer
                    .layer(probe)
                    .oneshot(request())
                    .await
                    .expect("it answers");
                assert_eq!(
                    (answer.status(), answer.version()),
                    (StatusCode::OK, http::Version::HTTP_2)
                );
                assert_eq!(answer.headers()["x-own"], "kept");
                assert_eq!(answer.extensions().get::<&str>(), Some(&"an extension"));
            }

            #[tokio::test]
            async fn is_send_and_sync_when_the_inner_service_is() {
                fn is_send<T: Send>(value: T) -> T {
                    value
                }
                fn is_sync<T: Sync>(value: T) -> T {
                    value
                }
                let mut service = is_sync(is_send($layer.layer(Probe::new().0)));
                let call = is_send(
                    service
                        .ready()
                        .await
                        .expect("a probe is ready")
                        .call(request()),
                );
                is_sync(is_send(call.await.expect("it answers").into_body()));
            }

            #[tokio::test]
            async fn asks_no_send_of_the_inner_service() {
                let service = $layer.layer(OnOneThread(Rc::new(())));
                let answer = service.oneshot(request()).await.expect("it answers");
                assert_eq!(
                    answer
                        .into_body()
                        .collect()
                        .await
                        .expect("a body")
                        .to_bytes(),
                    "rc"
                );
            }

            #[tokio::test]
            async fn works_in_a_router_that_axum_serves() {
                let routes = || {
                    Router::new()
                        .route("/a", get(async || "a").post(async |body: Bytes| body))
                        .route("/b/{id}", get(async || "b"))
                };
                for app in [routes().layer($layer), routes().route_layer($layer)] {
                    serves_many_calls_on_many_connections(
                        app.route("/outside", get(async || "outside")),
                    )
                    .await;
                }
            }
        }
    };
}
