//! The server's process: one core, one worker, told over a pipe how its backend changes.

mod backend;
pub(crate) mod grpc;
mod variants;

use std::{
    io::{self, BufRead, Write},
    net::{Ipv4Addr, SocketAddr},
    process::exit,
    sync::Arc,
    thread,
};

use axum::{Router, extract::State, routing::get, serve::ListenerExt};
use http::StatusCode;
use tokio::net::TcpListener;
use tonic::{
    service::Routes,
    transport::{Server, server::TcpIncoming},
};

use crate::{
    case::{Case, Change, Protocol, Variant},
    machine::{self, Core},
};
use backend::Work;
use grpc::Overload;

/// What the parent says over the pipe; each line but these is an error.
const CPU: &str = "cpu";
const PLACES: &str = "places";
const SLOWNESS: &str = "slowness";

/// A line that asks for the processor time of this process, or for a change.
pub(crate) fn order(change: Option<Change>) -> String {
    match change {
        None => CPU.to_owned(),
        Some(Change::Places(number)) => format!("{PLACES} {number}"),
        Some(Change::Slowness(factor)) => format!("{SLOWNESS} {factor}"),
    }
}

/// Tells its port and serves until its stdin is closed.
pub(crate) fn serve(case: &Case) -> Result<(), String> {
    machine::pin(Core::Server)?;
    let work = Arc::new(Work::new(case.backend, case.seed));
    let told = Arc::clone(&work);
    thread::spawn(move || exit(i32::from(obey(&told).is_err())));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let case = *case;
    // On the worker, as handlers are.
    let served = runtime.spawn(async move { listen(&case, work).await });
    runtime
        .block_on(served)
        .map_err(|error| error.to_string())?
}

/// Answers each order by a line, until there are no more.
fn obey(work: &Work) -> io::Result<()> {
    let mut answers = io::stdout();
    for order in io::stdin().lock().lines() {
        let order = order?;
        let mut words = order.split(' ');
        let (word, number) = (
            words.next(),
            words.next().and_then(|number| number.parse::<u32>().ok()),
        );
        match (word, number) {
            (Some(CPU), None) => {}
            (Some(PLACES), Some(number)) => work.change(Change::Places(number as usize)),
            (Some(SLOWNESS), Some(factor)) => work.change(Change::Slowness(factor)),
            _ => return Err(io::Error::other(order)),
        }
        writeln!(answers, "{}", machine::cpu_time().as_nanos())?;
        answers.flush()?;
    }
    Ok(())
}

async fn listen(case: &Case, work: Arc<Work>) -> Result<(), String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.map_err(|error| error.to_string())?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let router = match case.protocol {
        Protocol::Http => http(case, work),
        Protocol::Grpc => Routes::new(Overload(work)).into_axum_router(),
    };
    let router = variants::wrap(router, case)?;
    println!("{}", address.port());
    match case.protocol {
        Protocol::Http => {
            let listener = listener.tap_io(|stream| {
                stream
                    .set_nodelay(true)
                    .expect("a stream that was just accepted is open");
            });
            let router = router.into_make_service_with_connect_info::<SocketAddr>();
            axum::serve(listener, router)
                .await
                .map_err(|error| error.to_string())
        }
        Protocol::Grpc => {
            let routes = Routes::from(router);
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let served = Server::builder()
                .add_routes(routes)
                .serve_with_incoming(incoming)
                .await;
            served.map_err(|error| error.to_string())
        }
    }
}

fn http(case: &Case, work: Arc<Work>) -> Router {
    if case.variant == Variant::Bare503 {
        return Router::new().route("/", get(|| async { StatusCode::SERVICE_UNAVAILABLE }));
    }
    let handler = async |State(work): State<Arc<Work>>| {
        work.work().await;
        "ok"
    };
    Router::new().route("/", get(handler)).with_state(work)
}
