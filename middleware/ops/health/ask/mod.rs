//! Ready-made checks: how the usual things are asked.

#[cfg(unix)]
mod disk;
#[cfg(feature = "health-grpc")]
mod grpc;
mod http;
mod memory;
#[cfg(feature = "health-redis")]
mod redis;

use std::{error::Error, fmt};

/// A URL that a check cannot ask. Nothing of it is repeated, since it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidUrl {
    /// It is none of HTTP.
    NotHttp,
    /// It wants TLS.
    Https,
    /// It holds a user or a password.
    Credentials,
    /// It is none of a Redis.
    NotRedis,
}

impl fmt::Display for InvalidUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotHttp => "the URL is none of HTTP, as in http://host:8080/path",
            Self::Https => {
                "this check speaks no TLS: ask an https:// URL with a client of your own, in `Check::new`"
            }
            Self::Credentials => "the URL holds a user or a password, which this check does not send",
            Self::NotRedis => {
                "the URL is none of a Redis, as in redis://user:password@host:6379/0"
            }
        })
    }
}

impl Error for InvalidUrl {}
