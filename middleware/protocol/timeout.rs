use std::{error::Error, fmt, time::Duration};

use http::{HeaderName, HeaderValue};

pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// What eight digits can tell.
const MOST: u128 = 99_999_999;
/// The units and how many nanoseconds each is worth.
const UNITS: [(char, u128); 6] = [
    ('n', 1),
    ('u', 1_000),
    ('m', 1_000_000),
    ('S', 1_000_000_000),
    ('M', 60_000_000_000),
    ('H', 3_600_000_000_000),
];

/// The value of a `grpc-timeout` header: how long the caller still waits.
///
/// At most eight digits and a unit, `H`, `M`, `S`, `m`, `u` or `n`
/// (gRPC over HTTP/2, "Timeout"). Zero means that the time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GrpcTimeout(Duration);

impl GrpcTimeout {
    /// So much time; it is told rounded down to what eight digits can tell, and never more than 99,999,999 hours.
    pub fn new(duration: Duration) -> Self {
        Self(duration)
    }

    /// The value of the header, in the finest unit that has room for it.
    pub fn to_header(self) -> HeaderValue {
        let nanos = self.0.as_nanos();
        let fitting = UNITS.iter().find_map(|&(unit, worth)| {
            let amount = nanos.checked_div(worth)?;
            (amount <= MOST).then_some((amount, unit))
        });
        let (amount, unit) = fitting.unwrap_or((MOST, 'H'));
        HeaderValue::try_from(format!("{amount}{unit}")).expect("digits and a letter")
    }

    /// Reads the text of the header.
    ///
    /// # Errors
    ///
    /// [`InvalidGrpcTimeout`] when it is not one to eight digits and one unit.
    pub fn parse(text: &[u8]) -> Result<Self, InvalidGrpcTimeout> {
        let (unit, digits) = text.split_last().ok_or(InvalidGrpcTimeout)?;
        if digits.is_empty() || digits.len() > 8 {
            return Err(InvalidGrpcTimeout);
        }
        let mut amount = 0_u64;
        for digit in digits {
            let digit = char::from(*digit).to_digit(10).ok_or(InvalidGrpcTimeout)?;
            amount = amount.saturating_mul(10).saturating_add(digit.into());
        }
        let duration = match unit {
            b'H' => Duration::from_secs(amount.saturating_mul(3_600)),
            b'M' => Duration::from_secs(amount.saturating_mul(60)),
            b'S' => Duration::from_secs(amount),
            b'm' => Duration::from_millis(amount),
            b'u' => Duration::from_micros(amount),
            b'n' => Duration::from_nanos(amount),
            _ => return Err(InvalidGrpcTimeout),
        };
        Ok(Self(duration))
    }

    /// The time that is left.
    pub fn duration(self) -> Duration {
        self.0
    }
}

/// A `grpc-timeout` header that is not one to eight digits and a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidGrpcTimeout;

impl fmt::Display for InvalidGrpcTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a grpc-timeout is one to eight digits and one of H, M, S, m, u, n")
    }
}

impl Error for InvalidGrpcTimeout {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_each_unit_and_refuses_the_rest() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3_600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("4m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("6n", Some(Duration::from_nanos(6))),
            ("0S", Some(Duration::ZERO)),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3_600))),
            ("100000000S", None),
            ("1Q", None),
            ("S", None),
            ("1", None),
            ("", None),
            ("-1S", None),
            ("+1S", None),
            ("1 S", None),
            ("1.5S", None),
            ("\u{661}S", None),
        ] {
            assert_eq!(
                GrpcTimeout::parse(text.as_bytes())
                    .ok()
                    .map(GrpcTimeout::duration),
                expected,
                "{text:?}"
            );
        }
    }

    #[test]
    fn tells_what_it_reads_rounded_down() {
        for (duration, expected) in [
            (Duration::ZERO, "0n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_millis(100), "100000u"),
            (Duration::from_nanos(100_000_999), "100000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(100_000), "100000S"),
            (Duration::from_secs(100_000_000), "1666666M"),
            (Duration::from_secs(6_000_000_000), "1666666H"),
            (Duration::MAX, "99999999H"),
        ] {
            let header = GrpcTimeout::new(duration).to_header();
            assert_eq!(header, expected, "{duration:?}");
            let read = GrpcTimeout::parse(header.as_bytes()).expect("its own text");
            assert!(read.duration() <= duration, "{duration:?}");
        }
    }
}
