//! `mediator admin ...`: a thin client of the API. Every command is one request; lists follow their pages.

mod blocks;
mod commands;
mod events;
mod http;
mod show;
mod webhooks;

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};

use crate::{config::Config, embedded::EFFECTIVE, secrets::Secrets};

pub(crate) use commands::OperatorCommand;
use commands::{Method, Request};
use http::{Answer, Server};

/// Where the API is, and who asks.
#[derive(Debug, Args)]
pub(crate) struct Access {
    /// The API, like http://127.0.0.1:12980; default: that of the deployment in --data.
    #[arg(long, value_name = "URL", global = true)]
    url: Option<String>,
    /// The file with the token; default: that of the first operator in --data.
    #[arg(long, value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
    /// The data folder of a `mediator all` on this machine.
    #[arg(long, value_name = "DIR", global = true, default_value = "buri-data")]
    data: PathBuf,
}

/// Carries out one command.
pub(crate) fn run(command: &OperatorCommand, access: &Access, json: bool) -> anyhow::Result<ExitCode> {
    let server = access.server()?;
    if let OperatorCommand::Events(events::Events::Follow(wanted)) = command {
        return events::follow(&server, wanted, json);
    }
    let answer = match command.request()? {
        request if request.is_list => list(&server, &request),
        request if request.method == Method::Get => server.send(&request).map_err(Into::into),
        request => change(&server, request),
    };
    report(command, answer?, json)
}

impl Access {
    fn server(&self) -> anyhow::Result<Server> {
        let url = match &self.url {
            Some(url) => url.clone(),
            None => {
                let path = self.data.join(EFFECTIVE);
                let config =
                    Config::read(Some(&path)).context("name the API with --url, or a deployment with --data")?;
                format!("http://{}", config.admin.listen)
            }
        };
        let usual = || Secrets::in_dir(self.data.join("secrets")).operator_token();
        let file = self.token_file.clone().unwrap_or_else(usual);
        Ok(Server::new(&url, &token(&file)?)?)
    }
}

fn token(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| format!("no token in {}", file.display()))?;
    let token = text.trim().to_owned();
    anyhow::ensure!(token.bytes().all(|byte| byte.is_ascii_graphic()), "{} holds no token", file.display());
    Ok(token)
}

/// Follows the pages of a list until there are as many items as are wanted.
fn list(server: &Server, request: &Request) -> anyhow::Result<Answer> {
    let wanted = request.most;
    let (mut items, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let mut page = request.clone();
        let limit = (wanted - items.len()).min(200);
        page.query.push(("limit", limit.to_string()));
        page.query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
        let answer = server.send(&page)?;
        if !answer.is_success() {
            return Ok(answer);
        }
        let document = answer.document()?;
        items.extend(document["items"].as_array().cloned().unwrap_or_default());
        cursor = document["next_cursor"].as_str().map(str::to_owned);
        if cursor.is_none() || items.len() >= wanted {
            let text = json!({ "items": items, "next_cursor": cursor }).to_string();
            return Ok(Answer { text, ..answer });
        }
    }
}

/// Makes a change to what is there now, where that matters.
fn change(server: &Server, mut request: Request) -> anyhow::Result<Answer> {
    if let Some(object) = request.version_of.take() {
        let seen = server.send(&Request::get(object))?;
        if !seen.is_success() {
            return Ok(seen);
        }
        request.headers.push(("If-Match", seen.etag.clone().unwrap_or_else(|| "*".to_owned())));
    }
    Ok(server.send(&request)?)
}

fn report(command: &OperatorCommand, answer: Answer, json: bool) -> anyhow::Result<ExitCode> {
    if !answer.is_success() {
        return refused(&answer, json);
    }
    let mut out = io::stdout().lock();
    let text = if answer.text.is_empty() { "{}" } else { answer.text.trim_end() };
    if json || command.is_stream() {
        writeln!(out, "{text}")?;
    } else {
        out.write_all(show::table(&answer.document()?).as_bytes())?;
    }
    // A chain that is broken is a failure, though the answer is none.
    let broken = command.is_verification() && answer.document()?["intact"] == false;
    Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Says why the API did not do it.
fn refused(answer: &Answer, json: bool) -> anyhow::Result<ExitCode> {
    let problem = answer.document().unwrap_or(Value::Null);
    let code = problem["code"].as_str().unwrap_or("failed").to_owned();
    let detail = problem["detail"].as_str().unwrap_or("the API gave no reason").to_owned();
    if json {
        writeln!(io::stdout(), "{}", json!({ "error": { "code": code, "text": detail, "status": answer.status } }))?;
    } else {
        writeln!(io::stderr(), "mediator: {code}: {}", show::printable(&detail))?;
    }
    Ok(ExitCode::FAILURE)
}
