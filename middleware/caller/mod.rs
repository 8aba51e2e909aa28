//! Who calls: by what callers are told apart, and whose word is taken for where a call comes from.
//!
//! ```
//! use plimsoll::caller::{Key, TrustedProxies};
//!
//! let proxies: TrustedProxies = "10.0.0.0/8, ::1".parse()?;
//! assert!(proxies.trusts("10.1.2.3".parse()?));
//! assert!(!proxies.trusts("203.0.113.7".parse()?));
//! // The address of the caller behind them.
//! let key = Key::client(proxies);
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

mod client;
mod key;

pub use client::{Cidr, ForwardingHeader, InvalidCidr, Ipv6Prefix, TrustedProxies};
pub(crate) use key::Digest;
pub use key::{Call, Key};
