//! The testbed as a process: how it starts and how it ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

fn testbed() -> Command {
    Command::new(env!("CARGO_BIN_EXE_testbed"))
}

/// Starts one and reads where its HTTP listener is.
fn start() -> (Child, String) {
    let mut process = testbed()
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the testbed starts");
    let stdout = process.stdout.take().expect("stdout is a pipe");
    let mut line = String::new();
    BufReader::new(stdout)
        .read_line(&mut line)
        .expect("it says where it listens");
    let (_, http) = line
        .split_once("http=")
        .expect("the line has all addresses");
    let (http, _) = http.split_once(' ').expect("http is not the last of them");
    (process, http.to_owned())
}

#[test]
fn answers_then_ends_with_0_when_it_is_told_to() {
    let (mut process, http) = start();
    let mut connection = TcpStream::connect(http).expect("it listens");
    connection
        .write_all(b"GET /ok HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .expect("the request is taken");
    let mut answer = String::new();
    connection
        .read_to_string(&mut answer)
        .expect("the answer is text");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");

    let told = Command::new("kill").arg(process.id().to_string()).status();
    assert!(told.expect("there is a kill command").success());
    assert_eq!(process.wait().expect("it ends").code(), Some(0));
}

#[test]
fn refuses_to_start_where_somebody_else_listens() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    for name in ["TB_HTTP", "TB_GRPC", "TB_ADMIN"] {
        let output = testbed().env(name, &address).output().expect("it starts");
        assert_eq!(output.status.code(), Some(2), "{name}");
        let told = String::from_utf8_lossy(&output.stderr);
        for part in [name, &address, "in use"] {
            assert!(told.contains(part), "{told}");
        }
    }
}

#[test]
fn refuses_to_start_with_what_it_does_not_understand() {
    for (name, value) in [
        ("TB_NO_SUCH", "1"),
        ("TB_CHAOS", "1"),
        ("TB_HTTP", "nowhere"),
        ("TB_LOG", "/no/such/folder/log"),
    ] {
        let output = testbed().env(name, value).output().expect("it starts");
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert!(output.stdout.is_empty());
        assert!(String::from_utf8_lossy(&output.stderr).contains(name));
    }
}
