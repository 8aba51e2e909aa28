//! The layers under test, in the one place where they are put on.

use axum::Router;
use plimsoll::client::propagate::{Propagate, PropagateLayer};
use plimsoll::server::access_log::AccessLogLayer;
use plimsoll::server::catch_panic::CatchPanicLayer;
use plimsoll::server::request_id::RequestIdLayer;
use tonic::transport::Server;
use tower::Layer;
use tower::layer::util::{Identity, Stack};
use tower::util::MapRequestLayer;

use crate::panics;

/// The layers of a server, outermost first.
type Incoming = (RequestIdLayer, AccessLogLayer, CatchPanicLayer);

fn incoming() -> Incoming {
    (
        RequestIdLayer::new(),
        AccessLogLayer::new(),
        CatchPanicLayer::new(),
    )
}

/// Puts the layers around all routes of the HTTP listener.
pub(crate) fn around_routes(routes: Router) -> Router {
    // One `layer`, not two: between two of them the router would put a future of its own.
    routes.layer((incoming(), MapRequestLayer::new(panics::in_call)))
}

/// Puts the layers around the gRPC server.
pub(crate) fn around_server(server: Server) -> Server<Stack<Incoming, Identity>> {
    server.layer(incoming())
}

/// A client with the layers around it.
pub(crate) type Outgoing<S> = Propagate<S>;

/// Puts the layers around a client.
pub(crate) fn outgoing<S>(client: S) -> Outgoing<S> {
    PropagateLayer::new().layer(client)
}
