//! `buri key`: the keys of this machine, out of it and into it.

use std::{
    fs,
    io::{self, BufRead as _, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use client::{
    backup::{BackupError, Contents, MAX_TEXT},
    command::{CommandError, Rotated},
    home::{Existing, Home, HomeError},
};
use domain::{MAX_PASSWORD_BYTES, Passphrase};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use serde_json::json;

use super::{failed, print, read_secret};

#[derive(Debug, Subcommand)]
pub(crate) enum Subcommands {
    /// Write the keys of this machine, its networks and their secrets to a file, sealed under a passphrase.
    Export {
        /// A file that does not exist yet, or - for standard output.
        file: PathBuf,
        #[command(flatten)]
        passphrase: PassphraseFrom,
    },
    /// Give this machine other keys. It stays who it is, with its addresses, networks and account; the keys before, and backups
    /// with them, are worth nothing afterwards, and another deployment that knows it by those does not know it any more.
    Rotate,
    /// Become the machine whose keys are in a file. The daemon must not be running here; where it runs with the same keys
    /// elsewhere, it is told that it was replaced.
    Import {
        /// The file, or - for standard input.
        file: PathBuf,
        #[command(flatten)]
        passphrase: PassphraseFrom,
        /// Set the keys that are here aside; without this nothing happens when there are any.
        #[arg(long)]
        replace: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct PassphraseFrom {
    /// A file with the passphrase, or - for standard input; otherwise the terminal is asked. One line end at its end does not
    /// count.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// How often a passphrase is asked for, so that nobody seals with one that was mistyped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Once,
    Twice,
}

pub(crate) fn run(home: &Path, json: bool, wanted: Subcommands) -> Result<(), CommandError> {
    match wanted {
        Subcommands::Export { file, passphrase } => export(home, json, &file, &passphrase),
        Subcommands::Rotate => Err(failed("the daemon does this".to_owned())),
        Subcommands::Import { file, passphrase, replace } => {
            let existing = if replace { Existing::SetAside } else { Existing::Keep };
            import(home, json, &file, &passphrase, existing)
        }
    }
}

/// What people see of other keys.
pub(crate) fn rotated_text(rotated: &Rotated) -> String {
    format!("client {} has key {} now; make a new backup", rotated.id, rotated.key)
}

fn export(home: &Path, json: bool, file: &Path, passphrase: &PassphraseFrom) -> Result<(), CommandError> {
    let contents = Home::at(home).contents().map_err(refused)?;
    let client = contents.client().map_err(refused)?;
    let backup = contents.seal(&passphrase.read(Asked::Twice)?).map_err(refused)?;
    if is_standard(file) {
        print(if json { json!({ "id": client, "backup": backup }).to_string() } else { backup }.trim_end());
        return Ok(());
    }
    write_new(file, &backup).map_err(|error| {
        if error.kind() == io::ErrorKind::AlreadyExists {
            let text = format!("{} exists; a backup overwrites nothing", file.display());
            return CommandError::new("file-exists", text);
        }
        failed(format!("{} cannot be written: {error}", file.display()))
    })?;
    print(&if json {
        json!({ "id": client, "file": file }).to_string()
    } else {
        format!("the keys of client {client} are in {}", file.display())
    });
    Ok(())
}

fn import(
    home: &Path,
    json: bool,
    file: &Path,
    passphrase: &PassphraseFrom,
    existing: Existing,
) -> Result<(), CommandError> {
    if is_standard(file) && passphrase.passphrase_file.as_deref().is_some_and(is_standard) {
        return Err(failed("the backup and its passphrase cannot both come from standard input".to_owned()));
    }
    let text = read_backup(file)?;
    let contents = Contents::open(&text, &passphrase.read(Asked::Once)?).map_err(refused)?;
    let (client, networks) = (contents.client().map_err(refused)?, contents.networks());
    let home = Home::open(home).map_err(|error| refused(error.into()))?;
    let lock = home.lock().map_err(|error| refused(error.into()))?;
    let aside = home.fill(&contents, existing).map_err(refused)?;
    drop(lock);
    let told = aside.as_ref().map(|folder| format!("; the keys before are in {}", folder.display()));
    print(&if json {
        json!({ "id": client, "networks": networks, "set_aside": aside }).to_string()
    } else {
        format!("this machine is client {client}, with {networks} networks{}", told.unwrap_or_default())
    });
    Ok(())
}

fn read_backup(file: &Path) -> Result<String, CommandError> {
    let mut text = Vec::new();
    let most = MAX_TEXT as u64;
    let read = if is_standard(file) {
        io::stdin().take(most).read_to_end(&mut text)
    } else {
        fs::File::open(file).and_then(|file| file.take(most).read_to_end(&mut text))
    };
    read.map_err(|error| failed(format!("the backup cannot be read: {error}")))?;
    String::from_utf8(text).map_err(|_| refused(BackupError::Foreign))
}

/// Only the user can read it, and nothing is overwritten.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        // Half a backup is none; that it cannot be removed is said by the first error already.
        let _ = fs::remove_file(path);
    }
    written
}

fn is_standard(file: &Path) -> bool {
    file == Path::new("-")
}

fn refused(error: BackupError) -> CommandError {
    let locked = matches!(&error, BackupError::Home(HomeError::Locked { .. }));
    let code = if locked { CommandError::DAEMON_RUNNING } else { error.code() };
    CommandError::new(code, error.to_string())
}

impl PassphraseFrom {
    fn read(&self, asked: Asked) -> Result<Passphrase, CommandError> {
        let text = match &self.passphrase_file {
            Some(file) => read_secret(file)?,
            None => {
                let typed = type_in("Passphrase: ")?;
                if asked == Asked::Twice && type_in("The same again: ")? != typed {
                    return Err(CommandError::new("passphrase-mistyped", "the two passphrases differ"));
                }
                typed
            }
        };
        Passphrase::new(&text).map_err(|error| refused(error.into()))
    }
}

/// Asks at the terminal, which does not show what is typed.
fn type_in(prompt: &str) -> Result<String, CommandError> {
    let unasked = |error: io::Error| failed(format!("no terminal to ask at ({error}); use --passphrase-file"));
    let terminal = fs::OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(unasked)?;
    let silent = Silent::new(&terminal).map_err(unasked)?;
    (&terminal).write_all(prompt.as_bytes()).map_err(unasked)?;
    let mut line = String::new();
    let most = MAX_PASSWORD_BYTES as u64 + 2;
    let read = io::BufReader::new((&terminal).take(most)).read_line(&mut line);
    drop(silent);
    // What was typed does not show, and neither did the line end.
    let _ = (&terminal).write_all(b"\n");
    read.map_err(unasked)?;
    line.truncate(line.trim_end_matches(['\n', '\r']).len());
    Ok(line)
}

/// A terminal without echo, until dropped.
struct Silent<'a> {
    terminal: &'a fs::File,
    before: Termios,
}

impl<'a> Silent<'a> {
    fn new(terminal: &'a fs::File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(terminal, SetArg::TCSAFLUSH, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = tcsetattr(self.terminal, SetArg::TCSAFLUSH, &self.before);
    }
}
