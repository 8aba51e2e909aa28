//! A service of tonic's without generated code: messages are plain bytes.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{Request, Response, uri::PathAndQuery};
use plimsoll::observe::BoxError;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{
    Status, Streaming,
    body::Body,
    client::GrpcService,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::{NamedService, ServerStreamingService, UnaryService},
};
use tower::Service;

use super::Yield;

/// Bytes as they are.
#[derive(Clone, Default)]
pub struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

pub type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// The service `test.Calls`: `One` answers with a message, `Many` with a stream. The message says what is to happen:
/// `fail` an error, `panic` a panic, `cut` (in a stream) an error after a message, `hang` nothing more ever.
#[derive(Clone, Default)]
pub struct Calls;

impl NamedService for Calls {
    const NAME: &'static str = "test.Calls";
}

impl Service<Request<Body>> for Calls {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Raw);
            Ok(match request.uri().path() {
                "/test.Calls/One" => grpc.unary(One, request).await,
                "/test.Calls/Many" => grpc.server_streaming(Many, request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

fn refusal() -> Status {
    Status::failed_precondition("the beans are out")
}

struct One;

impl UnaryService<Bytes> for One {
    type Response = Bytes;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<Bytes>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        Box::pin(async move {
            let message = request.into_inner();
            match &message[..] {
                b"fail" => Err(refusal()),
                b"panic" => panic!("secret-of-the-handler"),
                b"hang" => std::future::pending().await,
                _ => Ok(tonic::Response::new(message)),
            }
        })
    }
}

struct Many;

impl ServerStreamingService<Bytes> for Many {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<Messages>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        Box::pin(async move {
            let message = request.into_inner();
            let first = tokio_stream::once(Ok(message.clone()));
            let stream: Messages = match &message[..] {
                b"fail" => return Err(refusal()),
                b"cut" => Box::pin(first.chain(tokio_stream::once(Err(refusal())))),
                b"panic" => {
                    // The message leaves first: tonic sends what it has when the stream is pending.
                    let then = tokio_stream::once(()).then(|()| Yield::default());
                    Box::pin(first.chain(then.map(|()| panic!("secret-of-the-stream"))))
                }
                b"hang" => Box::pin(first.chain(tokio_stream::pending())),
                _ => Box::pin(first),
            };
            Ok(tonic::Response::new(stream))
        })
    }
}

/// A message as gRPC frames it.
pub fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("short"));
    frame.put_slice(message);
    frame.freeze()
}

/// Listens on a free port, for a server of tonic's.
pub async fn listen() -> (SocketAddr, tonic::transport::server::TcpIncoming) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    (address, listener.into())
}

pub async fn channel(address: SocketAddr) -> tonic::transport::Channel {
    tonic::transport::Endpoint::from_shared(format!("http://{address}"))
        .expect("a URI")
        .connect()
        .await
        .expect("it listens")
}

/// Calls `test.Calls/One`.
pub async fn one<C>(channel: C, message: &'static str) -> Result<tonic::Response<Bytes>, Status>
where
    C: GrpcService<Body>,
    C::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <C::ResponseBody as http_body::Body>::Error: Into<BoxError>,
{
    let mut client = tonic::client::Grpc::new(channel);
    let ready = client.ready().await;
    ready.map_err(|_| Status::unknown("the channel is not ready"))?;
    let path = PathAndQuery::from_static("/test.Calls/One");
    client
        .unary(
            tonic::Request::new(Bytes::from_static(message.as_bytes())),
            path,
            Raw,
        )
        .await
}

/// Calls `test.Calls/Many`.
pub async fn many<C>(
    channel: C,
    message: &'static str,
) -> Result<tonic::Response<Streaming<Bytes>>, Status>
where
    C: GrpcService<Body>,
    C::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <C::ResponseBody as http_body::Body>::Error: Into<BoxError>,
{
    let mut client = tonic::client::Grpc::new(channel);
    let ready = client.ready().await;
    ready.map_err(|_| Status::unknown("the channel is not ready"))?;
    let path = PathAndQuery::from_static("/test.Calls/Many");
    client
        .server_streaming(
            tonic::Request::new(Bytes::from_static(message.as_bytes())),
            path,
            Raw,
        )
        .await
}
