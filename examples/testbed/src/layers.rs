//! The layers under test, in the one place where they are put on.

use axum::Router;
use tonic::transport::Server;
use tower::ServiceBuilder;
use tower::util::MapRequestLayer;

use crate::panics;

/// Puts the layers around the routes of the HTTP listener.
pub(crate) fn around_routes(router: Router) -> Router {
    router.layer(ServiceBuilder::new().layer(MapRequestLayer::new(panics::in_call)))
}

/// Puts the layers around the gRPC server.
pub(crate) fn around_server(server: Server) -> Server {
    server
}

/// A client with the layers around it.
pub(crate) type Outgoing<S> = S;

/// Puts the layers around a client.
pub(crate) fn outgoing<S>(client: S) -> Outgoing<S> {
    client
}
