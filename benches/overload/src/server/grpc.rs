//! The backend as a gRPC service, written out by hand: one method needs no generated code.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use tonic::{
    Status,
    body::Body,
    server::{Grpc, NamedService, UnaryService},
};
use tonic_prost::ProstCodec;
use tower_service::Service;

use super::backend::Work;

/// The one method.
pub(crate) const ECHO: &str = "/plimsoll.overload.v1.Overload/Echo";

/// What it takes and gives.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Blob {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) data: Bytes,
}

/// Works, then answers with what it was sent.
#[derive(Clone)]
pub(crate) struct Overload(pub(crate) Arc<Work>);

type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl NamedService for Overload {
    const NAME: &'static str = "plimsoll.overload.v1.Overload";
}

impl UnaryService<Blob> for Overload {
    type Response = Blob;
    type Future = Answer<Result<tonic::Response<Blob>, Status>>;

    fn call(&mut self, request: tonic::Request<Blob>) -> Self::Future {
        let work = Arc::clone(&self.0);
        Box::pin(async move {
            work.work().await;
            Ok(tonic::Response::new(request.into_inner()))
        })
    }
}

impl Service<Request<Body>> for Overload {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != ECHO {
                return Ok(Status::unimplemented("there is only Echo").into_http());
            }
            let mut grpc = Grpc::new(ProstCodec::<Blob, Blob>::default());
            Ok(grpc.unary(service, request).await)
        })
    }
}
