//! Network namespaces by name, and what runs in them.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use nix::sched::{CloneFlags, setns};

/// The name of a network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Namespace(String);

impl Namespace {
    /// Makes one. Its name is free: it begins with the name of a lab, which begins with the id of this process.
    pub(crate) fn add(name: String) -> Self {
        run("ip", &["netns", "add", &name], "");
        let namespace = Self(name);
        // Nobody else is on these cables: an address is good at once.
        namespace.sysctl(&["net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0"]);
        namespace.ip("link set lo up");
        namespace
    }

    /// Removes it; processes in it keep it alive.
    pub(crate) fn remove(&self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }

    /// Runs `action` in this namespace; sockets that it opens stay there.
    pub(crate) fn enter<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{self}")).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(file, CloneFlags::CLONE_NEWNET).unwrap();
                action()
            });
            thread.join().unwrap()
        })
    }

    /// A command that will run in this namespace, with the process id that it is started with.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).arg(program);
        command
    }

    /// Runs lines of `ip`.
    pub(crate) fn ip(&self, batch: &str) {
        run("ip", &["-n", &self.0, "-batch", "-"], batch);
    }

    /// Loads rules, all or none.
    pub(crate) fn nft(&self, rules: &str) {
        self.run(&["nft", "-f", "-"], rules);
    }

    /// The rules as they are.
    pub(crate) fn rules(&self) -> String {
        let output = self.command("nft").args(["-n", "list", "ruleset"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Lets packets through that are for others.
    pub(crate) fn forward(&self) {
        self.sysctl(&["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"]);
    }

    /// Forgets every flow.
    pub(crate) fn flush_flows(&self) {
        self.run(&["conntrack", "-F"], "");
    }

    /// Sets what may not exist on this kernel.
    pub(crate) fn try_sysctl(&self, setting: &str) {
        let _ = self.command("sysctl").args(["-qw", setting]).stderr(Stdio::null()).status();
    }

    fn sysctl(&self, settings: &[&str]) {
        self.run(&[&["sysctl", "-qw"], settings].concat(), "");
    }

    fn run(&self, command: &[&str], input: &str) {
        run("ip", &[&["netns", "exec", &self.0], command].concat(), input);
    }
}

impl std::fmt::Display for Namespace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Removes the namespaces of test processes that were killed before they could: `prefix`, then the id of the process.
pub(crate) fn remove_leftovers(prefix: &str) {
    let Ok(entries) = fs::read_dir("/run/netns") else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let owner = name.strip_prefix(prefix).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists()) {
            Namespace(name).remove();
        }
    }
}

fn run(program: &str, arguments: &[&str], input: &str) {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process =
        command.spawn().unwrap_or_else(|error| panic!("{program} cannot run ({error}): ./test-services install"));
    // A command that needs no input may have ended already.
    let _ = process.stdin.take().unwrap().write_all(input.as_bytes());
    let output = process.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}\n{input}\n{}", String::from_utf8_lossy(&output.stderr));
}
