//! Configurations that nobody means well with, or that nobody wrote.

use plimsoll::preset;

use crate::config::{from, wrong};

#[test]
fn what_is_no_file_is_not_waited_for() {
    let none: [(&str, &str); 0] = [];
    let setup = preset::server("shop").config("/dev/zero");
    let error = setup.variables(none).build().expect_err("it has no end");
    assert_eq!(error.to_string(), "/dev/zero: it is no file");
}

#[test]
fn an_error_is_fit_for_a_terminal() {
    let error = wrong(from(
        "terminal",
        "[timeout]\n\"h\\u001b[2Jead\" = \"1s\"\n",
        &[],
    ));
    let text = error.to_string();
    assert!(text.contains("timeout.h\\u{1b}[2Jead"), "{text}");
    assert!(!text.contains(char::is_control), "{text:?}");
}

/// Of Services called `plimsoll` and `plimsoll-shop` in the same namespace.
#[test]
fn variables_of_kubernetes_are_no_settings() {
    let links = [
        ("PLIMSOLL_SERVICE_HOST", "10.0.0.1"),
        ("PLIMSOLL_SERVICE_PORT", "80"),
        ("PLIMSOLL_SERVICE_PORT_HTTP", "80"),
        ("PLIMSOLL_PORT", "tcp://10.0.0.1:80"),
        ("PLIMSOLL_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("PLIMSOLL_PORT_80_TCP_PROTO", "tcp"),
        ("PLIMSOLL_PORT_80_TCP_PORT", "80"),
        ("PLIMSOLL_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("PLIMSOLL_SHOP_SERVICE_HOST", "10.0.0.1"),
        ("PLIMSOLL_SHOP_PORT", "udp://10.0.0.1:80"),
    ];
    assert!(preset::server("shop").variables(links).build().is_ok());
    let error = wrong(
        preset::server("shop")
            .variables([("PLIMSOLL_PORT", "80")])
            .build(),
    );
    assert!(error.to_string().contains("PLIMSOLL_PORT"), "{error}");
}

#[test]
fn sizes_that_no_machine_has_are_refused() {
    for (section, key) in [("rate_limit", "max_keys"), ("metrics", "max_series")] {
        let text = format!("[{section}]\n{key} = 9223372036854775807\n");
        let error = wrong(from(key, &text, &[]));
        assert_eq!(error.key(), format!("{section}.{key}"));
        assert!(error.to_string().contains("to 1000"), "{error}");
    }
}
