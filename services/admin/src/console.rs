//! `/console/`: the page for operators, from what is compiled in. `console/` beside the sources is what is served: no bundler
//! stands between what is reviewed and what runs.
//!
//! The page asks for its parts under a path that names the digest of all of them, so that browsers keep them for good and
//! a new version is a new path. The page itself is asked for anew each time, by its `ETag`. It holds no secret and needs no
//! token: whoever signs in brings one, and the page sends it with every request to the API.

use std::{
    io::Write as _,
    sync::{LazyLock, OnceLock},
};

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

macro_rules! assets {
    ($($path:literal)*) => { [$(Asset::new($path, include_bytes!(concat!("../console/", $path)))),*] };
}

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    assets! {
        "app/acting.js" "app/api.js" "app/charts.js" "app/format.js" "app/hooks.js" "app/icons.js" "app/main.js"
        "app/pages/audit.js" "app/pages/clients.js" "app/pages/connections.js" "app/pages/networks.js"
        "app/pages/overview.js" "app/pages/pairs.js" "app/pages/plans.js" "app/pages/relays.js" "app/pages/sessions.js"
        "app/pages/tokens.js" "app/pages/usage.js" "app/search.js" "app/signin.js" "app/ui.js" "app/words.js"
        "style/base.css" "style/icon.svg" "style/pages.css" "style/parts.css"
        "vendor/LICENCES.txt" "vendor/preact-htm.js"
    }
    .into()
});

static INDEX: LazyLock<Asset> = LazyLock::new(|| {
    let preloads: String = ASSETS
        .iter()
        .filter(|asset| asset.path.ends_with(".js") && asset.path != "app/main.js")
        .map(|asset| format!("<link rel=\"modulepreload\" href=\"ASSETS/{}\">\n    ", asset.path))
        .collect();
    let page = include_str!("../console/index.html").replace("<!-- PRELOAD -->", preloads.trim_end());
    let version = version();
    Asset::new("index.html", page.replace("ASSETS/", &format!("{version}/")).into_bytes().leak())
});

/// A file as it is served.
struct Asset {
    path: &'static str,
    bytes: &'static [u8],
    /// Made when first asked for.
    packed: OnceLock<Vec<u8>>,
}

impl Asset {
    const fn new(path: &'static str, bytes: &'static [u8]) -> Self {
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

    fn packed(&'static self) -> &'static [u8] {
        self.packed.get_or_init(|| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
            // Writing to memory does not fail; if it did, the length would say so.
            let _ = encoder.write_all(self.bytes);
            encoder.finish().unwrap_or_default()
        })
    }
}

/// Names what is served.
fn version() -> String {
    let mut context = Context::new(&SHA256);
    context.update(include_bytes!("../console/index.html"));
    for asset in ASSETS.iter() {
        context.update(asset.path.as_bytes());
        context.update(&(asset.bytes.len() as u64).to_be_bytes());
        context.update(asset.bytes);
    }
    context.finish().as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Adds the routes of the page.
pub(crate) fn configure(config: &mut ServiceConfig) {
    static VERSION: LazyLock<String> = LazyLock::new(version);
    let page = |request: HttpRequest| async move { page(&request, &VERSION) };
    let part = |request: HttpRequest, path: Path<(String, String)>| async move {
        let (asked, path) = path.into_inner();
        let Some(asset) = ASSETS.iter().find(|asset| asset.path == path) else { return missing() };
        let kept = if asked == *VERSION { FOR_GOOD } else { NOT_KEPT };
        give(&request, asset, kept, &VERSION)
    };
    let elsewhere = || async {
        let mut response = HttpResponse::PermanentRedirect();
        response.insert_header((header::LOCATION, "/console/"));
        response.finish()
    };
    let refused = || async {
        let mut response = HttpResponse::MethodNotAllowed();
        response.insert_header((header::ALLOW, "GET, HEAD"));
        response.finish()
    };
    config
        .service(web::resource("/console").to(elsewhere))
        .service(
            web::resource("/console/")
                .route(web::get().to(page))
                .route(web::head().to(page))
                .default_service(web::to(refused)),
        )
        .service(
            web::resource("/console/{version}/{path:.*}")
                .route(web::get().to(part))
                .route(web::head().to(part))
                .default_service(web::to(refused)),
        );
}

fn page(request: &HttpRequest, version: &str) -> HttpResponse {
    give(request, &INDEX, ASK_AGAIN, version)
}

fn give(request: &HttpRequest, asset: &'static Asset, kept: &'static str, version: &str) -> HttpResponse {
    // Weak: packed and unpacked bytes share it.
    let etag = format!("W/\"{version}\"");
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
        name.trim().eq_ignore_ascii_case("gzip") && !matches!(weight.trim(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000")
    });
    if takes_gzip {
        response.insert_header((header::CONTENT_ENCODING, "gzip"));
        return response.body(asset.packed());
    }
    response.body(asset.bytes)
}

fn missing() -> HttpResponse {
    let mut response = HttpResponse::NotFound();
    guard(&mut response);
    response.insert_header((header::CACHE_CONTROL, NOT_KEPT));
    response.content_type("text/plain; charset=utf-8").body("the console has no such part\n")
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
