//! What a call speaks, decided for each request: HTTP, gRPC or gRPC-Web; and gRPC's own values.

pub(crate) mod code;
mod methods;
mod timeout;
#[cfg(feature = "tonic")]
#[path = "tonic.rs"]
mod tonic_status;
#[cfg(not(feature = "tonic"))]
#[path = "no_tonic.rs"]
mod tonic_status;
pub(crate) mod web;

use http::{HeaderMap, Version, header::CONTENT_TYPE};

pub use code::GrpcCode;
pub(crate) use methods::{Methods, OTHER};
pub(crate) use timeout::GRPC_TIMEOUT;
pub use timeout::{GrpcTimeout, InvalidGrpcTimeout};
pub(crate) use tonic_status::status_in;

/// The protocol of one call, told by the `content-type` of its request.
///
/// A service that answers REST, gRPC and gRPC-Web on one port gets the right kind of answer for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// Plain HTTP: all that is none of the others.
    #[default]
    Http,
    /// gRPC over HTTP/2: `application/grpc`, alone or with `+proto` and the like.
    Grpc,
    /// gRPC-Web in binary: `application/grpc-web`. Its trailers travel in the body.
    GrpcWeb,
    /// gRPC-Web in base64: `application/grpc-web-text`.
    GrpcWebText,
}

impl Protocol {
    /// The protocol of the request with these headers.
    #[inline]
    pub fn of(headers: &HeaderMap) -> Self {
        match headers.get(CONTENT_TYPE) {
            Some(media_type) => Self::of_media_type(media_type.as_bytes()),
            None => Self::Http,
        }
    }

    pub(crate) fn of_media_type(media_type: &[u8]) -> Self {
        let Some(rest) = strip_prefix_ignoring_case(media_type, b"application/grpc") else {
            return Self::Http;
        };
        let ends = |rest: &[u8]| matches!(rest.first(), None | Some(b'+' | b';' | b' '));
        // gRPC-Web first: gRPC's name is the beginning of its name.
        if let Some(rest) = strip_prefix_ignoring_case(rest, b"-web") {
            return match strip_prefix_ignoring_case(rest, b"-text") {
                Some(rest) if ends(rest) => Self::GrpcWebText,
                None if ends(rest) => Self::GrpcWeb,
                _ => Self::Http,
            };
        }
        if ends(rest) { Self::Grpc } else { Self::Http }
    }

    /// Whether a status of gRPC ends the call: true for gRPC and gRPC-Web.
    pub fn is_grpc(self) -> bool {
        self != Self::Http
    }

    /// The `content-type` of an answer that plimsoll makes itself, for the three kinds of gRPC.
    pub(crate) fn grpc_content_type(self) -> &'static str {
        match self {
            Self::Http | Self::Grpc => "application/grpc",
            Self::GrpcWeb => "application/grpc-web+proto",
            Self::GrpcWebText => "application/grpc-web-text+proto",
        }
    }

    /// The name in logs and metrics: `grpc`, `grpc-web`, else the version of HTTP (`http/1.1`, `http/2`).
    pub fn label(self, version: Version) -> &'static str {
        match (self, version) {
            (Self::Grpc, _) => "grpc",
            (Self::GrpcWeb | Self::GrpcWebText, _) => "grpc-web",
            (Self::Http, Version::HTTP_09) => "http/0.9",
            (Self::Http, Version::HTTP_10) => "http/1.0",
            (Self::Http, Version::HTTP_2) => "http/2",
            (Self::Http, Version::HTTP_3) => "http/3",
            (Self::Http, _) => "http/1.1",
        }
    }
}

fn strip_prefix_ignoring_case<'a>(text: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_protocols_apart_by_content_type() {
        for (media_type, expected) in [
            ("application/grpc", Protocol::Grpc),
            ("application/grpc+proto", Protocol::Grpc),
            ("Application/GRPC;charset=x", Protocol::Grpc),
            ("application/grpc-web", Protocol::GrpcWeb),
            ("application/grpc-web+proto", Protocol::GrpcWeb),
            ("application/grpc-web-text", Protocol::GrpcWebText),
            ("application/grpc-web-text+proto", Protocol::GrpcWebText),
            ("application/grpc-webby", Protocol::Http),
            ("application/grpcx", Protocol::Http),
            ("application/grpc-web-texture", Protocol::Http),
            ("application/json", Protocol::Http),
            ("", Protocol::Http),
        ] {
            assert_eq!(
                Protocol::of_media_type(media_type.as_bytes()),
                expected,
                "{media_type:?}"
            );
        }
        assert_eq!(Protocol::of(&HeaderMap::new()), Protocol::Http);
    }
}
