//! The Internet in a box: namespaces, cables, addresses and routes. Everything goes away with the value.

use std::{
    fs::{self, File},
    io::Write as _,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use nix::sched::{CloneFlags, setns};

use crate::nat::Nat;

/// The two public addresses of the servers.
pub(crate) const SERVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 2)];

/// A running Internet with the servers' machine and any number of sites.
#[derive(Debug)]
pub(crate) struct Lab {
    name: String,
    namespaces: Vec<Namespace>,
    core: Namespace,
    servers: Namespace,
    sites: u8,
    /// Homes, data and logs; kept when a test fails.
    folder: PathBuf,
}

/// A LAN behind its own router.
#[derive(Debug)]
pub(crate) struct Site {
    router: Namespace,
    public: Ipv4Addr,
    hosts: u8,
}

/// A machine of a user.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) namespace: Namespace,
    router: Namespace,
    cable: String,
    /// Its address in the LAN.
    pub(crate) address: Ipv4Addr,
}

/// The name of a network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Namespace(String);

impl Lab {
    /// The core of the network and the machine of the servers.
    pub(crate) fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "namespaces need root: sudo ./test");
        remove_leftovers();
        static LABS: AtomicU32 = AtomicU32::new(0);
        let name = format!("{PREFIX}{}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&name);
        fs::create_dir_all(&folder).unwrap();
        let (core, servers) = (Namespace(format!("{name}-core")), Namespace(format!("{name}-servers")));
        let mut lab =
            Self { name, namespaces: Vec::new(), core: core.clone(), servers: servers.clone(), sites: 0, folder };
        lab.add(&core);
        lab.add(&servers);
        core.forward();
        core.ip(&format!("link add servers type veth peer name eth0 netns {servers}"));
        core.ip(&format!("addr add {GATEWAY}/24 dev servers\nlink set servers up"));
        let addresses = SERVERS.map(|address| format!("addr add {address}/24 dev eth0\n")).concat();
        servers.ip(&format!("{addresses}link set eth0 up\nroute add default via {GATEWAY}"));
        lab
    }

    /// The machine of the servers.
    pub(crate) const fn servers(&self) -> &Namespace {
        &self.servers
    }

    /// A place for the files of `what`.
    pub(crate) fn folder(&self, what: &str) -> PathBuf {
        let folder = self.folder.join(what);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// A new LAN behind a router with this NAT.
    pub(crate) fn site(&mut self, nat: Nat) -> Site {
        self.sites += 1;
        let number = self.sites;
        let provider = Namespace(format!("{}-isp{number}", self.name));
        let router = Namespace(format!("{}-nat{number}", self.name));
        self.add(&provider);
        self.add(&router);
        provider.forward();
        router.forward();
        let (gateway, public) =
            (Ipv4Addr::new(198, 51, 100, 4 * number + 1), Ipv4Addr::new(198, 51, 100, 4 * number + 2));

        let core = &self.core;
        core.ip(&format!("link add isp{number} type veth peer name north netns {provider}"));
        core.ip(&format!(
            "addr add 198.18.{number}.1/30 dev isp{number}\nlink set isp{number} up\n\
             route add 198.51.100.{}/30 via 198.18.{number}.2",
            4 * number
        ));
        provider.ip(&format!(
            "addr add 198.18.{number}.2/30 dev north\nlink set north up\nroute add default via 198.18.{number}.1\n\
             link add south type veth peer name wan netns {router}\naddr add {gateway}/30 dev south\nlink set south up"
        ));
        // A bridge hands its frames to netfilter where br_netfilter is loaded, and the LAN's own traffic would be lost there.
        router.try_set("net.bridge.bridge-nf-call-iptables", "0");
        router.ip(&format!(
            "addr add {public}/30 dev wan\nlink set wan up\nroute add default via {gateway}\n\
             link add lan type bridge\naddr add {LAN_GATEWAY}/24 dev lan\nlink set lan up"
        ));
        router.nft(&nat.rules());
        Site { router, public, hosts: 0 }
    }

    /// A machine in the LAN of `site`.
    pub(crate) fn host(&mut self, site: &mut Site) -> Host {
        site.hosts += 1;
        let namespace = Namespace(format!("{}-host{}", site.router, site.hosts));
        self.add(&namespace);
        let (cable, address) = (format!("port{}", site.hosts), Ipv4Addr::new(192, 168, 1, 100 + site.hosts));
        site.router.ip(&format!(
            "link add {cable} type veth peer name eth0 netns {namespace}\nlink set {cable} master lan\nlink set {cable} up"
        ));
        namespace.ip(&format!("addr add {address}/24 dev eth0\nlink set eth0 up\nroute add default via {LAN_GATEWAY}"));
        Host { namespace, router: site.router.clone(), cable, address }
    }

    /// A machine alone behind a router with this NAT.
    pub(crate) fn host_behind(&mut self, nat: Nat) -> Host {
        let mut site = self.site(nat);
        self.host(&mut site)
    }

    fn add(&mut self, namespace: &Namespace) {
        run("ip", &["netns", "add", &namespace.0], "");
        self.namespaces.push(namespace.clone());
        namespace.ip("link set lo up");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            let _ = Command::new("ip").args(["netns", "del", &namespace.0]).status();
        }
        if std::thread::panicking() {
            eprintln!("the logs are in {}", self.folder.display());
        } else {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

impl Site {
    /// The address of the router on the Internet.
    pub(crate) const fn public(&self) -> Ipv4Addr {
        self.public
    }
}

impl Host {
    /// Pulls the network cable.
    pub(crate) fn unplug(&self) {
        self.router.ip(&format!("link set {} down", self.cable));
    }

    /// Puts it back.
    pub(crate) fn plug(&self) {
        self.router.ip(&format!("link set {} up", self.cable));
    }
}

impl Namespace {
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
    fn ip(&self, batch: &str) {
        run("ip", &["-n", &self.0, "-batch", "-"], batch);
    }

    fn nft(&self, rules: &str) {
        run("ip", &["netns", "exec", &self.0, "nft", "-f", "-"], rules);
    }

    fn forward(&self) {
        run("ip", &["netns", "exec", &self.0, "sysctl", "-qw", "net.ipv4.ip_forward=1"], "");
    }

    /// Sets what may not exist on this kernel.
    fn try_set(&self, key: &str, value: &str) {
        let mut command = self.command("sysctl");
        let _ = command.args(["-qw", &format!("{key}={value}")]).stderr(Stdio::null()).status();
    }
}

impl std::fmt::Display for Namespace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Removes the namespaces of test processes that were killed before they could.
fn remove_leftovers() {
    let Ok(entries) = fs::read_dir("/run/netns") else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists()) {
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
}

fn run(program: &str, arguments: &[&str], input: &str) {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process =
        command.spawn().unwrap_or_else(|error| panic!("{program} cannot run ({error}): ./test-services install"));
    process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}\n{input}\n{}", String::from_utf8_lossy(&output.stderr));
}

const PREFIX: &str = "buri-";
const GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);
const LAN_GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
