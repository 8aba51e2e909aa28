use http::{HeaderMap, HeaderName};

pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(crate) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

macro_rules! codes {
    ($($variant:ident = $number:literal, $name:literal, $text:literal;)*) => {
        /// A status code of gRPC (`grpc/doc/statuscodes.md`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum GrpcCode {
            $(#[doc = concat!($number, ", `", $name, "`.")] $variant = $number,)*
        }

        impl GrpcCode {
            /// The code of this number, or `Unknown` for a number that gRPC does not define.
            pub fn from_number(number: u32) -> Self {
                match number {
                    $($number => Self::$variant,)*
                    _ => Self::Unknown,
                }
            }

            /// The name in upper snake case, as in logs and metrics.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The number as the text that goes into `grpc-status`.
            pub fn digits(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

codes! {
    Ok = 0, "OK", "0";
    Cancelled = 1, "CANCELLED", "1";
    Unknown = 2, "UNKNOWN", "2";
    InvalidArgument = 3, "INVALID_ARGUMENT", "3";
    DeadlineExceeded = 4, "DEADLINE_EXCEEDED", "4";
    NotFound = 5, "NOT_FOUND", "5";
    AlreadyExists = 6, "ALREADY_EXISTS", "6";
    PermissionDenied = 7, "PERMISSION_DENIED", "7";
    ResourceExhausted = 8, "RESOURCE_EXHAUSTED", "8";
    FailedPrecondition = 9, "FAILED_PRECONDITION", "9";
    Aborted = 10, "ABORTED", "10";
    OutOfRange = 11, "OUT_OF_RANGE", "11";
    Unimplemented = 12, "UNIMPLEMENTED", "12";
    Internal = 13, "INTERNAL", "13";
    Unavailable = 14, "UNAVAILABLE", "14";
    DataLoss = 15, "DATA_LOSS", "15";
    Unauthenticated = 16, "UNAUTHENTICATED", "16";
}

impl GrpcCode {
    /// The status in these headers or trailers, if there is one. What is no number counts as `Unknown`, as clients see it.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(GRPC_STATUS).iter();
        let value = values.next()?;
        Some(match values.next() {
            None => Self::of_digits(value.as_bytes()),
            Some(_) => Self::Unknown,
        })
    }

    fn of_digits(digits: &[u8]) -> Self {
        let value = |digit: u8| u32::from(digit.wrapping_sub(b'0'));
        match *digits {
            [ones @ b'0'..=b'9'] => Self::from_number(value(ones)),
            [b'1', ones @ b'0'..=b'9'] => Self::from_number(value(ones).saturating_add(10)),
            _ => Self::Unknown,
        }
    }

    /// Whether the server is at fault, by OpenTelemetry's rule for gRPC servers:
    /// 2, 4, 12, 13, 14 and 15 are its errors, all others the caller's.
    pub fn is_server_error(self) -> bool {
        use GrpcCode::{DataLoss, DeadlineExceeded, Internal, Unavailable, Unimplemented, Unknown};
        matches!(
            self,
            Unknown | DeadlineExceeded | Unimplemented | Internal | Unavailable | DataLoss
        )
    }
}

/// The text of `grpc-message`, percent-decoded; bytes that are no UTF-8 are replaced.
pub(crate) fn message_of(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(GRPC_MESSAGE)?.as_bytes();
    Some(String::from_utf8_lossy(&percent_decode(value)).into_owned())
}

/// Undoes percent-encoding; a `%` that begins no escape stays as it is.
pub(crate) fn percent_decode(text: &[u8]) -> Vec<u8> {
    let hex = |byte: Option<&u8>| byte.and_then(|&byte| char::from(byte).to_digit(16));
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let escape = (byte == b'%')
            .then(|| hex(after.first()).zip(hex(after.get(1))))
            .flatten();
        let byte_of = |(high, low): (u32, u32)| u8::try_from(high << 4 | low).ok();
        match escape.and_then(byte_of) {
            Some(escaped) => {
                decoded.push(escaped);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                decoded.push(byte);
                rest = after;
            }
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn reads_the_status_and_takes_garbage_as_unknown() {
        let status = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(GRPC_STATUS, HeaderValue::from_static(text));
            GrpcCode::of(&headers)
        };
        assert_eq!(status("0"), Some(GrpcCode::Ok));
        assert_eq!(status("13"), Some(GrpcCode::Internal));
        assert_eq!(status("99"), Some(GrpcCode::Unknown));
        assert_eq!(status("16"), Some(GrpcCode::Unauthenticated));
        // What one client takes for a 0 and another does not, is none.
        for garbage in [
            "ok",
            "",
            "+0",
            "00",
            "0 ",
            "-0",
            "0x0",
            "17",
            "21",
            "4294967296",
        ] {
            assert_eq!(status(garbage), Some(GrpcCode::Unknown), "{garbage:?}");
        }
        let mut twice = HeaderMap::new();
        twice.append(GRPC_STATUS, HeaderValue::from_static("0"));
        twice.append(GRPC_STATUS, HeaderValue::from_static("13"));
        assert_eq!(GrpcCode::of(&twice), Some(GrpcCode::Unknown));
        assert_eq!(GrpcCode::of(&HeaderMap::new()), None);
    }

    #[test]
    fn numbers_and_digits_agree() {
        for number in 0..=16 {
            let code = GrpcCode::from_number(number);
            assert_eq!(code as u32, number);
            assert_eq!(code.digits(), number.to_string());
        }
    }

    #[test]
    fn undoes_percent_encoding() {
        for (text, expected) in [
            ("a%20b", "a b"),
            ("100%", "100%"),
            ("%zz%4", "%zz%4"),
            ("%e2%98%83", "\u{2603}"),
        ] {
            assert_eq!(
                percent_decode(text.as_bytes()),
                expected.as_bytes(),
                "{text}"
            );
        }
    }
}
