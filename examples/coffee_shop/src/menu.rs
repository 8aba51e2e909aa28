//! What the shop sells.

use serde::Serialize;

/// One line of the menu.
#[derive(Debug, Serialize)]
pub(crate) struct Coffee {
    pub(crate) name: &'static str,
    /// In euro cents.
    pub(crate) cents: u32,
}

/// All that can be ordered.
pub(crate) const MENU: &[Coffee] = &[
    Coffee {
        name: "espresso",
        cents: 220,
    },
    Coffee {
        name: "cappuccino",
        cents: 340,
    },
    Coffee {
        name: "flat white",
        cents: 380,
    },
    Coffee {
        name: "filter",
        cents: 280,
    },
];

/// Whether a coffee is on the menu.
pub(crate) fn has(name: &str) -> bool {
    MENU.iter().any(|coffee| coffee.name == name)
}
