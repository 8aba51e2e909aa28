//! `cargo run --example preset --features preset`: a program of axum with the whole stack around it, by two lines.
//!
//! With `PLIMSOLL_CONFIG=examples/preset.toml` in front it also has quotas. See how it is guarded:
//!
//!     curl -i http://127.0.0.1:3000/               (an id, a line on stdout, quotas)
//!     curl -i http://127.0.0.1:3000/panic          (a 500 that tells nothing)
//!     curl http://127.0.0.1:3000/stack             (what is on, with which limits)
//!
//! Change `quotas` in that file while it runs: the log says so, and they hold from the next call on.

use std::{error::Error, net::SocketAddr};

use axum::{Router, routing::get};
use tokio::net::TcpListener;

async fn hello() -> &'static str {
    "hello\n"
}

async fn fails() -> &'static str {
    panic!("the machine is out of beans")
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let stack = plimsoll::preset::server("shop").start()?; // one line
    let shown = stack.clone();
    let app: Router = Router::new()
        .route("/", get(hello))
        .route("/panic", get(fails))
        .route("/stack", get(async move || format!("{shown:#?}\n")))
        .layer(stack.layer()); // and another
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    let app = app.into_make_service_with_connect_info::<SocketAddr>(); // so that peers have addresses
    Ok(axum::serve(listener, app).await?)
}
