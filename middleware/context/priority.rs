use std::{error::Error, fmt, str::FromStr};

use http::HeaderName;

use super::frame;

/// The header, or metadata of gRPC, that tells how much a call matters: `x-criticality`.
pub const CRITICALITY: HeaderName = HeaderName::from_static("x-criticality");

/// How much a call matters: under overload the lowest go first. After the criticalities of Google's services
/// (*Site Reliability Engineering*, chapter 21), with a middle for whoever says nothing.
///
/// ```
/// use plimsoll::context::Priority;
///
/// assert!(Priority::Critical < Priority::Sheddable, "the most important sorts first");
/// assert_eq!("sheddable-plus".parse(), Ok(Priority::SheddablePlus));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Must not fail: what keeps others alive, such as health checks and payments under way.
    CriticalPlus,
    /// Somebody waits and will notice.
    Critical,
    /// The default.
    #[default]
    Normal,
    /// Can be tried again in minutes, such as most of what machines ask for.
    SheddablePlus,
    /// Can be tried again in hours, such as batches and prefetching.
    Sheddable,
}

impl Priority {
    /// Every priority, the most important first.
    pub const ALL: [Self; 5] = [
        Self::CriticalPlus,
        Self::Critical,
        Self::Normal,
        Self::SheddablePlus,
        Self::Sheddable,
    ];

    /// The priority of the call that this code runs in, as `load_shed` or `back_pressure` found it. `None` outside of a
    /// call, and where neither of them was asked. `propagate` passes it on.
    pub fn current() -> Option<Self> {
        frame::current(|frame| frame.priority()).flatten()
    }

    /// The name in the header `x-criticality`, in the log and in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::CriticalPlus => "critical-plus",
            Self::Critical => "critical",
            Self::Normal => "normal",
            Self::SheddablePlus => "sheddable-plus",
            Self::Sheddable => "sheddable",
        }
    }

    /// 0 for the most important.
    pub(crate) fn rank(self) -> usize {
        match self {
            Self::CriticalPlus => 0,
            Self::Critical => 1,
            Self::Normal => 2,
            Self::SheddablePlus => 3,
            Self::Sheddable => 4,
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// As in [`Priority::label`], without regard to case; Google's `critical_plus` is the same as `critical-plus`.
impl FromStr for Priority {
    type Err = InvalidPriority;

    fn from_str(text: &str) -> Result<Self, InvalidPriority> {
        let is = |byte: u8, label: u8| {
            byte.eq_ignore_ascii_case(&label) || (byte, label) == (b'_', b'-')
        };
        let known = Self::ALL.into_iter().find(|priority| {
            let label = priority.label();
            let mut bytes = text.bytes().zip(label.bytes());
            text.len() == label.len() && bytes.all(|(byte, label)| is(byte, label))
        });
        known.ok_or(InvalidPriority(()))
    }
}

/// A text that is no priority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidPriority(());

impl fmt::Display for InvalidPriority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a priority is one of critical-plus, critical, normal, sheddable-plus, sheddable",
        )
    }
}

impl Error for InvalidPriority {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_nothing_else() {
        for (rank, priority) in Priority::ALL.into_iter().enumerate() {
            assert_eq!(priority.label().parse(), Ok(priority));
            assert_eq!(priority.rank(), rank);
        }
        assert_eq!("CRITICAL_PLUS".parse(), Ok(Priority::CriticalPlus));
        for wrong in ["", "critical ", "high", "-", "critical-plus-plus", "0"] {
            assert_eq!(
                wrong.parse::<Priority>(),
                Err(InvalidPriority(())),
                "{wrong}"
            );
        }
    }
}
