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

use axum::{
    Router,
    extract::State,
    routing::{get, post},
    serve::ListenerExt,
};
use plimsoll::limit::ReadDelay;
use tokio::net::{TcpListener, TcpStream};
use tonic::{
    codegen::tokio_stream::StreamExt,
    service::Routes,
    transport::{Server, server::TcpIncoming},
};

use crate::{
    case::{Case, Change, Protocol, Variant},
    machine::{self, Core},
};
use backend::Work;
use grpc::{ECHO, Overload};

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
    let delay = ReadDelay::new();
    let router = router(case, work, &delay)?;
    println!("{}", address.port());
    // Only ours have a use for it, and only they pay for it.
    let ours = matches!(case.variant, Variant::LoadShed | Variant::BackPressure);
    answer(listener, case.protocol, router, ours.then_some(delay)).await
}

/// The handlers behind the case's variant.
fn router(case: &Case, work: Arc<Work>, delay: &ReadDelay) -> Result<Router, String> {
    let protocol = case.protocol;
    let rejects = move || async move { variants::rejection(protocol) };
    let router = match protocol {
        _ if case.variant == Variant::Bare503 => Router::new()
            .route("/", get(rejects))
            .route(ECHO, post(rejects)),
        Protocol::Http => http(work),
        Protocol::Grpc => Routes::new(Overload(work)).into_axum_router(),
    };
    variants::wrap(router, case, delay)
}

/// As users do it: with axum's own server, or with tonic's.
async fn answer(
    listener: TcpListener,
    protocol: Protocol,
    router: Router,
    delay: Option<ReadDelay>,
) -> Result<(), String> {
    match protocol {
        Protocol::Http => {
            let router = router.into_make_service_with_connect_info::<SocketAddr>();
            let served = match delay {
                Some(delay) => {
                    let listener = delay.listener(listener);
                    let listener = listener.tap_io(|stream| no_delay(stream.get_ref()));
                    axum::serve(listener, router).await
                }
                None => axum::serve(listener.tap_io(|stream| no_delay(stream)), router).await,
            };
            served.map_err(|error| error.to_string())
        }
        Protocol::Grpc => {
            let mut server = Server::builder();
            let server = server.add_routes(Routes::from(router));
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let served = match delay {
                Some(delay) => {
                    let timed =
                        incoming.map(move |stream| stream.map(|stream| delay.watch(stream)));
                    server.serve_with_incoming(timed).await
                }
                None => server.serve_with_incoming(incoming).await,
            };
            served.map_err(|error| error.to_string())
        }
    }
}

fn no_delay(stream: &TcpStream) {
    stream
        .set_nodelay(true)
        .expect("a stream that was just accepted is open");
}

fn http(work: Arc<Work>) -> Router {
    let handler = async |State(work): State<Arc<Work>>| {
        work.work().await;
        "ok"
    };
    Router::new().route("/", get(handler)).with_state(work)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{task::JoinSet, time::timeout};

    use super::*;
    use crate::{
        account::Answer,
        case::tests::case,
        client::{Grpc, Http1},
        generator::{Dial, Link},
        schedule::Class,
    };

    /// More at once than any variant but no limit lets in.
    const CALLS: usize = 200;

    /// All of them at once; once the first is answered, the backend has `places`.
    async fn answers<D: Dial>(dial: D, work: &Work, places: usize) -> Vec<Option<Answer>> {
        let mut links = Vec::new();
        for _ in 0..CALLS {
            links.push(dial.dial().await.unwrap());
        }
        let mut calls = JoinSet::new();
        for mut link in links {
            calls.spawn(async move { link.call(Class::Critical).await });
        }
        let first = calls.join_next().await.expect("there are some");
        work.change(Change::Places(places));
        let mut answers = calls.join_all().await;
        answers.push(first.expect("no panic"));
        answers
    }

    /// Served, rejected with a hint, rejected without one.
    async fn counts(variant: Variant, protocol: Protocol) -> [usize; 3] {
        let mut case = case(variant, 200);
        case.protocol = protocol;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let work = Arc::new(Work::new(case.backend, case.seed));
        let places = case.backend.places();
        if variant != Variant::NoLimit {
            // Nobody is served until somebody is rejected: a slow machine, whose calls come one by one, would serve them all.
            work.change(Change::Places(0));
        }
        let delay = ReadDelay::new();
        let router = router(&case, Arc::clone(&work), &delay).unwrap();
        let server = answer(listener, protocol, router, Some(delay));
        let calls = async {
            match protocol {
                Protocol::Http => answers(Http1 { address }, &work, places).await,
                Protocol::Grpc => answers(Grpc::new(address), &work, places).await,
            }
        };
        let answers = tokio::select! {
            answers = timeout(Duration::from_secs(60), calls) => answers.expect("calls end"),
            ended = server => panic!("the server ended: {ended:?}"),
        };
        let count = |wanted| {
            let found = answers.iter().filter(|answer| **answer == Some(wanted));
            found.count()
        };
        [
            count(Answer::Served),
            count(Answer::Rejected { hint: true }),
            count(Answer::Rejected { hint: false }),
        ]
    }

    #[tokio::test]
    async fn every_variant_serves_some_and_rejects_the_rest() {
        for protocol in [Protocol::Http, Protocol::Grpc] {
            for variant in Variant::ALL {
                let [served, hinted, bare] = counts(variant, protocol).await;
                let name = format!(
                    "{} over {}: {served}, {hinted}, {bare}",
                    variant.name(),
                    protocol.name()
                );
                assert_eq!(served + hinted + bare, CALLS, "{name}");
                match variant {
                    Variant::NoLimit => assert_eq!(served, CALLS, "{name}"),
                    Variant::LoadShed | Variant::BackPressure => {
                        assert!(served > 0 && hinted > 0 && bare == 0, "{name}")
                    }
                    Variant::Bare503 => {
                        assert_eq!(bare, CALLS, "{name}")
                    }
                    _ => assert!(served > 0 && bare > 0 && hinted == 0, "{name}"),
                }
            }
        }
    }

    #[test]
    fn orders_are_words_and_a_number() {
        assert_eq!(order(None), "cpu");
        assert_eq!(order(Some(Change::Places(4))), "places 4");
        assert_eq!(order(Some(Change::Slowness(1))), "slowness 1");
    }
}
