//! A router's port mappings on request: miniupnpd, which speaks PCP, NAT-PMP and UPnP.

use std::{fs, path::PathBuf, time::Duration};

use crate::{
    access::{Access, Asked},
    namespace::Namespace,
    process::{Process, eventually},
};

/// The daemon of one router.
#[derive(Debug)]
pub(crate) struct Daemon {
    router: Namespace,
    folder: PathBuf,
    access: Access,
    process: Option<Process>,
}

impl Daemon {
    /// Starts it on `router`, whose rules have the chains that it fills, and waits until it listens.
    pub(crate) fn start(router: &Namespace, access: Access, folder: PathBuf) -> Self {
        let mut daemon = Self { router: router.clone(), folder, access, process: None };
        daemon.resume();
        daemon
    }

    /// Whether it serves this router.
    pub(crate) fn is_on(&self, router: &Namespace) -> bool {
        self.router == *router
    }

    /// Ends it, and with it what it knew.
    pub(crate) fn kill(&mut self) {
        self.process.take().unwrap().kill();
    }

    /// Starts it (again), without any lease.
    pub(crate) fn resume(&mut self) {
        let config = self.folder.join("miniupnpd.conf");
        let leases = self.folder.join("leases");
        let (natpmp, ready) = match self.access.port_mapping {
            Some(Asked::ByAll) => ("yes", "Listening for NAT-PMP/PCP traffic"),
            Some(Asked::ByUpnp) | None => ("no", "HTTP listening on port"),
        };
        // It would map nothing if it knew that its own address is private.
        let claimed = self.access.carrier.map(|_| CLAIMED).unwrap_or_default();
        let lines = format!("{CONFIG}{claimed}enable_natpmp={natpmp}\nlease_file={}\n{RULES}", leases.display());
        fs::write(&config, lines).unwrap();
        fs::write(&leases, "").unwrap();

        let mut command = self.router.command("miniupnpd");
        // In the foreground, so that its id is the child's.
        command.arg("-d").arg("-f").arg(&config).arg("-P").arg(self.folder.join("miniupnpd.pid"));
        let heard = |folder: &PathBuf| {
            fs::read_to_string(folder.join("miniupnpd.log")).unwrap_or_default().matches(ready).count()
        };
        let before = heard(&self.folder);
        let mut process = Process::start("miniupnpd", &mut command, &self.folder);
        eventually("miniupnpd listens (./test-services install)", PATIENCE, || {
            assert!(process.runs(), "miniupnpd ended");
            (heard(&self.folder) > before).then_some(())
        });
        self.process = Some(process);
    }
}

const CONFIG: &str = "ext_ifname=wan
listening_ip=lan
enable_upnp=yes
secure_mode=yes
system_uptime=no
uuid=00000000-0000-0000-0000-000000000001
";

/// An address that is not the one that the carrier shows.
const CLAIMED: &str = "ext_ip=11.9.9.9\n";

/// Everybody in the LAN may map ports of his own that are not the system's.
const RULES: &str = "allow 1024-65535 192.168.1.0/24 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
";

const PATIENCE: Duration = Duration::from_secs(60);
