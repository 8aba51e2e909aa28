use std::{error::Error, fmt, time::Duration};

/// The value of a `grpc-timeout` header: how long the caller still waits.
///
/// At most eight digits and a unit, `H`, `M`, `S`, `m`, `u` or `n`
/// (gRPC over HTTP/2, "Timeout"). Zero means that the time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GrpcTimeout(Duration);

impl GrpcTimeout {
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
}
