use std::{
    fs,
    io::{BufRead, BufReader},
    process::{self, Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
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
        // Where a port is taken it ends, and the next is tried.
        for _ in 0..100 {
            let port = port();
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

/// One that the kernel gives to nobody who asks for any, nor to connections that go out: while the server is killed and
/// started again the port stays free.
fn port() -> u16 {
    const LOWEST: u32 = 10_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let given = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let given = given.ok().and_then(|range| {
        let first = range.split_whitespace().next()?;
        first.parse().ok()
    });
    let room = given.unwrap_or(32_768_u32).saturating_sub(LOWEST).max(1);
    // Tests run beside each other, each in its process or all in one.
    let turn = process::id()
        .wrapping_mul(17)
        .wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
    u16::try_from(LOWEST + turn % room).expect("a port")
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
