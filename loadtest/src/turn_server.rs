//! A TURN server beside the relay: coturn, where it is installed. On a loopback address of its own, with a configuration, a
//! database and a log of its own, ended with the tool.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rand::Rng as _;

use crate::turn::{Answer, Key, REALM, Request, USER};

const PORT: u16 = 3478;

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running server.
#[derive(Debug)]
pub(crate) struct Coturn {
    process: Child,
    dir: PathBuf,
}

impl Coturn {
    /// Starts it, and waits until it answers. `None` when it is not installed.
    ///
    /// # Errors
    /// When it is there, but does not get ready.
    pub(crate) fn start() -> anyhow::Result<Option<(Self, SocketAddr, Key)>> {
        let mut random = rand::rng();
        let key = Key::new(random.random());
        let number: u32 = random.random();
        let dir = std::env::temp_dir().join(format!("buri-coturn-{}-{number:08x}", std::process::id()));
        fs::create_dir(&dir)?;
        let own = Ipv4Addr::from_bits(Ipv4Addr::new(127, 72, 0, 0).to_bits() | (number & 0xffff) | 2);
        let folder = dir.display();
        let config = format!(
            "listening-ip={own}\nrelay-ip={own}\nlistening-port={PORT}\nmin-port=10000\nmax-port=60000\nrelay-threads=1\n\
             lt-cred-mech\nuser={USER}:0x{}\nrealm={REALM}\nallow-loopback-peers\nno-cli\nno-tcp\nno-tls\nno-dtls\n\
             no-tcp-relay\nuserdb={folder}/turndb\nlog-file={folder}/turn.log\nsimple-log\nno-stdout-log\n\
             pidfile={folder}/turn.pid\n",
            key.hex()
        );
        fs::write(dir.join("turn.conf"), config)?;
        let spawned = Command::new("turnserver")
            .arg("-c")
            .arg(dir.join("turn.conf"))
            .current_dir(&dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let process = match spawned {
            Ok(process) => process,
            Err(error) => {
                fs::remove_dir_all(&dir)?;
                return if error.kind() == io::ErrorKind::NotFound { Ok(None) } else { Err(error.into()) };
            }
        };
        let mut server = Self { process, dir };
        let address = SocketAddr::new(own.into(), PORT);
        server.wait(address)?;
        Ok(Some((server, address, key)))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    fn wait(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        socket.connect(address)?;
        let (until, transaction, mut buffer) = (Instant::now() + PATIENCE, [1; 12], [0; 2_048]);
        let question = Request::Allocate.to_vec(transaction, None);
        while Instant::now() < until {
            if let Some(status) = self.process.try_wait()? {
                anyhow::bail!("turnserver ended with {status}");
            }
            // Nobody may be there yet.
            let received = socket.send(&question).and_then(|_| socket.recv(&mut buffer));
            if let Ok(length) = received
                && Answer::parse(&buffer[..length], transaction).is_some()
            {
                return Ok(());
            }
        }
        let log = fs::read_to_string(self.dir.join("turn.log")).unwrap_or_default();
        Err(anyhow::anyhow!("{log}")).context("turnserver does not answer")
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}
