//! The router for operators: what it shows, what it lets them change, and what it refuses.

mod controls;
mod reads;
mod support;
mod viewers;
