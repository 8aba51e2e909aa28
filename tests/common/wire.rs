//! Servers on loopback and clients of hyper's.

use std::net::SocketAddr;

use axum::{Router, body::Body};
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// Serves this with plain axum, HTTP/1 and h2c on one port, until the test ends.
pub async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        axum::serve(listener, app)
            .await
            .expect("it serves for ever")
    });
    address
}

pub type HyperClient = Client<HttpConnector, Body>;

pub fn http1() -> HyperClient {
    Client::builder(TokioExecutor::new()).build_http()
}

pub fn http2() -> HyperClient {
    Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http()
}

/// The same request, to a server.
pub fn at(address: SocketAddr, mut request: Request<Body>) -> Request<Body> {
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str());
    *request.uri_mut() = format!("http://{address}{path}").parse().expect("a URI");
    request
}

/// Asks a server.
pub async fn ask(
    client: &HyperClient,
    address: SocketAddr,
    request: Request<Body>,
) -> Response<Incoming> {
    client
        .request(at(address, request))
        .await
        .expect("an answer")
}

/// Sends these bytes and reads until the server closes the connection.
pub async fn raw(address: SocketAddr, request: &[u8]) -> Bytes {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(request).await.expect("it reads");
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .await
        .expect("it answers and closes");
    answer.into()
}

/// Reads until the text of what came ends so.
pub async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    let mut byte = [0];
    while !text.ends_with(end) {
        stream
            .read_exact(&mut byte)
            .await
            .unwrap_or_else(|error| panic!("{error} after {text:?}"));
        text.push(char::from(byte[0]));
    }
    text
}
