//! What runs on a listener: the loop that accepts, and what each connection of it becomes.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;

use super::{
    Control, Loop,
    accept::{Listener, Run, Transport, accept},
    conn::Conn,
    connection,
    counts::Ended,
    drain::Phase,
    shared::Shared,
};
use crate::{clock, context::prepared, observe::BoxError};

/// Accepts. Should that panic, the server ends in order: one that accepts nothing any more must not look as if it did.
pub(super) async fn vital(accepting: Loop, control: Control) {
    let guard = DrainOnDrop(control);
    accepting.await;
    // Only a server that ends already comes here.
    drop(guard);
}

struct DrainOnDrop(Control);

impl Drop for DrainOnDrop {
    fn drop(&mut self) {
        self.0.drain();
    }
}

/// Ends all connections when the server is dropped.
pub(super) struct EndOnDrop(pub(super) Arc<Shared>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.enter(Phase::Ended);
    }
}

/// Serves this on a listener.
pub(super) fn on<L, T, S, B>(listener: L, transport: T, service: S, shared: Arc<Shared>) -> Loop
where
    L: Listener,
    T: Transport<L::Stream>,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let run = run_with(prepared(service), &shared);
    Box::pin(accept(listener, transport, shared, run))
}

fn run_with<T, S, B>(service: S, shared: &Arc<Shared>) -> Run<T>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let shared = Arc::clone(shared);
    Arc::new(move |stream, open, came| {
        let limits = Arc::clone(&shared.limits);
        let (counts, over) = (Arc::clone(&shared.counts), Arc::clone(&open.over));
        let conn = Arc::new(Conn::new(limits, counts, over, clock::now()));
        let (service, phase) = (service.clone(), shared.phase.subscribe());
        let delay = shared.delay.clone();
        Box::pin(async move {
            let one = Arc::clone(&conn);
            let (reason, why) = match delay {
                Some(delay) => {
                    connection::serve(delay.watch_since(stream, came), service, one, open, phase)
                        .await
                }
                None => connection::serve(stream, service, one, open, phase).await,
            };
            let served = conn.served();
            Ended {
                reason,
                served,
                why,
            }
        })
    })
}
