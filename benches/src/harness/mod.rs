//! Runs and measures cases; knows none of them.

mod alloc;
pub(crate) mod guard;
pub(crate) mod loopback;
pub(crate) mod measure;
pub(crate) mod sink;
pub(crate) mod table;
pub(crate) mod traffic;
pub(crate) mod worker;

use traffic::Subject;

/// One row of the table.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// The case without the layer, which this one is compared to.
    pub(crate) base: Option<&'static str>,
    pub(crate) whose: Whose,
    /// Makes what is measured. Called once, in the case's own process.
    pub(crate) make: fn() -> Subject,
}

/// The guard holds ours to their ceilings.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    Ours,
    NotOurs,
}

impl Case {
    /// Something to compare with.
    pub(crate) const fn bare(name: &'static str, make: fn() -> Subject) -> Self {
        Self {
            name,
            base: None,
            whose: Whose::NotOurs,
            make,
        }
    }

    /// What others offer for the same job.
    pub(crate) const fn peer(
        name: &'static str,
        base: &'static str,
        make: fn() -> Subject,
    ) -> Self {
        Self {
            name,
            base: Some(base),
            whose: Whose::NotOurs,
            make,
        }
    }

    /// Something of plimsoll's that is put around nothing.
    pub(crate) const fn ours_alone(name: &'static str, make: fn() -> Subject) -> Self {
        Self {
            name,
            base: None,
            whose: Whose::Ours,
            make,
        }
    }

    /// A layer of plimsoll.
    pub(crate) const fn ours(
        name: &'static str,
        base: &'static str,
        make: fn() -> Subject,
    ) -> Self {
        Self {
            name,
            base: Some(base),
            whose: Whose::Ours,
            make,
        }
    }
}
