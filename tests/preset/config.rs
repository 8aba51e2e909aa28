//! What is wrong with a configuration is told with its name and its place, before anything starts.

use std::{error::Error as _, fs, path::PathBuf};

use plimsoll::{
    caller::Key,
    limit::Limit,
    preset::{self, Origin, Part, Setup, Stack, StartError},
    server::rate_limit::Quota,
    telemetry::{self, Otlp},
};

/// A file of this test's own.
pub(crate) struct File {
    pub(crate) path: PathBuf,
}

impl File {
    pub(crate) fn of(name: &str, text: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("plimsoll-{}-{name}.toml", std::process::id()));
        fs::write(&path, text).expect("it can be written");
        Self { path }
    }

    /// Writes it anew, in one step.
    pub(crate) fn write(&self, text: &str) {
        let beside = self.path.with_extension("new");
        fs::write(&beside, text).expect("it can be written");
        fs::rename(&beside, &self.path).expect("it can be moved");
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // Nothing is wrong if it is gone already.
        drop(fs::remove_file(&self.path));
    }
}

pub(crate) fn from(
    name: &str,
    text: &str,
    variables: &[(&str, &str)],
) -> Result<Stack, StartError> {
    let file = File::of(name, text);
    let setup = preset::server("shop").config(&file.path);
    setup.variables(variables.iter().copied()).build()
}

pub(crate) fn wrong(result: Result<Stack, StartError>) -> plimsoll::preset::ConfigError {
    match result {
        Err(StartError::Config(error)) => error,
        Err(other) => panic!("{other}"),
        Ok(stack) => panic!("it was taken: {stack:?}"),
    }
}

#[test]
fn what_is_wrong_in_a_file_is_told_with_key_and_line() {
    for (text, key, line, says) in [
        (
            "[timeout]\nheat = \"1s\"",
            "timeout.heat",
            2,
            "[timeout] has enabled, head",
        ),
        (
            "\n[timeouts]\nhead = \"1s\"",
            "timeouts",
            2,
            "there is no such section",
        ),
        ("head = \"1s\"", "head", 1, "settings stand in sections"),
        ("[timeout]\nhead = 30", "timeout.head", 2, "expected a time"),
        (
            "[timeout]\nhead = \"30\"",
            "timeout.head",
            2,
            "expected a time",
        ),
        (
            "[timeout]\nhead = \"30 MiB\"",
            "timeout.head",
            2,
            "not \"30 MiB\"",
        ),
        ("[timeout]\nhead = \"0s\"", "timeout.head", 2, "above zero"),
        ("[timeout]\nhead = true", "timeout.head", 2, "not true"),
        (
            "[timeout]\nenabled = \"yes\"",
            "timeout.enabled",
            2,
            "true or false",
        ),
        (
            "[timeout]\nhead.of = \"1s\"",
            "timeout.head",
            2,
            "not a table",
        ),
        (
            "[body_limit]\nmax = \"2 minutes\"",
            "body_limit.max",
            2,
            "as in `2 MiB`",
        ),
        (
            "[body_limit]\nmax = \"none\"",
            "body_limit.max",
            2,
            "expected a size",
        ),
        (
            "[back_pressure]\nlimit = 0",
            "back_pressure.limit",
            2,
            "`adaptive`, or a whole number",
        ),
        (
            "[back_pressure]\ntarget = 0.5",
            "back_pressure.target",
            2,
            "from 1.05 to 4",
        ),
        (
            "[back_pressure]\nmax = 99999999999999999999",
            "back_pressure.max",
            2,
            "number",
        ),
        (
            "[request_id]\ntrust = \"all\"",
            "request_id.trust",
            2,
            "`keep`, `replace`",
        ),
        (
            "[log]\nfilter = \"info,hyper=loud\"",
            "log.filter",
            2,
            "a filter, as in",
        ),
        (
            "[rate_limit]\nkey = \"peer\"\nquotas = \"100/parsec\"",
            "rate_limit.quotas",
            3,
            "a unit of time",
        ),
        (
            "[rate_limit]\nquotas = \"1/s\"\nkey = \"ip\"",
            "rate_limit.key",
            3,
            "`peer`, `client`",
        ),
        (
            "[rate_limit]\ntrusted_proxies = [\"10.0.0.0/40\"]",
            "rate_limit.trusted_proxies",
            2,
            "networks, as in",
        ),
        (
            "[rate_limit]\ntrusted_proxies = [1]",
            "rate_limit.trusted_proxies",
            2,
            "a list of other things",
        ),
        // Of TOML itself.
        (
            "[timeout]\nhead = \"1s\"\nhead = \"2s\"",
            "",
            3,
            "duplicate",
        ),
        ("[timeout\n", "", 1, ""),
        ("[timeout]\n\nhead = 1s", "", 3, ""),
        // Each right, and together wrong.
        (
            "[timeout]\nhead = \"10s\"\ntotal = \"5s\"",
            "timeout.head",
            2,
            "10s contradicts the whole call's `timeout.total`, 5s",
        ),
        (
            "[timeout]\ntotal = \"5s\"\nidle = \"10s\"",
            "timeout.idle",
            3,
            "`timeout.total`",
        ),
        (
            "[timeout]\nbody_min_rate = \"none\"\nbody_grace = \"5s\"",
            "timeout.body_grace",
            3,
            "body_min_rate",
        ),
        (
            "[back_pressure]\nmin = 50\nmax = 10",
            "back_pressure.min",
            2,
            "50 is more than `back_pressure.max`, 10",
        ),
        (
            "[back_pressure]\nmin = 2000000",
            "back_pressure.min",
            2,
            "1000000 (by default)",
        ),
        (
            "[back_pressure]\nmax = 10\ninitial = 20",
            "back_pressure.initial",
            3,
            "is more than",
        ),
        (
            "[back_pressure]\nlimit = 10\nmin = 5",
            "back_pressure.min",
            3,
            "is of an adaptive limit",
        ),
        (
            "[back_pressure]\nmax_waiting = 0\nmax_wait = \"1s\"",
            "back_pressure.max_wait",
            3,
            "nobody may",
        ),
        (
            "[back_pressure]\nenabled = false\nmax_wait = \"1s\"",
            "back_pressure.max_wait",
            3,
            "there is none",
        ),
        (
            "[back_pressure]\nmax_wait = \"30s\"",
            "back_pressure.max_wait",
            2,
            "`timeout.head`, 30s (by default)",
        ),
        (
            "[rate_limit]\nquotas = \"1/s\"",
            "rate_limit.quotas",
            2,
            "no `rate_limit.key`",
        ),
        (
            "[rate_limit]\nkey = \"peer\"",
            "rate_limit.key",
            2,
            "no `rate_limit.quotas`",
        ),
        (
            "[rate_limit]\nenabled = true",
            "rate_limit.enabled",
            2,
            "no `rate_limit.quotas`",
        ),
        (
            "[rate_limit]\nquotas = \"1/s\"\nkey = \"client\"",
            "rate_limit.key",
            3,
            "rate_limit.trusted_proxies",
        ),
        (
            "[rate_limit]\nquotas = \"1/s\"\nkey = \"peer\"\ntrusted_proxies = \"::1\"",
            "rate_limit.trusted_proxies",
            4,
            "nothing asks for it",
        ),
    ] {
        let error = wrong(from("wrong", text, &[]));
        let told = error.to_string();
        assert_eq!(error.key(), key, "{text}: {told}");
        match error.origin() {
            Origin::File { line: at, .. } => assert_eq!(*at, Some(line), "{text}: {told}"),
            other => panic!("{text}: {other:?}"),
        }
        assert!(told.contains(says), "{text}: {told}");
        assert!(
            told.contains(&format!("line {line}")) && told.contains(key),
            "{told}"
        );
    }
}

#[test]
fn what_is_wrong_in_the_environment_is_told_with_its_variable() {
    for (name, value, says) in [
        ("PLIMSOLL_TIMEOUT_HEAD", "30", "timeout.head"),
        ("PLIMSOLL_TIMEOUT_ENABLED", "maybe", "true or false"),
        (
            "PLIMSOLL_BACK_PRESSURE_MAX",
            "-1",
            "a whole number, 1 or more",
        ),
        ("PLIMSOLL_TIMEOUTS_HEAD", "30s", "there is no such setting"),
        ("PLIMSOLL_LIMIT", "30s", "there is no such setting"),
        ("PLIMSOLL_RATE_LIMIT_QUOTAS", "5/s", "no `rate_limit.key`"),
    ] {
        let result = preset::server("shop").variables([(name, value)]).build();
        let told = wrong(result).to_string();
        assert!(told.contains(name) && told.contains(says), "{told}");
    }
    let set = [
        ("PLIMSOLL_OPS_TOKEN", "secret"),
        ("PATH", "/bin"),
        ("PLIMSOLL_CONFIG", ""),
    ];
    assert!(preset::server("shop").variables(set).build().is_ok());
}

#[test]
fn what_the_program_says_wrong_is_told_as_well() {
    let none: [(&str, &str); 0] = [];
    let shop = || preset::server("shop").variables(none);
    for (setup, key, says) in [
        (
            shop().set("timeout.heat", "1s"),
            "timeout.heat",
            "the program",
        ),
        (
            shop().set("timeout.head", "1"),
            "timeout.head",
            "expected a time",
        ),
        (
            shop()
                .limit(Limit::adaptive())
                .set("back_pressure.max", "5"),
            "back_pressure.max",
            "a limit of its own",
        ),
        (
            shop()
                .rate_limit(Key::peer(), Quota::per_second(1).whole().expect("valid"))
                .set("rate_limit.key", "peer"),
            "rate_limit.key",
            "a key of its own",
        ),
    ] {
        let error = wrong(setup.build());
        assert_eq!((error.key(), error.origin()), (key, &Origin::Program));
        assert!(error.to_string().contains(says), "{error}");
    }
}

/// Neither of an endpoint that is wrong, nor of one that the exporters refuse: they have no TLS.
#[tokio::test]
async fn no_secret_of_an_endpoint_is_told() {
    let none: [(&str, &str); 0] = [];
    let name = "telemetry.otlp_endpoint";
    let shop = || preset::server("shop").variables(none).without(Part::Log);
    let wrong = shop().set(name, "http://me:hunter2^@h");
    let known = telemetry::Setup::new().otlp_endpoint("https://me:hunter2@h/");
    let known = known.otlp_protocol(Otlp::Grpc);
    for printed in [format!("{wrong:?}"), format!("{known:?}")] {
        assert!(!printed.contains("hunter"), "{printed}");
    }
    let error = wrong.start().expect_err("it is no URL");
    let printed = format!("{error:?}");
    assert!(
        printed.contains(name) && !printed.contains("hunter"),
        "{printed}"
    );
    let error = shop().telemetry(known).start().expect_err("it cannot");
    let printed = format!("{error:?}");
    assert!(
        printed.contains("TLS") && !printed.contains("hunter"),
        "{printed}"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_told() {
    let none: [(&str, &str); 0] = [];
    let setup = preset::server("shop").config("/no/such/file.toml");
    let error = setup.variables(none).build().expect_err("there is none");
    assert_eq!(
        error.to_string(),
        "/no/such/file.toml: the file cannot be read"
    );
    assert!(error.source().is_some());
    assert!(format!("{error:?}").contains("No such file"), "{error:?}");
    let large = "# as long as it gets\n".repeat(60_000);
    let error = wrong(from("large", &large, &[]));
    assert!(error.to_string().contains("larger than 1 MiB"), "{error}");
}

#[test]
fn the_environment_wins_over_the_file_and_that_over_the_program() {
    let file = File::of("wins", "[timeout]\nhead = \"2s\"\ntotal = \"2s\"\n");
    let set = |setup: Setup| {
        let setup = setup.set("timeout.head", "1s").set("timeout.total", "1s");
        setup.set("timeout.idle", "1s")
    };
    let path = file.path.to_str().expect("UTF-8");
    // The variable also names the file, and wins over the program there.
    let setup = set(preset::server("shop").config("/no/such/file.toml"));
    let variables = [("PLIMSOLL_CONFIG", path), ("PLIMSOLL_TIMEOUT_TOTAL", "3s")];
    let stack = setup.variables(variables).build().expect("valid");
    let (_, timeout) = stack.layers().swap_remove(4);
    assert!(
        timeout.starts_with("on: head 2s, total 3s, idle 1s"),
        "{timeout}"
    );
}

#[test]
fn all_that_can_be_said_is_taken() {
    let text = r#"
        [log]
        enabled = true
        to = "stderr"
        filter = "info,hyper=warn"
        schema = "ecs"
        queue = "1 MiB"
        [telemetry]
        enabled = false
        otlp_endpoint = "http://localhost:4318"
        otlp_protocol = "http"
        interval = "10s"
        [request_id]
        trust = "replace"
        make = "uuid_v7"
        [trace_context]
        trust = "restart"
        sampled_by_callers = 100
        [access_log]
        rejections = "info"
        client_errors = "warn"
        sample_successes = 10
        [metrics]
        max_series = 500
        [timeout]
        head = "5s"
        total = "1m"
        idle = "none"
        body_min_rate = "1 KiB"
        body_grace = "5s"
        deadline_from = ["10.0.0.0/8", "::1"]
        [rate_limit]
        quotas = "20/s and 1000/h burst 30"
        key = "client and header:x-api-key"
        trusted_proxies = "10.0.0.0/8"
        max_keys = 1_000
        headers = "both"
        dry_run = true
        [back_pressure]
        limit = "adaptive"
        min = 4
        max = 0x100
        initial = 10
        target = 2
        max_waiting = 100
        max_wait = "500ms"
        max_streams = 0
        dry_run = false
        priority_from = "10.0.0.0/8"
        [body_limit]
        max = "10 MB"
        [catch_panic]
        backtraces = true
        [serve]
        max_connections = 100
        max_connection_age = "5m"
        [reload]
        enabled = false
        every = "5s"
    "#;
    let stack = from("all", text, &[]).expect("valid");
    let all = stack.layers();
    let of = |name: &str| {
        let found = all.iter().find(|(layer, _)| *layer == name);
        found.map(|(_, state)| state.as_str()).expect("it is there")
    };
    assert_eq!(
        of("rate_limit"),
        "on: 20/s and 1000/h burst 30 by client and header:x-api-key, dry run"
    );
    assert!(
        of("back_pressure").starts_with("on: limit 10 (adaptive, 4 to 256)"),
        "{}",
        of("back_pressure")
    );
    assert_eq!(of("body_limit"), "on: max 10 MB");
    assert_eq!(stack.body_limit().max_bytes(), 10_000_000);
    assert!(stack.rate_limit().expect("there are quotas").is_dry_run());
}
