//! How long the caller waits, by its headers.

use std::{fmt, time::Duration};

use http::{HeaderMap, HeaderName};

use crate::{
    context::REQUEST_DEADLINE,
    protocol::{GRPC_TIMEOUT, GrpcTimeout, InvalidGrpcTimeout, Protocol},
};

/// The time that the caller still waits, the least that its headers say. A call of HTTP has no `grpc-timeout`, and the
/// header of HTTP is read only where the peer is trusted, and not looked for where nobody is.
#[inline]
pub(super) fn asked(
    headers: &HeaderMap,
    protocol: Protocol,
    trusted: Option<impl Fn() -> bool>,
) -> Result<Option<Duration>, Malformed> {
    let of_grpc = match protocol.is_grpc() {
        true => told(headers, &GRPC_TIMEOUT)?,
        false => None,
    };
    let of_http = match trusted {
        Some(trusted) if headers.contains_key(REQUEST_DEADLINE) && trusted() => {
            told(headers, &REQUEST_DEADLINE)?
        }
        _ => None,
    };
    Ok(match (of_grpc, of_http) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    })
}

fn told(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Duration>, Malformed> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Malformed::Twice(name.clone()));
    }
    match GrpcTimeout::parse(value.as_bytes()) {
        Ok(timeout) => Ok(Some(timeout.duration())),
        Err(cause) => Err(Malformed::Unreadable(name.clone(), cause)),
    }
}

/// Why a deadline could not be read. It does not quote the header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Malformed {
    Twice(HeaderName),
    Unreadable(HeaderName, InvalidGrpcTimeout),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Twice(name) => write!(f, "{name}: it is there more than once"),
            Self::Unreadable(name, cause) => write!(f, "{name}: {cause}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_least_of_what_may_be_believed() {
        let (grpc, http) = (Protocol::Grpc, Protocol::Http);
        let millis = |millis| Ok(Some(Duration::from_millis(millis)));
        let unreadable = |name| Err(Malformed::Unreadable(name, InvalidGrpcTimeout));
        for (protocol, trusted, lines, expected) in [
            (grpc, false, vec![("grpc-timeout", "250m")], millis(250)),
            (http, true, vec![("grpc-timeout", "250m")], Ok(None)),
            (
                http,
                true,
                vec![("x-request-deadline", "1S")],
                millis(1_000),
            ),
            (http, false, vec![("x-request-deadline", "1S")], Ok(None)),
            (http, false, vec![("x-request-deadline", "soon")], Ok(None)),
            (
                http,
                true,
                vec![("x-request-deadline", "soon")],
                unreadable(REQUEST_DEADLINE),
            ),
            (
                grpc,
                true,
                vec![("grpc-timeout", "2S"), ("x-request-deadline", "1S")],
                millis(1_000),
            ),
            (
                grpc,
                true,
                vec![("grpc-timeout", "1Q"), ("x-request-deadline", "1S")],
                unreadable(GRPC_TIMEOUT),
            ),
            (
                grpc,
                false,
                vec![("grpc-timeout", "1S"), ("grpc-timeout", "1S")],
                Err(Malformed::Twice(GRPC_TIMEOUT)),
            ),
            (
                grpc,
                false,
                vec![("grpc-timeout", "")],
                unreadable(GRPC_TIMEOUT),
            ),
            (grpc, false, vec![("grpc-timeout", "0S")], millis(0)),
            (grpc, true, vec![], Ok(None)),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in &lines {
                headers.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(
                asked(&headers, protocol, Some(|| trusted)),
                expected,
                "{protocol:?} {lines:?}"
            );
        }
    }
}
