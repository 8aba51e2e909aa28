//! One setting: what it may be, and how it is written.

use std::{fmt, time::Duration};

use http::Uri;

use crate::server::rate_limit::Quotas;

/// Longer than this no timer runs.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3_600);
const NONE: &str = "none";

const TIMES: &[(&str, u64)] = &[
    ("ms", 1),
    ("s", 1_000),
    ("min", 60_000),
    // Of two for the same the last is written.
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];
const SIZES: &[(&str, u64)] = &[
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// What a setting may be.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// On or off.
    Switch,
    /// A time above zero, with its unit.
    Time,
    /// The same, or `none`.
    MaybeTime,
    /// A number of bytes, with its unit.
    Size,
    /// The same, or `none`.
    MaybeSize,
    /// A whole number, at least this.
    Count(u64),
    /// The same, or `none`.
    MaybeCount(u64),
    /// A whole number within these, for what takes memory at the start.
    Within(u64, u64),
    /// Where something is to be sent, or `none`. User, password and query are not shown, and nothing of what is no URL.
    MaybeUrl,
    /// `adaptive`, or a whole number above zero.
    Limit,
    /// A number within these.
    Ratio(f64, f64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// Quotas, or `none`.
    Quotas,
    /// A text that this understands, or says what it expects; or `none`.
    MaybeText(fn(&str) -> Result<(), String>),
}

/// A setting that was understood.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// Of any optional kind.
    None,
    Switch(bool),
    Time(Duration),
    Size(u64),
    Count(u64),
    Ratio(f64),
    Word(&'static str),
    Text(String),
    Url(String),
    Quotas(Quotas),
}

/// A setting as it was written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Written {
    /// In the environment or in the program: a text, whatever is meant.
    Plain(String),
    /// A string of a file.
    Text(String),
    Whole(i64),
    Real(f64),
    Switch(bool),
    List(Vec<String>),
    /// Something that no setting is, and its name.
    Other(&'static str),
}

impl Kind {
    /// Reads it, or says what was expected.
    pub(crate) fn read(self, written: &Written) -> Result<Value, String> {
        let understood = match written {
            Written::Plain(text) => self.read_plain(text.trim()),
            Written::Text(text) => self.read_text(text.trim()),
            Written::Whole(number) => self.read_whole(*number),
            Written::Real(number) => self.read_real(*number),
            Written::Switch(on) if matches!(self, Self::Switch) => Ok(Value::Switch(*on)),
            Written::List(parts) if matches!(self, Self::MaybeText(_)) => {
                self.read_text(&parts.join(", "))
            }
            _ => Err(String::new()),
        };
        understood.map_err(|why| {
            let expected = if why.is_empty() { self.expects() } else { why };
            match self {
                Self::MaybeUrl => format!("expected {expected}"),
                _ => format!("expected {expected}, not {written}"),
            }
        })
    }

    fn read_plain(self, text: &str) -> Result<Value, String> {
        match self {
            Self::Switch => match text {
                "true" | "on" | "1" => Ok(Value::Switch(true)),
                "false" | "off" | "0" => Ok(Value::Switch(false)),
                _ => Err(String::new()),
            },
            Self::Count(_) | Self::MaybeCount(_) | Self::Within(..) | Self::Limit => {
                match text.parse() {
                    Ok(number) => self.read_whole(number),
                    Err(_) => self.read_text(text),
                }
            }
            Self::Ratio(..) => match text.parse() {
                Ok(number) => self.read_real(number),
                Err(_) => Err(String::new()),
            },
            _ => self.read_text(text),
        }
    }

    fn read_text(self, text: &str) -> Result<Value, String> {
        let whole = |value: Option<Value>| value.ok_or_else(String::new);
        match self {
            Self::MaybeTime
            | Self::MaybeSize
            | Self::MaybeCount(_)
            | Self::Quotas
            | Self::MaybeUrl
            | Self::MaybeText(_)
                if text == NONE =>
            {
                Ok(Value::None)
            }
            Self::Time | Self::MaybeTime => whole(time(text).map(Value::Time)),
            Self::Size | Self::MaybeSize => whole(size(text).map(Value::Size)),
            Self::Limit if text == ADAPTIVE => Ok(Value::Word(ADAPTIVE)),
            Self::Word(words) => {
                let found = words.iter().find(|word| **word == text);
                whole(found.map(|word| Value::Word(word)))
            }
            Self::Quotas => match text.parse() {
                Ok(quotas) => Ok(Value::Quotas(quotas)),
                Err(error) => Err(format!("{}: {error}", self.expects())),
            },
            Self::MaybeText(understands) => {
                understands(text).map(|()| Value::Text(text.to_owned()))
            }
            Self::MaybeUrl => whole(is_url(text).then(|| Value::Url(text.to_owned()))),
            Self::Switch
            | Self::Count(_)
            | Self::MaybeCount(_)
            | Self::Within(..)
            | Self::Limit
            | Self::Ratio(..) => Err(String::new()),
        }
    }

    fn read_whole(self, number: i64) -> Result<Value, String> {
        let at_least = |least: u64| u64::try_from(number).ok().filter(|&count| count >= least);
        let count = match self {
            Self::Count(least) | Self::MaybeCount(least) => at_least(least),
            Self::Within(least, most) => at_least(least).filter(|&count| count <= most),
            Self::Limit => at_least(1),
            Self::Ratio(..) => {
                let small = i32::try_from(number).ok().map(f64::from);
                return small.map_or_else(|| Err(String::new()), |number| self.read_real(number));
            }
            _ => None,
        };
        count.map(Value::Count).ok_or_else(String::new)
    }

    fn read_real(self, number: f64) -> Result<Value, String> {
        match self {
            Self::Ratio(least, most) if (least..=most).contains(&number) => {
                Ok(Value::Ratio(number))
            }
            _ => Err(String::new()),
        }
    }

    /// What it may be, for an error.
    pub(crate) fn expects(self) -> String {
        let or_none = |what: &str| format!("{what}, or `none`");
        match self {
            Self::Switch => "true or false".to_owned(),
            Self::Time => TIME.to_owned(),
            Self::MaybeTime => or_none(TIME),
            Self::Size => SIZE.to_owned(),
            Self::MaybeSize => or_none(SIZE),
            Self::Count(least) => format!("a whole number, {least} or more"),
            Self::MaybeCount(least) => or_none(&format!("a whole number, {least} or more")),
            Self::Within(least, most) => format!("a whole number, {least} to {most}"),
            Self::Limit => "`adaptive`, or a whole number, 1 or more".to_owned(),
            Self::Ratio(least, most) => format!("a number from {least} to {most}"),
            Self::Word(words) => format!("one of `{}`", words.join("`, `")),
            Self::Quotas => or_none("quotas, as in `100/s burst 50 and 1000/h`"),
            Self::MaybeUrl => or_none(URL),
            Self::MaybeText(_) => or_none("a text"),
        }
    }
}

const ADAPTIVE: &str = "adaptive";
const TIME: &str = "a time above zero with its unit, as in `30s` (ms, s, m, h, d)";
const URL: &str =
    "a URL of HTTP, as in `http://collector:4318`, with user and password percent-encoded";
const SIZE: &str = "a size with its unit, as in `2 MiB` (B, kB, MB, GB, KiB, MiB, GiB)";

/// `30s`, `500 ms`.
fn time(text: &str) -> Option<Duration> {
    let time = Duration::from_millis(with_unit(text, TIMES)?);
    (!time.is_zero() && time <= LONGEST).then_some(time)
}

/// `2 MiB`, `64KiB`.
fn size(text: &str) -> Option<u64> {
    with_unit(text, SIZES).filter(|&bytes| bytes > 0)
}

/// A whole number and one of these units.
fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let unit = unit.trim_start();
    let (_, worth) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*worth)
}

/// A number in the largest unit that it is whole in.
fn in_unit(
    f: &mut fmt::Formatter<'_>,
    number: u64,
    space: &str,
    units: &[(&str, u64)],
) -> fmt::Result {
    let fits = |unit: &&(&str, u64)| number.checked_rem(unit.1) == Some(0);
    let largest = units.iter().filter(fits).max_by_key(|(_, worth)| *worth);
    let (name, worth) = largest.copied().unwrap_or(("", 1));
    let number = number.checked_div(worth).unwrap_or(number);
    write!(f, "{number}{space}{name}")
}

/// Whether this is a URL of HTTP. What of a password is not encoded would be taken for a host or a path: it is refused.
fn is_url(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else {
        return false;
    };
    let marks = |text: &str| text.matches('@').count();
    uri.authority().is_some_and(|authority| {
        let place = authority.as_str().rsplit('@').next();
        let is_whole = place == Some(authority.host()) || authority.port_u16().is_some();
        is_whole && marks(text) == marks(authority.as_str())
    }) && matches!(uri.scheme_str(), Some("http" | "https"))
        && !text.contains('#')
}

/// Without what may be secret in it: all up to the last `@`, and what is asked.
fn show_url(f: &mut fmt::Formatter<'_>, url: &str) -> fmt::Result {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (hidden, rest) = rest
        .rsplit_once('@')
        .map_or(("", rest), |(_, rest)| ("..@", rest));
    let (place, cut) = rest
        .split_once(['?', '#'])
        .map_or((rest, ""), |(place, _)| (place, "?.."));
    write!(f, "{scheme}://{hidden}{place}{cut}")
}

/// As it can be read again, but for secrets.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str(NONE),
            Self::Switch(on) => on.fmt(f),
            Self::Time(time) => {
                let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                in_unit(f, millis, "", TIMES)
            }
            Self::Size(bytes) => in_unit(f, *bytes, " ", SIZES),
            Self::Count(count) => count.fmt(f),
            Self::Ratio(ratio) => ratio.fmt(f),
            Self::Word(word) => f.write_str(word),
            Self::Text(text) => f.write_str(text),
            Self::Url(url) => show_url(f, url),
            Self::Quotas(quotas) => quotas.fmt(f),
        }
    }
}

/// For an error: a value may be long, or hold anything.
impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(text) | Self::Text(text) => {
                let short: String = text.chars().take(60).collect();
                write!(f, "{short:?}")
            }
            Self::Whole(number) => number.fmt(f),
            Self::Real(number) => number.fmt(f),
            Self::Switch(on) => on.fmt(f),
            Self::List(_) => f.write_str("a list"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units_are_read_and_written() {
        let millis = |millis| Some(Duration::from_millis(millis));
        for (text, expected) in [
            ("30s", millis(30_000)),
            ("500ms", millis(500)),
            ("500 ms", millis(500)),
            ("2m", millis(120_000)),
            ("2min", millis(120_000)),
            ("1h", millis(3_600_000)),
            ("365d", millis(31_536_000_000)),
            ("366d", None),
            ("0s", None),
            ("30", None),
            ("", None),
            ("s", None),
            ("-1s", None),
            ("1.5s", None),
            ("30 seconds", None),
            ("30S", None),
            ("99999999999999999999s", None),
            ("9999999999999999999h", None),
        ] {
            assert_eq!(time(text), expected, "{text}");
        }
        for (text, expected) in [
            ("2 MiB", Some(2 << 20)),
            ("64KiB", Some(64 << 10)),
            ("1 GB", Some(1_000_000_000)),
            ("12 B", Some(12)),
            ("0 B", None),
            ("2", None),
            ("2 mb", None),
            ("2 Mbit", None),
        ] {
            assert_eq!(size(text), expected, "{text}");
        }
        for (value, text) in [
            (Value::Time(Duration::from_secs(90)), "90s"),
            (Value::Time(Duration::from_secs(3_600)), "1h"),
            (Value::Time(Duration::from_millis(1_500)), "1500ms"),
            (Value::Size(2 << 20), "2 MiB"),
            (Value::Size(2_000), "2 kB"),
            (Value::None, "none"),
        ] {
            assert_eq!(value.to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_what_was_expected() {
        let wrong = |kind: Kind, written| kind.read(&written).expect_err("it is wrong");
        let text = |text: &str| Written::Text(text.to_owned());
        for (error, expected) in [
            (
                wrong(Kind::Time, Written::Whole(30)),
                "expected a time above zero with its unit, as in `30s` (ms, s, m, h, d), not 30",
            ),
            (
                wrong(Kind::Switch, text("yes")),
                "expected true or false, not \"yes\"",
            ),
            (
                wrong(Kind::Count(1), Written::Whole(0)),
                "expected a whole number, 1 or more, not 0",
            ),
            (
                wrong(Kind::Ratio(1.05, 4.0), Written::Real(f64::NAN)),
                "expected a number from 1.05 to 4, not NaN",
            ),
            (
                wrong(Kind::Word(&["keep", "replace"]), Written::Other("a table")),
                "expected one of `keep`, `replace`, not a table",
            ),
        ] {
            assert_eq!(error, expected);
        }
        // In a file what is a number stays one; in the environment all is text.
        assert!(Kind::Count(1).read(&text("5")).is_err());
        let plain = Written::Plain("5".to_owned());
        assert_eq!(Kind::Count(1).read(&plain), Ok(Value::Count(5)));
        assert_eq!(Kind::Ratio(1.0, 9.0).read(&plain), Ok(Value::Ratio(5.0)));
        assert_eq!(
            Kind::Ratio(1.0, 9.0).read(&Written::Whole(5)),
            Ok(Value::Ratio(5.0))
        );
        assert_eq!(Kind::Limit.read(&plain), Ok(Value::Count(5)));
        assert_eq!(
            Kind::Limit.read(&text("adaptive")),
            Ok(Value::Word("adaptive"))
        );
    }

    #[test]
    fn a_url_is_one_and_its_secrets_are_not_told() {
        let read = |text: &str| Kind::MaybeUrl.read(&Written::Plain(text.to_owned()));
        for (text, shown) in [
            ("http://localhost:4318", "http://localhost:4318"),
            ("HTTPS://[::1]/base", "HTTPS://[::1]/base"),
            ("http://u:p%23w@h:80/v1?key=k", "http://..@h:80/v1?.."),
            ("http://u:p@w@h", "http://..@h"),
            ("http://h?k", "http://h?.."),
            ("none", "none"),
        ] {
            assert_eq!(read(text).map(|url| url.to_string()), Ok(shown.into()));
        }
        for wrong in [
            "",
            "secret",
            "secret:4317",
            "//secret",
            "ftp://secret",
            "http://",
            "http://secret:",
            "http://user:secret",
            "http://u:secret@",
            "http://u:sec^ret@h",
            "http://u:sec ret@h",
            "http://u:secret\n@h",
            // Whose host would be `u`.
            "http://u:80#secret@h",
            "http://u:80?secret@h",
            "http://u:80/secret@h",
        ] {
            let error = read(wrong).expect_err(wrong);
            assert!(error.starts_with("expected a URL of HTTP, "), "{error}");
            assert!(!error.contains("secret"), "{error}");
            // And if it were taken: whatever stands before the last `@` is hidden.
            let shown = Value::Url(wrong.to_owned()).to_string();
            assert!(
                !wrong.ends_with("@h") || !shown.contains("secret"),
                "{shown}"
            );
        }
    }

    const KINDS: [Kind; 12] = [
        Kind::Switch,
        Kind::Time,
        Kind::MaybeTime,
        Kind::Size,
        Kind::MaybeSize,
        Kind::Count(1),
        Kind::MaybeCount(0),
        Kind::Limit,
        Kind::Ratio(1.0, 4.0),
        Kind::Word(&["one"]),
        Kind::Quotas,
        Kind::MaybeText(|_| Ok(())),
    ];

    proptest! {
        #[test]
        fn no_text_panics_and_what_was_read_is_read_again(text in "\\PC*|[0-9]{1,20} ?[a-zA-Z]{1,3}") {
            for kind in KINDS {
                if let Ok(value) = kind.read(&Written::Plain(text.clone())) {
                    let again = kind.read(&Written::Plain(value.to_string()));
                    prop_assert_eq!(again, Ok(value));
                }
            }
        }
    }
}
