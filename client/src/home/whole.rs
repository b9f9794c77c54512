//! The whole home, out of it and into another one.

use std::{collections::BTreeMap, fs, io, os::unix::fs::DirBuilderExt as _, path::PathBuf};

use super::{
    Home, HomeError, IDENTITY, SERVERS, TUNNEL, io_error,
    rotation::{LATER, NEXT},
};
use crate::{
    backup::{BackupError, Contents, FirstKeys, Keys, Pin},
    control::WAYS,
    core::Saved,
    daemon::VIEW,
};

/// What becomes of keys that are in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// They stay, and nothing happens.
    Keep,
    /// They are moved into a folder beside the new ones.
    SetAside,
}

impl Home {
    /// What a backup holds. A daemon may be running; what it learned in the last second may be missing.
    ///
    /// # Errors
    /// [`BackupError::NoKeys`] when no daemon ever ran here, [`BackupError::Home`].
    pub fn contents(&self) -> Result<Contents, BackupError> {
        if !self.has_keys() {
            return Err(BackupError::NoKeys);
        }
        // Read in the order in which a daemon that changes its keys writes: none is missed, and none is made up.
        let next = self.next_keys()?;
        let keys = match self.later_keys()? {
            Some(later) => Keys::Later(later),
            None => match (self.kept_key(IDENTITY)?, self.kept_key(TUNNEL)?) {
                (Some(identity), Some(tunnel)) => Keys::First(FirstKeys { identity: *identity, tunnel: *tunnel }),
                // They were taken over just now.
                _ => Keys::Later(self.later_keys()?.ok_or(BackupError::NoKeys)?),
            },
        };
        let pins: BTreeMap<String, String> = self.load(SERVERS)?.unwrap_or_default();
        let broken = |_| HomeError::Broken { path: self.dir.join(VIEW) };
        let known = self.load_bytes(VIEW)?.map(|bytes| Saved::decode(&bytes).map_err(broken)).transpose()?;
        Ok(Contents {
            keys,
            next,
            servers: pins.into_iter().map(|(address, key)| Pin { address, key }).collect(),
            known: known.map(Saved::without_places),
        })
    }

    /// Takes `contents` in. The caller holds the lock. Returns the folder that keys were set aside in.
    ///
    /// # Errors
    /// [`BackupError::Occupied`], [`BackupError::Home`]. What fails half-way is safe to repeat: the identity comes last.
    pub fn fill(&self, contents: &Contents, existing: Existing) -> Result<Option<PathBuf>, BackupError> {
        let aside = if self.has_keys() {
            if existing == Existing::Keep {
                return Err(BackupError::Occupied { client: self.identity()?.client() });
            }
            Some(self.set_aside()?)
        } else {
            None
        };
        let pins: BTreeMap<_, _> = contents.servers.iter().map(|pin| (&pin.address, &pin.key)).collect();
        self.save(SERVERS, &pins)?;
        if let Some(known) = &contents.known {
            self.save_bytes(VIEW, &known.encode())?;
        }
        if let Some(next) = &contents.next {
            self.save_keys(NEXT, next)?;
        }
        match &contents.keys {
            Keys::First(first) => {
                self.save_bytes(TUNNEL, &first.tunnel)?;
                self.save_bytes(IDENTITY, &first.identity)?;
            }
            Keys::Later(later) => self.save_keys(LATER, later)?,
        }
        Ok(aside)
    }

    fn has_keys(&self) -> bool {
        [IDENTITY, LATER].iter().any(|name| self.dir.join(name).exists())
    }

    /// Moves what belongs to the keys into a new folder, the identity last.
    fn set_aside(&self) -> Result<PathBuf, HomeError> {
        let (folder, made) = (1..)
            .map(|number| self.dir.join(format!("before-{number}")))
            .map(|folder| (folder.clone(), fs::DirBuilder::new().mode(0o700).create(folder)))
            .find(|(_, made)| !matches!(made, Err(error) if error.kind() == io::ErrorKind::AlreadyExists))
            .expect("numbers do not end");
        made.map_err(|source| io_error(&folder, source))?;
        for name in [VIEW, SERVERS, WAYS, NEXT, TUNNEL, IDENTITY, LATER] {
            match fs::rename(self.dir.join(name), folder.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(&folder, error)),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(folder)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_home_goes_through_a_backup_unchanged() {
        let (one, other) = (home(), home());
        let keys = one.1.identity().unwrap();
        one.1.pin("a:1", "key").unwrap();
        let passphrase = domain::Passphrase::new("correct horse").unwrap();
        let text = one.1.contents().unwrap().seal(&passphrase).unwrap();

        let contents = Contents::open(&text, &passphrase).unwrap();
        assert_eq!(other.1.fill(&contents, Existing::Keep).unwrap(), None);
        let restored = other.1.identity().unwrap();
        assert_eq!((restored.client(), restored.tunnel()), (keys.client(), keys.tunnel()));
        assert_eq!(other.1.pinned("a:1").unwrap().as_deref(), Some("key"));
        for file in [IDENTITY, TUNNEL, SERVERS] {
            assert_eq!(fs::metadata(other.1.dir.join(file)).unwrap().permissions().mode() & 0o077, 0, "{file}");
        }
    }

    #[test]
    fn keys_that_are_there_stay_unless_they_may_be_set_aside() {
        let (one, other) = (home(), home());
        let (there, coming) = (one.1.identity().unwrap().client(), other.1.identity().unwrap().client());
        let contents = other.1.contents().unwrap();
        let refused = one.1.fill(&contents, Existing::Keep).unwrap_err();
        assert!(matches!(refused, BackupError::Occupied { client } if client == there));
        assert_eq!(one.1.identity().unwrap().client(), there);

        for number in 1..=2 {
            let aside = one.1.fill(&contents, Existing::SetAside).unwrap().unwrap();
            assert_eq!(aside, one.1.dir.join(format!("before-{number}")));
            assert_eq!(one.1.identity().unwrap().client(), coming);
            assert_eq!(fs::metadata(&aside).unwrap().permissions().mode() & 0o077, 0);
        }
        let before = Home::at(&one.1.dir.join("before-1")).identity().unwrap();
        assert_eq!(before.client(), there);
    }

    #[test]
    fn later_keys_go_through_a_backup_with_the_line_before_them() {
        let (one, other) = (home(), home());
        let client = one.1.identity().unwrap().client();
        one.1.next_rotation().unwrap();
        one.1.take_next_keys().unwrap();
        let begun = one.1.next_rotation().unwrap();
        let passphrase = domain::Passphrase::new("correct horse").unwrap();
        let contents = Contents::open(&one.1.contents().unwrap().seal(&passphrase).unwrap(), &passphrase).unwrap();
        other.1.fill(&contents, Existing::Keep).unwrap();
        let restored = other.1.identity().unwrap();
        assert_eq!((restored.client(), restored.public()), (client, one.1.identity().unwrap().public()));
        assert_eq!(other.1.next_rotation().unwrap(), begun, "a change that was begun goes on");
        assert!(matches!(one.1.fill(&contents, Existing::Keep), Err(BackupError::Occupied { .. })));
    }

    #[test]
    fn without_keys_there_is_no_backup_and_none_are_made() {
        let (_dir, home) = home();
        assert_eq!(home.contents().unwrap_err().code(), "no-keys");
        assert!(!home.has_keys());
    }

    fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(&dir.path().join("home")).unwrap();
        (dir, home)
    }
}
