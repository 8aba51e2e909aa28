//! A body that does as it is told.

use std::{
    collections::VecDeque,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use plimsoll::observe::BoxError;

use super::Bomb;

/// What a body does when it is polled.
pub enum Step {
    Data(&'static [u8]),
    Trailers(HeaderMap),
    Fail(BoxError),
    Panic(&'static str),
    /// Is pending once.
    Wait,
    /// Says that this is the end; a body that is polled again goes on with the next step.
    End,
    /// Is pending for ever.
    Hang,
}

/// A body that does what its steps say. It tells no size and no end, unless it is made to.
#[derive(Default)]
pub struct Script {
    steps: VecDeque<Step>,
    size: Option<u64>,
    tells_its_end: bool,
    bomb: Option<Bomb>,
}

impl Script {
    pub fn of(steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            steps: steps.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Tells this size.
    pub fn with_size(mut self, bytes: u64) -> Self {
        self.size = Some(bytes);
        self
    }

    /// Says that it has ended as soon as no step is left.
    pub fn telling_its_end(mut self) -> Self {
        self.tells_its_end = true;
        self
    }

    /// Panics when it is dropped.
    pub fn with_bomb(mut self) -> Self {
        self.bomb = Some(Bomb("the body panics in drop"));
        self
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.steps.pop_front() {
            Some(Step::Data(data)) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(data))))),
            Some(Step::Trailers(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Some(Step::Fail(error)) => Poll::Ready(Some(Err(error))),
            Some(Step::Panic(text)) => panic!("{text}"),
            Some(Step::Wait) => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Step::Hang) => {
                self.steps.push_front(Step::Hang);
                Poll::Pending
            }
            Some(Step::End) | None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.tells_its_end && self.steps.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.size.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

/// Headers or trailers.
pub fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let pair = |&(name, value)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    };
    pairs.iter().map(pair).collect()
}

/// What a reader of a body got.
#[derive(Debug, Default)]
pub struct Got {
    pub data: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    pub error: Option<String>,
}

impl Got {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.data).expect("UTF-8")
    }

    pub fn trailer(&self, name: &str) -> Option<&str> {
        let value = self.trailers.as_ref()?.get(name)?;
        Some(value.to_str().expect("ASCII"))
    }
}

/// Reads a body as a server does: asks whether it has ended before each poll, stops at trailers and errors.
pub async fn read<B>(body: B) -> Got
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    let mut body = pin!(body);
    let mut got = Got::default();
    while !body.is_end_stream() {
        match body.frame().await {
            None => break,
            Some(Err(error)) => {
                got.error = Some(chain(&*error.into()));
                break;
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => got.data.extend_from_slice(&data),
                Err(frame) => {
                    got.trailers = frame.into_trailers().ok();
                    break;
                }
            },
        }
    }
    got
}

/// An error and its causes.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}
