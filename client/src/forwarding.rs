//! What makes this machine a router for members, on the gateway of a network: forwarding between the interface of the virtual
//! LAN and the networks that members are led to, under the gateway's own address (masquerading), because hosts there know no
//! way to the virtual LAN.
//!
//! All of it is one table of nftables, named after the interface. It lets through what goes from virtual addresses to the
//! prefixes, and what answers that; everything else that would pass between the interface and another one is dropped: hosts
//! behind the gateway reach no member by themselves. It is made anew with every change, and removed when nothing is led to, when
//! the daemon ends, and, because it may not have ended in good order, when it begins.
//!
//! Forwarding as such is a switch of the whole system, which others may rely on: it is turned on, with a line in the log, and
//! never off.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    process::{Command, Stdio},
};

use domain::Prefix;

use crate::adapter::{Lan, Routing};

/// Whom this machine leads where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    led: Vec<Prefix>,
    lan: Option<Lan>,
}

impl From<&Routing> for Rules {
    fn from(Routing { led, lan, .. }: &Routing) -> Self {
        Self { led: led.clone(), lan: *lan }
    }
}

/// The rules as they are, and as they are to be.
#[derive(Debug)]
pub struct Forwarding {
    interface: String,
    wanted: Rules,
    /// `None` before the first time: something may have been left.
    made: Option<Rules>,
    busy: bool,
    failure: Option<String>,
}

/// Work that takes some milliseconds.
#[derive(Debug)]
pub struct Making {
    interface: String,
    rules: Rules,
}

/// What came of it.
#[derive(Debug)]
pub struct Made {
    rules: Rules,
    result: io::Result<()>,
}

impl Forwarding {
    /// Nothing is led to through `interface`.
    #[must_use]
    pub fn new(interface: &str) -> Self {
        Self { interface: interface.to_owned(), wanted: Rules::default(), made: None, busy: false, failure: None }
    }

    /// These rules from now on.
    pub fn want(&mut self, rules: Rules) {
        self.wanted = rules;
    }

    /// What did not work is tried once more.
    pub fn try_again(&mut self) {
        if self.failure.is_some() {
            self.made = None;
        }
    }

    /// What is to be done next, if anything; then [`Self::handle_made`].
    pub fn begin(&mut self) -> Option<Making> {
        if self.busy || self.made.as_ref() == Some(&self.wanted) {
            return None;
        }
        self.busy = true;
        Some(Making { interface: self.interface.clone(), rules: self.wanted.clone() })
    }

    /// Something was done.
    pub fn handle_made(&mut self, made: Made) {
        self.busy = false;
        self.failure = made.result.err().map(|error| {
            if made.rules.led.is_empty() {
                tracing::debug!(%error, "what an earlier run may have left could not be removed");
            } else {
                tracing::error!(%error, "this machine cannot lead members to networks behind it");
            }
            error.to_string()
        });
        self.made = Some(made.rules);
    }

    /// Why members are led nowhere, if it did not work.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref().filter(|_| !self.wanted.led.is_empty())
    }

    /// Undoes all of it, if there is something to be undone.
    #[must_use]
    pub fn end(self) -> Option<Making> {
        let nothing = self.made.as_ref().is_none_or(|made| made.led.is_empty()) && !self.busy;
        (!nothing).then(|| Making { interface: self.interface, rules: Rules::default() })
    }
}

impl Making {
    /// Does it.
    #[must_use]
    pub fn run(self) -> Made {
        let Self { interface, rules } = self;
        let result = make(&interface, &rules);
        Made { rules, result }
    }
}

fn make(interface: &str, rules: &Rules) -> io::Result<()> {
    let text = table(interface, rules).ok_or(io::ErrorKind::InvalidInput)?;
    match nft(&text) {
        // Where there is no such program nothing was made with it either.
        Err(error) if error.kind() == io::ErrorKind::NotFound && rules.led.is_empty() => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(io::Error::new(error.kind(), "nft (nftables) is not installed"));
        }
        result => result?,
    }
    if rules.led.iter().any(|prefix| prefix.address().is_ipv4()) {
        turn_on("/proc/sys/net/ipv4/ip_forward")?;
    }
    if rules.led.iter().any(|prefix| prefix.address().is_ipv6()) {
        keep_hearing_routers()?;
        turn_on("/proc/sys/net/ipv6/conf/all/forwarding")?;
    }
    Ok(())
}

/// The table for these rules, in place of the one before; `None` when the interface has a name that cannot stand in it.
fn table(interface: &str, rules: &Rules) -> Option<String> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    if interface.is_empty() || !interface.chars().all(plain) {
        return None;
    }
    let name = format!("buri_{}", interface.replace(['-', '.'], "_"));
    // To delete what is not there is an error, to name it is not.
    let mut text = format!("table inet {name}\ndelete table inet {name}\n");
    let Some(lan) = rules.lan.filter(|_| !rules.led.is_empty()) else { return Some(text) };
    let mut to = Vec::new();
    let (v4, v6): (Vec<&Prefix>, Vec<&Prefix>) = rules.led.iter().partition(|prefix| prefix.address().is_ipv4());
    let members4 = lan.addresses.v4.and_then(|v4| Prefix::of(v4.into(), lan.prefix4));
    let members6 = Prefix::of(lan.addresses.v6.into(), lan.prefix6);
    for (family, members, prefixes) in [("ip", members4, v4), ("ip6", members6, v6)] {
        if let Some(members) = members.filter(|_| !prefixes.is_empty()) {
            let prefixes: Vec<_> = prefixes.iter().map(ToString::to_string).collect();
            to.push(format!("{family} saddr {members} {family} daddr {{ {} }}", prefixes.join(", ")));
        }
    }
    let mut chains =
        String::from("    chain forward {\n        type filter hook forward priority filter - 1; policy accept;\n");
    for to in &to {
        writeln!(chains, "        iifname \"{interface}\" {to} accept").ok()?;
    }
    writeln!(chains, "        iifname \"{interface}\" drop").ok()?;
    writeln!(chains, "        oifname \"{interface}\" ct state established,related accept").ok()?;
    writeln!(chains, "        oifname \"{interface}\" drop\n    }}").ok()?;
    chains.push_str("    chain leave {\n        type nat hook postrouting priority srcnat; policy accept;\n");
    for to in &to {
        writeln!(chains, "        oifname != \"{interface}\" {to} masquerade").ok()?;
    }
    writeln!(text, "table inet {name} {{\n{chains}    }}\n}}").ok()?;
    Some(text)
}

fn nft(script: &str) -> io::Result<()> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(script.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("nft: {}", said.lines().next().unwrap_or("refused"))))
}

fn turn_on(switch: &str) -> io::Result<()> {
    if fs::read_to_string(switch)?.trim() == "0" {
        fs::write(switch, "1")?;
        tracing::info!(switch, "forwarding was turned on, and stays on");
    }
    Ok(())
}

/// A system that forwards does not listen to other routers unless it is told to (RFC 4861, section 6.2.1): without this it
/// would lose the addresses that it has of them.
fn keep_hearing_routers() -> io::Result<()> {
    for interface in fs::read_dir("/proc/sys/net/ipv6/conf")? {
        let hears = interface?.path().join("accept_ra");
        if fs::read_to_string(&hears).is_ok_and(|value| value.trim() == "1") {
            fs::write(&hears, "2")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use domain::VirtualAddresses;

    use super::*;

    #[test]
    fn the_table_lets_through_what_members_are_led_to_and_its_answers() {
        let text = table("buri-0", &rules(&["192.168.50.0/24", "10.9.0.0/16", "fd12::/64"])).unwrap();
        assert_eq!(
            text,
            r#"table inet buri_buri_0
delete table inet buri_buri_0
table inet buri_buri_0 {
    chain forward {
        type filter hook forward priority filter - 1; policy accept;
        iifname "buri-0" ip saddr 100.64.0.0/10 ip daddr { 192.168.50.0/24, 10.9.0.0/16 } accept
        iifname "buri-0" ip6 saddr fd01:203:405::/48 ip6 daddr { fd12::/64 } accept
        iifname "buri-0" drop
        oifname "buri-0" ct state established,related accept
        oifname "buri-0" drop
    }
    chain leave {
        type nat hook postrouting priority srcnat; policy accept;
        oifname != "buri-0" ip saddr 100.64.0.0/10 ip daddr { 192.168.50.0/24, 10.9.0.0/16 } masquerade
        oifname != "buri-0" ip6 saddr fd01:203:405::/48 ip6 daddr { fd12::/64 } masquerade
    }
}
"#
        );
        let nothing = table("buri0", &Rules::default()).unwrap();
        assert_eq!(nothing, "table inet buri_buri0\ndelete table inet buri_buri0\n");
    }

    #[test]
    fn a_name_cannot_smuggle_rules_in() {
        for name in ["", "a\"b", "a b", "a\nb", "a;b", "a{b"] {
            assert_eq!(table(name, &Rules::default()), None, "{name:?}");
        }
    }

    #[test]
    fn one_thing_is_done_at_a_time_and_the_last_wish_counts() {
        let mut forwarding = Forwarding::new("buri0");
        let first = forwarding.begin().unwrap();
        assert_eq!(first.rules, Rules::default(), "what an earlier run left");
        forwarding.want(rules(&["10.0.0.0/24"]));
        forwarding.want(rules(&["10.0.1.0/24"]));
        assert!(forwarding.begin().is_none());
        forwarding.handle_made(Made { rules: first.rules, result: Ok(()) });
        let second = forwarding.begin().unwrap();
        assert_eq!(second.rules, rules(&["10.0.1.0/24"]));
        forwarding.handle_made(Made { rules: second.rules, result: Err(io::ErrorKind::PermissionDenied.into()) });
        assert!(forwarding.begin().is_none() && forwarding.failure().is_some());
        forwarding.try_again();
        let third = forwarding.begin().unwrap();
        assert_eq!(third.rules, rules(&["10.0.1.0/24"]));
        forwarding.handle_made(Made { rules: third.rules, result: Ok(()) });
        forwarding.try_again();
        assert!(forwarding.begin().is_none() && forwarding.failure().is_none(), "what works stays");
        forwarding.want(Rules::default());
        assert_eq!(forwarding.failure(), None);
        assert_eq!(forwarding.end().unwrap().rules, Rules::default());
        assert!(Forwarding::new("buri0").end().is_none());
    }

    fn rules(led: &[&str]) -> Rules {
        let addresses = VirtualAddresses { v4: Some([100, 64, 0, 5].into()), v6: "fd01:203:405::5".parse().unwrap() };
        let lan = Lan { addresses, prefix4: 10, prefix6: 48 };
        Rules { led: led.iter().map(|prefix| prefix.parse().unwrap()).collect(), lan: Some(lan) }
    }
}
