//! What tells one series of calls from another: small numbers that pack into one word.

use std::borrow::Cow;

use http::{StatusCode, Version};

use crate::{
    outcome::{Fault, Outcome},
    protocol::{GrpcCode, Protocol},
    rejection::Reason,
};

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

    pub(super) fn error_type(&self) -> Option<Cow<'static, str>> {
        self.outcome.error_type(self.status, self.grpc)
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
}
