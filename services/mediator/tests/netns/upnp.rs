//! A router's port mappings on request: miniupnpd, which speaks PCP, NAT-PMP and UPnP.

use std::{fs, path::Path, time::Duration};

use crate::{
    namespace::Namespace,
    process::{Process, eventually},
};

/// Starts it on `router`, whose rules have the chains that it fills, and waits until it listens.
pub(crate) fn start(router: &Namespace, folder: &Path) -> Process {
    let config = folder.join("miniupnpd.conf");
    let leases = folder.join("leases");
    fs::write(&config, format!("{CONFIG}lease_file={}\n{RULES}", leases.display())).unwrap();
    fs::write(&leases, "").unwrap();

    let mut command = router.command("miniupnpd");
    // In the foreground, so that its id is the child's.
    command.arg("-d").arg("-f").arg(&config).arg("-P").arg(folder.join("miniupnpd.pid"));
    let mut process = Process::start("miniupnpd", &mut command, folder);
    eventually("miniupnpd listens (./test-services install)", PATIENCE, || {
        assert!(process.runs(), "miniupnpd ended");
        process.log().contains("Listening for NAT-PMP/PCP traffic").then_some(())
    });
    process
}

const CONFIG: &str = "ext_ifname=wan
listening_ip=lan
enable_natpmp=yes
enable_upnp=yes
secure_mode=yes
system_uptime=no
uuid=00000000-0000-0000-0000-000000000001
";

/// Everybody in the LAN may map ports of his own that are not the system's.
const RULES: &str = "allow 1024-65535 192.168.1.0/24 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
";

const PATIENCE: Duration = Duration::from_secs(10);
