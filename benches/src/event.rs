//! One event of five fields inside a span, as one JSON line: the subscriber alone, without a service.

use tracing::{info, info_span};

use crate::{
    harness::{Case, traffic::Subject},
    subscribers::{self, Spans},
};

pub(crate) const CASES: &[Case] = &[
    Case::ours_alone("event/plimsoll", || {
        subscribers::plimsoll();
        order_lines()
    }),
    Case::bare("event/tracing-subscriber", || {
        subscribers::tracing_subscriber(Spans::Full);
        order_lines()
    }),
    Case::bare("event/tracing-subscriber/lean", || {
        subscribers::tracing_subscriber(Spans::Lean);
        order_lines()
    }),
    Case::bare("event/json-subscriber", || {
        subscribers::json_subscriber(Spans::Full);
        order_lines()
    }),
    Case::bare("event/json-subscriber/lean", || {
        subscribers::json_subscriber(Spans::Lean);
        order_lines()
    }),
];

/// The span is made once, before anything is measured, and entered for each line.
fn order_lines() -> Subject {
    let request_id = "9f4c2a63-52f0-4c5b-9d6e-0d4f7a1b2c3d";
    let call = info_span!("call", request_id, method = "GET", path = "/menu");
    Subject::line(move || {
        call.in_scope(|| {
            info!(
                order = 4711_u64,
                coffee = "espresso",
                cups = 2_u64,
                paid = true,
                price = 4.2,
                "an order was taken"
            );
        });
    })
}
