//! Quotas as operators write them.

use std::{fmt, time::Duration};

use super::quota::{InvalidQuota, Quota};

const UNITS: &[(&[&str], u64)] = &[
    (&["s", "sec", "second", "seconds"], 1),
    (&["m", "min", "minute", "minutes"], 60),
    (&["h", "hour", "hours"], 60 * 60),
    (&["d", "day", "days"], 24 * 60 * 60),
];

const CALLS: &str = "a number of calls from 1 to 4294967295";
const SEPARATOR: &str = "`/` or `-` and a unit of time";
const UNIT: &str = "a unit of time: s, m, h or d";
const BURST: &str = "`burst` and a number";
const END: &str = "the end";

/// `100/s`, `5/10m`, `1000-H`, `100/s burst 50`.
pub(super) fn parse(text: &str) -> Result<Quota, InvalidQuota> {
    Reader::new(text, 0, text.len()).quota()
}

/// Several, with `and` or a comma between them.
pub(super) fn parse_all(text: &str) -> Result<Vec<Quota>, InvalidQuota> {
    let mut quotas = Vec::new();
    let mut start = 0;
    loop {
        let rest = text.get(start..).unwrap_or_default();
        let found = [", ", ",", " and "]
            .iter()
            .filter_map(|word| Some((rest.find(word)?, word.len())))
            .min_by_key(|&(at, length)| (at, usize::MAX.saturating_sub(length)));
        let Some((length, separator)) = found else {
            quotas.push(Reader::new(text, start, text.len()).quota()?);
            return Ok(quotas);
        };
        let end = start.saturating_add(length);
        quotas.push(Reader::new(text, start, end).quota()?);
        start = end.saturating_add(separator);
    }
}

/// A period that is none of the units: whole ones of the largest that fits, else nanoseconds.
pub(super) fn write_period(f: &mut fmt::Formatter<'_>, period: Duration) -> fmt::Result {
    let seconds = period.as_secs();
    if period.subsec_nanos() != 0 {
        return write!(f, "{}ns", period.as_nanos());
    }
    let (unit, size) = [("d", 86_400), ("h", 3_600), ("m", 60)]
        .into_iter()
        .find(|&(_, size)| seconds.checked_rem(size) == Some(0))
        .unwrap_or(("s", 1));
    write!(f, "{}{unit}", seconds.checked_div(size).unwrap_or(seconds))
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, at: usize, end: usize) -> Self {
        Self { text, at, end }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..self.end).unwrap_or_default()
    }

    fn wrong(&self, expected: &'static str) -> InvalidQuota {
        InvalidQuota::Text {
            text: self.text.to_owned(),
            at: self.at,
            expected,
        }
    }

    fn skip(&mut self, bytes: usize) {
        self.at = self.at.saturating_add(bytes);
    }

    fn spaces(&mut self) {
        let rest = self.rest();
        self.skip(rest.len().saturating_sub(rest.trim_start().len()));
    }

    fn take_while(&mut self, wanted: fn(u8) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest.bytes().take_while(|&byte| wanted(byte)).count();
        self.skip(length);
        rest.get(..length).unwrap_or_default()
    }

    /// A whole number above 0. At fault it stands at the number's first byte again.
    fn number(&mut self, expected: &'static str) -> Result<u32, InvalidQuota> {
        let start = self.at;
        let digits = self.take_while(|byte| byte.is_ascii_digit());
        let number = digits.parse().ok().filter(|&number: &u32| number > 0);
        number.ok_or_else(|| {
            self.at = start;
            self.wrong(expected)
        })
    }

    fn period(&mut self) -> Result<Duration, InvalidQuota> {
        let start = self.at;
        let many = match self.rest().bytes().next() {
            Some(b'0'..=b'9') => self.take_while(|byte| byte.is_ascii_digit()).parse().ok(),
            _ => Some(1_u64),
        };
        let unit_at = self.at;
        let word = self.take_while(|byte| byte.is_ascii_alphabetic());
        let known =
            |names: &&(&[&str], u64)| names.0.iter().any(|name| word.eq_ignore_ascii_case(name));
        let period = match (UNITS.iter().find(known), many) {
            (Some(&(_, size)), Some(many)) => many.checked_mul(size).map(Duration::from_secs),
            (None, Some(many)) if word.eq_ignore_ascii_case("ns") => {
                Some(Duration::from_nanos(many))
            }
            (None, _) => {
                self.at = unit_at;
                return Err(self.wrong(UNIT));
            }
            (Some(_), None) => None,
        };
        period.filter(|period| !period.is_zero()).ok_or_else(|| {
            self.at = start;
            self.wrong("a period above 0 that a clock can tell")
        })
    }

    fn quota(mut self) -> Result<Quota, InvalidQuota> {
        self.spaces();
        let start = self.at;
        let calls = self.number(CALLS)?;
        self.spaces();
        match self.rest().bytes().next() {
            Some(b'/' | b'-') => self.skip(1),
            _ => return Err(self.wrong(SEPARATOR)),
        }
        self.spaces();
        let rate = Quota::per(self.period()?, calls);
        let glued = self.at;
        self.spaces();
        let mut burst = None;
        if !self.rest().is_empty() {
            let word_at = self.at;
            let word = self.take_while(|byte| byte.is_ascii_alphabetic());
            if word_at == glued || !word.eq_ignore_ascii_case("burst") {
                self.at = word_at;
                return Err(self.wrong(BURST));
            }
            self.spaces();
            burst = Some(self.number("a burst from 1 to 4294967295")?);
            self.spaces();
        }
        if !self.rest().is_empty() {
            return Err(self.wrong(END));
        }
        let quota = burst.map_or_else(|| rate.whole(), |burst| rate.burst(burst));
        quota.map_err(|error| match error {
            InvalidQuota::TooFast { .. } => {
                self.at = start;
                self.wrong("at most a million calls a second")
            }
            InvalidQuota::TooSlow { .. } => {
                self.at = start;
                self.wrong("a burst that is given back within 366 days")
            }
            other => other,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::server::rate_limit::Quotas;

    fn quota(calls: u32, seconds: u64, burst: u32) -> Quota {
        let rate = Quota::per(Duration::from_secs(seconds), calls);
        rate.burst(burst).expect("a quota")
    }

    #[test]
    fn reads_what_operators_write() {
        for (text, expected) in [
            ("100/s", quota(100, 1, 100)),
            (" 100 / sec ", quota(100, 1, 100)),
            ("1000-H", quota(1_000, 3_600, 1_000)),
            ("5-S", quota(5, 1, 5)),
            ("60-M", quota(60, 60, 60)),
            ("7-D", quota(7, 86_400, 7)),
            ("1000/hour burst 50", quota(1_000, 3_600, 50)),
            ("1000/Hours BURST 50", quota(1_000, 3_600, 50)),
            ("20/10m", quota(20, 600, 20)),
            ("1/day", quota(1, 86_400, 1)),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
            assert_eq!(expected.to_string().parse(), Ok(expected), "{expected}");
        }
    }

    #[test]
    fn an_error_shows_where() {
        for (text, at, expected) in [
            ("", 0, CALLS),
            ("/s", 0, CALLS),
            ("0/s", 0, CALLS),
            ("-5/s", 0, CALLS),
            ("4294967296/s", 0, CALLS),
            ("99999999999999999999999/s", 0, CALLS),
            ("100", 3, SEPARATOR),
            ("100 calls", 4, SEPARATOR),
            ("1.5/s", 1, SEPARATOR),
            ("100/", 4, UNIT),
            ("100/parsec", 4, UNIT),
            ("100/10", 6, UNIT),
            ("100/0s", 4, "a period above 0 that a clock can tell"),
            (
                "100/99999999999999999999d",
                4,
                "a period above 0 that a clock can tell",
            ),
            ("100/s 50", 6, BURST),
            ("100/s bursts 50", 6, BURST),
            ("100/s burst", 11, "a burst from 1 to 4294967295"),
            ("100/s burst 0", 12, "a burst from 1 to 4294967295"),
            ("100/s burst -1", 12, "a burst from 1 to 4294967295"),
            ("100/s burst 5 x", 14, END),
            ("1000001/s", 0, "at most a million calls a second"),
            ("1/400d", 0, "a burst that is given back within 366 days"),
            ("1/ns", 0, "at most a million calls a second"),
        ] {
            let error = text.parse::<Quota>().expect_err(text);
            let told = InvalidQuota::Text {
                text: text.to_owned(),
                at,
                expected,
            };
            assert_eq!(error, told, "{text}");
        }
        let error = "20/s and 1000/x"
            .parse::<Quotas>()
            .expect_err("no such unit");
        assert_eq!(
            error.to_string(),
            "expected a unit of time: s, m, h or d at byte 14: `20/s and 1000/` <here> `x`"
        );
    }

    #[test]
    fn several_stand_side_by_side() {
        for text in [
            "20/s and 1000/h burst 30",
            "20/s,1000/h burst 30",
            "20/s, 1000/h burst 30",
        ] {
            let quotas: Quotas = text.parse().expect(text);
            assert_eq!(
                quotas.as_slice(),
                [quota(20, 1, 20), quota(1_000, 3_600, 30)]
            );
        }
        assert_eq!(
            "20/s and 5/s".parse::<Quotas>(),
            Err(InvalidQuota::SameName { name: "second" })
        );
        let five = "1/s, 1/m, 1/h, 1/d, 1/2d".parse::<Quotas>();
        assert_eq!(five, Err(InvalidQuota::TooMany { quotas: 5 }));
        assert_eq!(Quotas::new([]), Err(InvalidQuota::None));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_never_a_panic(text in "\\PC*") {
            drop(text.parse::<Quotas>());
        }

        #[test]
        fn what_is_written_is_read_again(calls: u32, nanos in 0..u64::MAX, burst: u32) {
            if let Ok(quota) = Quota::per(Duration::from_nanos(nanos), calls).burst(burst) {
                let again: Quota = quota.to_string().parse().expect("what was written");
                prop_assert_eq!(again, quota);
            }
        }
    }
}
