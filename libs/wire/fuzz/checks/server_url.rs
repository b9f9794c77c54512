//! Addresses of servers, as people paste them: what reads is written as something that reads as the same.

use wire::server_url::ServerUrl;

pub(crate) fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(url) = text.parse::<ServerUrl>() {
        assert_eq!(url.to_string().parse::<ServerUrl>().ok(), Some(url));
    }
}
