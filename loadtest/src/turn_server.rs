//! TURN servers beside the relay: coturn where it is installed, turn-server where it is built. Each on a loopback address of its
//! own, with a configuration and a log of its own, ended with the tool.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rand::Rng as _;

use crate::{
    child,
    turn::{Answer, Key, REALM, Request, USER},
};

const PORT: u16 = 3478;

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The password for servers that take no key.
const PASSWORD: &str = "loadtest";

/// What becomes of user, realm and that password (RFC 8489, section 9.2.2: their MD5).
const DIGEST: [u8; 16] = 0xe3c3_68d0_d2f7_2ec3_fce2_4b9e_c655_01d7_u128.to_be_bytes();

/// A running server.
#[derive(Debug)]
pub(crate) struct TurnServer {
    process: Child,
    dir: PathBuf,
}

/// What was started, where, and what lets legs in.
pub(crate) type Started = (TurnServer, SocketAddr, Key);

impl TurnServer {
    /// Starts coturn, and waits until it answers. `None` when it is not installed.
    ///
    /// # Errors
    /// When it is there, but does not get ready.
    pub(crate) fn coturn() -> anyhow::Result<Option<Started>> {
        let key = Key::new(rand::rng().random());
        let config = |own: Ipv4Addr, dir: &Path| {
            let folder = dir.display();
            format!(
                "listening-ip={own}\nrelay-ip={own}\nlistening-port={PORT}\nmin-port=10000\nmax-port=60000\n\
                 relay-threads=1\nlt-cred-mech\nuser={USER}:0x{}\nrealm={REALM}\nallow-loopback-peers\nno-cli\nno-tcp\n\
                 no-tls\nno-dtls\nno-tcp-relay\nuserdb={folder}/turndb\nlog-file={folder}/turn.log\nsimple-log\n\
                 no-stdout-log\npidfile={folder}/turn.pid\n",
                key.hex()
            )
        };
        let started = Self::start(Path::new("turnserver"), "-c", config)?;
        Ok(started.map(|(server, address)| (server, address, key)))
    }

    /// Starts a turn-server, and waits until it answers.
    ///
    /// # Errors
    /// When it does not get ready.
    pub(crate) fn turn_rs(executable: &Path) -> anyhow::Result<Option<Started>> {
        let config = |own: Ipv4Addr, _: &Path| {
            format!(
                "[server]\nmax-threads = 1\nrealm = \"{REALM}\"\n[[server.interfaces]]\ntransport = \"udp\"\n\
                 listen = \"{own}:{PORT}\"\nexternal = \"{own}:{PORT}\"\nidle-timeout = 3600\n[log]\nlevel = \"error\"\n\
                 [auth]\nenable-hooks-auth = false\n[auth.static-credentials]\n{USER} = \"{PASSWORD}\"\n"
            )
        };
        let started = Self::start(executable, "--config", config)?;
        Ok(started.map(|(server, address)| (server, address, Key::new(DIGEST))))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    fn start(
        executable: &Path,
        flag: &str,
        config: impl Fn(Ipv4Addr, &Path) -> String,
    ) -> anyhow::Result<Option<(Self, SocketAddr)>> {
        let number: u32 = rand::rng().random();
        let dir = std::env::temp_dir().join(format!("buri-turn-{}-{number:08x}", std::process::id()));
        fs::create_dir(&dir)?;
        let own = Ipv4Addr::from_bits(Ipv4Addr::new(127, 72, 0, 0).to_bits() | (number & 0xffff) | 2);
        fs::write(dir.join("turn.conf"), config(own, &dir))?;
        let mut command = Command::new(executable);
        command.arg(flag).arg(dir.join("turn.conf")).current_dir(&dir);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(dir.join("turn.err"))?);
        let process = match child::spawn(&mut command) {
            Ok(process) => process,
            Err(error) => {
                fs::remove_dir_all(&dir)?;
                return if error.kind() == io::ErrorKind::NotFound { Ok(None) } else { Err(error.into()) };
            }
        };
        let mut server = Self { process, dir };
        let address = SocketAddr::new(own.into(), PORT);
        server.wait(address)?;
        Ok(Some((server, address)))
    }

    fn wait(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        socket.connect(address)?;
        let (until, transaction, mut buffer) = (Instant::now() + PATIENCE, [1; 12], [0; 2_048]);
        let question = Request::Allocate.to_vec(transaction, None);
        while Instant::now() < until {
            if let Some(status) = self.process.try_wait()? {
                anyhow::bail!("the TURN server ended with {status}: {}", self.said());
            }
            // Nobody may be there yet.
            let received = socket.send(&question).and_then(|_| socket.recv(&mut buffer));
            if let Ok(length) = received
                && Answer::parse(&buffer[..length], transaction).is_some()
            {
                return Ok(());
            }
        }
        Err(anyhow::anyhow!("{}", self.said())).context("the TURN server does not answer")
    }

    fn said(&self) -> String {
        ["turn.log", "turn.err"].map(|name| fs::read_to_string(self.dir.join(name)).unwrap_or_default()).concat()
    }
}

impl Drop for TurnServer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}
