//! The command line of the client: a thin asker of the daemon's local socket, and the daemon itself.

mod account;
mod chat;
mod govern;
mod key;
mod terminal;

use std::{
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use client::{
    command::{
        AccountWish, ChatLine, Command, CommandError, Govern, HeldBack, JoinedNetwork, NewKind, PathWanted, Peer, Pong,
        Rekeyed, Status, Waited,
    },
    local,
    password::Password,
    settings::Settings,
};
use domain::{NetworkKind, NetworkName, Nickname, RelayCandidate, RelayChoice};
use serde_json::Value;

/// The client of Buri, the zero-configuration virtual LAN.
#[derive(Debug, Parser)]
#[command(name = "buri", version, max_term_width = 110)]
struct Cli {
    /// Where this client keeps its keys and what it knows.
    #[arg(long, value_name = "DIR", default_value = "buri-home")]
    home: PathBuf,
    /// Print one JSON document (or one a line where it streams) and nothing else.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Run the client until it is ended.
    Daemon(Settings),
    /// Create a network and become its first member.
    Create {
        #[command(flatten)]
        membership: Membership,
        /// Which of its members meet.
        #[arg(long, value_enum, default_value_t = NewKind::Mesh)]
        kind: NewKind,
    },
    /// Join a network, by its password or by an invite.
    Join(Joining),
    /// Leave a network.
    Leave { network: NetworkName },
    /// Change the password of a network, and its secret. Its members stay in; its invites end.
    SetPass(Membership),
    /// Change this client's nickname.
    Nick { name: Nickname },
    /// Show who and where this client is.
    Status,
    /// Show the members of all networks.
    Peers,
    /// Wait until there is a path to a peer.
    Wait {
        /// An address, a nickname or an id.
        peer: String,
        #[arg(long, value_enum, default_value_t = PathWanted::Any)]
        path: PathWanted,
        /// A number with its unit, such as 10s or 500ms.
        #[arg(long, value_parser = duration, default_value = "10s")]
        timeout: Duration,
    },
    /// Send echo packets through the tunnel.
    Ping {
        /// An address, a nickname or an id.
        peer: String,
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        count: u32,
        /// Between two packets.
        #[arg(long, value_parser = duration, default_value = "1s")]
        interval: Duration,
    },
    /// Show why a peer is connected as it is.
    Why { peer: String },
    /// Talk to peers.
    Chat(chat::Arguments),
    /// The account that this machine belongs to, if any.
    #[command(subcommand)]
    Account(account::Subcommands),
    /// The keys of this machine.
    #[command(subcommand)]
    Key(key::Subcommands),
    #[command(flatten)]
    Govern(govern::Subcommands),
}

#[derive(Debug, Args)]
struct Membership {
    network: NetworkName,
    /// A file with the password, or - for standard input. One line end at its end does not count.
    #[arg(long, value_name = "FILE")]
    password_file: PathBuf,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(cli.json, &failed(format!("no runtime: {error}"))),
    };
    let json = cli.json;
    let ran = runtime.block_on(run(cli));
    // A search for a router may be under way that nobody waits for.
    runtime.shutdown_background();
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(json, &error),
    }
}

async fn run(cli: Cli) -> Result<(), CommandError> {
    let mut then = None;
    let command = match cli.action {
        Action::Daemon(settings) => {
            init_logs();
            return Box::pin(client::service::run(Settings { home: cli.home, ..settings })).await;
        }
        Action::Create { membership, kind } => {
            let password = membership.password()?;
            // Nobody else is in it yet.
            let network = membership.network.clone();
            then = (kind != NewKind::Mesh).then(|| Command::Govern { network, wish: Govern::Kind { kind } });
            Command::Create { network: membership.network, password }
        }
        Action::Join(joining) => joining.command()?,
        Action::SetPass(membership) => {
            let password = membership.password()?;
            Command::SetPass { network: membership.network, password }
        }
        Action::Leave { network } => Command::Leave { network },
        Action::Nick { name } => Command::Nick { nick: name },
        Action::Status => Command::Status,
        Action::Peers => Command::Peers,
        Action::Wait { peer, path, timeout } => Command::Wait { peer, path, timeout_ms: millis(timeout) },
        Action::Ping { peer, count, interval } => Command::Ping { peer, count, interval_ms: millis(interval) },
        Action::Why { peer } => Command::Why { peer },
        Action::Chat(wanted) => wanted.command()?,
        Action::Account(wanted) => wanted.command(),
        Action::Key(key::Subcommands::Rotate) => Command::RotateKey,
        Action::Key(wanted) => return key::run(&cli.home, cli.json, wanted),
        Action::Govern(wanted) => wanted.command(),
    };
    let mut pongs = Pongs::default();
    let socket = client::home::Home::at(&cli.home).socket();
    let follows = matches!(command, Command::FollowChats { .. });
    let show = |part| if follows { show_news(cli.json, &part) } else { pongs.show(cli.json, &part) };
    let last = local::ask(&socket, &command, show).await?;
    if let Some(then) = then {
        local::ask(&socket, &then, |_| {}).await?;
    }
    if matches!(command, Command::Ping { .. }) {
        return pongs.end(cli.json);
    }
    print(&if cli.json { terminal::json(&last.to_string()) } else { for_people(&command, last) });
    Ok(())
}

/// A network and its password, or an invite, which says both.
#[derive(Debug, Args)]
struct Joining {
    #[arg(required_unless_present = "invite", conflicts_with = "invite", requires = "password_file")]
    network: Option<NetworkName>,
    /// A file with the password, or - for standard input. One line end at its end does not count.
    #[arg(long, value_name = "FILE", conflicts_with = "invite")]
    password_file: Option<PathBuf>,
    /// A file with the invite, or - for standard input, or the invite itself.
    #[arg(long, value_name = "INVITE")]
    invite: Option<String>,
}

impl Joining {
    fn command(self) -> Result<Command, CommandError> {
        match (self.network, self.password_file, self.invite) {
            (Some(network), Some(password_file), None) => {
                let membership = Membership { network, password_file };
                Ok(Command::Join { password: membership.password()?, network: membership.network })
            }
            (_, _, Some(invite)) => {
                let text = if invite.starts_with("buri-invite:") { invite } else { read_secret(Path::new(&invite))? };
                let no_invite = |error: client::invite::NoInvite| {
                    CommandError::new(wire::Code::InviteInvalid.name(), error.to_string())
                };
                Ok(Command::Redeem { invite: text.parse().map_err(no_invite)? })
            }
            (_, _, None) => Err(failed("a network and its password, or an invite".to_owned())),
        }
    }
}

impl Membership {
    fn password(&self) -> Result<Password, CommandError> {
        read_secret(&self.password_file).map(Password::new)
    }
}

/// What is in `file`, or on standard input for `-`, without the line end.
fn read_secret(file: &Path) -> Result<String, CommandError> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().take(MAX_PASSWORD_FILE).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(MAX_PASSWORD_FILE).read_to_string(&mut text))
    };
    read.map_err(|error| failed(format!("the secret cannot be read: {error}")))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

/// Longer files are no passwords: what is over shows as a password that is too long.
const MAX_PASSWORD_FILE: u64 = 4096;

/// Shows the packets of a ping as they come.
#[derive(Default)]
struct Pongs {
    sent: u32,
    rtts: Vec<f64>,
}

impl Pongs {
    fn show(&mut self, json: bool, part: &Value) {
        let Ok(pong) = serde_json::from_value::<Pong>(part.clone()) else { return };
        self.sent += 1;
        self.rtts.extend(pong.rtt_ms);
        if json {
            return print(&part.to_string());
        }
        print(&match pong.rtt_ms {
            Some(rtt) => format!("{:>4}  {rtt:>8.2} ms  {}", pong.seq, word(&pong.path)),
            None => format!("{:>4}  no answer", pong.seq),
        });
    }

    /// The summary; an error when nothing came back at all.
    fn end(&self, json: bool) -> Result<(), CommandError> {
        if self.rtts.is_empty() {
            return Err(CommandError::new(CommandError::TIMED_OUT, "no packet was answered"));
        }
        if !json {
            let mean = self.rtts.iter().sum::<f64>() / self.rtts.len() as f64;
            let least = self.rtts.iter().copied().fold(f64::INFINITY, f64::min);
            let most = self.rtts.iter().copied().fold(0.0, f64::max);
            print(&format!("{} of {} answered; {least:.2} / {mean:.2} / {most:.2} ms", self.rtts.len(), self.sent));
        }
        Ok(())
    }
}

/// Shows a message as it comes.
fn show_news(json: bool, part: &Value) {
    let line = serde_json::from_value::<ChatLine>(part.clone()).map(|line| chat::line_text(&line));
    print(&if json { terminal::json(&part.to_string()) } else { line.unwrap_or_else(|_| part.to_string()) });
}

/// What people see without `--json`.
fn for_people(command: &Command, answer: Value) -> String {
    let text = match command {
        Command::Status => serde_json::from_value(answer.clone()).map(|status| status_text(&status)),
        Command::Peers => serde_json::from_value(answer.clone()).map(|peers: Vec<Peer>| peers_text(&peers)),
        Command::Create { .. } | Command::Join { .. } | Command::Redeem { .. } => {
            serde_json::from_value(answer.clone()).map(|joined| joined_text(&joined))
        }
        Command::Invite { .. } => Ok(answer["invite"].as_str().unwrap_or_default().to_owned()),
        Command::Wait { .. } => serde_json::from_value(answer.clone())
            .map(|waited: Waited| format!("{} after {} ms", word(&waited.path), waited.after_ms)),
        Command::Why { .. } => Ok(why_text(&answer)),
        Command::Members { .. } => {
            serde_json::from_value(answer.clone()).map(|lines: Vec<_>| govern::members_text(&lines))
        }
        Command::Admissions { .. } => {
            serde_json::from_value(answer.clone()).map(|lists| govern::admissions_text(&lists))
        }
        Command::SetPass { .. } => serde_json::from_value(answer.clone()).map(|rekeyed| rekeyed_text(&rekeyed)),
        Command::Account { wish: AccountWish::Status | AccountWish::Attach(_) } => {
            serde_json::from_value(answer.clone()).map(|status| account::status_text(&status))
        }
        Command::Chat { .. } if answer.is_array() => {
            serde_json::from_value(answer.clone()).map(|lines: Vec<_>| chat::outcomes_text(&lines))
        }
        Command::Chat { .. } => serde_json::from_value(answer.clone()).map(|line| chat::outcome_text(&line)),
        Command::Chats { .. } => serde_json::from_value(answer.clone()).map(|lines: Vec<_>| chat::history_text(&lines)),
        Command::Route { .. } => serde_json::from_value(answer.clone()).map(|agreed| govern::agreed_text(&agreed)),
        Command::RotateKey => serde_json::from_value(answer.clone()).map(|rotated| key::rotated_text(&rotated)),
        Command::Account { wish: AccountWish::Detach }
        | Command::Leave { .. }
        | Command::Nick { .. }
        | Command::Ping { .. }
        | Command::FollowChats { .. }
        | Command::Govern { .. } => Ok("done".to_owned()),
    };
    text.unwrap_or_else(|_| answer.to_string())
}

fn status_text(status: &Status) -> String {
    let address4 = status.address4.map_or_else(|| "none yet".to_owned(), |address| address.to_string());
    let address6 = status.address6.map_or_else(|| "none yet".to_owned(), |address| address.to_string());
    let nick = status.nick.as_ref().map_or("-", |nick| nick.as_str());
    let class = status.nat.class.map_or("unknown", domain::NatClass::name);
    let mut text = format!(
        "id        {}\nnickname  {nick}\nIPv4      {address4}\nIPv6      {address6}\nserver    {}\ncontrol   {}\nNAT       {class}",
        status.id,
        status.server,
        word(&status.control),
    );
    if let Some(detail) = &status.control_detail {
        text.push_str(&format!(" ({detail})"));
    }
    for network in &status.networks {
        text.push_str(&format!(
            "\nnetwork   {} ({} members, {}{}{})",
            network.name,
            network.members,
            word(&network.role),
            match (network.terms.kind, network.hub) {
                (NetworkKind::Mesh, _) => "",
                (NetworkKind::Hub, true) => ", a hub",
                (NetworkKind::Hub, false) => ", a spoke",
                (NetworkKind::Gateway, true) => ", a gateway",
                (NetworkKind::Gateway, false) => ", behind gateways",
            },
            if network.terms.locked { ", locked" } else { "" },
        ));
        if network.unseated {
            text.push_str(", no seat for this machine: the plan allows fewer members");
        }
        if network.terms.applicants > 0 {
            text.push_str(&format!(", {} waiting for approval", network.terms.applicants));
        }
    }
    text.push_str(&govern::routes_text(status));
    for network in &status.awaiting {
        text.push_str(&format!("\nwaiting   {network}"));
    }
    for HeldBack { text: reason, peers, .. } in &status.held_back {
        let of = if *peers == 1 { "peer" } else { "peers" };
        text.push_str(&format!("\nrelay     holds back data of {peers} {of}: {reason}"));
    }
    if status.unread_messages > 0 {
        text.push_str(&format!("\nmessages  {} not read yet: buri chat", status.unread_messages));
    }
    text
}

fn peers_text(peers: &[Peer]) -> String {
    let lines = peers.iter().map(|peer| {
        let name = peer.nick.as_ref().map_or_else(|| peer.id.to_string(), |nick| nick.as_str().to_owned());
        let address = peer.address4.map_or_else(|| peer.address6.to_string(), |address| address.to_string());
        let rtt = peer.rtt_ms.map_or_else(|| "-".to_owned(), |rtt| format!("{rtt:.1} ms"));
        let reasons = [&peer.relay_error, &peer.held_back].map(|code| code.as_ref().map(|code| format!("  {code}")));
        let reasons: String = reasons.into_iter().flatten().collect();
        format!("{address:<40} {name:<32} {:<8} {:<7} {rtt:>10}{reasons}", word(&peer.presence), word(&peer.path))
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn joined_text(joined: &JoinedNetwork) -> String {
    let address = joined.address4.map_or_else(|| joined.address6.to_string(), |address| address.to_string());
    match &joined.warning {
        None => format!("{}: this machine is {address}", joined.network),
        Some(warning) => format!("{}: this machine is {address} ({warning})", joined.network),
    }
}

fn rekeyed_text(rekeyed: &Rekeyed) -> String {
    let mut text = format!("secret {}, sealed for {} other members", rekeyed.epoch.0, rekeyed.sealed);
    for left_out in &rekeyed.left_out {
        text.push_str(&format!("\n{left_out} needs the new password"));
    }
    text
}

/// The sentence of the record, which says how the pair is connected, and what it was made of.
fn why_text(answer: &Value) -> String {
    let text = |key: &str| answer[key].as_str().filter(|text| !text.is_empty()).unwrap_or("unknown");
    let sentence = answer["hint"].as_str().filter(|hint| !hint.is_empty()).unwrap_or_else(|| text("outcome"));
    let now = answer["now"].as_str().map(|now| format!("; {now}")).unwrap_or_default();
    let made_of = format!("(routers: {} and {}; strategy: {})", text("class_a"), text("class_b"), text("strategy"));
    let choice = serde_json::from_value(answer["choice"].clone()).ok().flatten();
    let relay = choice.as_ref().map(relay_text).unwrap_or_default();
    format!("{sentence}{now} {made_of}{relay}")
}

/// Which relays there were for the pair, and why it has the one it has.
fn relay_text(choice: &RelayChoice) -> String {
    let of = |one: &RelayCandidate| {
        let ms = |rtt: Option<u32>| rtt.map_or_else(|| "?".to_owned(), |us| format!("{:.1}", f64::from(us) / 1_000.0));
        let [a, b] = one.rtts_us.map(ms);
        let RelayCandidate { relay, region, slots, max_slots, verdict, .. } = one;
        format!("\n  {relay} {region}: {a} + {b} ms, {slots} of {max_slots} pairs, {}", word(verdict))
    };
    let candidates: String = choice.candidates.iter().map(of).collect();
    format!("\nrelay: {}{candidates}", choice.why.text())
}

/// The word that a unit-like value has in JSON.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}

fn fail(json: bool, error: &CommandError) -> ExitCode {
    if json {
        print(&serde_json::json!({ "error": error }).to_string());
    }
    // Nothing can be done when standard error is gone.
    let _ = writeln!(std::io::stderr(), "buri: {}: {error}", error.code);
    ExitCode::FAILURE
}

fn failed(message: String) -> CommandError {
    CommandError::new(CommandError::FAILED, message)
}

fn print(line: &str) {
    // A reader that closed the pipe has seen enough.
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn duration(text: &str) -> Result<Duration, String> {
    domain::human_duration::parse(text).ok_or_else(|| "write a number and ms, s, min, h or d".to_owned())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn init_logs() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("BURI_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_for_a_path_is_one_sentence() {
        for (outcome, hint, line) in [
            (
                "direct",
                "direct: both are in the same local network",
                "direct: both are in the same local network (routers: easy and random; strategy: direct)",
            ),
            (
                "relayed",
                "no UDP leaves the network of one side: relayed; allow outgoing UDP there",
                "no UDP leaves the network of one side: relayed; allow outgoing UDP there \
                 (routers: easy and random; strategy: direct)",
            ),
            ("pending", "", "pending (routers: easy and random; strategy: direct)"),
        ] {
            let record = serde_json::json!({
                "outcome": outcome, "hint": hint, "class_a": "easy", "class_b": "random", "strategy": "direct",
            });
            assert_eq!(why_text(&record), line);
        }
        assert_eq!(why_text(&Value::Null), "unknown (routers: unknown and unknown; strategy: unknown)");
    }
}
