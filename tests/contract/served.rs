//! A real server around a layer.

use super::*;

/// Calls of two methods and three routes, at once, over connections of their own and over shared ones.
pub(crate) async fn serves_many_calls_on_many_connections(app: Router) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("an address");
    let server = tokio::spawn(axum::serve(listener, app).into_future());
    for http2 in [false, true] {
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let client = Client::builder(TokioExecutor::new())
                .http2_only(http2)
                .build_http::<Full<Bytes>>();
            for (method, path, status, body) in [
                (Method::GET, "/a", 200, "a"),
                (Method::POST, "/a", 200, "sent"),
                (Method::GET, "/b/7", 200, "b"),
                (Method::GET, "/outside", 200, "outside"),
                (Method::DELETE, "/a", 405, ""),
                (Method::GET, "/nowhere", 404, ""),
            ] {
                for _ in 0..3 {
                    let client = client.clone();
                    let request = Request::builder()
                        .method(method.clone())
                        .uri(format!("http://{address}{path}"));
                    let request = request.body(Full::from("sent")).expect("valid");
                    calls.spawn(async move {
                        let answer = client.request(request).await.expect("an answer");
                        assert_eq!(answer.status(), status, "{path}");
                        assert_eq!(
                            answer
                                .into_body()
                                .collect()
                                .await
                                .expect("a body")
                                .to_bytes(),
                            body,
                            "{path}"
                        );
                    });
                }
            }
        }
        assert_eq!(calls.join_all().await.len(), 72);
    }
    server.abort();
    assert!(server.await.expect_err("it was aborted").is_cancelled());
}
