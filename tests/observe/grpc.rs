//! Calls of gRPC and gRPC-Web: the status is the end.

use super::*;

#[tokio::test]
async fn a_stream_of_grpc_that_lacks_its_status_gets_one() {
    let grpc = || post("application/grpc");
    let missing = "failed: missing grpc-status";
    let not_zero = "complete, status 13";
    for (case, response, expected) in [
        ("nothing", response([]), missing),
        ("data", response([Step::Data(b"ok")]), missing),
        (
            "trailers without a status",
            response([Step::Trailers(map(&[("x", "y")]))]),
            not_zero,
        ),
        (
            "an end that is told",
            Response::new(Script::of([Step::Data(b"ok")]).telling_its_end()),
            missing,
        ),
        (
            "a size that is reached",
            Response::new(Script::of([Step::Data(b"ok")]).with_size(2)),
            missing,
        ),
        (
            "no body at all, which is told",
            Response::new(Script::of([]).telling_its_end()),
            missing,
        ),
        (
            "a content-length of nothing",
            with_length("0", Response::new(Script::of([]).telling_its_end())),
            missing,
        ),
    ] {
        let (got, ends) = answer_read(grpc(), response).await;
        assert_eq!(got.trailer("grpc-status"), Some("13"), "{case}");
        assert_eq!(
            got.trailer("grpc-message"),
            Some("missing grpc-status"),
            "{case}"
        );
        assert_eq!(ends, [expected], "{case}");
    }
}

#[tokio::test]
async fn an_error_in_a_stream_of_grpc_becomes_its_status() {
    #[derive(Debug)]
    struct Outer(tonic::Status);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("outer")
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    let not_found = || tonic::Status::not_found("no order 7, host db-3");
    for (case, error, code) in [
        ("any", BoxError::from("oh, host db-3"), "13"),
        ("a status", not_found().into(), "5"),
        ("a status within", Outer(not_found()).into(), "5"),
        (
            "a status that would say all is well",
            tonic::Status::ok("").into(),
            "13",
        ),
    ] {
        let steps = [Step::Data(b"ok"), Step::Fail(error)];
        let (got, ends) = answer_read(post("application/grpc"), response(steps)).await;
        assert_eq!((got.text(), got.error.as_deref()), ("ok", None), "{case}");
        assert_eq!(got.trailer("grpc-status"), Some(code), "{case}");
        let told = format!("{:?}", got.trailers);
        assert!(!told.contains("db-3"), "{case}: {told}");
        assert!(
            ends.len() == 1 && ends[0].starts_with("failed: "),
            "{case}: {ends:?}"
        );
    }
}

#[tokio::test]
async fn a_status_in_the_head_needs_no_trailers() {
    let only = |steps: Vec<Step>| {
        let mut response = response(steps);
        *response.headers_mut() = map(&[("grpc-status", "5")]);
        response
    };
    let (got, ends) = answer_read(post("application/grpc"), only(vec![])).await;
    assert!(got.trailers.is_none());
    assert_eq!(ends, ["complete"]);
    let mut response = only(vec![]);
    *response.body_mut() = Script::of([]).telling_its_end();
    let ends = answer_unread(post("application/grpc"), response).await;
    assert_eq!(ends, ["complete"]);
}

#[tokio::test]
async fn trailers_of_grpc_pass_as_they_are() {
    let trailers = map(&[
        ("grpc-status", "5"),
        ("grpc-message", "none"),
        ("x-extra-bin", "AAEC"),
    ]);
    let steps = [Step::Data(b"ok"), Step::Trailers(trailers.clone())];
    let (got, ends) = answer_read(post("application/grpc+proto"), response(steps)).await;
    assert_eq!(got.trailers, Some(trailers));
    assert_eq!(ends, ["complete, status 5"]);
}

#[tokio::test]
async fn a_plain_answer_to_a_call_of_grpc_stays_plain() {
    // A router's 404, a proxy's 502: gRPC's clients know what they mean (grpc/doc/http-grpc-status-mapping.md).
    for status in [404, 405, 415, 502] {
        for content_type in ["application/grpc", "application/grpc-web+proto"] {
            let answer = || {
                with_length(
                    "2",
                    with_status(status, response([Step::Data(b"no"), Step::End])),
                )
            };
            let (got, ends) = answer_read(post(content_type), answer()).await;
            assert_eq!(
                (got.text(), &got.trailers),
                ("no", &None),
                "{status} {content_type}"
            );
            assert_eq!(ends, ["complete"], "{status} {content_type}");
            let empty = with_status(status, with_length("0", response([])));
            assert_eq!(answer_unread(post(content_type), empty).await, ["complete"]);
        }
    }
}

// ---- gRPC-Web

/// A frame of gRPC-Web.
fn frame(flag: u8, text: &[u8]) -> Vec<u8> {
    let length = u32::try_from(text.len()).expect("short").to_be_bytes();
    [&[flag], &length[..], text].concat()
}

fn leaked(bytes: Vec<u8>) -> &'static [u8] {
    bytes.leak()
}

fn web(content_type: &'static str, steps: Vec<Step>) -> Response<Script> {
    let mut response = response(steps);
    *response.headers_mut() = map(&[("content-type", content_type)]);
    response
}

/// The trailers at the end of a body of gRPC-Web.
fn last_frame(data: &[u8]) -> Option<String> {
    let mut rest = data;
    while let [flag, a, b, c, d, after @ ..] = rest {
        let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).expect("short");
        if *flag & 0x80 != 0 {
            assert_eq!(after.len(), length, "nothing comes after the trailers");
            return Some(String::from_utf8(after.to_vec()).expect("ASCII"));
        }
        rest = &after[length..];
    }
    None
}

fn base64(text: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = Vec::new();
    for group in text.chunks(3) {
        let byte = |at: usize| usize::from(group.get(at).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let digit = DIGITS[bits >> (18 - 6 * place) & 63];
            out.push(if place <= group.len() { digit } else { b'=' });
        }
    }
    out
}

fn unbase64(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        b'=' => 0,
        other => panic!("{other} is no base64"),
    };
    assert_eq!(text.len() % 4, 0, "whole groups");
    for group in text.chunks(4) {
        let bits = group
            .iter()
            .fold(0_u32, |bits, &byte| bits << 6 | u32::from(value(byte)));
        let padding = group.iter().filter(|&&byte| byte == b'=').count();
        out.extend_from_slice(&bits.to_be_bytes()[1..4 - padding]);
    }
    out
}

const BINARY: &str = "application/grpc-web+proto";
const TEXT: &str = "application/grpc-web-text+proto";

#[tokio::test]
async fn the_trailers_of_grpc_web_are_found_in_the_body() {
    let wire = [frame(0, b"hello"), frame(0x80, b"grpc-status:5\r\n")].concat();
    for (content_type, wire) in [(BINARY, wire.clone()), (TEXT, base64(&wire))] {
        for chunk in [1, 3, 1_000] {
            let steps = wire
                .chunks(chunk)
                .map(|part| Step::Data(leaked(part.to_vec())))
                .collect();
            let (got, ends) = answer_read(post(content_type), web(content_type, steps)).await;
            assert_eq!(got.data, wire, "{content_type} {chunk}");
            assert_eq!(ends, ["complete, status 5"], "{content_type} {chunk}");
        }
    }
}

#[tokio::test]
async fn a_stream_of_grpc_web_whose_trailers_are_out_is_complete_without_a_last_poll() {
    let steps = [
        Step::Data(leaked(frame(0, b"hello"))),
        Step::Data(leaked(frame(0x80, b"grpc-status:5\r\n"))),
        Step::Hang,
    ];
    let (response, ends) = answer(post(BINARY), web(BINARY, steps.into())).await;
    let mut body = response.into_body();
    for _ in 0..2 {
        assert_eq!(ends.take(), [""; 0]);
        body.frame().await.expect("a frame").expect("data");
    }
    drop(body);
    assert_eq!(ends.take(), ["complete, status 5"]);
}

#[tokio::test]
async fn a_stream_of_grpc_web_that_lacks_its_status_gets_one() {
    for content_type in [BINARY, TEXT] {
        for failing in [false, true] {
            let hello = frame(0, b"hello");
            let hello = if content_type == TEXT {
                base64(&hello)
            } else {
                hello
            };
            let mut steps = vec![Step::Data(leaked(hello))];
            steps.extend(failing.then(oh));
            let (got, ends) = answer_read(post(content_type), web(content_type, steps)).await;
            let data = if content_type == TEXT {
                unbase64(&got.data)
            } else {
                got.data
            };
            let trailers = last_frame(&data).expect("a last frame");
            assert!(trailers.contains("grpc-status:13\r\n"), "{trailers}");
            assert_eq!(got.error, None);
            assert!(
                ends.len() == 1 && ends[0].starts_with("failed: "),
                "{ends:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_stream_of_grpc_web_that_breaks_within_a_frame_is_cut() {
    let half = leaked(frame(0, b"hello")[..7].to_vec());
    for steps in [vec![Step::Data(half)], vec![Step::Data(half), oh()]] {
        let (got, ends) = answer_read(post(BINARY), web(BINARY, steps)).await;
        assert!(got.error.is_some());
        assert!(
            ends.len() == 1 && ends[0].starts_with("failed: "),
            "{ends:?}"
        );
    }
}

#[tokio::test]
async fn the_answer_tells_how_grpc_web_is_written() {
    // `accept` decides, so it may differ from the request; a service behind a translator answers in plain gRPC.
    let wire = [frame(0, b"hello"), frame(0x80, b"grpc-status:0\r\n")].concat();
    for (asked, answered, wire) in [(BINARY, TEXT, base64(&wire)), (TEXT, BINARY, wire.clone())] {
        let steps = vec![Step::Data(leaked(wire.clone()))];
        let (got, ends) = answer_read(post(asked), web(answered, steps)).await;
        assert_eq!(got.data, wire, "{asked} {answered}");
        assert_eq!(ends, ["complete, status 0"], "{asked} {answered}");
    }
    let steps = vec![
        Step::Data(b"hello"),
        Step::Trailers(map(&[("grpc-status", "0")])),
    ];
    let (got, ends) = answer_read(post(BINARY), web("application/grpc", steps)).await;
    assert_eq!(got.trailer("grpc-status"), Some("0"));
    assert_eq!(ends, ["complete, status 0"]);
    let steps = vec![Step::Data(b"hello")];
    let (got, _) = answer_read(post(BINARY), web("application/grpc", steps)).await;
    assert_eq!(got.trailer("grpc-status"), Some("13"));
}
