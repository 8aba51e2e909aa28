//! Whether a GET is answered well.

use std::{io, sync::Arc, time::Duration};

use http::{Uri, uri::Scheme};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::InvalidUrl;
use crate::{observe::BoxError, ops::health::Check};

/// The most that is read of heads, interim ones included.
const MOST_OF_HEAD: usize = 16 * 1_024;
/// The most that is read of what follows, and for how long.
const MOST_OF_BODY: u64 = 64 * 1_024;
const LAST_BYTES: Duration = Duration::from_millis(50);

impl Check {
    /// A check that a GET of this `http://` URL is answered with 2xx or 3xx.
    ///
    /// HTTP/1.1 on a connection of its own each time, so that it also tells whether there can be new ones; redirects are
    /// not followed, and of the body no more than 64 KiB are taken. [Critical](Self::critical), as those of
    /// [`Check::new`] are.
    ///
    /// # Errors
    ///
    /// No such URL, one with a user in it, or an `https://` one: ask that with a client of your own, in [`Check::new`].
    pub fn http(name: &'static str, url: &str) -> Result<Self, InvalidUrl> {
        let target = Arc::new(Target::of(url)?);
        Ok(Self::new(name, move || {
            let target = Arc::clone(&target);
            async move { target.ask().await }
        }))
    }
}

struct Target {
    /// Host and port.
    address: String,
    request: String,
}

impl Target {
    fn of(url: &str) -> Result<Self, InvalidUrl> {
        let uri: Uri = url.parse().ok().ok_or(InvalidUrl::NotHttp)?;
        let is_plain = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => return Err(InvalidUrl::Https),
            scheme => scheme == Some(&Scheme::HTTP),
        };
        let host = uri.host().filter(|host| is_plain && !host.is_empty());
        let (Some(host), Some(authority)) = (host, uri.authority()) else {
            return Err(InvalidUrl::NotHttp);
        };
        if authority.as_str().contains('@') {
            return Err(InvalidUrl::Credentials);
        }
        let port = match uri.port() {
            Some(port) => port.as_u16(),
            // Digits that are no port are dropped in silence otherwise.
            None if authority.as_str() != host => return Err(InvalidUrl::NotHttp),
            None => 80,
        };
        let asked = uri.path_and_query().map_or("/", |asked| asked.as_str());
        let slash = if asked.starts_with('/') { "" } else { "/" };
        Ok(Self {
            address: format!("{host}:{port}"),
            request: format!(
                "GET {slash}{asked} HTTP/1.1\r\nhost: {authority}\r\nuser-agent: plimsoll-health\r\n\
                accept: */*\r\nconnection: close\r\n\r\n"
            ),
        })
    }

    async fn ask(&self) -> Result<(), BoxError> {
        let mut socket = TcpStream::connect(&*self.address).await?;
        socket.set_nodelay(true)?;
        socket.write_all(self.request.as_bytes()).await?;
        let mut came = Vec::with_capacity(1_024);
        let code = loop {
            if socket.read_buf(&mut came).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            match status(&came) {
                Some(code) => break code,
                None if came.len() > MOST_OF_HEAD => break Err(NOT_HTTP),
                None => {}
            }
        };
        match code? {
            200..400 => {
                take_rest(&mut socket).await;
                Ok(())
            }
            code => Err(format!("answered {code}").into()),
        }
    }
}

const NOT_HTTP: &str = "what came is no answer of HTTP/1";

/// The status of the answer, as far as it has come: `None` if more has to.
fn status(came: &[u8]) -> Option<Result<u16, &'static str>> {
    let whole = came.split_inclusive(|byte| *byte == b'\n');
    let mut lines = whole
        .filter(|line| line.ends_with(b"\n"))
        .map(<[u8]>::trim_ascii_end);
    loop {
        match status_in(lines.next()?) {
            None => return Some(Err(NOT_HTTP)),
            // An interim answer (RFC 9110, section 15.2): the next one comes after its empty line.
            Some(code @ 100..200) if code != 101 => lines.find(|line| line.is_empty())?,
            Some(code) => return Some(Ok(code)),
        };
    }
}

fn status_in(line: &[u8]) -> Option<u16> {
    let version = line.strip_prefix(b"HTTP/1.1 ");
    let rest = version.or_else(|| line.strip_prefix(b"HTTP/1.0 "))?;
    let (code, reason) = rest.split_at_checked(3)?;
    let is_code =
        code.iter().all(u8::is_ascii_digit) && matches!(reason.first(), None | Some(b' '));
    let code = str::from_utf8(code).ok().filter(|_| is_code)?;
    code.parse().ok()
}

/// Takes the rest, for a short while: whoever leaves without it resets the connection, and the service's log says so.
async fn take_rest(socket: &mut TcpStream) {
    let mut rest = socket.take(MOST_OF_BODY);
    let mut nowhere = tokio::io::sink();
    let taking = tokio::io::copy(&mut rest, &mut nowhere);
    // swallow: none, what is asked for is known by now
    let _taken = timeout(LAST_BYTES, taking).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_urls_are_asked() {
        let target = Target::of("http://shop.example/livez?deep=1#x").expect("a URL");
        assert_eq!(target.address, "shop.example:80");
        assert!(
            target
                .request
                .starts_with("GET /livez?deep=1 HTTP/1.1\r\nhost: shop.example\r\n")
        );
        let target = Target::of("HTTP://[::1]:8080?x").expect("a URL");
        assert_eq!(target.address, "[::1]:8080");
        assert!(
            target
                .request
                .starts_with("GET /?x HTTP/1.1\r\nhost: [::1]:8080\r\n")
        );
        use InvalidUrl::{Credentials, Https, NotHttp};
        for (url, why) in [
            ("https://host/", Https),
            ("http://user:hunter2@host/", Credentials),
            ("http://@host/", Credentials),
            ("ftp://host/", NotHttp),
            ("host:80", NotHttp),
            ("/path", NotHttp),
            ("http://", NotHttp),
            ("http://host:65536/", NotHttp),
            ("http://host:/", NotHttp),
            ("http://:80/", NotHttp),
            ("http://host/\r\nx: y", NotHttp),
            ("", NotHttp),
        ] {
            let error = Target::of(url).err();
            assert_eq!(error, Some(why), "{url:?}");
            assert!(!why.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn finds_the_status_behind_interim_answers() {
        for (came, found) in [
            ("HTTP/1.1 200 OK\r\n", Some(Ok(200))),
            ("HTTP/1.0 204\n", Some(Ok(204))),
            ("HTTP/1.1 503 Gone fishing\r\nx: y\r\n\r\n", Some(Ok(503))),
            (
                "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 302 Found\r\n",
                Some(Ok(302)),
            ),
            ("HTTP/1.1 101 Switching\r\n", Some(Ok(101))),
            ("HTTP/1.1 200 OK", None),
            ("HTTP/1.1 100 Continue\r\n", None),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 2", None),
            ("", None),
            ("HTTP/2 200\r\n", Some(Err(NOT_HTTP))),
            ("HTTP/1.1 2000\r\n", Some(Err(NOT_HTTP))),
            ("HTTP/1.1 +20 x\r\n", Some(Err(NOT_HTTP))),
            ("HTTP/1.1 20\r\n", Some(Err(NOT_HTTP))),
            ("\r\n", Some(Err(NOT_HTTP))),
            ("220 mail ready\r\n", Some(Err(NOT_HTTP))),
        ] {
            assert_eq!(status(came.as_bytes()), found, "{came:?}");
        }
    }
}
