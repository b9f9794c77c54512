//! What people and programs prove themselves with to an account. None of it is ever shown: no `Display`, an empty `Debug`.

use minicbor::{Decode, Encode};
use ring::digest;

use crate::MAX_PASSWORD_BYTES;

/// A text that is not the form of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a token or code")]
pub struct SecretError;

/// What the database knows a secret by: SHA-256 over a label and the secret. Secrets have 60 or more random bits and short
/// lives, so that this needs no slow hash.
#[derive(Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct TokenHash(#[cbor(n(0), with = "minicbor::bytes")] [u8; 32]);

impl TokenHash {
    fn of(label: &[u8], secret: &[u8]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(label);
        context.update(secret);
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        Self(hash)
    }

    /// The 32 bytes of the hash.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenHash(..)")
    }
}

macro_rules! token {
    ($(#[$doc:meta])* $name:ident, $label:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Encode, Decode)]
        #[cbor(transparent)]
        pub struct $name(#[cbor(n(0), with = "minicbor::bytes")] [u8; 32]);

        impl $name {
            /// The token of these random bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// What it is known by.
            #[must_use]
            pub fn hash(&self) -> TokenHash {
                TokenHash::of($label, &self.0)
            }

            /// The form that its owner gets, once.
            #[must_use]
            pub fn reveal(&self) -> String {
                self.0.iter().map(|byte| format!("{byte:02x}")).collect()
            }

            /// Reads the form that its owner got.
            ///
            /// # Errors
            /// [`SecretError`] for any other text.
            pub fn read(text: &str) -> Result<Self, SecretError> {
                let text = text.trim();
                if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    return Err(SecretError);
                }
                let mut bytes = [0; 32];
                for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
                    let digits = std::str::from_utf8(pair).map_err(|_| SecretError)?;
                    *byte = u8::from_str_radix(digits, 16).map_err(|_| SecretError)?;
                }
                Ok(Self(bytes))
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    };
}

token! {
    /// What is mailed to somebody, who uses it once.
    OneTimeToken, b"buri one-time token v1"
}
token! {
    /// What a logged-in person's browser or program has.
    SessionToken, b"buri session token v1"
}

/// What a client shows to become part of an account: twelve letters and digits that are easy to type. Small letters, dashes,
/// and O, I and L for the digits they look like are understood.
#[derive(Clone, PartialEq, Eq)]
pub struct AttachCode(String);

impl AttachCode {
    /// Crockford's alphabet: five bits a letter.
    const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    const LETTERS: usize = 12;

    /// The code of 60 of these random bits.
    #[must_use]
    pub fn from_random(bits: u64) -> Self {
        let letter = |nth: usize| char::from(Self::ALPHABET[(bits >> (5 * nth)) as usize & 31]);
        Self((0..Self::LETTERS).map(letter).collect())
    }

    /// Reads what somebody typed.
    ///
    /// # Errors
    /// [`SecretError`] when it cannot be a code.
    pub fn read(text: &str) -> Result<Self, SecretError> {
        // A code has two dashes, and hardly anybody types more of them than letters.
        if text.len() > 2 * Self::LETTERS {
            return Err(SecretError);
        }
        let typed = text.trim().chars().filter(|c| !matches!(c, '-' | ' '));
        let canonical: String = typed
            .map(|c| match c.to_ascii_uppercase() {
                'O' => '0',
                'I' | 'L' => '1',
                other => other,
            })
            .collect();
        let known = |byte: u8| Self::ALPHABET.contains(&byte);
        if canonical.len() == Self::LETTERS && canonical.bytes().all(known) {
            Ok(Self(canonical))
        } else {
            Err(SecretError)
        }
    }

    /// The form for people, in groups of four.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{}-{}-{}", &self.0[..4], &self.0[4..8], &self.0[8..])
    }

    /// What it is known by.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(b"buri attach code v1", self.0.as_bytes())
    }
}

impl std::fmt::Debug for AttachCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AttachCode(..)")
    }
}

impl<C> Encode<C> for AttachCode {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.str(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for AttachCode {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        Self::read(d.str()?).map_err(minicbor::decode::Error::custom)
    }
}

/// Why a text is no password of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PassphraseError {
    #[error("a password has at least {least} characters")]
    Short { least: usize },
    #[error("a password has at most {limit} bytes")]
    Long { limit: usize },
}

/// A person's password, as typed.
#[derive(Clone, PartialEq, Eq)]
pub struct Passphrase(String);

impl Passphrase {
    /// The fewest characters.
    pub const LEAST_CHARACTERS: usize = 10;

    /// Takes what a person chose.
    ///
    /// # Errors
    /// [`PassphraseError`] when it is too short or too long.
    pub fn new(text: &str) -> Result<Self, PassphraseError> {
        if text.len() > MAX_PASSWORD_BYTES {
            return Err(PassphraseError::Long { limit: MAX_PASSWORD_BYTES });
        }
        if text.chars().take(Self::LEAST_CHARACTERS).count() < Self::LEAST_CHARACTERS {
            return Err(PassphraseError::Short { least: Self::LEAST_CHARACTERS });
        }
        Ok(Self(text.to_owned()))
    }

    /// What is hashed.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

impl<C> Encode<C> for Passphrase {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.str(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Passphrase {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        Self::new(d.str()?).map_err(minicbor::decode::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_as_people_type_it() {
        let code = AttachCode::from_random(0x0123_4567_89ab_cdef);
        let shown = code.reveal();
        assert_eq!(shown.len(), 14);
        for typed in
            [shown.clone(), shown.to_lowercase(), shown.replace('-', ""), shown.replace('1', "l").replace('0', "o")]
        {
            assert_eq!(AttachCode::read(&typed), Ok(code.clone()), "{typed}");
        }
        for wrong in ["", "AAAA-AAAA-AAA", "AAAA-AAAA-AAAAA", "UUUU-UUUU-UUUU", "ÄÄÄÄ-ÄÄÄÄ-ÄÄÄÄ", &"A-".repeat(10_000)]
        {
            assert_eq!(AttachCode::read(wrong), Err(SecretError), "{wrong}");
        }
    }

    #[test]
    fn a_token_reads_back_and_shows_nothing() {
        let token = SessionToken::from_bytes([0xa5; 32]);
        assert_eq!(SessionToken::read(&token.reveal()), Ok(token));
        assert_eq!(format!("{token:?} {:?}", token.hash()), "SessionToken(..) TokenHash(..)");
        for wrong in ["", "a5", &"g".repeat(64), &"a".repeat(65), &"é".repeat(32)] {
            assert_eq!(SessionToken::read(wrong), Err(SecretError), "{wrong}");
        }
        assert_ne!(token.hash(), OneTimeToken::from_bytes([0xa5; 32]).hash(), "one is never taken for the other");
    }

    #[test]
    fn a_password_has_ten_characters_to_a_thousand_bytes() {
        for good in ["0123456789", "ééééééééöö", &"a".repeat(1024)] {
            assert!(Passphrase::new(good).is_ok(), "{good}");
        }
        assert_eq!(Passphrase::new("012345678"), Err(PassphraseError::Short { least: 10 }));
        assert_eq!(Passphrase::new(&"a".repeat(1025)), Err(PassphraseError::Long { limit: 1024 }));
    }
}
