use http::{HeaderName, HeaderValue, StatusCode};
use plimsoll::{
    rejection::{Reason, Rejection},
    server::rate_limit::{Key, RateLimitLayer, TrustedProxies},
};

use crate::lines::Lines;
use crate::support::{api_key, grpc, header, limited, quota, request, request_from};

#[tokio::test(start_paused = true)]
async fn no_header_buys_a_second_quota() {
    let proxies: TrustedProxies = "10.0.0.0/8".parse().expect("networks");
    for key in [Key::peer(), Key::client(proxies)] {
        let service = limited(&RateLimitLayer::new(key, quota("5/h")));
        let mut admitted = 0;
        for spoofed in 0..30_u8 {
            let address = HeaderValue::from_str(&format!("203.0.113.{spoofed}")).expect("text");
            for name in [
                "x-forwarded-for",
                "forwarded",
                "x-real-ip",
                "true-client-ip",
            ] {
                let mut request = request_from("192.0.2.1");
                let name = HeaderName::from_static(name);
                request.headers_mut().insert(name, address.clone());
                admitted += service
                    .admitted(1, || {
                        let mut again = request_from("192.0.2.1");
                        *again.headers_mut() = request.headers().clone();
                        again
                    })
                    .await;
            }
        }
        assert_eq!(admitted, 5);
    }
}

#[tokio::test(start_paused = true)]
async fn behind_a_proxy_each_caller_has_a_quota_and_none_spends_that_of_another() {
    let proxies: TrustedProxies = "10.0.0.0/8".parse().expect("networks");
    let service = limited(&RateLimitLayer::new(Key::client(proxies), quota("5/h")));
    let through = |told: String| {
        let mut request = request_from("10.0.0.1");
        let told = HeaderValue::from_str(&told).expect("text");
        request.headers_mut().insert("x-forwarded-for", told);
        request
    };
    let mut admitted = 0;
    for spoofed in 0..30_u8 {
        // The attacker writes the victim's address; the proxy appends the attacker's.
        let told = || through(format!("198.51.100.1, 198.51.100.{spoofed}, 203.0.113.66"));
        admitted += service.admitted(1, told).await;
    }
    assert_eq!(admitted, 5);
    let victim = || through("198.51.100.1".to_owned());
    assert_eq!(service.admitted(9, victim).await, 5);
}

#[tokio::test(start_paused = true)]
async fn a_subnet_of_ipv6_is_one_caller() {
    let service = limited(&RateLimitLayer::new(Key::peer(), quota("5/h")));
    let mut admitted = 0;
    for host in 0..100 {
        let host = format!("2001:db8:0:1::{host:x}");
        admitted += service.admitted(1, || request_from(&host)).await;
    }
    assert_eq!(admitted, 5);
    assert_eq!(
        service
            .admitted(9, || request_from("2001:db8:0:2::1"))
            .await,
        5
    );
    assert_eq!(service.admitted(9, || request_from("192.0.2.1")).await, 5);
    assert_eq!(
        service
            .admitted(9, || request_from("::ffff:192.0.2.1"))
            .await,
        0
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_key_is_a_fault_and_never_unlimited() {
    let lines = Lines::keep();
    let layer = RateLimitLayer::new(Key::peer(), quota("5/h"));
    let service = limited(&layer);
    for _ in 0..20 {
        let answer = service.call(request("ann")).await;
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(header(&answer, "plimsoll-reason"), Some("missing_key"));
        let rejection = answer
            .extensions()
            .get::<Rejection>()
            .expect("it tells why");
        assert_eq!(rejection.reason(), Reason::MissingKey);
    }
    let answer = service.call(grpc(request("ann"))).await;
    assert_eq!(header(&answer, "grpc-status"), Some("13"));
    assert_eq!((service.served(), layer.handle().missing_keys()), (0, 21));
    assert_eq!(
        lines.with("rate_limit_missing_key").len(),
        1,
        "{}",
        lines.text()
    );
}

#[tokio::test(start_paused = true)]
async fn anonymous_callers_may_be_told_apart_by_another_key() {
    let service = limited(&RateLimitLayer::new(
        api_key().or(Key::peer()),
        quota("5/h"),
    ));
    assert_eq!(service.admitted(9, || request("ann")).await, 5);
    assert_eq!(service.admitted(9, || request_from("192.0.2.1")).await, 5);
    assert_eq!(service.admitted(9, || request_from("192.0.2.2")).await, 5);
}

#[tokio::test(start_paused = true)]
async fn an_extension_of_the_authentication_may_be_the_key() {
    #[derive(Clone, Hash)]
    struct Tenant(&'static str);

    let service = limited(&RateLimitLayer::new(
        Key::extension::<Tenant>(),
        quota("2/h"),
    ));
    for tenant in ["roastery", "bakery"] {
        let of_tenant = || {
            let mut request = request("whatever");
            request.extensions_mut().insert(Tenant(tenant));
            request
        };
        assert_eq!(service.admitted(9, of_tenant).await, 2);
    }
    let nobody = service.call(request("whatever")).await;
    assert_eq!(nobody.status(), StatusCode::INTERNAL_SERVER_ERROR);
}
