//! TLS by rustls.

use std::{io, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig, server::TlsStream};
use tower_service::Service;

use super::{
    Server,
    accept::{Listener, Transport},
    listen::on,
};
use crate::observe::BoxError;

#[derive(Clone)]
struct Tls(TlsAcceptor);

impl<T> Transport<T> for Tls
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = TlsStream<T>;

    const IS_IMMEDIATE: bool = false;

    async fn establish(&self, stream: T) -> io::Result<TlsStream<T>> {
        self.0.accept(stream).await
    }
}

impl<S, B> Server<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// Listens here too, over TLS. What the two may speak is told by ALPN: `h2` and `http/1.1` are offered, unless the
    /// configuration names others. A handshake may take as long as a head
    /// ([`head_timeout`](Self::head_timeout)).
    #[must_use]
    pub fn listen_tls<L: Listener>(mut self, listener: L, mut config: ServerConfig) -> Self {
        if config.alpn_protocols.is_empty() {
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        }
        let tls = Tls(TlsAcceptor::from(Arc::new(config)));
        self.listeners.push(Box::new(|service, shared| {
            on(listener, tls, service, shared)
        }));
        self
    }
}
