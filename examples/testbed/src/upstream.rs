//! The client behind `/up/{path}` and gRPC `Up`.

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::uri::{InvalidUri, PathAndQuery};
use axum::http::{HeaderMap, Method, Uri};
use axum::response::{IntoResponse, Response};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::TokioExecutor;
use opentelemetry_sdk::trace::SdkTracer;
use tower::ServiceExt;

use crate::layers;

/// Calls the service that `TB_UPSTREAM` names. Clones share its connections.
#[derive(Clone)]
pub(crate) struct Upstream {
    base: Option<Uri>,
    client: layers::Outgoing<Client<HttpConnector, Body>>,
}

/// Why there is no answer from upstream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    #[error("no upstream: TB_UPSTREAM is not set")]
    NotSet,
    #[error("the path cannot be asked for")]
    Path(#[from] InvalidUri),
    #[error("the request cannot be made")]
    Request(#[from] axum::http::Error),
    #[error("the upstream did not answer")]
    NoAnswer(#[from] legacy::Error),
}

impl Upstream {
    pub(crate) fn new(base: Option<Uri>, tracer: &SdkTracer) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self {
            base,
            client: layers::outgoing(client, tracer),
        }
    }

    /// Sends a request for `/up/{path}` on as one for `/{path}`.
    pub(crate) async fn forward(&self, request: Request) -> Result<Response, UpstreamError> {
        let (head, body) = request.into_parts();
        let path = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let path = path.strip_prefix("/up").unwrap_or(path);
        let headers = only(&head.headers, &[ACCEPT, CONTENT_LENGTH, CONTENT_TYPE]);
        self.send(head.method, path, headers, body).await
    }

    /// Asks for a path, with or without its first slash.
    pub(crate) async fn get(&self, path: &str) -> Result<Response, UpstreamError> {
        let path = format!("/{}", path.trim_start_matches('/'));
        self.send(Method::GET, &path, HeaderMap::new(), Body::empty())
            .await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Body,
    ) -> Result<Response, UpstreamError> {
        let base = self.base.clone().ok_or(UpstreamError::NotSet)?;
        let mut uri = base.into_parts();
        uri.path_and_query = Some(path.parse::<PathAndQuery>()?);
        let mut request = Request::builder()
            .method(method)
            .uri(Uri::from_parts(uri).map_err(axum::http::Error::from)?)
            .body(body)?;
        *request.headers_mut() = headers;
        let (head, body) = self.client.clone().oneshot(request).await?.into_parts();
        let kept = only(&head.headers, &[CONTENT_LENGTH, CONTENT_TYPE]);
        Ok((head.status, kept, Body::new(body)).into_response())
    }
}

/// Headers that are about the content. The others are the business of one connection, or of the layers.
fn only(headers: &HeaderMap, names: &[axum::http::HeaderName]) -> HeaderMap {
    let value = |name| Some((name, headers.get(name)?.clone()));
    let kept = names.iter().filter_map(value);
    kept.map(|(name, value)| (name.clone(), value)).collect()
}
