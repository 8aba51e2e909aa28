use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use axum::{
    Router,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use http::{
    StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use http_body::{Frame, SizeHint};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use super::{
    counts::{Counts, Exporter},
    prometheus::Reader,
};
use crate::task;

/// Scrapers that are answered at once. Two servers of Prometheus and two people fit.
const SCRAPERS: usize = 4;
/// So much is handed on at a time.
const CHUNK: usize = 64 * 1024;

#[derive(Clone)]
struct Scrapes {
    /// `None`: nothing is exported.
    reader: Option<Reader>,
    /// How long the last text was.
    length: Arc<AtomicUsize>,
    counts: Arc<Counts>,
    room: Arc<Semaphore>,
    one_at_a_time: Arc<Mutex<()>>,
}

pub(super) fn route(reader: Option<Reader>, counts: Arc<Counts>) -> Router {
    let scrapes = Scrapes {
        reader,
        length: Arc::default(),
        counts,
        room: Arc::new(Semaphore::new(SCRAPERS)),
        one_at_a_time: Arc::default(),
    };
    Router::new()
        .route("/metrics", get(answer))
        .with_state(scrapes)
}

async fn answer(State(scrapes): State<Scrapes>) -> Response {
    let Ok(permit) = Arc::clone(&scrapes.room).try_acquire_owned() else {
        let refused = "too many scrapers are being answered";
        return (StatusCode::SERVICE_UNAVAILABLE, refused).into_response();
    };
    let turn = scrapes.one_at_a_time.lock_owned().await;
    let (reader, length) = (scrapes.reader, scrapes.length);
    let rendered = task::blocking("scrape", move || {
        // Also when the scraper has left: what it asks of instruments is code of users', which may hang.
        let _turn = turn;
        match reader {
            Some(reader) => reader.text(length.load(Ordering::Relaxed)).inspect(|text| {
                length.store(text.len(), Ordering::Relaxed);
            }),
            None => Ok(String::new()),
        }
    });
    let error = match rendered.await {
        Ok(Ok(text)) => {
            let head = [
                (CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"),
                (CACHE_CONTROL, "no-store"),
            ];
            let body = Body::new(Text {
                left: text.into(),
                _permit: permit,
            });
            return (head, body).into_response();
        }
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    scrapes.counts.failed(Exporter::Scrape, &error);
    StatusCode::INTERNAL_SERVER_ERROR.into_response()
}

/// A text that is sent piece by piece. It holds a scraper's place until it is out.
struct Text {
    left: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl http_body::Body for Text {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        let next = self.left.len().min(CHUNK);
        let piece = self.left.split_to(next);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.left.len()).unwrap_or(u64::MAX))
    }
}
