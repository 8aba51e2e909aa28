//! What a gRPC service says of itself.

use bytes::Bytes;
use http::uri::PathAndQuery;
use http_body::Body;
use tonic::{
    Request,
    body::Body as TonicBody,
    client::{Grpc, GrpcService},
    codegen::StdError,
};
use tonic_prost::ProstCodec;

use crate::{
    observe::BoxError,
    ops::health::{
        Check,
        messages::{CheckRequest, CheckResponse, ServingStatus},
    },
};

impl Check {
    /// A check that this client's server says `SERVING` of a service: `Check` of `grpc.health.v1`. The empty name asks
    /// about the whole server.
    ///
    /// The client is a `tonic::transport::Channel`, with layers around it or without. One that `connect_lazy` made need
    /// not be there when this program starts. [Critical](Self::critical), as those of [`Check::new`] are.
    pub fn grpc<S>(name: &'static str, client: S, service: impl Into<String>) -> Self
    where
        S: GrpcService<TonicBody, Future: Send, Error: Send> + Clone + Send + Sync + 'static,
        S::ResponseBody: Body<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
    {
        let service = service.into();
        Self::new(name, move || ask(client.clone(), service.clone()))
    }
}

async fn ask<S>(client: S, service: String) -> Result<(), BoxError>
where
    S: GrpcService<TonicBody>,
    S::ResponseBody: Body<Data = Bytes, Error: Into<StdError>> + Send + 'static,
{
    let mut grpc = Grpc::new(client);
    grpc.ready().await.map_err(Into::into)?;
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = ProstCodec::<CheckRequest, CheckResponse>::default();
    let request = Request::new(CheckRequest { service });
    match grpc.unary(request, path, codec).await {
        Ok(told) => match told.into_inner().status() {
            ServingStatus::Serving => Ok(()),
            status => Err(format!("it says {}", status.name()).into()),
        },
        // What it would show includes the metadata.
        Err(status) => Err(format!("status {:?}: {}", status.code(), status.message()).into()),
    }
}
