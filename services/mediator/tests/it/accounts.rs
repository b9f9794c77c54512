//! People and their accounts, from the sign-up to the erasure, over HTTP and with real clients.

use serde_json::{Value, json};

use crate::{
    browser::Browser,
    deployment::Deployment,
    device::Device,
    journeys::{ping, wait},
    operating::json as ordered,
};

pub(crate) const EMAIL: &str = "anna@example.test";
const PASSWORD: &str = "correct horse battery";

#[test]
fn a_person_signs_up_attaches_a_machine_and_is_forgotten() {
    let deployment = Deployment::embedded();
    let public = Browser::at(deployment.accounts());
    let anna = signed_up(&deployment, &public, EMAIL);
    let me = anna.get("/v1/account/me").of(200);
    assert_eq!((&me["email"], &me["accounts"][0]["role"]), (&json!(EMAIL), &json!("owner")));

    let (laptop, desktop) = (Device::start(deployment.server()), Device::start(deployment.server()));
    laptop.create("friday games", "secret").ok();
    desktop.join("friday games", "secret").ok();
    wait(&laptop, &desktop.address4(), "any");
    ping(&laptop, &desktop.address4(), "1");
    assert_eq!(laptop.run(&["account", "status"]).ok()["attached"], false);
    assert_eq!(laptop.run(&["account", "attach", "not a code"]).refused(), "attach-code-invalid");
    assert_eq!(laptop.run(&["account", "attach", "0000-0000-0000"]).refused(), "attach-code-invalid");
    let code = anna.post("/v1/account/clients/codes", &Value::Null).of(201)["code"].as_str().unwrap().to_owned();
    let attached = laptop.run(&["account", "attach", &code.to_lowercase()]).ok();
    assert_eq!(attached["account"], me["accounts"][0]["account"]);
    assert_eq!(desktop.run(&["account", "attach", &code]).refused(), "attach-code-invalid", "used once");

    let networks = anna.get("/v1/account/networks").of(200);
    let network = &networks["items"][0];
    assert_eq!((&network["name"], &network["standing"]), (&json!("friday games"), &json!("member")));
    let state = |networks: &Value, id: &str| {
        let members = networks["items"][0]["members"].as_array().unwrap();
        members.iter().find(|member| member["client"] == id).unwrap()["state"].as_str().unwrap().to_owned()
    };
    assert_eq!(state(&networks, &laptop.id()), "own");
    assert!(["direct", "relayed", "online"].contains(&state(&networks, &desktop.id()).as_str()), "{networks}");
    let id = network["network"].as_str().unwrap();
    anna.ask("PUT", &format!("/v1/account/networks/{id}"), "").of(204);
    assert_eq!(anna.get("/v1/account/networks").of(200)["items"][0]["attached"], true);
    let away = desktop.id();
    drop(desktop);
    until(|| state(&anna.get("/v1/account/networks").of(200), &away) == "offline");

    let export = anna.get("/v1/account/export").of(200);
    assert_eq!(export["account"]["people"][0]["email"], EMAIL);
    assert_eq!(export["account"]["clients"][0]["client"], laptop.id().as_str());
    assert!(!export.to_string().contains("argon2"), "{export}");

    assert_eq!(anna.ask("DELETE", "/v1/account", r#"{"password":"battery staple"}"#).problem(403), "denied");
    anna.ask("DELETE", "/v1/account", &json!({ "password": PASSWORD }).to_string()).of(204);
    assert_eq!(anna.get("/v1/account/me").problem(401), "not-logged-in");
    assert_eq!(laptop.run(&["account", "status"]).ok()["attached"], false);
    assert_eq!(laptop.status()["networks"][0]["name"], "friday games", "the machine goes on");
    assert_eq!(laptop.run(&["account", "detach"]).refused(), "not-attached");
    let log = deployment.log();
    for secret in [EMAIL, PASSWORD, &code] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[test]
fn a_browser_is_safe_from_other_sites() {
    let deployment = Deployment::embedded();
    let public = Browser::at(deployment.accounts());
    drop(signed_up(&deployment, &public, EMAIL));
    let login = public.post("/v1/account/sessions", &json!({ "email": EMAIL, "password": PASSWORD }));
    let cookie = login.cookie();
    let secret = cookie.split_once('=').unwrap().1.to_owned();
    assert!(!login.of(201).to_string().contains(&secret), "scripts never see it");

    let browser = public.with(&format!("Cookie: other=1; {cookie}\r\n"));
    browser.get("/v1/account/me").of(200);
    assert_eq!(browser.post("/v1/account/clients/codes", &Value::Null).problem(403), "cross-site");
    let proved = public.with(&format!("Cookie: {cookie}\r\nX-Buri-Request: 1\r\n"));
    proved.post("/v1/account/clients/codes", &json!(null)).of(201);
    let form = public.with("Content-Type: application/x-www-form-urlencoded\r\n");
    assert_eq!(form.ask("POST", "/v1/account/sessions", "email=a&password=b").problem(415), "unsupported-media-type");

    let ended = proved.delete("/v1/account/sessions/current");
    assert_eq!(ended.cookie(), "buri_session=");
    ended.of(204);
    assert_eq!(browser.get("/v1/account/me").problem(401), "not-logged-in");
}

#[test]
fn what_is_wrong_is_a_problem_document() {
    let deployment = Deployment::embedded();
    let public = Browser::at(deployment.accounts());
    let operator = public.with(&format!("Authorization: Bearer {}\r\n", deployment.operator_token()));
    for path in ["/v1/account", "/v1/account/me", "/v1/account/networks", "/v1/account/export"] {
        assert_eq!(public.get(path).problem(401), "not-logged-in");
        assert_eq!(operator.get(path).problem(401), "not-logged-in", "an operator's token is worth nothing here");
    }
    assert_eq!(public.get("/v1/networks").problem(404), "not-found");
    assert_eq!(public.ask("PUT", "/v1/account/sign-up", "").problem(404), "not-found");
    let post = |path: &str, document: Value| public.post(path, &document);
    let sign_up = |email: &str, password: &str| json!({ "email": email, "password": password });
    assert_eq!(post("/v1/account/sign-up", sign_up("anna", PASSWORD)).problem(400), "invalid-body");
    assert_eq!(post("/v1/account/sign-up", sign_up(EMAIL, "123456789")).problem(400), "password-invalid");
    assert_eq!(post("/v1/account/sign-up", sign_up(EMAIL, &"x".repeat(1025))).problem(400), "password-invalid");
    assert_eq!(post("/v1/account/sign-up", json!({ "mail": EMAIL })).problem(400), "invalid-body");
    assert_eq!(post("/v1/account/sign-up", json!("x".repeat(20_000))).problem(413), "content-too-large");
    assert_eq!(post("/v1/account/sessions", sign_up(EMAIL, PASSWORD)).problem(403), "denied");
    assert_eq!(post("/v1/account/verify", json!({ "token": "x", "password": PASSWORD })).problem(403), "token-invalid");

    let anna = signed_up(&deployment, &public, EMAIL);
    let nobody = "0".repeat(32);
    assert_eq!(anna.get(&format!("/v1/account?account={nobody}")).problem(404), "not-found");
    assert_eq!(anna.get("/v1/account?account=1").problem(400), "invalid-parameter");
    assert_eq!(anna.get("/v1/account?all=1").problem(400), "invalid-parameter");
    assert_eq!(anna.delete("/v1/account/people/me").problem(403), "not-permitted", "the owner stays");
    assert_eq!(anna.delete(&format!("/v1/account/people/{nobody}")).problem(404), "not-found");
    assert_eq!(anna.delete("/v1/account/people/1").problem(400), "invalid-parameter");
    assert_eq!(anna.ask("PUT", &format!("/v1/account/networks/{nobody}"), "").problem(409), "not-owned");
}

#[test]
fn an_operator_rules_an_account_on_the_command_line_and_people_see_it_on_their_page() {
    let deployment = Deployment::embedded();
    let public = Browser::at(deployment.accounts());
    let page = public.get("/account");
    assert!(page.head.contains("text/html") && page.head.contains("default-src 'none'"), "{}", page.head);
    let anna = signed_up(&deployment, &public, EMAIL);
    let found = ordered(&deployment, &["accounts", "list", "--email", EMAIL]);
    let account = found["items"][0]["account"].as_str().unwrap();
    assert_eq!(ordered(&deployment, &["accounts", "list", "--id", &account[..6]])["items"][0]["owner"], EMAIL);
    ordered(&deployment, &["accounts", "plan", account, "standard"]);
    assert_eq!(anna.get("/v1/account").of(200)["limits"]["members_per_network"], 32);

    let laptop = Device::start(deployment.server());
    let code = anna.post("/v1/account/clients/codes", &Value::Null).of(201)["code"].as_str().unwrap().to_owned();
    laptop.run(&["account", "attach", &code]).ok();
    let machines = anna.get("/v1/account/clients").of(200);
    assert_eq!(machines["items"][0]["client"], laptop.id().as_str());
    assert!(machines["items"][0]["online_since_unix_ms"].is_u64(), "{machines}");
    assert_eq!(ordered(&deployment, &["clients", "show", &laptop.id()])["account"], account);
    ordered(&deployment, &["accounts", "suspend", account]);
    assert_eq!(anna.post("/v1/account/clients/codes", &Value::Null).problem(403), "account-suspended");
    ordered(&deployment, &["accounts", "resume", account]);
    ordered(&deployment, &["accounts", "detach", account, &laptop.id()]);
    assert_eq!(laptop.run(&["account", "status"]).ok()["attached"], false);
    let person = anna.get("/v1/account/me").of(200)["person"].as_str().unwrap().to_owned();
    ordered(&deployment, &["accounts", "transfer", account, &person]);
    assert_eq!(ordered(&deployment, &["accounts", "show", account])["people"][0]["role"], "owner");
    assert_eq!(ordered(&deployment, &["accounts", "export", account])["account"]["account"], account);
    ordered(&deployment, &["accounts", "erase", account]);
    assert_eq!(anna.get("/v1/account/me").problem(401), "not-logged-in");
}

/// Somebody who proved this address by the mail to it, with a session.
pub(crate) fn signed_up<'a>(deployment: &Deployment, public: &Browser<'a>, email: &str) -> Browser<'a> {
    public.post("/v1/account/sign-up", &json!({ "email": email, "password": PASSWORD })).of(202);
    let mut mail = None;
    until(|| {
        mail = deployment.mails().into_iter().find(|mail| mail.contains(&format!("To: {email}")));
        mail.is_some()
    });
    let mail = mail.unwrap();
    assert!(mail.contains(&format!("http://{}/account#verify=", deployment.accounts())), "{mail}");
    let token = mail.lines().find_map(|line| line.strip_prefix("Token: ")).unwrap().trim();
    let verified = json!({ "token": token, "password": PASSWORD, "session": "bearer" });
    let opened = public.post("/v1/account/verify", &verified).of(201);
    public.with(&format!("Authorization: Bearer {}\r\n", opened["session"].as_str().unwrap()))
}

/// Waits for what happens on its own. The runner's time-out ends a wait in vain.
fn until(mut happened: impl FnMut() -> bool) {
    while !happened() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
