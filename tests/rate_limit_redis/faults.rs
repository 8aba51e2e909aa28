use std::{num::NonZeroU32, time::Instant};

use http::StatusCode;
use plimsoll::server::rate_limit::{Redis, StoreErrorKind, WhenAway};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket},
};

use crate::{
    BUDGET, SECRET, admitted, call, header, limit, lines::Lines, redis, server::Server, soon,
    status,
};

const LOCAL: WhenAway = WhenAway::Local {
    replicas: NonZeroU32::new(3).expect("above 0"),
};

fn count(redis: &Redis, kind: StoreErrorKind) -> u64 {
    let errors = redis.errors();
    errors
        .iter()
        .find(|(known, _)| *known == kind)
        .expect("every kind")
        .1
}

#[tokio::test]
async fn gone_each_policy_does_what_it_says_and_all_are_back_within_seconds() {
    let lines = Lines::keep();
    let mut server = Server::start();
    let redis = redis(&server.url());
    let (open, closed, local) = (
        limit("6/h", &redis, WhenAway::Open),
        limit("6/h", &redis, WhenAway::Closed),
        limit("6/h", &redis, LOCAL),
    );
    assert_eq!(admitted(&local, 9, SECRET).await, 6);

    server.kill();
    let answer = call(&open, "bob").await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(header(&answer, "x-plimsoll-degraded"), Some("open"));
    assert_eq!(admitted(&open, 50, SECRET).await, 50);

    let answer = call(&closed, "bob").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(header(&answer, "plimsoll-reason"), Some("store_error"));
    assert_eq!(header(&answer, "x-plimsoll-degraded"), Some("closed"));
    assert!(header(&answer, "retry-after").is_some());
    assert_eq!(admitted(&closed, 50, "bob").await, 0);

    // A third of 6 for those who come new, and nothing for whoever has spent it: it is warm.
    assert_eq!(admitted(&local, 9, "cid").await, 2);
    assert_eq!(admitted(&local, 9, SECRET).await, 0);
    let answer = call(&local, "dan").await;
    assert_eq!(header(&answer, "x-plimsoll-degraded"), Some("local"));
    assert_eq!(local.handle().decisions()[0].degraded, 19);
    assert!(!redis.is_there());

    server.restart();
    soon(async || status(&closed, "eve").await == StatusCode::OK).await;
    let answer = call(&local, "fay").await;
    assert_eq!(header(&answer, "x-plimsoll-degraded"), None);
    let told = lines.text();
    for event in ["store_away", "store_back"] {
        assert_eq!(lines.with(event).len(), 1, "{event}: {told}");
    }
    assert!(!told.contains(SECRET), "{told}");
}

#[tokio::test]
async fn never_there_is_as_good_as_gone() {
    // The port is taken, so that nobody else gets it, and nobody listens.
    let taken = TcpSocket::new_v4().expect("a socket");
    let free = "127.0.0.1:0".parse().expect("an address");
    taken.bind(free).expect("a port");
    let address = taken.local_addr().expect("an address");
    let redis = redis(&format!("redis://{address}/"));
    assert_eq!(
        admitted(&limit("1/h", &redis, WhenAway::Closed), 20, SECRET).await,
        0
    );
    assert_eq!(
        admitted(&limit("1/h", &redis, WhenAway::Open), 20, SECRET).await,
        20
    );
}

#[tokio::test]
async fn hung_it_costs_the_budget_at_first_and_then_nothing() {
    let server = Server::start();
    let redis = redis(&server.url());
    let patient = limit("1000/s", &redis, WhenAway::Closed);
    let layer = limit("1000/s", &redis.clone().budget(BUDGET), WhenAway::Closed);
    assert_eq!(admitted(&patient, 1, SECRET).await, 1);
    // No script runs until it is told to go on.
    server
        .command(&["CLIENT", "PAUSE", "3600000", "WRITE"])
        .await;
    let began = Instant::now();
    assert_eq!(admitted(&layer, 3, SECRET).await, 0);
    let at_first = began.elapsed();
    assert!(at_first >= BUDGET * 3, "three budgets: {at_first:?}");
    let began = Instant::now();
    assert_eq!(admitted(&layer, 100, SECRET).await, 0);
    assert!(began.elapsed() < BUDGET * 20, "{:?}", began.elapsed());
    assert_eq!(count(&redis, StoreErrorKind::Timeout), 3);
    assert_eq!(count(&redis, StoreErrorKind::Away), 100);
    server.command(&["CLIENT", "UNPAUSE"]).await;
    soon(async || status(&patient, SECRET).await == StatusCode::OK).await;
}

#[tokio::test]
async fn a_forgotten_script_is_sent_again_and_nobody_notices() {
    let server = Server::start();
    let redis = redis(&server.url());
    let layer = limit("5/h", &redis, WhenAway::Closed);
    assert_eq!(admitted(&layer, 2, SECRET).await, 2);
    server.command(&["SCRIPT", "FLUSH"]).await;
    assert_eq!(
        admitted(&layer, 9, SECRET).await,
        3,
        "and what was spent is known"
    );
    assert!(
        redis.errors().iter().all(|(_, errors)| *errors == 0),
        "{:?}",
        redis.errors()
    );
}

#[tokio::test]
async fn a_store_that_cannot_write_is_away_until_it_can() {
    for (breaks, mends, kind) in [
        (
            &["REPLICAOF", "127.0.0.1", "1"][..],
            &["REPLICAOF", "NO", "ONE"][..],
            StoreErrorKind::ReadOnly,
        ),
        (
            &["CONFIG", "SET", "maxmemory", "1"],
            &["CONFIG", "SET", "maxmemory", "0"],
            StoreErrorKind::OutOfMemory,
        ),
    ] {
        let server = Server::start();
        let redis = redis(&server.url());
        let layer = limit("1000/s", &redis, WhenAway::Closed);
        assert_eq!(admitted(&layer, 1, SECRET).await, 1);
        server.command(breaks).await;
        assert_eq!(admitted(&layer, 30, SECRET).await, 0, "{kind:?}");
        assert_eq!(count(&redis, kind), 3, "{:?}", redis.errors());
        server.command(mends).await;
        soon(async || status(&layer, SECRET).await == StatusCode::OK).await;
    }
}

#[tokio::test]
async fn a_key_of_another_type_is_an_error_for_its_caller_alone() {
    let server = Server::start();
    let redis = redis(&server.url());
    let layer = limit("5/h", &redis, WhenAway::Closed);
    assert_eq!(admitted(&layer, 1, SECRET).await, 1);
    let keys = server.keys().await;
    let probed = keys
        .iter()
        .filter(|key| !key.contains("{00000000000000000000000000000000}"));
    for key in probed {
        server.command(&["DEL", key]).await;
        server.command(&["LPUSH", key, "x"]).await;
    }
    assert_eq!(admitted(&layer, 10, SECRET).await, 0);
    assert_eq!(
        count(&redis, StoreErrorKind::WrongType),
        10,
        "{:?}",
        redis.errors()
    );
    assert_eq!(admitted(&layer, 9, "bob").await, 5);
}

#[tokio::test]
async fn a_wrong_password_is_told_and_never_shown() {
    let lines = Lines::keep();
    let server = Server::with(&["--requirepass", "hunter2-right"]);
    let redis = redis(&format!(
        "redis://:hunter2-wrong@127.0.0.1:{}/",
        server.port()
    ));
    let layer = limit("5/h", &redis, WhenAway::Closed);
    assert_eq!(admitted(&layer, 10, SECRET).await, 0);
    let told = lines.text();
    assert!(told.contains("kind=\"auth\""), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
}

/// Answers every script with this line, and all else with OK.
async fn fake(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut bytes = vec![0; 65_536];
                while let Ok(length @ 1..) = stream.read(&mut bytes).await {
                    let text = String::from_utf8_lossy(&bytes[..length]).to_uppercase();
                    let commands = text.lines().filter(|line| line.starts_with('*')).count();
                    let line = if text.contains("EVAL") {
                        answer
                    } else {
                        "+OK\r\n"
                    };
                    let answers = line.repeat(commands.max(1));
                    if stream.write_all(answers.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    format!("redis://{address}/")
}

#[tokio::test]
async fn no_answer_is_taken_for_an_admission() {
    for answer in [
        "-LOADING Redis is loading the dataset in memory\r\n",
        "-MOVED 3999 127.0.0.1:6381\r\n",
        "-READONLY You can't write against a read only replica.\r\n",
        "-ERR Error running script: @user_script:5: -OOM command not allowed\r\n",
        "-NOSCRIPT No matching script.\r\n",
        "+OK\r\n",
        ":0\r\n",
        "$-1\r\n",
        "*0\r\n",
        "*3\r\n:0\r\n:0\r\n$1\r\nx\r\n",
        "*3\r\n:0\r\n:0\r\n:0\r\n",
        "*4\r\n:0\r\n:0\r\n:-1\r\n:0\r\n",
        "*5\r\n:0\r\n:0\r\n:0\r\n:0\r\n:0\r\n",
        "*2\r\n:-1\r\n:0\r\n",
        "HTTP/1.1 400 Bad Request\r\n\r\n",
    ] {
        let redis = redis(&fake(answer).await).budget(BUDGET);
        let layer = limit("5/h", &redis, WhenAway::Closed);
        assert_eq!(admitted(&layer, 10, SECRET).await, 0, "{answer:?}");
        assert!(!redis.is_there(), "{answer:?}");
    }
}
