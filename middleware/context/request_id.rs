use std::{error::Error, fmt};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use super::frame;

/// The header, or gRPC metadata, of a request's id in responses and outbound calls: `x-request-id`.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id that is kept.
const MAX_LEN: usize = 128;

/// The id of a call: 1 to 128 of `A-Z a-z 0-9 . _ -`, so that it is safe in a header, a log line, a shell and a URL.
///
/// Written by [`request_id`](crate::server) into the request's extensions; read by `access_log`, `propagate`, the
/// log's formatter, and handlers.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// Takes a text as an id.
    ///
    /// # Errors
    ///
    /// [`InvalidRequestId`] when it is empty, too long or has another character.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<Self, InvalidRequestId> {
        let text = text.as_ref();
        Self::check(text)?;
        Ok(Self(
            HeaderValue::from_bytes(text).expect("the alphabet of an id is that of a header"),
        ))
    }

    /// Takes the value of a header as an id, without a copy.
    ///
    /// # Errors
    ///
    /// As [`RequestId::parse`].
    pub fn from_header(value: &HeaderValue) -> Result<Self, InvalidRequestId> {
        Self::check(value.as_bytes())?;
        Ok(Self(value.clone()))
    }

    /// Takes a text that is shared already, without a copy.
    ///
    /// # Errors
    ///
    /// As [`RequestId::parse`].
    pub fn from_shared(text: Bytes) -> Result<Self, InvalidRequestId> {
        Self::check(&text)?;
        Ok(Self::known(text))
    }

    /// Takes a text that is known to be an id.
    pub(crate) fn known(text: Bytes) -> Self {
        Self(
            HeaderValue::from_maybe_shared(text)
                .expect("the alphabet of an id is that of a header"),
        )
    }

    fn check(text: &[u8]) -> Result<(), InvalidRequestId> {
        let allowed =
            |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        match text.len() {
            1..=MAX_LEN if text.iter().all(allowed) => Ok(()),
            _ => Err(InvalidRequestId),
        }
    }

    /// The id of the call that this code runs in, for code that has no request at hand.
    ///
    /// `None` outside of a call, and in a task that was spawned without
    /// [`in_current_call`](crate::context::in_current_call).
    pub fn current() -> Option<Self> {
        frame::current(|frame| frame.request_id().cloned()).flatten()
    }

    /// The id as text.
    #[inline]
    pub fn as_str(&self) -> &str {
        self.0.to_str().expect("an id is ASCII")
    }

    /// The id as the value of a header.
    #[inline]
    pub fn header(&self) -> &HeaderValue {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({self})")
    }
}

/// A text that is no request id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidRequestId;

impl fmt::Display for InvalidRequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a request id is 1 to {MAX_LEN} of A-Z, a-z, 0-9, '.', '_' and '-'"
        )
    }
}

impl Error for InvalidRequestId {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_only_the_safe_alphabet_and_length() {
        let longest = "x".repeat(128);
        for good in [
            "a",
            "A.b_c-9",
            "0af7651916cd43dd8448eb211c80319c",
            longest.as_str(),
        ] {
            assert_eq!(RequestId::parse(good).expect(good).as_str(), good);
        }
        let too_long = "x".repeat(129);
        for bad in [
            "",
            " ",
            "a b",
            "a\tb",
            "a\"b",
            "a\nb",
            "a/b",
            "a=b",
            "caf\u{e9}",
            "\u{1b}[31m",
            too_long.as_str(),
        ] {
            assert_eq!(RequestId::parse(bad), Err(InvalidRequestId), "{bad:?}");
        }
        for bad in [&b"\x80\xff"[..], b"a\0b", b"\x7f"] {
            assert_eq!(RequestId::parse(bad), Err(InvalidRequestId), "{bad:?}");
        }
    }
}
