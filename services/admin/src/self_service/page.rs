//! `/account`: the page for people. It is a client of this API like any other, kept by the cookie of a session that it never
//! sees. What mails lead to stands behind the `#` of the address, where no server sees it.

use std::sync::LazyLock;

use actix_web::{
    HttpResponse,
    http::header,
    web::{self, ServiceConfig},
};

use crate::site::{Site, assets};

pub(crate) static SITE: LazyLock<Site> = LazyLock::new(|| {
    let parts = assets! {
        "account/api.js" "account/door.js" "account/main.js" "account/pages/machines.js" "account/pages/networks.js"
        "account/pages/people.js" "account/pages/plan.js" "account/pages/settings.js"
        "app/acting.js" "app/charts.js" "app/format.js" "app/http.js" "app/icons.js" "app/live.js" "app/ui.js"
        "style/account.css" "style/base.css" "style/icon.svg" "style/pages.css" "style/parts.css"
        "vendor/LICENCES.txt" "vendor/preact-htm.js"
    };
    Site::new(include_str!("../../console/account.html"), "account/main.js", "account/", parts)
});

/// Adds the routes of the page.
pub(crate) fn configure(config: &mut ServiceConfig) {
    let elsewhere = || async {
        let mut response = HttpResponse::TemporaryRedirect();
        response.insert_header((header::LOCATION, "/account"));
        response.finish()
    };
    config.service(web::resource("/").to(elsewhere)).service(web::resource("/account/").to(elsewhere));
    SITE.configure(config, "/account", "/account/");
}
