//! What operators and their machines ask of a service.
//!
//! [`Ops`] is one router for the port of operators: metrics, health, a page that shows the service as it runs, and the
//! few things that can be changed while it does.
//!
//! ```no_run
//! # #[cfg(feature = "full")]
//! # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
//! # use axum::{Router, routing::get};
//! use plimsoll::{
//!     limit::Limit,
//!     ops::{Controls, Ops, health::Health},
//!     server::{load_shed::LoadShedLayer, metrics::MetricsLayer},
//! };
//!
//! let telemetry = plimsoll::telemetry::init()?;
//! let (health, limit) = (Health::new(), Limit::adaptive().named("orders"));
//! let app: Router = Router::new()
//!     .route("/", get(|| async { "hello" }))
//!     .layer(LoadShedLayer::new(limit.clone()))
//!     .layer(MetricsLayer::new(telemetry.meter()));
//!
//! let operators = Ops::new()
//!     .telemetry(&telemetry)
//!     .health(&health)
//!     .limit(&limit.handle())
//!     .controls(Controls::from_env()?) // only with a token in PLIMSOLL_OPS_TOKEN
//!     .routes();
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "ops")]
pub(crate) mod change;
#[cfg(feature = "health")]
pub mod health;
#[cfg(feature = "ops")]
mod panel;

#[cfg(feature = "ops")]
pub(crate) use self::panel::TOKEN;
#[cfg(feature = "ops")]
pub use self::panel::{Controls, InvalidToken, Ops};
