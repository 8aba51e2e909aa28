use http::HeaderValue;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// What a proxy chain of 10.0.0.0/8 and 2001:db8:5::/48 tells; the lines are those of one header.
fn client(header: ForwardingHeader, peer: &str, lines: &[&[u8]]) -> IpAddr {
    let name = match header {
        ForwardingHeader::XForwardedFor => X_FORWARDED_FOR,
        ForwardingHeader::Forwarded => FORWARDED,
        ForwardingHeader::XRealIp => X_REAL_IP,
    };
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(&name, HeaderValue::from_bytes(line).expect("a header"));
    }
    let proxies: TrustedProxies = "10.0.0.0/8, 2001:db8:5::/48".parse().expect("networks");
    proxies.header(header).client(ip(peer), &headers)
}

#[test]
fn nobody_writes_himself_another_address() {
    use ForwardingHeader::{Forwarded, XForwardedFor, XRealIp};
    let long = [b"1.1.1.1, ".repeat(900), b"203.0.113.7".to_vec()].concat();
    let vectors: &[(ForwardingHeader, &str, &[&[u8]], &str)] = &[
        // Not through a proxy: nothing he writes counts.
        (XForwardedFor, "203.0.113.7", &[], "203.0.113.7"),
        (XForwardedFor, "203.0.113.7", &[b"1.1.1.1"], "203.0.113.7"),
        (
            XForwardedFor,
            "203.0.113.7",
            &[b"10.0.0.1, 1.1.1.1"],
            "203.0.113.7",
        ),
        (
            XForwardedFor,
            "::ffff:203.0.113.7",
            &[b"1.1.1.1"],
            "203.0.113.7",
        ),
        (Forwarded, "203.0.113.7", &[b"for=1.1.1.1"], "203.0.113.7"),
        (XRealIp, "203.0.113.7", &[b"1.1.1.1"], "203.0.113.7"),
        // Through one: the last that is no proxy's, whatever stands before.
        (XForwardedFor, "10.0.0.1", &[b"203.0.113.7"], "203.0.113.7"),
        (
            XForwardedFor,
            "::ffff:10.0.0.1",
            &[b"::ffff:203.0.113.7"],
            "203.0.113.7",
        ),
        (
            XForwardedFor,
            "10.0.0.1",
            &[b"1.1.1.1, 203.0.113.7"],
            "203.0.113.7",
        ),
        (
            XForwardedFor,
            "10.0.0.1",
            &[b"1.1.1.1", b"203.0.113.7"],
            "203.0.113.7",
        ),
        (
            XForwardedFor,
            "10.0.0.1",
            &[b"1.1.1.1, 203.0.113.7", b"10.2.3.4"],
            "203.0.113.7",
        ),
        (
            XForwardedFor,
            "10.0.0.1",
            &[b"10.9.9.9, 203.0.113.7, 10.2.3.4"],
            "203.0.113.7",
        ),
        (
            XForwardedFor,
            "10.0.0.1",
            &[b"\xff\"(, 203.0.113.7"],
            "203.0.113.7",
        ),
        (
            XForwardedFor,
            "10.0.0.1",
            &[b"\xff\"(", b"203.0.113.7"],
            "203.0.113.7",
        ),
        (
            XForwardedFor,
            "10.0.0.1",
            &[b"unknown, x y, ,203.0.113.7 , ,"],
            "203.0.113.7",
        ),
        (
            XForwardedFor,
            "10.0.0.1",
            &[b"203.0.113.7:4711"],
            "203.0.113.7",
        ),
        (
            XForwardedFor,
            "10.0.0.1",
            &[b"[2001:db8::7]:4711"],
            "2001:db8::7",
        ),
        (
            XForwardedFor,
            "2001:db8:5::1",
            &[b"2001:db8::7, 2001:db8:5::9"],
            "2001:db8::7",
        ),
        (XForwardedFor, "10.0.0.1", &[&long], "203.0.113.7"),
        // What cannot be told is the proxy's own.
        (
            XForwardedFor,
            "10.0.0.1",
            &[b"1.1.1.1, unknown"],
            "10.0.0.1",
        ),
        (
            XForwardedFor,
            "10.0.0.1",
            &[b"1.1.1.1, 256.1.1.1"],
            "10.0.0.1",
        ),
        (XForwardedFor, "10.0.0.1", &[b"fe80::1%eth0"], "10.0.0.1"),
        (XForwardedFor, "10.0.0.1", &[b""], "10.0.0.1"),
        (
            XForwardedFor,
            "10.0.0.1",
            &[b"10.7.7.7, 10.2.3.4"],
            "10.0.0.1",
        ),
        // The other headers, each only where it was chosen.
        (
            Forwarded,
            "10.0.0.1",
            &[b"for=1.1.1.1, for=203.0.113.7;proto=https"],
            "203.0.113.7",
        ),
        (
            Forwarded,
            "10.0.0.1",
            &[b"proto=http;For=\"[2001:db8::7]:4711\""],
            "2001:db8::7",
        ),
        (
            Forwarded,
            "10.0.0.1",
            &[b"for=\"1.1.1.1", b"for=203.0.113.7"],
            "203.0.113.7",
        ),
        (
            Forwarded,
            "10.0.0.1",
            &[b"for=\"1.1.1.1, for=203.0.113.7"],
            "10.0.0.1",
        ),
        (
            Forwarded,
            "10.0.0.1",
            &[b"for=\"\\\", for=1.1.1.1, for=\", for=203.0.113.7"],
            "203.0.113.7",
        ),
        (
            Forwarded,
            "10.0.0.1",
            &[b"for=203.0.113.7;for=1.1.1.1"],
            "10.0.0.1",
        ),
        (
            Forwarded,
            "10.0.0.1",
            &[b"for=1.1.1.1, by=203.0.113.7"],
            "10.0.0.1",
        ),
        (
            Forwarded,
            "10.0.0.1",
            &[b"for=1.1.1.1, for=_hidden"],
            "10.0.0.1",
        ),
        (XRealIp, "10.0.0.1", &[b" 203.0.113.7 "], "203.0.113.7"),
        (
            XRealIp,
            "10.0.0.1",
            &[b"1.1.1.1", b"203.0.113.7"],
            "10.0.0.1",
        ),
        (XRealIp, "10.0.0.1", &[b"1.1.1.1, 203.0.113.7"], "10.0.0.1"),
    ];
    for (header, peer, lines, expected) in vectors {
        let lines_text: Vec<_> = lines
            .iter()
            .map(|line| String::from_utf8_lossy(line))
            .collect();
        assert_eq!(
            client(*header, peer, lines),
            ip(expected),
            "{header:?} {peer} {lines_text:?}"
        );
    }
}

#[test]
fn only_the_chosen_header_counts() {
    let mut headers = HeaderMap::new();
    headers.insert(X_FORWARDED_FOR, HeaderValue::from_static("1.1.1.1"));
    headers.insert(X_REAL_IP, HeaderValue::from_static("2.2.2.2"));
    headers.insert(FORWARDED, HeaderValue::from_static("for=3.3.3.3"));
    let proxies = TrustedProxies::new(["10.0.0.1".parse().expect("a network")]);
    for (header, expected) in [
        (ForwardingHeader::XForwardedFor, "1.1.1.1"),
        (ForwardingHeader::XRealIp, "2.2.2.2"),
        (ForwardingHeader::Forwarded, "3.3.3.3"),
    ] {
        let client = proxies
            .clone()
            .header(header)
            .client(ip("10.0.0.1"), &headers);
        assert_eq!(client, ip(expected));
    }
    assert_eq!(
        TrustedProxies::default().client(ip("10.0.0.1"), &headers),
        ip("10.0.0.1")
    );
}

#[test]
fn a_host_of_ipv6_is_one_caller_however_many_addresses_it_takes() {
    for (bits, address, expected) in [
        (64, "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        (64, "2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::"),
        (64, "2001:db8:1:3::6", "2001:db8:1:3::"),
        (56, "2001:db8:1:2ff::6", "2001:db8:1:200::"),
        (48, "2001:db8:1:2::6", "2001:db8:1::"),
        (128, "2001:db8::6", "2001:db8::6"),
        (1, "ffff::1", "8000::"),
        (64, "::ffff:192.0.2.1", "192.0.2.1"),
        (1, "192.0.2.1", "192.0.2.1"),
        (64, "::1", "::"),
    ] {
        let prefix = Ipv6Prefix::new(bits).expect("1 to 128");
        assert_eq!(prefix.of(ip(address)), ip(expected), "{address}/{bits}");
    }
    assert_eq!(Ipv6Prefix::new(0), None);
    assert_eq!(Ipv6Prefix::new(129), None);
    assert_eq!(Ipv6Prefix::default(), Ipv6Prefix::SUBNET);
}

#[test]
fn a_network_is_what_it_says_or_an_error() {
    for text in [
        "10.0.0.0/33",
        "10.0.0.1/8",
        "::/129",
        "10.0.0.0/-1",
        "10.0.0.0/+8",
        "10.0.0.0/",
        "ten",
        "",
        "::ffff:10.0.0.0/8",
    ] {
        let error = text.parse::<Cidr>().expect_err(text);
        assert!(error.to_string().contains(text), "{error}");
    }
    let within = |network: &str, address: &str| {
        let network: Cidr = network.parse().expect("a network");
        network.contains(ip(address))
    };
    assert!(within("10.0.0.0/8", "10.255.0.1"));
    assert!(within("10.0.0.0/8", "::ffff:10.255.0.1"));
    assert!(within("::ffff:10.0.0.0/104", "10.255.0.1"));
    assert!(!within("10.0.0.0/8", "11.0.0.1"));
    assert!(within("0.0.0.0/0", "11.0.0.1"));
    assert!(!within("0.0.0.0/0", "2001:db8::1"));
    assert!(within("::/0", "2001:db8::1"));
    assert!(!within("::/0", "10.0.0.1"));
    assert!(within("2001:db8::1", "2001:db8::1"));
    assert!("10.0.0.0/8, nonsense".parse::<TrustedProxies>().is_err());
    assert_eq!("".parse(), Ok(TrustedProxies::default()));
}
