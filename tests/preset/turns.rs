//! A configuration that is read again and again.

use crate::{config::File, reload::built};

/// Of a head that was set and is not any more only the default is left, which gives way to a shorter total.
#[test]
fn a_setting_that_is_taken_back_is_forgotten_though_its_value_stays() {
    let file = File::of("origins", "[timeout]\nhead = \"30s\"\ntotal = \"60s\"\n");
    let stack = built(&file);
    file.write("[timeout]\ntotal = \"60s\"\n");
    assert_eq!(stack.reload().expect("valid").changed, [""; 0]);
    file.write("[timeout]\ntotal = \"10s\"\n[body_limit]\nmax = \"1 MiB\"\n");
    let reloaded = stack.reload().expect("valid");
    assert_eq!(reloaded.changed, ["timeout.total", "body_limit.max"]);
}
