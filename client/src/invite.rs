//! Links that let somebody into a network without its password.
//!
//! A link is 32 random bytes in hexadecimal digits behind `buri-invite:`. What is shown to the server and what opens the
//! network secret are derived from it one way each, so that the server, which sees the first, cannot compute the second.

use std::{fmt, str::FromStr};

use domain::InviteToken;
use ring::{
    hkdf,
    rand::{SecureRandom as _, SystemRandom},
};
use zeroize::ZeroizeOnDrop;

use crate::password::{ExportKey, PasswordError};

/// One link. Whoever has it becomes a member.
#[derive(Clone, PartialEq, Eq, ZeroizeOnDrop)]
pub struct InviteLink([u8; 32]);

/// A text that is no link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an invite: buri-invite: and 64 hexadecimal digits are")]
pub struct NoInvite;

impl InviteLink {
    /// A fresh one.
    ///
    /// # Errors
    /// [`PasswordError::Random`].
    pub fn random() -> Result<Self, PasswordError> {
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).map_err(|_| PasswordError::Random)?;
        Ok(Self(seed))
    }

    /// What the server is shown.
    #[must_use]
    pub fn token(&self) -> InviteToken {
        InviteToken(self.derive(b"token"))
    }

    /// What the network secret is sealed under.
    #[must_use]
    pub fn key(&self) -> ExportKey {
        ExportKey::from_bytes(self.derive(b"network secret"))
    }

    fn derive(&self, purpose: &[u8]) -> [u8; 32] {
        let mut bytes = [0; 32];
        hkdf::Salt::new(hkdf::HKDF_SHA256, LABEL)
            .extract(&self.0)
            .expand(&[purpose], hkdf::HKDF_SHA256)
            .and_then(|output| output.fill(&mut bytes))
            .expect("32 bytes are one block of SHA-256");
        bytes
    }
}

impl fmt::Display for InviteLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SCHEME)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for InviteLink {
    type Err = NoInvite;

    fn from_str(text: &str) -> Result<Self, NoInvite> {
        let digits = text.trim().strip_prefix(SCHEME).ok_or(NoInvite)?;
        if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(NoInvite);
        }
        let mut seed = [0; 32];
        for (byte, pair) in seed.iter_mut().zip(digits.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| NoInvite)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| NoInvite)?;
        }
        Ok(Self(seed))
    }
}

impl serde::Serialize for InviteLink {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for InviteLink {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <std::borrow::Cow<'de, str>>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Debug for InviteLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InviteLink(..)")
    }
}

const SCHEME: &str = "buri-invite:";
const LABEL: &[u8] = b"buri invite v1";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::password::NetworkSecret;

    #[test]
    fn a_link_reads_back_and_is_not_logged() {
        let link = InviteLink::random().unwrap();
        assert_eq!(link.to_string().parse(), Ok(link.clone()));
        assert_eq!(format!(" {link}\n").parse(), Ok(link.clone()));
        let json = serde_json::to_string(&link).unwrap();
        assert_eq!(serde_json::from_str::<InviteLink>(&json).unwrap(), link);
        assert_eq!(format!("{link:?}"), "InviteLink(..)");
    }

    #[test]
    fn other_texts_are_no_links() {
        let link = InviteLink([7; 32]).to_string();
        let shorter = &link[..link.len() - 1];
        for text in ["", SCHEME, shorter, &format!("{link}0"), &link[SCHEME.len()..], &link.replace('7', "g")] {
            assert_eq!(text.parse::<InviteLink>(), Err(NoInvite), "{text}");
        }
        assert_eq!(format!("{SCHEME}{}", "é".repeat(32)).parse::<InviteLink>(), Err(NoInvite));
    }

    #[test]
    fn the_link_opens_the_secret_and_what_the_server_sees_does_not() {
        let link = InviteLink::random().unwrap();
        let secret = NetworkSecret::random().unwrap();
        let sealed = secret.seal(&link.key()).unwrap();
        assert_eq!(NetworkSecret::open(&sealed, &link.key()).unwrap(), secret);
        let seen = ExportKey::from_bytes(link.token().0);
        assert_eq!(NetworkSecret::open(&sealed, &seen), Err(PasswordError::Secret));
        let other = InviteLink::random().unwrap().key();
        assert_eq!(NetworkSecret::open(&sealed, &other), Err(PasswordError::Secret));
    }

    #[test]
    fn the_derivation_never_changes() {
        let link = InviteLink([7; 32]);
        assert_eq!(link.token().0[..4], TOKEN);
        assert_eq!(link.key().as_bytes()[..4], KEY);
    }

    /// Computed once; other values make every link out there worthless.
    const TOKEN: [u8; 4] = [32, 105, 49, 65];
    const KEY: [u8; 4] = [178, 160, 0, 17];
}
