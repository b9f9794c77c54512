//! `/console/`: the page for operators. It needs no token: whoever signs in brings one, and the page sends it with every request
//! to the API.

use std::sync::LazyLock;

use actix_web::{
    HttpResponse,
    http::header,
    web::{self, ServiceConfig},
};

use crate::site::{Site, assets};

pub(crate) static SITE: LazyLock<Site> = LazyLock::new(|| {
    let parts = assets! {
        "app/acting.js" "app/api.js" "app/charts.js" "app/format.js" "app/hooks.js" "app/http.js" "app/icons.js"
        "app/live.js" "app/main.js" "app/pages/accounts.js" "app/pages/audit.js" "app/pages/blocks.js" "app/pages/clients.js"
        "app/pages/connections.js" "app/pages/networks.js" "app/pages/overview.js" "app/pages/pairs.js"
        "app/pages/plans.js" "app/pages/relays.js" "app/pages/sessions.js" "app/pages/tokens.js" "app/pages/usage.js"
        "app/pages/webhooks.js" "app/search.js" "app/signin.js" "app/ui.js" "app/words.js"
        "style/base.css" "style/icon.svg" "style/pages.css" "style/parts.css"
        "vendor/LICENCES.txt" "vendor/preact-htm.js"
    };
    Site::new(include_str!("../console/index.html"), "app/main.js", "", parts)
});

/// Adds the routes of the page.
pub(crate) fn configure(config: &mut ServiceConfig) {
    let elsewhere = || async {
        let mut response = HttpResponse::PermanentRedirect();
        response.insert_header((header::LOCATION, "/console/"));
        response.finish()
    };
    config.service(web::resource("/console").to(elsewhere));
    SITE.configure(config, "/console/", "/console/");
}
