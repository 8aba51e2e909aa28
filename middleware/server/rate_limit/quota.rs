use std::{error::Error, fmt, num::NonZeroU32, str::FromStr, time::Duration};

use super::{gcra::Pace, quota_text};

/// The most quotas that one caller can be held to at once.
pub(super) const MAX_QUOTAS: usize = 4;
/// Shorter than this the rounding to whole nanoseconds would be worth more than 0.1 %.
const SHORTEST_INTERVAL: Duration = Duration::from_micros(1);
/// Longer than this is a slip of the pen, and all sums of times stay far from overflow.
const LONGEST_REPLENISHMENT: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// So many calls in so much time, and how many of them may come at once. It cannot be made wrong.
///
/// ```
/// # use plimsoll::server::rate_limit::{InvalidQuota, Quota};
/// let steady = Quota::per_second(100).burst(50)?;
/// assert_eq!(steady, "100/s burst 50".parse()?);
/// assert_eq!(Quota::per_hour(1_000).burst(1_000)?, "1000-H".parse()?);
/// # Ok::<_, InvalidQuota>(())
/// ```
///
/// A caller who has been quiet has `burst` calls at once; each is given back after `interval`, the period divided by
/// the calls. So in every span of time `w` at most `burst + w / interval` calls are admitted: the generic cell rate
/// algorithm (ITU-T I.371) as a continuous-state leaky bucket. There is no window that begins anew for everyone.
///
/// `interval` is rounded up to a whole nanosecond, so that the quota is never exceeded, and missed by 0.1 % at most.
///
/// As text: `100/s`, `100/second`, `5/10m`, `1000-H`, each with `burst 50` behind it if wanted. Without it the burst is
/// the number of calls, which is what operators mean by `1000/hour`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quota {
    calls: NonZeroU32,
    period: Duration,
    burst: NonZeroU32,
    interval: Duration,
    name: &'static str,
}

impl Quota {
    /// So many calls a second. Say [`Rate::burst`] next.
    pub const fn per_second(calls: u32) -> Rate {
        Rate::new(calls, Duration::from_secs(1))
    }

    /// So many calls a minute.
    pub const fn per_minute(calls: u32) -> Rate {
        Rate::new(calls, Duration::from_secs(60))
    }

    /// So many calls an hour.
    pub const fn per_hour(calls: u32) -> Rate {
        Rate::new(calls, Duration::from_secs(60 * 60))
    }

    /// So many calls a day.
    pub const fn per_day(calls: u32) -> Rate {
        Rate::new(calls, Duration::from_secs(24 * 60 * 60))
    }

    /// So many calls in each period of this length.
    pub const fn per(period: Duration, calls: u32) -> Rate {
        Rate::new(calls, period)
    }

    /// Names it for callers (`RateLimit-Policy`), the log (`which`) and metrics. Default: by its period `second`,
    /// `minute`, `hour` or `day`, and `default` for any other. Printable ASCII without `"` and `\`.
    ///
    /// # Errors
    ///
    /// The name is empty or holds another character.
    pub fn named(mut self, name: &'static str) -> Result<Self, InvalidQuota> {
        let plain = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'"' && byte != b'\\';
        if name.is_empty() || !name.bytes().all(plain) {
            return Err(InvalidQuota::Name { name });
        }
        self.name = name;
        Ok(self)
    }

    /// The name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// How many calls may come at once after a quiet time.
    pub fn max_burst(&self) -> NonZeroU32 {
        self.burst
    }

    /// The time after which one call is given back.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    pub(super) fn pace(&self) -> Pace {
        Pace::new(self.interval, self.burst)
    }
}

/// How often, without yet saying how many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a rate becomes a quota by its burst"]
pub struct Rate {
    calls: u32,
    period: Duration,
}

impl Rate {
    const fn new(calls: u32, period: Duration) -> Self {
        Self { calls, period }
    }

    /// How many calls may come at once after a quiet time: at least 1. It has to be said; only in text it may be left out
    /// and is then the calls of a period.
    ///
    /// # Errors
    ///
    /// No calls, no time or no burst; more than a million calls a second; a burst that takes more than 366 days to be
    /// given back.
    pub fn burst(self, calls: u32) -> Result<Quota, InvalidQuota> {
        let Self {
            calls: rate,
            period,
        } = self;
        let rate = NonZeroU32::new(rate).ok_or(InvalidQuota::NoCalls)?;
        let burst = NonZeroU32::new(calls).ok_or(InvalidQuota::NoBurst)?;
        if period.is_zero() {
            return Err(InvalidQuota::NoPeriod);
        }
        let too_fast = InvalidQuota::TooFast {
            calls: rate.get(),
            period,
        };
        let too_slow = InvalidQuota::TooSlow {
            burst: burst.get(),
            period,
        };
        let (nanos, rate_wide) = (period.as_nanos(), u128::from(rate.get()));
        if nanos.checked_div(rate_wide) < Some(SHORTEST_INTERVAL.as_nanos()) {
            return Err(too_fast);
        }
        let interval = u64::try_from(nanos.div_ceil(rate_wide)).ok();
        let interval = interval.map(Duration::from_nanos).ok_or(too_slow.clone())?;
        let whole = interval.checked_mul(burst.get());
        whole
            .filter(|&whole| whole <= LONGEST_REPLENISHMENT)
            .ok_or(too_slow)?;
        Ok(Quota {
            calls: rate,
            period,
            burst,
            interval,
            name: name_of(period),
        })
    }

    /// As many at once as there are calls in a period: what `100/s` means as a text.
    ///
    /// # Errors
    ///
    /// As [`Rate::burst`].
    pub fn whole(self) -> Result<Quota, InvalidQuota> {
        self.burst(self.calls)
    }
}

fn name_of(period: Duration) -> &'static str {
    match (period.as_secs(), period.subsec_nanos()) {
        (1, 0) => "second",
        (60, 0) => "minute",
        (3_600, 0) => "hour",
        (86_400, 0) => "day",
        _ => "default",
    }
}

impl FromStr for Quota {
    type Err = InvalidQuota;

    fn from_str(text: &str) -> Result<Self, InvalidQuota> {
        quota_text::parse(text)
    }
}

/// Written so that it can be parsed again; the name is not part of it.
impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.calls)?;
        match name_of(self.period) {
            "second" => f.write_str("s")?,
            "minute" => f.write_str("m")?,
            "hour" => f.write_str("h")?,
            "day" => f.write_str("d")?,
            _ => quota_text::write_period(f, self.period)?,
        }
        if self.burst != self.calls {
            write!(f, " burst {}", self.burst)?;
        }
        Ok(())
    }
}

/// One to four quotas that a caller is held to together. A call that one of them refuses spends nothing of the others.
///
/// As text they stand side by side: `20/s and 1000/h`, or with a comma.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quotas(Vec<Quota>);

impl Quotas {
    /// Puts them together.
    ///
    /// # Errors
    ///
    /// None, more than four, or two of one name.
    pub fn new(quotas: impl IntoIterator<Item = Quota>) -> Result<Self, InvalidQuota> {
        let quotas: Vec<Quota> = quotas.into_iter().collect();
        if quotas.is_empty() {
            return Err(InvalidQuota::None);
        }
        if quotas.len() > MAX_QUOTAS {
            return Err(InvalidQuota::TooMany {
                quotas: quotas.len(),
            });
        }
        for (at, quota) in quotas.iter().enumerate() {
            if quotas
                .iter()
                .skip(at.saturating_add(1))
                .any(|other| other.name == quota.name)
            {
                return Err(InvalidQuota::SameName { name: quota.name });
            }
        }
        Ok(Self(quotas))
    }

    /// The quotas, in the order in which callers are told of them.
    pub fn as_slice(&self) -> &[Quota] {
        &self.0
    }

    /// The most that one call may weigh: the smallest burst.
    pub(super) fn max_weight(&self) -> u32 {
        let bursts = self.0.iter().map(|quota| quota.burst.get());
        bursts.min().unwrap_or_default()
    }
}

impl From<Quota> for Quotas {
    fn from(quota: Quota) -> Self {
        Self(vec![quota])
    }
}

/// Written so that they can be parsed again; names are not part of it.
impl fmt::Display for Quotas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, quota) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(" and ")?;
            }
            quota.fmt(f)?;
        }
        Ok(())
    }
}

impl FromStr for Quotas {
    type Err = InvalidQuota;

    fn from_str(text: &str) -> Result<Self, InvalidQuota> {
        Self::new(quota_text::parse_all(text)?)
    }
}

/// Why there can be no such quota.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidQuota {
    /// No calls at all in a period: to refuse all, remove the route.
    NoCalls,
    /// Not even one call at once: nothing would ever be admitted.
    NoBurst,
    /// A period of no time.
    NoPeriod,
    /// More than a million calls a second.
    TooFast {
        /// The calls.
        calls: u32,
        /// In so much time.
        period: Duration,
    },
    /// The burst takes more than 366 days to be given back.
    TooSlow {
        /// The burst.
        burst: u32,
        /// The period of the rate.
        period: Duration,
    },
    /// No quota at all: that would be no limit.
    None,
    /// More than four.
    TooMany {
        /// So many.
        quotas: usize,
    },
    /// Two of one name: callers could not tell them apart. See [`Quota::named`].
    SameName {
        /// The name.
        name: &'static str,
    },
    /// A name that cannot stand in a header.
    Name {
        /// The name.
        name: &'static str,
    },
    /// A text that is no quota.
    Text {
        /// The whole text.
        text: String,
        /// The byte at which it goes wrong.
        at: usize,
        /// What should stand there.
        expected: &'static str,
    },
}

impl fmt::Display for InvalidQuota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCalls => f.write_str("a quota of no calls admits nothing"),
            Self::NoBurst => f.write_str("a burst of 0 admits nothing"),
            Self::NoPeriod => f.write_str("a quota needs a period that is longer than nothing"),
            Self::TooFast { calls, period } => {
                write!(
                    f,
                    "{calls} calls in {period:?} are more than a million a second"
                )
            }
            Self::TooSlow { burst, period } => write!(
                f,
                "a burst of {burst} at a period of {period:?} takes more than 366 days to be given back"
            ),
            Self::None => f.write_str("no quota is no limit"),
            Self::TooMany { quotas } => {
                write!(f, "{quotas} quotas are more than {MAX_QUOTAS}")
            }
            Self::SameName { name } => write!(f, "two quotas are called `{name}`"),
            Self::Name { name } => {
                write!(f, "`{}` is no name of a quota", name.escape_debug())
            }
            Self::Text { text, at, expected } => {
                let (before, after) = text.split_at_checked(*at).unwrap_or((text, ""));
                let (before, after) = (before.escape_debug(), after.escape_debug());
                write!(
                    f,
                    "expected {expected} at byte {at}: `{before}` <here> `{after}`"
                )
            }
        }
    }
}

impl Error for InvalidQuota {}
