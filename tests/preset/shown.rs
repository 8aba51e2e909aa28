//! What the page for operators knows of a stack.

use axum::{Router, body::Body};
use http::{Request, StatusCode, header::HOST};
use http_body_util::BodyExt as _;
use plimsoll::{
    limit::Limit,
    ops::Controls,
    preset::{self, Part, Setup},
    serve::Server,
};
use serde_json::Value;
use tower::ServiceExt as _;

const TOKEN: &str = "an-operators-token-0123456789";

fn shop() -> Setup {
    let none: [(&str, &str); 0] = [];
    preset::server("shop").variables(none)
}

async fn ask(
    operators: &Router,
    request: http::request::Builder,
    body: &'static str,
) -> (StatusCode, Value) {
    let request = request.header(HOST, "localhost").body(Body::from(body));
    let answer = operators.clone().oneshot(request.expect("a request"));
    let (head, body) = answer.await.expect("infallible").into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    (head.status, serde_json::from_slice(&body).expect("JSON"))
}

async fn shown(operators: &Router) -> Value {
    ask(operators, Request::get("/status.json"), "").await.1
}

#[tokio::test]
async fn the_page_tells_of_parts_that_are_on_and_no_other() {
    let stack = shop().build().expect("valid");
    let all = shown(&stack.ops().routes()).await;
    assert_eq!(all["limits"][0]["name"], "shop");
    assert_eq!(all["failures"], Value::Array(Vec::new()));
    assert_eq!(all["connections"], Value::Null, "there is no server");
    let app = Router::new().layer(stack.layer());
    let operators = stack.ops().routes();
    let _server: Server<Router> = stack.serve(app);
    assert_eq!(shown(&operators).await["connections"]["open"], 0);

    let bare = || shop().without(Part::BackPressure).without(Part::AccessLog);
    let stack = bare().build().expect("valid");
    let controls = Controls::with_token(TOKEN).expect("it is long");
    let operators = stack.ops().controls(controls).routes();
    let some = shown(&operators).await;
    assert_eq!(some["limits"], Value::Array(Vec::new()));
    assert_eq!(some["failures"], Value::Null);
    let change = Request::post("/control/limit")
        .header("authorization", format!("Bearer {TOKEN}"))
        .header("content-type", "application/json");
    let (status, told) = ask(&operators, change, r#"{"limit":"shop","set":5}"#).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{told}");
    assert_eq!(stack.limit().limit(), 16);

    let stack = bare()
        .limit(Limit::adaptive().named("own"))
        .build()
        .expect("valid");
    assert_eq!(
        shown(&stack.ops().routes()).await["limits"][0]["name"],
        "own"
    );
}
