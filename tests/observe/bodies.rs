//! The ends of a body.

use super::*;

#[tokio::test]
async fn a_body_that_is_read_to_its_end_is_complete() {
    let trailers = || Step::Trailers(map(&[("x-sum", "1")]));
    for (case, response, data, expected) in [
        ("no body", response([]), "", "complete"),
        ("data", response([Step::Data(b"ok")]), "ok", "complete"),
        (
            "data that waits",
            response([Step::Wait, Step::Data(b"ok"), Step::Wait]),
            "ok",
            "complete",
        ),
        (
            "empty chunks",
            response([Step::Data(b""), Step::Data(b"ok"), Step::Data(b"")]),
            "ok",
            "complete",
        ),
        (
            "trailers",
            response([Step::Data(b"ok"), trailers()]),
            "ok",
            "complete, status none",
        ),
        (
            "trailers alone",
            response([trailers()]),
            "",
            "complete, status none",
        ),
        (
            "a status of gRPC is none of HTTP's business",
            response([Step::Trailers(map(&[("grpc-status", "5")]))]),
            "",
            "complete, status 5",
        ),
        (
            "its length",
            with_length("2", response([Step::Data(b"ok")])),
            "ok",
            "complete",
        ),
        (
            "its length, then trailers",
            with_length("2", response([Step::Data(b"ok"), trailers()])),
            "ok",
            "complete, status none",
        ),
        (
            "a length that is no number",
            with_length("two", response([Step::Data(b"ok")])),
            "ok",
            "complete",
        ),
        (
            "trailers of gRPC after the end that it told",
            Response::new(Script::of([Step::Data(b"ok")]).telling_its_end()),
            "ok",
            "complete",
        ),
    ] {
        let (got, ends) = answer_read(get("/"), response).await;
        assert_eq!((got.text(), &got.error), (data, &None), "{case}");
        assert_eq!(ends, [expected], "{case}");
    }
}

#[tokio::test]
async fn a_body_whose_last_byte_is_out_is_complete_without_a_last_poll() {
    let one_frame = |response: Response<Script>| async {
        let (response, ends) = answer(get("/"), response).await;
        let mut body = response.into_body();
        body.frame().await.expect("a frame").expect("no error");
        assert_eq!(ends.take(), [""; 0], "more may come");
        drop(body);
        ends.take()
    };
    let ok = || Step::Data(b"ok");
    for (case, response, expected) in [
        (
            "its length is reached",
            with_length("2", response([ok(), Step::Hang])),
            "complete",
        ),
        (
            "its size is reached",
            Response::new(Script::of([ok(), Step::Hang]).with_size(2)),
            "complete",
        ),
        (
            "it says so",
            Response::new(Script::of([ok()]).telling_its_end()),
            "complete",
        ),
        ("nothing says so", response([ok()]), "dropped"),
        (
            "a byte is missing",
            with_length("3", response([ok(), Step::Data(b"!")])),
            "dropped",
        ),
    ] {
        assert_eq!(one_frame(response).await, [expected], "{case}");
    }
}

#[tokio::test]
async fn a_response_without_a_body_is_complete_though_nobody_looks_at_it() {
    let ok = || response([Step::Data(b"ok")]);
    for (case, request, response, expected) in [
        ("HEAD", head(), ok(), "complete"),
        (
            "HEAD with a length",
            head(),
            with_length("2", ok()),
            "complete",
        ),
        (
            "HEAD of an error",
            head(),
            with_status(500, ok()),
            "complete",
        ),
        ("204", get("/"), with_status(204, ok()), "complete"),
        (
            "304",
            get("/"),
            with_status(304, with_length("2", ok())),
            "complete",
        ),
        ("101", get("/"), with_status(101, ok()), "complete"),
        (
            "length 0",
            get("/"),
            with_length("0", response([])),
            "complete",
        ),
        (
            "an end that is told",
            get("/"),
            Response::new(Script::of([]).telling_its_end()),
            "complete",
        ),
        ("a body", get("/"), ok(), "dropped"),
        (
            "205 may have one",
            get("/"),
            with_status(205, ok()),
            "dropped",
        ),
    ] {
        assert_eq!(answer_unread(request, response).await, [expected], "{case}");
    }
}

#[tokio::test]
async fn a_body_that_fails_or_falls_short_is_cut() {
    for (case, response, error) in [
        ("at once", response([oh()]), "oh"),
        ("after data", response([Step::Data(b"ok"), oh()]), "oh"),
        (
            "after its length",
            with_length("2", response([Step::Data(b"ok"), oh()])),
            "oh",
        ),
        (
            "short",
            with_length("5", response([Step::Data(b"ok")])),
            "the body ended 3 bytes short of its content-length",
        ),
        (
            "short of its size",
            Response::new(Script::of([Step::Data(b"ok")]).with_size(3)),
            "the body ended 1 bytes short of its content-length",
        ),
    ] {
        let (got, ends) = answer_read(get("/"), response).await;
        assert_eq!(got.error.as_deref(), Some(error), "{case}");
        assert_eq!(ends, [format!("failed: {error}")], "{case}");
    }
}

#[tokio::test]
async fn nothing_comes_after_the_end() {
    let more = || [Step::Data(b"more"), oh(), Step::Panic("polled again")];
    let status = || Step::Trailers(map(&[("grpc-status", "0")]));
    for (case, request, first) in [
        ("the end", get("/"), Step::End),
        ("trailers", get("/"), Step::Trailers(map(&[]))),
        ("an error", get("/"), oh()),
        ("the trailers of gRPC", post("application/grpc"), status()),
        ("an error of gRPC", post("application/grpc"), oh()),
        ("an end of gRPC", post("application/grpc"), Step::End),
        (
            "an end of gRPC-Web",
            post("application/grpc-web"),
            Step::End,
        ),
    ] {
        let steps = [first].into_iter().chain(more());
        let (response, ends) = answer(request, response(steps)).await;
        let mut body = response.into_body();
        // One frame, or none: the end.
        drop(body.frame().await);
        assert_eq!(ends.take().len(), 1, "{case}");
        for _ in 0..3 {
            assert!(body.is_end_stream(), "{case}");
            assert_eq!(body.size_hint().exact(), Some(0), "{case}");
            assert!(body.frame().await.is_none(), "{case}");
        }
        drop(body);
        assert_eq!(ends.take(), [""; 0], "{case}: told once");
    }
}

#[tokio::test]
async fn size_and_end_are_those_of_the_inner_body() {
    let (response, _) = answer(
        get("/"),
        Response::new(
            Script::of([Step::Data(b"ok")])
                .with_size(2)
                .telling_its_end(),
        ),
    )
    .await;
    let mut body = response.into_body();
    assert_eq!(body.size_hint().exact(), Some(2));
    assert!(!body.is_end_stream());
    body.frame().await.expect("a frame").expect("data");
    assert!(body.is_end_stream());
}
