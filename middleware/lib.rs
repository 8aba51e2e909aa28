//! Tower layers that keep a service upright under load and tell its operators what happened.
