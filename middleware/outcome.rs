//! How a call ended, and whose fault that is: a closed set.

use std::borrow::Cow;

use http::StatusCode;

use crate::{protocol::GrpcCode, rejection::Reason};

macro_rules! outcomes {
    ($($(#[$doc:meta])* $variant:ident => $label:literal,)*) => {
        /// How a call ended. Every call ends with exactly one; the first cause wins.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Outcome {
            $($(#[$doc])* $variant,)*
            /// plimsoll answered instead of the service.
            Rejected(Reason),
        }

        impl Outcome {
            /// Every outcome but rejections, of which there is one for each [`Reason`].
            const OWN: &[Self] = &[$(Self::$variant,)*];

            /// The name in the log and in metrics.
            pub fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)*
                    Self::Rejected(reason) => reason.label(),
                }
            }
        }
    };
}

outcomes! {
    /// Answered, to the last byte.
    Ok => "ok",
    /// A 4xx, or a status of gRPC that is the caller's fault.
    ClientError => "client_error",
    /// A 5xx, an `Err` of the service, or a status of gRPC that is the server's fault.
    ServerError => "server_error",
    /// The response's body failed after the head, or a gRPC stream ended without a status.
    BodyError => "body_error",
    /// The response's body panicked.
    BodyPanic => "body_panic",
    /// The request's body was cut, too slow or could not be decoded.
    RequestBodyError => "request_body_error",
    /// The caller went away before the head.
    ClientGone => "client_gone",
    /// The caller went away while the body was sent.
    ClientGoneBody => "client_gone_body",
    /// A call to another service failed.
    UpstreamError => "upstream_error",
    /// A stale answer was served in place of an error.
    StaleServed => "stale_served",
}

/// Whose fault an [`Outcome`] is; levels of log lines follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// All went well.
    Nobody,
    /// The caller: a wrong request, or it went away.
    Caller,
    /// Nobody alone: the call was refused, or came too late, to keep the service upright.
    Load,
    /// The service.
    Server,
}

impl Outcome {
    /// The outcome that a status alone tells. A status of gRPC, where there is one, says more than HTTP's.
    pub fn of_status(http: StatusCode, grpc: Option<GrpcCode>) -> Self {
        match grpc {
            Some(GrpcCode::Ok) => Self::Ok,
            Some(code) if code.is_server_error() => Self::ServerError,
            Some(_) => Self::ClientError,
            None if http.is_server_error() => Self::ServerError,
            None if http.is_client_error() => Self::ClientError,
            None => Self::Ok,
        }
    }

    /// Every outcome there is.
    fn all() -> impl Iterator<Item = Self> {
        let reasons = Reason::ALL.iter().copied().map(Self::Rejected);
        Self::OWN.iter().copied().chain(reasons)
    }

    /// The outcome of this name.
    pub(crate) fn of_label(label: &str) -> Option<Self> {
        Self::all().find(|outcome| outcome.label() == label)
    }

    /// The value of `error.type` in metrics and spans; `None` for a call that went well, or wrong by the caller's doing.
    /// A 4xx is no error of a server, and so are the statuses of gRPC that blame the caller.
    pub fn error_type(
        self,
        http: Option<StatusCode>,
        grpc: Option<GrpcCode>,
    ) -> Option<Cow<'static, str>> {
        let blames_server = match (grpc, http) {
            (Some(code), _) => code.is_server_error(),
            (None, Some(status)) => status.is_server_error(),
            (None, None) => true,
        };
        match self {
            Self::Ok | Self::ClientError | Self::StaleServed => None,
            Self::ServerError => Some(match (grpc, http) {
                (Some(code), _) => code.name().into(),
                (None, Some(status)) if status.is_server_error() => {
                    status.as_str().to_owned().into()
                }
                (None, _) => self.label().into(),
            }),
            Self::Rejected(_) | Self::RequestBodyError => {
                blames_server.then(|| self.label().into())
            }
            Self::BodyError
            | Self::BodyPanic
            | Self::ClientGone
            | Self::ClientGoneBody
            | Self::UpstreamError => Some(self.label().into()),
        }
    }

    /// Whose fault it is.
    pub fn fault(self) -> Fault {
        match self {
            Self::Ok | Self::StaleServed => Fault::Nobody,
            Self::ClientError
            | Self::RequestBodyError
            | Self::ClientGone
            | Self::ClientGoneBody => Fault::Caller,
            Self::ServerError | Self::BodyError | Self::BodyPanic | Self::UpstreamError => {
                Fault::Server
            }
            Self::Rejected(reason) => match reason {
                Reason::Malformed | Reason::TooLarge => Fault::Caller,
                Reason::Panic | Reason::MissingKey | Reason::StoreError | Reason::Timeout => {
                    Fault::Server
                }
                Reason::RateLimited
                | Reason::Shed
                | Reason::QueueFull
                | Reason::QueueTimeout
                | Reason::Deadline
                | Reason::Drained
                | Reason::BreakerOpen
                | Reason::BulkheadFull => Fault::Load,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_is_known_by_its_name() {
        let mut outcomes = 0;
        for outcome in Outcome::all() {
            assert_eq!(Outcome::of_label(outcome.label()), Some(outcome));
            outcomes += 1;
        }
        assert_eq!(outcomes, 10 + Reason::ALL.len());
        assert_eq!(Outcome::of_label("of_tomorrow"), None);
    }

    #[test]
    fn the_status_of_grpc_says_more_than_that_of_http() {
        for (http, grpc, expected) in [
            (200, None, Outcome::Ok),
            (101, None, Outcome::Ok),
            (304, None, Outcome::Ok),
            (404, None, Outcome::ClientError),
            (500, None, Outcome::ServerError),
            (200, Some(GrpcCode::Ok), Outcome::Ok),
            (200, Some(GrpcCode::NotFound), Outcome::ClientError),
            (200, Some(GrpcCode::Cancelled), Outcome::ClientError),
            (200, Some(GrpcCode::ResourceExhausted), Outcome::ClientError),
            (200, Some(GrpcCode::Unavailable), Outcome::ServerError),
            (200, Some(GrpcCode::Unknown), Outcome::ServerError),
        ] {
            let http = StatusCode::from_u16(http).expect("a status");
            assert_eq!(Outcome::of_status(http, grpc), expected, "{http} {grpc:?}");
        }
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
            let status = status.map(|status| StatusCode::from_u16(status).expect("a status"));
            let told = outcome.error_type(status, None);
            assert_eq!(told.as_deref(), expected, "{outcome:?} {status:?}");
        }
    }
}
