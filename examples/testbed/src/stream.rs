//! Bodies that come in chunks, and fail on demand: `GET /stream` and gRPC `Stream`.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use serde::Deserialize;

/// Chunks are made in one piece; this bounds what a request can ask for.
const MAX_SIZE: usize = 16 * 1024 * 1024;

/// The query of `/stream`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct StreamSpec {
    /// How many chunks. Default 10.
    n: u64,
    /// Milliseconds before each chunk but the first, and before the end. They begin when the chunk is asked for: what came
    /// before it has been taken, and can be sent meanwhile. Default 0.
    ms: u64,
    /// Bytes of a chunk, at most 16 MiB. Default 64.
    size: usize,
    /// With `fail`: the index of the chunk that is not sent; `n` fails in place of the end. Default 1.
    at: u64,
    /// How it fails. Default not at all.
    fail: Fail,
    /// 1 tells the length of the whole body in the head, 0 does not. Default 0.
    cl: u8,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Fail {
    None,
    Err,
    Panic,
}

/// Why a query cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpecError {
    #[error("the query cannot be read")]
    Unreadable(#[from] serde_urlencoded::de::Error),
    #[error("{0}")]
    OutOfRange(&'static str),
}

/// The error of a stream that was told to fail.
#[derive(Debug, thiserror::Error)]
#[error("the stream failed at chunk {at}")]
pub(crate) struct StreamFailed {
    at: u64,
    source: std::io::Error,
}

impl Default for StreamSpec {
    fn default() -> Self {
        Self {
            n: 10,
            ms: 0,
            size: 64,
            at: 1,
            fail: Fail::None,
            cl: 0,
        }
    }
}

impl StreamSpec {
    /// Reads a query string.
    ///
    /// # Errors
    ///
    /// When it has an unknown name or a value out of range.
    pub(crate) fn parse(query: &str) -> Result<Self, SpecError> {
        let spec: Self = serde_urlencoded::from_str(query)?;
        if spec.size > MAX_SIZE {
            return Err(SpecError::OutOfRange("size is over 16 MiB"));
        }
        if spec.cl > 1 {
            return Err(SpecError::OutOfRange("cl is neither 0 nor 1"));
        }
        if spec.fail != Fail::None && spec.at > spec.n {
            return Err(SpecError::OutOfRange("at is over n"));
        }
        if spec.length().is_none() {
            return Err(SpecError::OutOfRange("n * size is too large"));
        }
        Ok(spec)
    }

    /// What `content-length` is to say, if anything.
    pub(crate) fn content_length(&self) -> Option<u64> {
        self.length().filter(|_| self.cl == 1)
    }

    /// The chunks, each in its time, then the end or the failure.
    pub(crate) fn chunks(self) -> impl Stream<Item = Result<Bytes, StreamFailed>> + Send {
        let chunk = Bytes::from(vec![b'x'; self.size]);
        stream::unfold(Some(0), move |index| {
            let (chunk, fail) = (chunk.clone(), self.fail);
            async move {
                let index: u64 = index?;
                if self.ms > 0 && index > 0 {
                    tokio::time::sleep(Duration::from_millis(self.ms)).await;
                }
                match fail {
                    Fail::Err if index == self.at => Some((Err(failed(index)), None)),
                    Fail::Panic if index == self.at => {
                        panic!("the stream panicked at chunk {index}")
                    }
                    _ if index == self.n => None,
                    _ => Some((Ok(chunk), Some(index + 1))),
                }
            }
        })
    }

    fn length(&self) -> Option<u64> {
        self.n.checked_mul(u64::try_from(self.size).ok()?)
    }
}

fn failed(at: u64) -> StreamFailed {
    StreamFailed {
        at,
        source: std::io::Error::other("failed on demand"),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use plimsoll::clock;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn sends_each_chunk_in_its_time() {
        let spec = StreamSpec::parse("n=3&ms=100&size=2").expect("a good query");
        let start = Instant::from_std(clock::now());
        let mut chunks = Box::pin(spec.chunks());
        let mut times = Vec::new();
        while let Some(chunk) = chunks.next().await {
            assert_eq!(chunk.expect("no failure was asked for"), "xx");
            times.push(start.elapsed().as_millis());
        }
        times.push(start.elapsed().as_millis());
        assert_eq!(times, [0, 100, 200, 300]);
    }

    #[tokio::test]
    async fn fails_where_it_was_told_to_and_ends_there() {
        for at in 0..=3 {
            let spec = StreamSpec::parse(&format!("n=3&fail=err&at={at}")).expect("a good query");
            let chunks: Vec<_> = spec.chunks().collect().await;
            assert_eq!(chunks.len(), at + 1);
            assert!(chunks.last().is_some_and(Result::is_err));
        }
    }

    #[test]
    fn refuses_what_it_cannot_do() {
        for query in [
            "n=-1",
            "cl=2",
            "size=99999999",
            "fail=often",
            "n=2&fail=err&at=3",
            "n=18446744073709551615&size=2",
            "colour=red",
        ] {
            assert!(StreamSpec::parse(query).is_err(), "{query}");
        }
    }
}
