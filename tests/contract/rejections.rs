//! What is answered in place of the service.

use super::*;

/// What each layer answers in place of the service: a row is a layer around a service that makes it reject.
#[tokio::test]
async fn a_rejection_is_right_in_every_protocol() {
    let panics = tower::service_fn(
        async |_: Request<Full<Bytes>>| -> Result<Response<ProbeBody>, ProbeError> {
            panic!("a secret")
        },
    );
    let catch_panic = (CatchPanicLayer::new().layer(panics), "panic", 500, "13");
    for (service, reason, status, code) in [catch_panic] {
        for (content_type, http_status, answered_with) in [
            (None, status, "application/problem+json"),
            (Some("application/json"), status, "application/problem+json"),
            (Some("application/grpc"), 200, "application/grpc"),
            (Some("application/grpc+proto"), 200, "application/grpc"),
            (
                Some("application/grpc;charset=utf-8"),
                200,
                "application/grpc",
            ),
            (
                Some("application/grpc-web+proto"),
                200,
                "application/grpc-web+proto",
            ),
            (
                Some("application/grpc-web-text"),
                200,
                "application/grpc-web-text+proto",
            ),
            (
                Some("application/grpcish"),
                status,
                "application/problem+json",
            ),
        ] {
            let mut asked = Request::post("/");
            if let Some(content_type) = content_type {
                asked = asked.header("content-type", content_type);
            }
            let app = ServiceBuilder::new()
                .layer(RequestIdLayer::new())
                .service(service.clone());
            let answer = app
                .oneshot(asked.body(Full::default()).expect("valid"))
                .await
                .expect("a rejection is an answer");
            let header = |name: &str| {
                answer
                    .headers()
                    .get(name)
                    .map(|value| value.to_str().expect("ASCII"))
            };
            assert_eq!(answer.status().as_u16(), http_status, "{content_type:?}");
            assert_eq!(
                header("content-type"),
                Some(answered_with),
                "{content_type:?}"
            );
            assert_eq!(header("plimsoll-reason"), Some(reason));
            assert!(header("x-request-id").is_some());
            assert_eq!(
                header("grpc-status"),
                (http_status == 200).then_some(code),
                "{content_type:?}"
            );
            assert_eq!(
                header("cache-control"),
                (http_status != 200).then_some("no-store")
            );
            assert!(
                answer.extensions().get::<Rejection>().is_some(),
                "outer layers tell by it why"
            );
            let id = header("x-request-id").expect("it was there").to_owned();
            let told = answer.into_body().collect().await.expect("a whole body");
            assert!(told.trailers().is_none(), "trailers-only");
            let body = told.to_bytes();
            assert!(!String::from_utf8_lossy(&body).contains("secret"));
            if http_status == 200 {
                assert!(body.is_empty());
            } else {
                let problem: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
                assert_eq!(
                    (&problem["status"], &problem["reason"]),
                    (&status.into(), &reason.into())
                );
                assert_eq!(problem["request_id"], id.as_str());
                assert!(problem["type"].is_string() && problem["title"].is_string());
            }
        }
    }
}
