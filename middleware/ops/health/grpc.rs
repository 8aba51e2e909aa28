//! The answers over gRPC: `grpc.health.v1`, as its specification says (<https://grpc.io/docs/guides/health-checking/>).

use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::Router;
use http_body::Body;
use tokio::{sync::watch, time::timeout};
use tonic::{
    Code, Response, Status as GrpcStatus,
    body::Body as TonicBody,
    codegen::{BoxFuture, StdError, tokio_stream::Stream},
    server::{Grpc, NamedService, ServerStreamingService, UnaryService},
};
use tonic_prost::ProstCodec;
use tower_service::Service;

use super::{
    Health, Life, Phase,
    messages::{CheckRequest, CheckResponse, ListRequest, ListResponse, ServingStatus},
};

/// How often a watcher has the checks looked at. What they keep, they keep.
const EVERY: Duration = Duration::from_secs(1);
/// The most services that `List` tells, as the specification advises.
const MOST_LISTED: usize = 100;

impl Health {
    /// Names a gRPC service that is asked about by its name, as in `shop.v1.Barista`. All follow the readiness of the
    /// whole, which is also the service of the empty name.
    #[must_use]
    pub fn grpc_service(self, name: impl Into<String>) -> Self {
        self.add_grpc_service(name);
        self
    }

    /// Names one while the service runs: those who watch it hear that it is known now.
    pub fn add_grpc_service(&self, name: impl Into<String>) {
        let name = name.into();
        self.shared
            .life
            .send_if_modified(|life| life.services.insert(name));
    }

    /// Forgets one while the service runs: those who watch it hear `SERVICE_UNKNOWN`.
    pub fn remove_grpc_service(&self, name: &str) {
        self.shared
            .life
            .send_if_modified(|life| life.services.remove(name));
    }

    /// The service `grpc.health.v1.Health`: `Check`, `Watch` and `List`. Add it to a tonic server, or to its `Routes`.
    ///
    /// The layers of the server are around this one too, and a limiter rejects probes as it does others: where there is
    /// one, serve [`grpc_routes`](Self::grpc_routes) instead.
    pub fn grpc(&self) -> GrpcHealth {
        GrpcHealth {
            health: self.clone(),
        }
    }

    /// The same as routes of axum: for the listener of operators, or to be merged after the last `.layer(..)`, so that no
    /// limiter is around them. They need a server of HTTP/2.
    pub fn grpc_routes(&self) -> Router {
        Router::new().route_service("/grpc.health.v1.Health/{method}", self.grpc())
    }

    fn serves(&self, service: &str) -> bool {
        service.is_empty() || self.shared.life.borrow().services.contains(service)
    }

    async fn serving(&self) -> ServingStatus {
        if self.status().await.is_ready() {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        }
    }
}

/// Tells health over gRPC: a tonic service.
#[derive(Clone)]
pub struct GrpcHealth {
    health: Health,
}

impl NamedService for GrpcHealth {
    const NAME: &'static str = "grpc.health.v1.Health";
}

impl<B> Service<http::Request<B>> for GrpcHealth
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<TonicBody>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let health = self.health.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/grpc.health.v1.Health/Check" => {
                    let mut grpc = Grpc::new(ProstCodec::default());
                    grpc.unary(CheckMethod(health), request).await
                }
                "/grpc.health.v1.Health/List" => {
                    let mut grpc = Grpc::new(ProstCodec::default());
                    grpc.unary(ListMethod(health), request).await
                }
                "/grpc.health.v1.Health/Watch" => {
                    let mut grpc = Grpc::new(ProstCodec::default());
                    grpc.server_streaming(WatchMethod(health), request).await
                }
                _ => GrpcStatus::new(Code::Unimplemented, "").into_http(),
            })
        })
    }
}

impl fmt::Debug for GrpcHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GrpcHealth").field(&self.health).finish()
    }
}

struct CheckMethod(Health);

impl UnaryService<CheckRequest> for CheckMethod {
    type Response = CheckResponse;
    type Future = BoxFuture<Response<CheckResponse>, GrpcStatus>;

    fn call(&mut self, request: tonic::Request<CheckRequest>) -> Self::Future {
        let health = self.0.clone();
        Box::pin(async move {
            if !health.serves(&request.get_ref().service) {
                return Err(GrpcStatus::not_found("no such service"));
            }
            Ok(Response::new(health.serving().await.into()))
        })
    }
}

struct ListMethod(Health);

impl UnaryService<ListRequest> for ListMethod {
    type Response = ListResponse;
    type Future = BoxFuture<Response<ListResponse>, GrpcStatus>;

    fn call(&mut self, _: tonic::Request<ListRequest>) -> Self::Future {
        let health = self.0.clone();
        Box::pin(async move {
            let status = CheckResponse::from(health.serving().await);
            let life = health.shared.life.borrow();
            if life.services.len() >= MOST_LISTED {
                let too_many = "too many services to list: ask about each";
                return Err(GrpcStatus::resource_exhausted(too_many));
            }
            let names = life.services.iter().cloned().chain([String::new()]);
            Ok(Response::new(ListResponse {
                statuses: names.map(|name| (name, status.clone())).collect(),
            }))
        })
    }
}

struct WatchMethod(Health);

impl ServerStreamingService<CheckRequest> for WatchMethod {
    type Response = CheckResponse;
    type ResponseStream = Changes;
    type Future = BoxFuture<Response<Changes>, GrpcStatus>;

    fn call(&mut self, request: tonic::Request<CheckRequest>) -> Self::Future {
        let changes = Changes::of(&self.0, &request.get_ref().service);
        Box::pin(async move { Ok(Response::new(changes)) })
    }
}

/// What a watcher hears: how it is now, then each change. Once the service drains there is no more to tell, and the
/// stream ends, so that it does not hold the shutdown up.
struct Changes {
    state: Changing,
}

enum Changing {
    Waiting(Pin<Box<dyn Future<Output = Next> + Send>>),
    Ended,
}

/// The status to tell, and who to ask for the next one, if there can be one.
type Next = Option<(ServingStatus, Option<Watched>)>;

struct Watched {
    health: Health,
    service: String,
    life: watch::Receiver<Life>,
    told: Option<ServingStatus>,
}

impl Changes {
    fn of(health: &Health, service: &str) -> Self {
        let watched = Watched {
            health: health.clone(),
            service: service.to_owned(),
            life: health.shared.life.subscribe(),
            told: None,
        };
        Self {
            state: Changing::Waiting(Box::pin(watched.next())),
        }
    }
}

impl Watched {
    async fn next(mut self) -> Next {
        loop {
            let draining = self.life.borrow_and_update().phase == Phase::Draining;
            let status = if self.health.serves(&self.service) {
                self.health.serving().await
            } else {
                ServingStatus::ServiceUnknown
            };
            if self.told.replace(status) != Some(status) {
                return Some((status, (!draining).then_some(self)));
            }
            if draining {
                return None;
            }
            // swallow: none, the time being up is one of two reasons to look again, and the sender lives in `health`
            let _looks_again = timeout(EVERY, self.life.changed()).await;
        }
    }
}

impl Stream for Changes {
    type Item = Result<CheckResponse, GrpcStatus>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Changing::Waiting(next) = &mut self.state else {
            return Poll::Ready(None);
        };
        let next = ready!(next.as_mut().poll(context));
        self.state = Changing::Ended;
        Poll::Ready(next.map(|(status, watched)| {
            if let Some(watched) = watched {
                self.state = Changing::Waiting(Box::pin(watched.next()));
            }
            Ok(status.into())
        }))
    }
}
