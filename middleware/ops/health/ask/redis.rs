//! Whether a Redis answers.

use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, RedisResult, cmd};

use super::InvalidUrl;
use crate::ops::health::Check;

impl Check {
    /// A check that a Redis, or Valkey, answers PING, at `redis://[user:password@]host[:port][/database]` or
    /// `redis+unix:///path`.
    ///
    /// Over a connection of its own each time, so that it also tells whether there can be new ones. One that still loads
    /// its data fails, and so does a wrong password, which is never shown. [Critical](Self::critical), as those of
    /// [`Check::new`] are; say [`not_critical`](Self::not_critical) if all that needs it is a rate limit, whose policy says
    /// what happens meanwhile.
    ///
    /// # Errors
    ///
    /// No such URL, or one that wants TLS.
    pub fn redis(name: &'static str, url: &str) -> Result<Self, InvalidUrl> {
        let info = url
            .into_connection_info()
            .ok()
            .ok_or(InvalidUrl::NotRedis)?;
        let client = Client::open(info).ok().ok_or(InvalidUrl::NotRedis)?;
        Ok(Self::new(name, move || {
            let client = client.clone();
            async move { ping(&client).await }
        }))
    }
}

async fn ping(client: &Client) -> RedisResult<()> {
    // The check has a timeout, which holds for all of it.
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None);
    let connecting = client.get_multiplexed_async_connection_with_config(&config);
    cmd("PING").exec_async(&mut connecting.await?).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_cannot_be_is_refused_without_its_password() {
        for url in ["", "redis", "http://host", "redis://:hunter2@host:port"] {
            let error = Check::redis("redis", url).expect_err(url);
            assert_eq!(error, InvalidUrl::NotRedis);
            assert!(!error.to_string().contains("hunter2"));
        }
        let check = Check::redis("redis", "redis://:hunter2@host/3").expect("a URL");
        assert!(!format!("{check:?}").contains("hunter2"));
    }
}
