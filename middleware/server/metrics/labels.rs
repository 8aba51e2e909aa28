//! What tells one series of calls from another: small numbers that pack into one word.

use http::{Method, StatusCode, Version};

use crate::{
    outcome::{Fault, Outcome},
    protocol::{GrpcCode, Protocol},
    rejection::Reason,
};

/// What a method is called that is not known: a caller may send any token as one.
pub(super) const OTHER: &str = "_OTHER";

/// The most methods that can be known: five bits of a key, less one for the others.
const MAX_METHODS: usize = 31;

/// The methods that are named in metrics; all others are [`OTHER`].
#[derive(Clone, Debug)]
pub(super) struct Methods(Vec<Method>);

impl Methods {
    /// Those of RFC 9110, PATCH (RFC 5789) and QUERY; what the semantic conventions of OpenTelemetry take as known.
    pub(super) fn standard() -> Self {
        let query = Method::from_bytes(b"QUERY").expect("a token");
        Self(vec![
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::DELETE,
            Method::HEAD,
            Method::OPTIONS,
            Method::PATCH,
            Method::TRACE,
            Method::CONNECT,
            query,
        ])
    }

    /// These and no others. What is past the most that can be known counts as [`OTHER`].
    pub(super) fn only(methods: impl IntoIterator<Item = Method>) -> Self {
        Self(methods.into_iter().take(MAX_METHODS).collect())
    }

    /// The comma separated list of `OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS`, which replaces the standard ones whole.
    /// What is no token can be no method and is left out.
    pub(super) fn listed(list: &str) -> Self {
        Self::only(
            list.split(',')
                .filter_map(|name| Method::from_bytes(name.trim().as_bytes()).ok()),
        )
    }

    /// The number of a method; that of the others is the largest.
    #[inline]
    pub(super) fn number(&self, method: &Method) -> u8 {
        let known = self.0.iter().position(|known| known == method);
        u8::try_from(known.unwrap_or(self.0.len())).unwrap_or(u8::MAX)
    }

    pub(super) fn name(&self, number: u8) -> String {
        self.0
            .get(usize::from(number))
            .map_or_else(|| OTHER.to_owned(), |method| method.as_str().to_owned())
    }

    /// How many numbers there are.
    pub(super) fn numbers(&self) -> usize {
        self.0.len().saturating_add(1)
    }
}

/// A protocol with the version of HTTP where that tells calls apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Wire {
    Http09,
    Http10,
    Http11,
    Http2,
    Http3,
    Grpc,
    GrpcWeb,
}

impl Wire {
    pub(super) const ALL: [Self; 7] = [
        Self::Http09,
        Self::Http10,
        Self::Http11,
        Self::Http2,
        Self::Http3,
        Self::Grpc,
        Self::GrpcWeb,
    ];

    #[inline]
    pub(super) fn of(protocol: Protocol, version: Version) -> Self {
        match (protocol, version) {
            (Protocol::Grpc, _) => Self::Grpc,
            (Protocol::GrpcWeb | Protocol::GrpcWebText, _) => Self::GrpcWeb,
            (Protocol::Http, Version::HTTP_09) => Self::Http09,
            (Protocol::Http, Version::HTTP_10) => Self::Http10,
            (Protocol::Http, Version::HTTP_2) => Self::Http2,
            (Protocol::Http, Version::HTTP_3) => Self::Http3,
            (Protocol::Http, _) => Self::Http11,
        }
    }

    #[inline]
    pub(super) fn is_grpc(self) -> bool {
        matches!(self, Self::Grpc | Self::GrpcWeb)
    }

    /// As in the log: that of [`Protocol::label`].
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Http09 => Protocol::Http.label(Version::HTTP_09),
            Self::Http10 => Protocol::Http.label(Version::HTTP_10),
            Self::Http11 => Protocol::Http.label(Version::HTTP_11),
            Self::Http2 => Protocol::Http.label(Version::HTTP_2),
            Self::Http3 => Protocol::Http.label(Version::HTTP_3),
            Self::Grpc => Protocol::Grpc.label(Version::HTTP_2),
            Self::GrpcWeb => Protocol::GrpcWeb.label(Version::HTTP_2),
        }
    }

    /// The value of `network.protocol.version`.
    pub(super) fn version(self) -> &'static str {
        match self {
            Self::Http09 => "0.9",
            Self::Http10 => "1.0",
            Self::Http11 => "1.1",
            Self::Http2 | Self::Grpc | Self::GrpcWeb => "2",
            Self::Http3 => "3",
        }
    }
}

/// The number of a route, or for gRPC of a method; made by the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(pub(super) u32);

impl Place {
    /// Nothing matched.
    pub(super) const NONE: Self = Self(0);
    /// There are too many to tell apart.
    pub(super) const OVERFLOW: Self = Self(u32::MAX);
}

/// What is known of a call from its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) wire: Wire,
    pub(super) method: u8,
    pub(super) https: bool,
    pub(super) place: Place,
}

/// All that tells the series of a call that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Labels {
    pub(super) asked: Asked,
    pub(super) status: Option<StatusCode>,
    pub(super) grpc: Option<GrpcCode>,
    pub(super) outcome: Outcome,
}

impl Labels {
    /// All labels in one word, each in its bits.
    #[inline]
    pub(super) fn packed(&self) -> u64 {
        let status = self.status.map_or(0, |status| status.as_u16());
        let grpc = self.grpc.map_or(31, |code| code as u8);
        let bits = [
            (u64::from(status), 10),
            (u64::from(grpc), 5),
            (u64::from(number_of(self.outcome)), 6),
            (u64::from(self.asked.method), 5),
            (u64::from(self.asked.https), 1),
            (self.asked.wire as u64, 3),
        ];
        bits.into_iter()
            .fold(u64::from(self.asked.place.0), |word, (value, width)| {
                word << width | value
            })
    }

    /// What is kept of a call for which there is no series left: closed sets, so that the books still balance.
    pub(super) fn overflowed(&self) -> Self {
        Self {
            asked: Asked {
                method: 0,
                https: false,
                place: Place::OVERFLOW,
                ..self.asked
            },
            status: None,
            grpc: None,
            outcome: self.outcome,
        }
    }

    pub(super) fn is_overflow(&self) -> bool {
        self.asked.place == Place::OVERFLOW
    }

    /// The value of `error.type`; `None` for a call that went well, or wrong by the caller's doing.
    /// A 4xx is no error of a server, and so are the statuses of gRPC that blame the caller.
    pub(super) fn error_type(&self) -> Option<String> {
        let blames_server = match (self.grpc, self.status) {
            (Some(code), _) => code.is_server_error(),
            (None, Some(status)) => status.is_server_error(),
            (None, None) => true,
        };
        match self.outcome {
            Outcome::Ok | Outcome::ClientError | Outcome::StaleServed => None,
            Outcome::ServerError => Some(match (self.grpc, self.status) {
                (Some(code), _) => code.name().to_owned(),
                (None, Some(status)) => status.as_str().to_owned(),
                (None, None) => self.outcome.label().to_owned(),
            }),
            Outcome::Rejected(_) | Outcome::RequestBodyError => {
                blames_server.then(|| self.outcome.label().to_owned())
            }
            Outcome::BodyError
            | Outcome::BodyPanic
            | Outcome::ClientGone
            | Outcome::ClientGoneBody
            | Outcome::UpstreamError => Some(self.outcome.label().to_owned()),
        }
    }
}

/// Whether the service is to blame: what counts against an objective. Refused for load is, over the quota is not.
pub(super) fn is_ours(outcome: Outcome) -> bool {
    match outcome.fault() {
        Fault::Server => true,
        Fault::Load => outcome != Outcome::Rejected(Reason::RateLimited),
        Fault::Caller | Fault::Nobody => false,
    }
}

#[inline]
fn number_of(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Ok => 0,
        Outcome::ClientError => 1,
        Outcome::ServerError => 2,
        Outcome::BodyError => 3,
        Outcome::BodyPanic => 4,
        Outcome::RequestBodyError => 5,
        Outcome::ClientGone => 6,
        Outcome::ClientGoneBody => 7,
        Outcome::UpstreamError => 8,
        Outcome::StaleServed => 9,
        Outcome::Rejected(reason) => 16 | reason as u8,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn outcomes() -> Vec<Outcome> {
        let mut all = vec![
            Outcome::Ok,
            Outcome::ClientError,
            Outcome::ServerError,
            Outcome::BodyError,
            Outcome::BodyPanic,
            Outcome::RequestBodyError,
            Outcome::ClientGone,
            Outcome::ClientGoneBody,
            Outcome::UpstreamError,
            Outcome::StaleServed,
        ];
        all.extend(Reason::ALL.iter().copied().map(Outcome::Rejected));
        all
    }

    fn labels(place: u32, status: Option<u16>, outcome: Outcome) -> Labels {
        Labels {
            asked: Asked {
                wire: Wire::Http11,
                method: 0,
                https: false,
                place: Place(place),
            },
            status: status.map(|status| StatusCode::from_u16(status).expect("a status")),
            grpc: None,
            outcome,
        }
    }

    #[test]
    fn each_set_of_labels_is_a_word_of_its_own() {
        let mut words = BTreeSet::new();
        let mut made = 0_usize;
        for outcome in outcomes() {
            for wire in Wire::ALL {
                for place in [0, 1, u32::MAX] {
                    for status in [None, Some(100), Some(200), Some(999)] {
                        for method in [0, 1, 31] {
                            let mut labels = labels(place, status, outcome);
                            labels.asked.wire = wire;
                            labels.asked.method = method;
                            for grpc in [None, Some(GrpcCode::Ok), Some(GrpcCode::Unauthenticated)]
                            {
                                labels.grpc = grpc;
                                words.insert(labels.packed());
                                made += 1;
                            }
                        }
                    }
                }
            }
        }
        assert_eq!(words.len(), made);
    }

    #[test]
    fn errors_are_those_of_the_server() {
        let rejected = |reason| Outcome::Rejected(reason);
        for (status, outcome, expected) in [
            (Some(200), Outcome::Ok, None),
            (Some(404), Outcome::ClientError, None),
            (Some(503), Outcome::ServerError, Some("503")),
            (None, Outcome::ServerError, Some("server_error")),
            (Some(503), rejected(Reason::Shed), Some("shed")),
            (Some(429), rejected(Reason::RateLimited), None),
            (Some(400), Outcome::RequestBodyError, None),
            (None, Outcome::RequestBodyError, Some("request_body_error")),
            (Some(200), Outcome::BodyError, Some("body_error")),
            (None, Outcome::ClientGone, Some("client_gone")),
        ] {
            let labels = labels(1, status, outcome);
            assert_eq!(labels.error_type().as_deref(), expected, "{labels:?}");
        }
    }

    #[test]
    fn a_list_of_methods_replaces_the_standard_ones() {
        let methods = Methods::listed("GET, BREW,,wh at");
        assert_eq!(methods.numbers(), 3);
        let brew = Method::from_bytes(b"BREW").expect("a token");
        assert_eq!(methods.name(methods.number(&brew)), "BREW");
        assert_eq!(methods.name(methods.number(&Method::POST)), OTHER);
        assert_eq!(Methods::listed("").numbers(), 1);
        let get = Method::from_bytes(b"get").expect("a token");
        let standard = Methods::standard();
        assert_eq!(
            standard.name(standard.number(&get)),
            OTHER,
            "case counts, as in HTTP"
        );
    }
}
