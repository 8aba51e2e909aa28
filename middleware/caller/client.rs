//! Who the caller is, behind proxies too.

use std::{
    error::Error,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use http::{HeaderMap, HeaderName, header::FORWARDED};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// A network: an address and how many of its first bits count, such as `10.0.0.0/8` or `2001:db8::/32`.
/// A bare address is a network of one. IPv4 within IPv6 (`::ffff:10.0.0.0/104`) is taken as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    network: IpAddr,
    bits: u8,
}

impl Cidr {
    /// The network of this address with so many bits.
    ///
    /// # Errors
    ///
    /// More bits than the address has, or bits set behind them: a slip that would trust another network than meant.
    pub fn new(network: IpAddr, bits: u8) -> Result<Self, InvalidCidr> {
        let invalid = || InvalidCidr {
            text: format!("{}/{bits}", network),
        };
        let (network, bits) = match (network, network.to_canonical()) {
            (IpAddr::V6(_), folded @ IpAddr::V4(_)) => {
                (folded, bits.checked_sub(96).ok_or_else(invalid)?)
            }
            (network, _) => (network, bits),
        };
        let whole = if network.is_ipv4() { 32 } else { 128 };
        if bits > whole || first_bits(network, bits) != network {
            return Err(invalid());
        }
        Ok(Self { network, bits })
    }

    /// Whether this address lies within.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.network.is_ipv4()
            && first_bits(address, self.bits) == self.network
    }
}

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let invalid = || InvalidCidr {
            text: text.to_owned(),
        };
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let network: IpAddr = address.parse().ok().ok_or_else(invalid)?;
        let whole = if network.is_ipv4() { 32 } else { 128 };
        let digits = |bits: &&str| bits.bytes().all(|byte| byte.is_ascii_digit());
        let bits = match bits {
            Some(bits) => Some(bits).filter(digits).and_then(|bits| bits.parse().ok()),
            None => Some(whole),
        };
        Self::new(network, bits.ok_or_else(invalid)?)
            .ok()
            .ok_or_else(invalid)
    }
}

/// A text that is no network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidCidr {
    text: String,
}

impl fmt::Display for InvalidCidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is no network such as 10.0.0.0/8, with nothing set behind its bits",
            self.text.escape_debug()
        )
    }
}

impl Error for InvalidCidr {}

/// The header in which your proxies tell for whom they speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForwardingHeader {
    /// `X-Forwarded-For`: the default, since nearly all proxies append to it.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// `X-Real-IP`: one address, which the proxy must set, not pass on.
    XRealIp,
}

/// The proxies whose word is taken for the address of a caller, and where they tell it.
///
/// The address of the connection counts, unless it is that of a proxy. Then the list that the proxies wrote is read
/// from its end, over all lines of the header, and the first address that is no proxy's is the caller's: what a caller
/// wrote into the header itself stands before that and is never looked at. Where a proxy's entry is no address, where
/// all are proxies', or where there is none, it is the address of the connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    networks: Vec<Cidr>,
    header: ForwardingHeader,
}

impl TrustedProxies {
    /// Trusts the proxies in these networks, and `X-Forwarded-For` of theirs.
    pub fn new(networks: impl IntoIterator<Item = Cidr>) -> Self {
        Self {
            networks: networks.into_iter().collect(),
            header: ForwardingHeader::default(),
        }
    }

    /// The header that the proxies write. Default: [`ForwardingHeader::XForwardedFor`]. Only this one is looked at.
    #[must_use]
    pub fn header(mut self, header: ForwardingHeader) -> Self {
        self.header = header;
        self
    }

    /// The address of the caller.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let peer = peer.to_canonical();
        if !self.trusts(peer) {
            return peer;
        }
        let told = match self.header {
            ForwardingHeader::XForwardedFor => self.in_list(headers),
            ForwardingHeader::Forwarded => self.in_forwarded(headers),
            ForwardingHeader::XRealIp => alone(headers, &X_REAL_IP),
        };
        told.unwrap_or(peer)
    }

    /// Whether this address is that of a trusted proxy. Give it the address at the other end of the connection, as
    /// [`PeerAddr`](crate::context::PeerAddr) has it, never one that a header tells.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.networks
            .iter()
            .any(|network| network.contains(address))
    }

    /// The lines are read from the last back, so that nothing in an earlier one, which may be the caller's own, reaches
    /// into a later one. Empty entries are ignored (RFC 9110, section 5.6.1.2).
    fn in_list(&self, headers: &HeaderMap) -> Option<IpAddr> {
        for line in headers.get_all(&X_FORWARDED_FOR).iter().rev() {
            let line = String::from_utf8_lossy(line.as_bytes());
            let entries = line.rsplit(',').map(str::trim);
            for entry in entries.filter(|entry| !entry.is_empty()) {
                let address = node(entry)?;
                if !self.trusts(address) {
                    return Some(address);
                }
            }
        }
        None
    }

    fn in_forwarded(&self, headers: &HeaderMap) -> Option<IpAddr> {
        for line in headers.get_all(&FORWARDED).iter().rev() {
            let line = String::from_utf8_lossy(line.as_bytes());
            for entry in forwarded(&line)?.into_iter().rev() {
                let address = node(entry)?;
                if !self.trusts(address) {
                    return Some(address);
                }
            }
        }
        None
    }
}

/// Comma-separated networks, as an operator writes them: `10.0.0.0/8, ::1`. Empty: nobody is trusted.
impl FromStr for TrustedProxies {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let parts = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        Ok(Self::new(
            parts.map(str::parse).collect::<Result<Vec<_>, _>>()?,
        ))
    }
}

/// The value of a header that may stand there once only.
fn alone(headers: &HeaderMap, name: &HeaderName) -> Option<IpAddr> {
    let mut lines = headers.get_all(name).iter();
    let (value, more) = (lines.next()?, lines.next());
    if more.is_some() {
        return None;
    }
    node(value.to_str().ok()?.trim())
}

/// The `for` of each element of `Forwarded`; an element without one is an entry that is no address.
/// `None` if a quoted string is not closed: where elements begin is not known then.
fn forwarded(line: &str) -> Option<Vec<&str>> {
    let elements = split_unquoted(line, b',')?;
    let mut entries = Vec::new();
    for element in elements
        .into_iter()
        .map(str::trim)
        .filter(|element| !element.is_empty())
    {
        let mut found = None;
        for pair in split_unquoted(element, b';')? {
            if let Some((name, value)) = pair.split_once('=')
                && name.trim().eq_ignore_ascii_case("for")
            {
                let value = value.trim();
                let inner = value
                    .strip_prefix('"')
                    .and_then(|rest| rest.strip_suffix('"'));
                // Twice is not allowed, so neither is believed.
                found = if found.is_some() {
                    Some("")
                } else {
                    Some(inner.unwrap_or(value))
                };
            }
        }
        entries.push(found.unwrap_or_default());
    }
    Some(entries)
}

/// Splits at a byte that does not stand in a quoted string (RFC 9110, section 5.6.4).
fn split_unquoted(text: &str, separator: u8) -> Option<Vec<&str>> {
    let (mut parts, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            byte if byte == separator && !quoted => {
                parts.push(text.get(start..at)?);
                start = at.saturating_add(1);
            }
            _ => {}
        }
    }
    parts.push(text.get(start..)?);
    (!quoted).then_some(parts)
}

/// An address, perhaps with a port, IPv6 perhaps in brackets.
fn node(text: &str) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|socket| socket.ip());
    let in_brackets = || {
        let inner = text.strip_prefix('[')?.strip_suffix(']')?;
        inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
    };
    let address = address.or_else(with_port).or_else(in_brackets)?;
    Some(address.to_canonical())
}

/// How many bits of an IPv6 address tell callers apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ipv6Prefix(u8);

impl Ipv6Prefix {
    /// 64 bits: the default, since that much is one subnet (RFC 4291) in which a host has its pick of addresses.
    pub const SUBNET: Self = Self(64);

    /// So many bits, from 1 to 128. Providers give a customer 48 to 64.
    pub fn new(bits: u8) -> Option<Self> {
        (1..=128).contains(&bits).then_some(Self(bits))
    }

    /// The address with the bits behind the prefix cleared. IPv4, also within IPv6, stays whole.
    #[inline]
    pub(crate) fn of(self, address: IpAddr) -> IpAddr {
        match address.to_canonical() {
            v4 @ IpAddr::V4(_) => v4,
            v6 @ IpAddr::V6(_) => first_bits(v6, self.0),
        }
    }
}

impl Default for Ipv6Prefix {
    fn default() -> Self {
        Self::SUBNET
    }
}

fn first_bits(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let behind = 32_u32.saturating_sub(u32::from(bits));
            let mask = u32::MAX.checked_shl(behind).unwrap_or_default();
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let behind = 128_u32.saturating_sub(u32::from(bits));
            let mask = u128::MAX.checked_shl(behind).unwrap_or_default();
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
