use std::{
    collections::BTreeSet,
    fs,
    path::{Path as FilePath, PathBuf},
};

use actix_web::{
    App,
    body::to_bytes,
    dev::ServiceResponse,
    http::{Method, StatusCode},
    test::{TestRequest, call_service, init_service},
};

use super::*;
use crate::{console, self_service::page};

/// What the first visit may cost.
const FIRST_LOAD: usize = 80 * 1024;

/// Every page there is: where it is, where its parts are, and its first module.
const PAGES: [(&str, &str, &str); 2] =
    [("/console/", "/console/", "app/main.js"), ("/account", "/account/", "account/main.js")];

#[actix_web::test]
async fn the_page_and_its_parts_are_served_under_a_strict_policy() {
    for ((at, below, main), site) in PAGES.into_iter().zip(sites()) {
        let page = ask(TestRequest::get().uri(at)).await;
        assert_eq!(page.status(), StatusCode::OK);
        assert_eq!(header_of(&page, "content-type"), "text/html; charset=utf-8");
        assert_eq!(header_of(&page, "cache-control"), "no-cache");
        assert_guarded(&page);
        for (path, media_type) in [
            (main, "text/javascript; charset=utf-8"),
            ("style/base.css", "text/css; charset=utf-8"),
            ("style/icon.svg", "image/svg+xml"),
            ("vendor/LICENCES.txt", "text/plain; charset=utf-8"),
        ] {
            let part = ask(TestRequest::get().uri(&format!("{below}{}/{path}", site.version))).await;
            assert_eq!((part.status(), header_of(&part, "content-type")), (StatusCode::OK, media_type), "{path}");
            assert_eq!(header_of(&part, "cache-control"), "public, max-age=31536000, immutable");
            assert_guarded(&part);
        }
    }
}

#[actix_web::test]
async fn a_page_that_the_browser_has_is_not_sent_again() {
    for (at, ..) in PAGES {
        let page = ask(TestRequest::get().uri(at)).await;
        let etag = header_of(&page, "etag");
        let again = ask(TestRequest::get().uri(at).insert_header(("If-None-Match", etag))).await;
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        assert!(to_bytes(again.into_body()).await.unwrap().is_empty());
    }
}

#[actix_web::test]
async fn parts_come_packed_for_whoever_takes_it() {
    let uri = format!("/console/{}/app/main.js", console::SITE.version);
    for (accepts, packed) in [("gzip, br", true), ("br, GZIP;q=0.5", true), ("gzip;q=0", false), ("identity", false)] {
        let part = ask(TestRequest::get().uri(&uri).insert_header(("Accept-Encoding", accepts))).await;
        assert_eq!(part.headers().contains_key("content-encoding"), packed, "{accepts}");
        let length = to_bytes(part.into_body()).await.unwrap().len();
        assert_eq!(length < include_bytes!("../../console/app/main.js").len(), packed, "{accepts}");
    }
}

#[actix_web::test]
async fn paths_of_other_versions_are_not_kept_and_others_do_not_exist() {
    let other = ask(TestRequest::get().uri("/console/0123456789abcdef/app/main.js")).await;
    assert_eq!((other.status(), header_of(&other, "cache-control")), (StatusCode::OK, "no-store"));
    for path in ["app/none.js", "index.html", "../Cargo.toml", "app/../app/main.js", "tsconfig.json", ""] {
        let missing = ask(TestRequest::get().uri(&format!("/console/{}/{path}", console::SITE.version))).await;
        assert_eq!(missing.status(), StatusCode::NOT_FOUND, "{path}");
        assert_guarded(&missing);
    }
    for (from, status, to) in [
        ("/console", StatusCode::PERMANENT_REDIRECT, "/console/"),
        ("/", StatusCode::TEMPORARY_REDIRECT, "/account"),
        ("/account/", StatusCode::TEMPORARY_REDIRECT, "/account"),
    ] {
        let elsewhere = ask(TestRequest::get().uri(from)).await;
        assert_eq!((elsewhere.status(), header_of(&elsewhere, "location")), (status, to));
    }
    for (at, ..) in PAGES {
        let posted = ask(TestRequest::post().uri(at)).await;
        assert_eq!((posted.status(), header_of(&posted, "allow")), (StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD"));
        let head = ask(TestRequest::default().method(Method::HEAD).uri(at)).await;
        assert_eq!(head.status(), StatusCode::OK);
    }
}

#[test]
fn the_first_load_stays_small() {
    for site in sites() {
        let first = site.parts.iter().filter(|asset| !asset.path.ends_with(".txt"));
        let bytes: usize = first.map(|asset| asset.packed().len()).sum::<usize>() + site.page.packed().len();
        assert!(bytes <= FIRST_LOAD, "{bytes} bytes");
        assert!(site.parts.iter().all(|asset| !asset.packed().is_empty()));
    }
}

#[test]
fn every_file_of_the_console_is_served() {
    let served: BTreeSet<PathBuf> = parts().map(|asset| asset.path.into()).collect();
    let mut there = BTreeSet::new();
    for folder in ["account", "app", "style", "vendor"] {
        collect(&root(), folder.as_ref(), &mut there);
    }
    there.retain(|path| !path.to_string_lossy().ends_with(".d.ts"));
    assert_eq!(served, there);
}

#[test]
fn nothing_is_inline_and_nothing_is_from_elsewhere() {
    for site in sites() {
        let page = std::str::from_utf8(site.page.bytes).unwrap();
        assert!(!page.contains("ASSETS") && !page.contains("PRELOAD"), "{page}");
        for (nth, script) in page.match_indices("<script") {
            let tag = &page[nth..nth + page[nth..].find("</script>").unwrap()];
            assert!(tag.contains(" src=") && tag.ends_with('>'), "{script}: {tag}");
        }
        assert!(!page.contains("<style") && !page.contains(" style=") && !page.contains(" onclick="));
    }
    for asset in parts().filter(|asset| !asset.path.ends_with(".txt")) {
        let text = std::str::from_utf8(asset.bytes).unwrap().replace("http://www.w3.org/", "");
        for sign in ["http://", "https://", "eval(", "new Function", "innerHTML =", "@import"] {
            assert!(!text.contains(sign), "{} has {sign}", asset.path);
        }
    }
}

#[test]
fn modules_import_only_what_is_served() {
    for site in sites() {
        for asset in site.parts.iter().filter(|asset| asset.path.ends_with(".js") && !asset.path.starts_with("vendor/"))
        {
            let text = std::str::from_utf8(asset.bytes).unwrap();
            let of_others = |line: &&str| line.starts_with("import ") || line.starts_with("export * from ");
            for line in text.lines().filter(of_others) {
                let named = line.rsplit('\'').nth(1).unwrap();
                let folder = root().join(asset.path).parent().unwrap().to_owned();
                let path = fs::canonicalize(folder.join(named)).unwrap_or_else(|_| panic!("{}: {named}", asset.path));
                let path = path.strip_prefix(fs::canonicalize(root()).unwrap()).unwrap().to_owned();
                assert!(site.parts.iter().any(|other| FilePath::new(other.path) == path), "{}: {named}", asset.path);
            }
        }
    }
}

async fn ask(request: TestRequest) -> ServiceResponse {
    let app = init_service(App::new().configure(console::configure).configure(page::configure)).await;
    call_service(&app, request.to_request()).await
}

fn header_of<'a>(response: &'a ServiceResponse, name: &str) -> &'a str {
    response.headers().get(name).unwrap_or_else(|| panic!("no {name}")).to_str().unwrap()
}

fn assert_guarded(response: &ServiceResponse) {
    let policy = header_of(response, "content-security-policy");
    assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe") && !policy.contains('*'));
    assert_eq!(header_of(response, "x-content-type-options"), "nosniff");
    assert_eq!(header_of(response, "referrer-policy"), "no-referrer");
}

fn sites() -> [&'static Site; 2] {
    [&*console::SITE, &*page::SITE]
}

fn parts() -> impl Iterator<Item = &'static Asset> {
    sites().into_iter().flat_map(|site| &site.parts)
}

fn root() -> PathBuf {
    FilePath::new(env!("CARGO_MANIFEST_DIR")).join("console")
}

fn collect(root: &FilePath, folder: &FilePath, files: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(root.join(folder)).unwrap() {
        let path = folder.join(entry.unwrap().file_name());
        if root.join(&path).is_dir() { collect(root, &path, files) } else { files.insert(path).then_some(()).unwrap() }
    }
}
