//! A mediator of the tool's own: the executable beside this one, in a temporary folder, ended with the tool.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::child;

/// A running `mediator`.
#[derive(Debug)]
pub(crate) struct Server {
    process: Child,
    ready: Value,
    dir: PathBuf,
}

impl Server {
    /// Starts every role on loopback addresses, with `config` on top of the defaults.
    ///
    /// # Errors
    /// When there is no executable, or it does not get ready.
    pub(crate) fn start(config: &str) -> anyhow::Result<Self> {
        let dir = std::env::temp_dir().join(format!("buri-loadtest-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        let file = dir.join("config.toml");
        std::fs::write(&file, config)?;
        let own = std::env::current_exe()?;
        let executable = own.with_file_name("mediator");
        if !executable.exists() {
            bail!("{} is missing: cargo build --release -p mediator", executable.display());
        }
        let [.., high, low] = (std::process::id() << 1).to_be_bytes();
        let bind = format!("127.70.{high}.{low},127.70.{high}.{}", low | 1);
        let mut command = Command::new(executable);
        command.args(["all", "--json", "--bind", &bind, "--data"]).arg(dir.join("data")).arg("--config").arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(std::fs::File::create(dir.join("mediator.log"))?);
        let mut process = child::spawn(&mut command)?;
        let mut line = String::new();
        let stdout = process.stdout.take().context("no output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let Ok(ready) = serde_json::from_str(&line) else {
            let _ = process.wait();
            bail!("mediator did not start: {}", std::fs::read_to_string(dir.join("mediator.log"))?);
        };
        Ok(Self { process, ready, dir })
    }

    /// What clients are given.
    pub(crate) fn url(&self) -> &str {
        self.told("server")
    }

    /// What it said when it got ready: an empty text when it did not say it.
    pub(crate) fn told(&self, key: &str) -> &str {
        self.ready[key].as_str().unwrap_or_default()
    }

    /// Where it keeps its data.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Resident memory of a process, in bytes.
pub(crate) fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let kilobytes: u64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kilobytes * 1024)
}

/// CPU time of a process in all its threads, in seconds.
pub(crate) fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(") ").context("no process")?.1.split(' ').collect();
    let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    // USER_HZ is 100 on every Linux.
    Ok(ticks as f64 / 100.0)
}

/// Lets this process, and those that it starts, have as many descriptors as they may.
pub(crate) fn raise_descriptor_limit() -> anyhow::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(())
}
