//! Pages that are served from what is compiled in. `console/` beside the sources is what is served: no bundler stands between
//! what is reviewed and what runs.
//!
//! A page asks for its parts under a path that names the digest of all of them, so that browsers keep them for good and a
//! new version is a new path. The page itself is asked for anew each time, by its `ETag`. It holds no secret.

use std::{io::Write as _, sync::OnceLock};

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{self, HeaderValue},
    web::{self, Path, ServiceConfig},
};
use flate2::{Compression, write::GzEncoder};
use ring::digest::{Context, SHA256};

/// Nothing from elsewhere, nothing inline, no frame around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

const FOR_GOOD: &str = "public, max-age=31536000, immutable";
const ASK_AGAIN: &str = "no-cache";
/// Of a path of another version, while two of them run side by side.
const NOT_KEPT: &str = "no-store";

/// Files of `console/`, by their paths there.
macro_rules! assets {
    ($($path:literal)*) => {
        vec![$($crate::site::Asset::new($path, include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/console/", $path)))),*]
    };
}
pub(crate) use assets;

/// A page and its parts.
pub(crate) struct Site {
    pub(crate) parts: Vec<Asset>,
    pub(crate) page: Asset,
    /// Names what is served.
    pub(crate) version: String,
}

/// A file as it is served.
pub(crate) struct Asset {
    pub(crate) path: &'static str,
    pub(crate) bytes: &'static [u8],
    /// Made when first asked for.
    packed: OnceLock<Vec<u8>>,
}

impl Site {
    /// The page `source`, whose first module is `main`. `from` leads from the page's own address to that of its parts.
    pub(crate) fn new(source: &str, main: &str, from: &str, parts: Vec<Asset>) -> Self {
        let preloads: String = parts
            .iter()
            .filter(|asset| asset.path.ends_with(".js") && asset.path != main)
            .map(|asset| format!("<link rel=\"modulepreload\" href=\"ASSETS/{}\">\n    ", asset.path))
            .collect();
        let version = version(source, &parts);
        let page = source.replace("<!-- PRELOAD -->", preloads.trim_end());
        let page = page.replace("ASSETS/", &format!("{from}{version}/"));
        Self { parts, page: Asset::new("index.html", page.into_bytes().leak()), version }
    }

    /// Serves the page at `page` and its parts below `below`, which ends with a slash.
    pub(crate) fn configure(&'static self, config: &mut ServiceConfig, page: &str, below: &str) {
        let whole = move |request: HttpRequest| async move { self.give(&request, &self.page, ASK_AGAIN) };
        let part = move |request: HttpRequest, path: Path<(String, String)>| async move {
            let (asked, path) = path.into_inner();
            let Some(asset) = self.parts.iter().find(|asset| asset.path == path) else { return missing() };
            self.give(&request, asset, if asked == self.version { FOR_GOOD } else { NOT_KEPT })
        };
        let refused = || async {
            let mut response = HttpResponse::MethodNotAllowed();
            response.insert_header((header::ALLOW, "GET, HEAD"));
            response.finish()
        };
        config
            .service(
                web::resource(page)
                    .route(web::get().to(whole))
                    .route(web::head().to(whole))
                    .default_service(web::to(refused)),
            )
            .service(
                web::resource(format!("{below}{{version}}/{{path:.*}}"))
                    .route(web::get().to(part))
                    .route(web::head().to(part))
                    .default_service(web::to(refused)),
            );
    }

    fn give(&self, request: &HttpRequest, asset: &'static Asset, kept: &'static str) -> HttpResponse {
        // Weak: packed and unpacked bytes share it.
        let etag = format!("W/\"{}\"", self.version);
        let asked = |name| request.headers().get_all(name).filter_map(|value: &HeaderValue| value.to_str().ok());
        let known = asked(header::IF_NONE_MATCH).any(|tags| tags.split(',').any(|tag| tag.trim() == etag));
        let mut response = if known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
        guard(&mut response);
        response.insert_header((header::CACHE_CONTROL, kept)).insert_header((header::ETAG, etag));
        response.insert_header((header::VARY, "Accept-Encoding"));
        if known {
            return response.finish();
        }
        response.insert_header((header::CONTENT_TYPE, asset.content_type()));
        let takes_gzip = asked(header::ACCEPT_ENCODING).flat_map(|text| text.split(',')).any(|coding| {
            let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
            let never = matches!(weight.trim(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000");
            name.trim().eq_ignore_ascii_case("gzip") && !never
        });
        if takes_gzip {
            response.insert_header((header::CONTENT_ENCODING, "gzip"));
            return response.body(asset.packed());
        }
        response.body(asset.bytes)
    }
}

impl Asset {
    pub(crate) const fn new(path: &'static str, bytes: &'static [u8]) -> Self {
        Self { path, bytes, packed: OnceLock::new() }
    }

    fn content_type(&self) -> &'static str {
        match self.path.rsplit('.').next() {
            Some("html") => "text/html; charset=utf-8",
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            _ => "text/plain; charset=utf-8",
        }
    }

    pub(crate) fn packed(&'static self) -> &'static [u8] {
        self.packed.get_or_init(|| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
            // Writing to memory does not fail; if it did, the length would say so.
            let _ = encoder.write_all(self.bytes);
            encoder.finish().unwrap_or_default()
        })
    }
}

fn version(source: &str, parts: &[Asset]) -> String {
    let mut context = Context::new(&SHA256);
    context.update(source.as_bytes());
    for asset in parts {
        context.update(asset.path.as_bytes());
        context.update(&(asset.bytes.len() as u64).to_be_bytes());
        context.update(asset.bytes);
    }
    context.finish().as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn missing() -> HttpResponse {
    let mut response = HttpResponse::NotFound();
    guard(&mut response);
    response.insert_header((header::CACHE_CONTROL, NOT_KEPT));
    response.content_type("text/plain; charset=utf-8").body("the page has no such part\n")
}

fn guard(response: &mut actix_web::HttpResponseBuilder) {
    response
        .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .insert_header((header::CROSS_ORIGIN_OPENER_POLICY, "same-origin"))
        .insert_header((header::CROSS_ORIGIN_RESOURCE_POLICY, "same-origin"))
        .insert_header((header::X_FRAME_OPTIONS, "DENY"));
}

#[cfg(test)]
mod tests;
