//! What browsers say about who makes them ask.

use actix_web::{HttpRequest, http::header};

/// Whether the browser says that another site than this one asks. Programs say nothing, and may.
///
/// Browsers name the relation (Fetch Metadata) over TLS and to this very machine; everywhere they name the origin of a change.
/// Behind a proxy the host that we are asked for need not be the one that the browser knows, so there the relation alone
/// counts.
pub(crate) fn is_foreign(request: &HttpRequest, behind_proxy: bool) -> bool {
    let said = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
    if let Some(relation) = said("sec-fetch-site") {
        return !matches!(relation, "same-origin" | "none");
    }
    let Some(origin) = said(header::ORIGIN.as_str()).filter(|_| !behind_proxy) else { return false };
    let host = origin.split_once("://").map(|(_, host)| host);
    host.is_none() || host != said(header::HOST.as_str())
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    /// The header lines of a request.
    type Said = &'static [(&'static str, &'static str)];

    #[test]
    fn changes_that_other_sites_make_are_known_by_what_the_browser_says() {
        let table: [(Said, bool, bool); 10] = [
            (&[], false, false),
            (&[("Sec-Fetch-Site", "same-origin")], false, false),
            (&[("Sec-Fetch-Site", "none")], false, false),
            (&[("Sec-Fetch-Site", "same-site")], true, true),
            (&[("Sec-Fetch-Site", "cross-site"), ("Origin", "http://buri.test:12982")], true, true),
            (&[("Sec-Fetch-Site", "same-origin"), ("Origin", "https://outer.test")], false, false),
            (&[("Origin", "http://buri.test:12982")], false, false),
            (&[("Origin", "http://buri.test:12981")], true, false),
            (&[("Origin", "https://evil.test")], true, false),
            (&[("Origin", "null")], true, false),
        ];
        for (headers, foreign, foreign_behind_proxy) in table {
            let request = headers
                .iter()
                .fold(TestRequest::post().insert_header(("Host", "buri.test:12982")), |r, h| r.insert_header(*h));
            let request = request.to_http_request();
            let found = (is_foreign(&request, false), is_foreign(&request, true));
            assert_eq!(found, (foreign, foreign_behind_proxy), "{headers:?}");
        }
    }
}
