//! Books that balance, and whose they are.

use axum::{Router, routing::get};

use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_books_balance_in_every_scrape_and_exactly_at_rest() {
    let scrape = Scrape::new();
    let app: Router = Router::new()
        .route("/{n}", get(|| async { tokio::task::yield_now().await }))
        .layer(scrape.layer());
    let callers = (0..4).map(|_| {
        let app = app.clone();
        async move {
            for number in 0..5_000 {
                call(app.clone(), request("GET", &format!("/{number}"))).await;
            }
        }
    });
    let callers = tokio::task::JoinSet::from_iter(callers);
    while !callers.is_empty() && sum(&scrape.read(), "plimsoll.requests") < 15_000 {
        let values = scrape.read();
        let in_flight = sum(&values, "plimsoll.requests.in_flight");
        assert!((0..=4).contains(&in_flight), "{in_flight}");
        balanced_in_motion(&values);
        tokio::task::yield_now().await;
    }
    callers.join_all().await;
    let values = scrape.read();
    assert_eq!(sum(&values, "plimsoll.requests"), 20_000);
    balanced(&values);
}

#[tokio::test]
async fn clones_and_routes_share_one_set_of_books() {
    let scrape = Scrape::new();
    let layer = scrape.layer();
    let one: Router = Router::new()
        .route("/", get(|| async {}))
        .layer(layer.clone());
    let two: Router = Router::new()
        .route("/", get(|| async {}).post(|| async {}))
        .route("/b", get(|| async {}))
        .layer(layer);
    call(one, request("GET", "/")).await;
    for (method, path) in [("GET", "/"), ("POST", "/"), ("GET", "/b")] {
        call(two.clone(), request(method, path)).await;
    }
    let values = scrape.read();
    assert_eq!(sum(&values, "plimsoll.requests"), 4);
    assert_eq!(of(&values, "http.server.request.duration").len(), 3);
}
