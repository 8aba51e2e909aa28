//! The gRPC service `plimsoll.testbed.v1.Testbed`.

use std::error::Error;
use std::pin::Pin;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use http_body_util::BodyExt;
use tonic::{Request, Response, Status, Streaming};

use crate::failure::chain;
use crate::panics::PanicSpec;
use crate::stream::StreamSpec;
use crate::upstream::Upstream;

use pb::Blob;
use pb::testbed_server::{Testbed, TestbedServer};

#[allow(unreachable_pub)]
mod pb {
    tonic::include_proto!("plimsoll.testbed.v1");
}

/// The service, for a server or a router.
pub(crate) type Service = TestbedServer<OnDemand>;

/// Makes the service.
pub(crate) fn service(upstream: Upstream) -> Service {
    TestbedServer::new(OnDemand { upstream })
}

/// Does what it is asked, however bad.
pub(crate) struct OnDemand {
    upstream: Upstream,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Testbed for OnDemand {
    type StreamStream = Pin<Box<dyn Stream<Item = Result<Blob, Status>> + Send>>;

    async fn echo(&self, request: Request<Blob>) -> Answer<Blob> {
        Ok(Response::new(request.into_inner()))
    }

    async fn sleep(&self, request: Request<Blob>) -> Answer<Blob> {
        let ms = read(&request.into_inner().data)?;
        tokio::time::sleep(Duration::from_millis(ms)).await;
        Ok(blob("slept"))
    }

    // Not an `async fn`, so that `call` can panic before there is a future.
    fn panic<'a: 'b, 'b>(
        &'a self,
        request: Request<Blob>,
    ) -> Pin<Box<dyn Future<Output = Answer<Blob>> + Send + 'b>> {
        let spec = read::<String>(&request.into_inner().data)
            .and_then(|place| PanicSpec::parse(&format!("where={place}")).map_err(invalid));
        if let Ok(spec) = &spec {
            spec.in_call();
        }
        Box::pin(async move {
            spec?.in_future().await;
            Ok(blob("no panic in this call"))
        })
    }

    async fn stream(&self, request: Request<Blob>) -> Answer<Self::StreamStream> {
        let query: String = read(&request.into_inner().data)?;
        let chunks = StreamSpec::parse(&query).map_err(invalid)?.chunks();
        Ok(Response::new(Box::pin(
            chunks
                .map_ok(|data| Blob { data })
                .map_err(|error| Status::internal(chain(&error))),
        )))
    }

    async fn upload(&self, request: Request<Streaming<Blob>>) -> Answer<Blob> {
        let mut blobs = request.into_inner();
        let mut bytes: u64 = 0;
        while let Some(blob) = blobs.message().await? {
            bytes += blob.data.len() as u64;
        }
        Ok(blob(bytes.to_string()))
    }

    async fn up(&self, request: Request<Blob>) -> Answer<Blob> {
        let path: String = read(&request.into_inner().data)?;
        let response = self.upstream.get(&path).await;
        let response = response.map_err(|error| Status::unavailable(chain(&error)))?;
        let status = response.status();
        if !status.is_success() {
            return Err(Status::unavailable(format!("the upstream said {status}")));
        }
        match response.into_body().collect().await {
            Ok(body) => Ok(blob(body.to_bytes())),
            Err(error) => Err(Status::unavailable(chain(&error))),
        }
    }
}

fn blob(data: impl Into<Bytes>) -> Response<Blob> {
    Response::new(Blob { data: data.into() })
}

/// Reads `data` that is text.
fn read<T: FromStr<Err: Error>>(data: &[u8]) -> Result<T, Status> {
    let text = std::str::from_utf8(data).map_err(invalid)?;
    text.parse().map_err(invalid)
}

fn invalid(error: impl Error) -> Status {
    Status::invalid_argument(chain(&error))
}
