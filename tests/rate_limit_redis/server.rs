use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    process::{Child, Command, Stdio},
};

/// A Redis of the test's own; it ends when this is dropped.
pub(crate) struct Server {
    process: Child,
    port: u16,
    options: Vec<&'static str>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    pub(crate) fn with(options: &[&'static str]) -> Self {
        // Another process may take the port before Redis does: then it ends, and another is tried.
        for _ in 0..10 {
            let free = TcpListener::bind("127.0.0.1:0").expect("a port");
            let port = free.local_addr().expect("an address").port();
            drop(free);
            if let Some(process) = launch(port, options) {
                return Self {
                    process,
                    port,
                    options: options.to_vec(),
                };
            }
        }
        panic!("redis-server does not start: is the Debian package redis-server installed?");
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// At once, with all that it had.
    pub(crate) fn kill(&mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ends");
    }

    /// Again, on the same port and empty.
    pub(crate) fn restart(&mut self) {
        self.process = launch(self.port, &self.options).expect("it starts again");
    }

    /// An operator's command.
    pub(crate) async fn command(&self, words: &[&str]) -> redis::Value {
        self.try_command(words).await.expect("it obeys")
    }

    pub(crate) async fn try_command(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let client = redis::Client::open(self.url()).expect("a URL");
        let mut connection = client.get_multiplexed_async_connection().await?;
        let (name, arguments) = words.split_first().expect("a command");
        redis::cmd(name)
            .arg(arguments)
            .query_async(&mut connection)
            .await
    }

    /// How many scripts it has run.
    pub(crate) async fn scripts(&self) -> u64 {
        let told = self.command(&["INFO", "commandstats"]).await;
        let told: String = redis::from_redis_value(told).expect("text");
        let of = |line: &str| {
            let calls = line.strip_prefix("cmdstat_eval")?.split_once("calls=")?.1;
            calls.split(',').next()?.parse::<u64>().ok()
        };
        told.lines().filter_map(of).sum()
    }

    pub(crate) async fn keys(&self) -> Vec<String> {
        let keys = self.command(&["KEYS", "*"]).await;
        redis::from_redis_value(keys).expect("names")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.process.kill().is_ok() {
            self.process.wait().expect("it ends");
        }
    }
}

/// Returns once it accepts connections, `None` if it ends instead.
fn launch(port: u16, options: &[&'static str]) -> Option<Child> {
    let port = port.to_string();
    let mut process = Command::new("redis-server")
        .args([
            "--port",
            &port,
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ])
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the Debian package redis-server is installed");
    let said = BufReader::new(process.stdout.take().expect("a pipe"));
    let is_ready = said
        .lines()
        .map_while(Result::ok)
        .any(|line| line.contains("eady to accept connections"));
    if is_ready {
        return Some(process);
    }
    process.wait().expect("it ends");
    None
}
