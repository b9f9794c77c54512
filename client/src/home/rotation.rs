//! Keys that follow others: made, kept until the server has taken them, and taken over.
//!
//! The next keys are on disk before the server hears of them, and take the place of the old ones by one renaming: whenever this
//! machine or the server stops in between, the same keys are offered again, or found to count already.

use std::fs;

use domain::{KeyRotation, Lineage, Succession};
use minicbor::{Decode, Encode};
use ring::rand::{SecureRandom as _, SystemRandom};
use tunnel::Local;
use zeroize::{Zeroize as _, Zeroizing};

use super::{Home, HomeError, IDENTITY, Identity, TUNNEL, io_error};

/// The keys of a client that changed them, all in one file, so that they change together.
pub(super) const LATER: &str = "later.key";
/// Those that the server is asked to take.
pub(super) const NEXT: &str = "next.key";

/// Later keys, on disk and in backups.
#[derive(Clone, Encode, Decode)]
pub(crate) struct LaterKeys {
    #[cbor(n(0), with = "minicbor::bytes")]
    identity: [u8; 32],
    #[cbor(n(1), with = "minicbor::bytes")]
    tunnel: [u8; 32],
    #[n(2)]
    lineage: Lineage,
}

impl LaterKeys {
    /// The keys, if they are those at the end of their line.
    pub(crate) fn keys(&self) -> Option<Identity> {
        self.lineage.verify().ok()?;
        let keys = Identity::from_seeds(&self.identity, &self.tunnel)?;
        (keys.public == self.lineage.newest()).then(|| Identity { lineage: self.lineage.clone(), ..keys })
    }
}

impl Home {
    /// The keys of a client that changed them; `None` when it still has its first.
    pub(super) fn later_keys(&self) -> Result<Option<LaterKeys>, HomeError> {
        self.read_keys(LATER)
    }

    /// Those that the server was asked to take, and may have taken.
    pub(super) fn next_keys(&self) -> Result<Option<LaterKeys>, HomeError> {
        self.read_keys(NEXT)
    }

    fn read_keys(&self, name: &str) -> Result<Option<LaterKeys>, HomeError> {
        let broken = || HomeError::Broken { path: self.dir.join(name) };
        let Some(bytes) = self.load_bytes(name)?.map(Zeroizing::new) else { return Ok(None) };
        let keys: LaterKeys = minicbor::decode(&bytes).map_err(|_| broken())?;
        if keys.keys().is_none() {
            return Err(broken());
        }
        Ok(Some(keys))
    }

    pub(super) fn save_keys(&self, name: &str, keys: &LaterKeys) -> Result<(), HomeError> {
        let bytes = minicbor::to_vec(keys).map_err(|_| HomeError::Broken { path: self.dir.join(name) })?;
        self.save_bytes(name, &Zeroizing::new(bytes))
    }

    /// Whether a change of the keys was begun.
    #[must_use]
    pub fn has_next_keys(&self) -> bool {
        self.dir.join(NEXT).exists()
    }

    /// What to ask the server for: the change that was begun, or a new one.
    ///
    /// # Errors
    /// [`HomeError`]; nothing has changed.
    pub fn next_rotation(&self) -> Result<KeyRotation, HomeError> {
        let _alone = self.alone_with_keys();
        let now = self.identity_now()?;
        let next = match self.begun(&now)? {
            Some(next) => next,
            None => {
                let next = following(&now)?;
                self.save_keys(NEXT, &next)?;
                next
            }
        };
        let broken = || HomeError::Broken { path: self.dir.join(NEXT) };
        let keys = next.keys().ok_or_else(broken)?;
        let tunnel = Local::new(*keys.tunnel()).public();
        let succession = *next.lineage.successions().last().ok_or_else(broken)?;
        Ok(KeyRotation { succession, tunnel, tunnel_signature: keys.sign_tunnel(&tunnel) })
    }

    /// Takes the next keys over, if there are any: the server has them. The old ones are worth nothing any more, and go.
    ///
    /// # Errors
    /// [`HomeError`]; to be repeated.
    pub fn take_next_keys(&self) -> Result<(), HomeError> {
        let _alone = self.alone_with_keys();
        if self.next_keys()?.is_none() || self.begun(&self.identity_now()?)?.is_none() {
            return Ok(());
        }
        let renamed = || {
            fs::rename(self.dir.join(NEXT), self.dir.join(LATER))?;
            fs::File::open(&self.dir)?.sync_all()
        };
        renamed().map_err(|source| io_error(&self.dir.join(LATER), source))?;
        for name in [IDENTITY, TUNNEL] {
            // What stays is not looked at.
            let _ = fs::remove_file(self.dir.join(name));
        }
        Ok(())
    }

    /// The next keys, if they follow these.
    fn begun(&self, now: &Identity) -> Result<Option<LaterKeys>, HomeError> {
        Ok(self.next_keys()?.filter(|next| {
            next.lineage.successions().split_last().is_some_and(|(_, before)| {
                *before == *now.lineage.successions() && next.lineage.client() == now.client()
            })
        }))
    }

    /// Forgets the next keys: the server does not want them.
    ///
    /// # Errors
    /// [`HomeError::Io`].
    pub fn drop_next_keys(&self) -> Result<(), HomeError> {
        let _alone = self.alone_with_keys();
        let path = self.dir.join(NEXT);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_error(&path, error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// Keys at random, with the signatures of both sides.
fn following(now: &Identity) -> Result<LaterKeys, HomeError> {
    let mut seeds = Zeroizing::new([[0; 32]; 2]);
    for seed in seeds.iter_mut() {
        SystemRandom::new().fill(seed).map_err(|_| HomeError::Random)?;
    }
    let [identity, tunnel] = *seeds;
    let next = Identity::from_seeds(&identity, &tunnel).ok_or(HomeError::Random)?;
    let statement = now.lineage.statement(&next.public);
    let succession =
        Succession { identity: next.public, farewell: now.sign(&[&statement]), consent: next.sign(&[&statement]) };
    let lineage = now.lineage.clone().followed_by(succession).map_err(|_| HomeError::KeyLimit)?;
    Ok(LaterKeys { identity, tunnel, lineage })
}

impl Drop for LaterKeys {
    fn drop(&mut self) {
        self.identity.zeroize();
        self.tunnel.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use domain::MAX_SUCCESSIONS;

    use super::*;

    #[test]
    fn keys_follow_one_another_and_the_client_stays() {
        let (_dir, home) = home();
        let first = home.identity().unwrap();
        for count in 1..=3 {
            let before = home.identity().unwrap();
            let rotation = home.next_rotation().unwrap();
            let line = before.lineage.clone().followed_by(rotation.succession).unwrap();
            line.newest().verify_tunnel_key(&rotation.tunnel, &rotation.tunnel_signature).unwrap();
            assert_eq!(home.identity().unwrap().public(), before.public(), "until the server has them");
            home.take_next_keys().unwrap();
            let now = home.identity().unwrap();
            assert_eq!((now.client(), now.public()), (first.client(), rotation.succession.identity));
            assert_eq!(now.lineage().successions().len(), count);
            assert_ne!(now.tunnel(), before.tunnel());
            assert!(!home.dir.join(IDENTITY).exists() && !home.has_next_keys());
        }
    }

    /// The session that was replaced and the answer to the command tell of the same change at the same moment.
    #[test]
    fn two_that_take_the_keys_over_at_once_have_the_same() {
        for _ in 0..64 {
            let (_dir, home) = home();
            home.identity().unwrap();
            let asked = home.next_rotation().unwrap();
            let (one, other) = (home.clone(), home.clone());
            let taken = [one, other].map(|home| {
                std::thread::spawn(move || {
                    home.take_next_keys().and_then(|()| home.identity()).map(|keys| keys.public())
                })
            });
            for taken in taken {
                assert_eq!(taken.join().unwrap().unwrap(), asked.succession.identity);
            }
        }
    }

    #[test]
    fn the_same_change_is_asked_for_until_it_is_taken_or_dropped() {
        let (_dir, home) = home();
        home.identity().unwrap();
        let asked = home.next_rotation().unwrap();
        assert_eq!(home.next_rotation().unwrap(), asked);
        home.drop_next_keys().unwrap();
        home.drop_next_keys().unwrap();
        assert_ne!(home.next_rotation().unwrap(), asked);
        // Begun for keys that are not these any more.
        let stale = fs::read(home.dir.join(NEXT)).unwrap();
        home.take_next_keys().unwrap();
        fs::write(home.dir.join(NEXT), stale).unwrap();
        let newest = home.identity().unwrap();
        let asked = home.next_rotation().unwrap();
        assert!(newest.lineage().clone().followed_by(asked.succession).is_ok());
        home.take_next_keys().unwrap();
        home.take_next_keys().unwrap();
    }

    #[test]
    fn keys_that_do_not_fit_are_said_to_be_broken() {
        let (_dir, home) = home();
        home.identity().unwrap();
        home.next_rotation().unwrap();
        home.take_next_keys().unwrap();
        let mut keys = home.later_keys().unwrap().unwrap();
        keys.identity[0] ^= 1;
        home.save_keys(LATER, &keys).unwrap();
        assert!(matches!(home.identity(), Err(HomeError::Broken { .. })));
    }

    #[test]
    fn the_last_change_of_the_keys_is_the_thirty_second() {
        let (_dir, home) = home();
        home.identity().unwrap();
        for _ in 0..MAX_SUCCESSIONS {
            home.next_rotation().unwrap();
            home.take_next_keys().unwrap();
        }
        assert!(matches!(home.next_rotation(), Err(HomeError::KeyLimit)));
    }

    fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(&dir.path().join("home")).unwrap();
        (dir, home)
    }
}
