//! The router for operators: what it shows, what it lets them change, and what it refuses.

mod controls;
mod hosts;
mod reads;
mod support;
mod viewers;
