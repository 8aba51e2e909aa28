use std::{
    any::Any,
    fmt,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::BoxError;
use crate::context;

#[cfg(feature = "axum")]
#[path = "axum.rs"]
mod axum_body;
#[cfg(not(feature = "axum"))]
#[path = "no_axum.rs"]
mod axum_body;
#[cfg(feature = "tonic")]
#[path = "tonic.rs"]
mod tonic_body;
#[cfg(not(feature = "tonic"))]
#[path = "no_tonic.rs"]
mod tonic_body;

/// What has been read of a request's body so far.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    bytes: AtomicU64,
    error: OnceLock<String>,
}

impl Intake {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The whole chain of the error that ended it.
    pub(crate) fn error(&self) -> Option<&str> {
        self.error.get().map(String::as_str)
    }
}

/// Watches the body of a request without a change of its type: possible for the boxed bodies of axum and tonic
/// (features `axum`, `tonic`). Any other body comes back as it is, unwatched, and so does an empty one.
pub(crate) fn observe_request<B: Body + 'static>(body: B) -> (B, Option<Arc<Intake>>) {
    if body.is_end_stream() {
        return (body, None);
    }
    let intake = Arc::<Intake>::default();
    match wrap_request(body, Watching(Arc::clone(&intake))) {
        Ok(watched) => (watched, Some(intake)),
        Err(body) => (body, None),
    }
}

/// What is to be put around the body of a request.
pub(crate) trait Around {
    /// Puts it around a body.
    fn around<B>(self, body: B) -> impl Body<Data = Bytes, Error = BoxError> + Send + 'static
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>;
}

/// Puts something around the body of a request without a change of its type: possible for the boxed bodies of axum and
/// tonic. Any other body comes back as it is.
pub(crate) fn wrap_request<B: 'static>(body: B, around: impl Around) -> Result<B, B> {
    axum_body::wrap(body, around)
        .or_else(|(body, around)| tonic_body::wrap(body, around))
        .map_err(|(body, _)| body)
}

struct Watching(Arc<Intake>);

impl Around for Watching {
    fn around<B>(self, body: B) -> impl Body<Data = Bytes, Error = BoxError> + Send + 'static
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Watched {
            inner: body,
            intake: self.0,
        }
    }
}

/// A value under its other, known type. Only a cast: it succeeds when the types are the same.
fn cast<A: 'static, B: 'static>(value: A) -> Result<B, A> {
    let mut value = Some(value);
    match (&mut value as &mut dyn Any)
        .downcast_mut::<Option<B>>()
        .and_then(Option::take)
    {
        Some(same) => Ok(same),
        None => Err(value.expect("not taken: the types differ")),
    }
}

pin_project! {
    /// The body of a request that is watched.
    struct Watched<B> {
        #[pin]
        inner: B,
        intake: Arc<Intake>,
    }
}

impl<B> Body for Watched<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        let frame = ready!(this.inner.poll_frame(context)).map(|frame| frame.map_err(Into::into));
        match &frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                this.intake
                    .bytes
                    .fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
            Some(Err(error)) => {
                this.intake.error.get_or_init(|| context::chain(&**error));
            }
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B> fmt::Debug for Watched<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched")
            .field("intake", &self.intake)
            .finish_non_exhaustive()
    }
}
