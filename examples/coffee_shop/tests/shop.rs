//! The shop as a newcomer sees it: one command, then plain HTTP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};

struct Shop {
    process: Child,
    /// Kept open: what the shop prints needs a reader.
    _stdout: BufReader<ChildStdout>,
    log: BufReader<ChildStderr>,
    reception: String,
    ops: String,
}

impl Shop {
    fn open() -> Self {
        Self::with(|command| command)
    }

    fn with(set: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        let mut process = set(&mut command())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the shop starts");
        let stdout = process.stdout.take().expect("stdout is a pipe");
        let log = process.stderr.take().expect("stderr is a pipe");
        let mut stdout = BufReader::new(stdout);
        let mut greeting = String::new();
        stdout
            .read_line(&mut greeting)
            .expect("the shop says where it is");
        let address = |name: &str| {
            let (_, rest) = greeting.split_once(name).expect("it names all addresses");
            let end = rest.find([',', ' ', '\n']).unwrap_or(rest.len());
            rest[..end].trim_end_matches('.').to_owned()
        };
        Self {
            process,
            _stdout: stdout,
            log: BufReader::new(log),
            reception: address("reception on "),
            ops: address("ops on "),
        }
    }

    fn get(&self, path: &str) -> String {
        ask(&self.reception, "GET", path, "")
    }

    /// The log up to the line that says this.
    fn log_until(&mut self, last: &str) -> Vec<String> {
        let mut log = Vec::new();
        for line in self.log.by_ref().lines() {
            log.push(line.expect("the log is text"));
            if log.last().is_some_and(|line| line.contains(last)) {
                return log;
            }
        }
        panic!("the log ended without {last}: {log:?}");
    }

    fn order(&self, body: &str) -> String {
        ask(&self.reception, "POST", "/orders", body)
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.process.kill().expect("the shop is still open");
        self.process.wait().expect("it ends when it is killed");
    }
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coffee_shop"));
    // What is said to the tests is not said to the shop.
    command.env_remove("PLIMSOLL_LONG");
    for address in ["RECEPTION_ADDR", "BARISTA_ADDR", "OPS_ADDR"] {
        command.env(address, "127.0.0.1:0");
    }
    command
}

/// One request on a connection of its own; head and body as they come.
fn ask(address: &str, method: &str, path: &str, body: &str) -> String {
    let mut connection = TcpStream::connect(address).expect("somebody listens");
    let length = body.len();
    write!(
        connection,
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-request-id: test-1\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .expect("the request is taken");
    let mut answer = String::new();
    connection
        .read_to_string(&mut answer)
        .expect("the answer is text");
    answer
}

#[test]
fn makes_a_coffee() {
    let shop = Shop::open();
    assert!(shop.get("/menu").contains("cappuccino"));

    let taken = shop.order(r#"{"coffee":"cappuccino"}"#);
    assert!(taken.starts_with("HTTP/1.1 201 "), "{taken}");
    assert!(taken.contains("location: /orders/1\r\n"), "{taken}");

    let updates = shop.get("/orders/1/updates");
    assert!(updates.contains(r#""stage":"ready""#), "{updates}");
    let order = shop.get("/orders/1");
    assert!(order.contains(r#""stage":"ready""#), "{order}");
}

#[test]
fn one_id_follows_an_order_to_the_barista_and_back() {
    let mut shop = Shop::open();
    let taken = shop.order(r#"{"coffee":"espresso"}"#);
    assert!(taken.contains("x-request-id: test-1\r\n"), "{taken}");
    // The coffee is ready long after the call has ended.
    let log = shop.log_until(r#""message":"order ready""#);
    for what in [
        r#""message":"order taken""#,
        r#""message":"order ready""#,
        r#""path":"/coffee_shop.v1.Barista/Place""#,
        r#""path":"/orders""#,
    ] {
        let line = log.iter().find(|line| line.contains(what));
        let line = line.unwrap_or_else(|| panic!("no line with {what}"));
        assert!(line.contains(r#""request_id":"test-1""#), "{line}");
    }
}

#[test]
fn tells_a_guest_what_is_wrong() {
    let shop = Shop::open();
    for (answer, status) in [
        (shop.order(r#"{"coffee":"tea"}"#), 422),
        (shop.order(r#"{"drink":"tea"}"#), 422),
        (shop.order("{"), 400),
        (shop.get("/orders/7"), 404),
        (shop.get("/orders/seven"), 404),
        (shop.get("/orders/7/updates"), 404),
        (shop.get("/tea"), 404),
        (shop.get("/orders"), 405),
        (shop.get("/drills/error"), 500),
    ] {
        let line = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&line), "{answer}");
        assert!(answer.contains("\r\ncontent-type: application/problem+json\r\n"));
        assert!(!answer.contains("no beans left"), "{answer}");
    }
}

#[test]
fn operators_see_that_it_is_open() {
    let shop = Shop::open();
    for path in ["/livez", "/readyz"] {
        let answer = ask(&shop.ops, "GET", path, "");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}

#[test]
fn a_taken_address_is_said_plainly() {
    let shop = Shop::open();
    let second = command()
        .env("RECEPTION_ADDR", &shop.reception)
        .output()
        .expect("the second shop starts");
    assert_eq!(second.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&second.stderr);
    assert!(stderr.contains(&shop.reception), "{stderr}");
    assert!(stderr.contains("RECEPTION_ADDR"), "{stderr}");
}

#[test]
fn a_wrong_setting_stops_it_and_is_named() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wrong.toml");
    for (name, value, told) in [
        ("PLIMSOLL_CONFIG", file, "`timeout.heat` ("),
        ("PLIMSOLL_CONFIG", file, "wrong.toml, line 3)"),
        (
            "PLIMSOLL_CONFIG",
            "/no/such/file.toml",
            "/no/such/file.toml",
        ),
        (
            "PLIMSOLL_TIMEOUT_HEAD",
            "30",
            "PLIMSOLL_TIMEOUT_HEAD (timeout.head): expected a time",
        ),
        ("PLIMSOLL_TIMEOUT_HEAT", "30s", "PLIMSOLL_TIMEOUT_HEAT"),
        ("PLIMSOLL_OPS_TOKEN", "short", "PLIMSOLL_OPS_TOKEN"),
    ] {
        let ended = command().env(name, value).output().expect("it starts");
        let stderr = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(told), "{name}={value}: {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

#[test]
fn its_own_file_is_taken() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/coffee_shop.toml");
    let shop = Shop::with(|command| command.env("PLIMSOLL_CONFIG", file));
    let answer = shop.get("/menu");
    assert!(answer.contains("ratelimit-policy: "), "{answer}");
    let status = ask(&shop.ops, "GET", "/status.json", "");
    assert!(status.contains("by peer"), "{status}");
}

/// Asked by a signal, while it runs.
#[test]
fn a_changed_file_is_taken_and_a_wrong_one_is_not() {
    let name = format!("coffee_shop-{}.toml", std::process::id());
    let path = std::env::temp_dir().join(name);
    let write = |text: &str| {
        let all = format!("[reload]\nevery = \"1h\"\n[body_limit]\nmax = {text}\n");
        std::fs::write(&path, all).expect("it can be written");
    };
    write("\"1 MiB\"");
    let mut shop = Shop::with(|command| command.env("PLIMSOLL_CONFIG", &path));
    let mut hang_up = |last: &str| {
        let process = shop.process.id().to_string();
        let sent = Command::new("kill").args(["-HUP", &process]).status();
        assert!(sent.expect("there is a kill").success());
        shop.log_until(last).pop().expect("a line")
    };
    write("\"10 B\"");
    let line = hang_up(r#""event":"setting_changed""#);
    for told in [
        r#""by":"file""#,
        r#""setting":"body_limit.max""#,
        r#""from":"1 MiB""#,
        r#""to":"10 B""#,
    ] {
        assert!(line.contains(told), "{line}");
    }
    write("\"10 beans\"");
    let line = hang_up(r#""event":"config_rejected""#);
    assert!(
        line.contains(r#""level":"ERROR""#) && line.contains("line 4"),
        "{line}"
    );
    std::fs::remove_file(&path).expect("it is there");
    let refused = shop.order(r#"{"coffee":"cappuccino"}"#);
    assert!(refused.starts_with("HTTP/1.1 413 "), "{refused}");
    assert!(shop.get("/menu").starts_with("HTTP/1.1 200 "));
}
