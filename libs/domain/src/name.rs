//! Names that people type. Two names that look alike are one name.

use unicode_normalization::UnicodeNormalization as _;
use unicode_security::{GeneralSecurityProfile as _, MixedScript as _, confusable_detection::skeleton};

/// Why a text is not a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a name has 1 to {limit} bytes")]
    Length { limit: usize },
    #[error("a name has letters, digits, spaces and - _ . ' only")]
    Character,
    #[error("a name must not mix scripts that can be confused")]
    Confusable,
}

/// The name of a network: normalised Unicode (NFKC, UAX #15), 1 to 64 bytes, one script (UTS #39).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkName(String);

/// What a client calls itself: as [`NetworkName`], but not unique.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nickname(String);

impl NetworkName {
    /// The longest name, in bytes of UTF-8.
    pub const MAX_BYTES: usize = 64;

    /// The name as its maker wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What must be unique: the confusable skeleton (UTS #39, section 4) of the lower-case name.
    #[must_use]
    pub fn key(&self) -> String {
        skeleton(&self.0.to_lowercase()).collect::<String>().to_lowercase()
    }
}

impl Nickname {
    /// The longest nickname, in bytes of UTF-8.
    pub const MAX_BYTES: usize = 64;

    /// The nickname as its owner wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Trims, normalises and checks `text`.
fn normalised(text: &str, limit: usize) -> Result<String, NameError> {
    // Compatibility forms grow by a factor of 18 at most (UAX #15): refuse before the work is done.
    if text.len() > 4 * limit {
        return Err(NameError::Length { limit });
    }
    let name: String = text.trim().nfkc().collect();
    if name.is_empty() || name.len() > limit {
        return Err(NameError::Length { limit });
    }
    let allowed =
        |c: char| matches!(c, ' ' | '-' | '_' | '.' | '\'') || (c.is_alphanumeric() && c.identifier_allowed());
    // Combining marks are neither letters nor digits, but part of many scripts.
    let mark = |c: char| !c.is_ascii() && c.identifier_allowed();
    if !name.chars().all(|c| allowed(c) || mark(c)) {
        return Err(NameError::Character);
    }
    if !name.as_str().is_single_script() {
        return Err(NameError::Confusable);
    }
    Ok(name)
}

/// Gives a checked text its forms: for people, in CBOR and in JSON. Whatever is decoded is checked.
macro_rules! text_value {
    ($name:ident, $error:ty, $check:expr) => {
        impl std::str::FromStr for $name {
            type Err = $error;

            fn from_str(text: &str) -> Result<Self, $error> {
                $check(text).map(Self)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Debug::fmt(&self.0, f)
            }
        }

        impl<C> minicbor::Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut minicbor::Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.str(&self.0)?.ok()
            }
        }

        impl<'b, C> minicbor::Decode<'b, C> for $name {
            fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
                d.str()?.parse().map_err(minicbor::decode::Error::custom)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                <std::borrow::Cow<'de, str>>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

pub(crate) use text_value;

text_value!(NetworkName, NameError, |text| normalised(text, NetworkName::MAX_BYTES));
text_value!(Nickname, NameError, |text| normalised(text, Nickname::MAX_BYTES));

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> String {
        text.parse::<NetworkName>().unwrap().key()
    }

    #[test]
    fn names_that_look_alike_are_one_name() {
        assert_eq!(key("Friday Games"), key("  friday games "));
        assert_eq!(key("ﬁsh"), key("fish"));
        assert_eq!(key("paypal"), key("paypa1").replace('1', "l"));
        assert_ne!(key("alpha"), key("beta"));
    }

    #[test]
    fn a_latin_name_with_a_cyrillic_letter_is_refused() {
        assert_eq!("p\u{0430}ypal".parse::<NetworkName>(), Err(NameError::Confusable));
        assert!("Семья".parse::<NetworkName>().is_ok());
        assert!("家族".parse::<NetworkName>().is_ok());
        assert!("Büro 2".parse::<NetworkName>().is_ok());
    }

    #[test]
    fn a_name_has_one_to_sixty_four_bytes() {
        assert!("a".repeat(64).parse::<NetworkName>().is_ok());
        for text in ["", "   ", &"a".repeat(65), &"a".repeat(100_000)] {
            assert_eq!(text.parse::<NetworkName>(), Err(NameError::Length { limit: 64 }));
        }
    }

    #[test]
    fn control_characters_are_no_part_of_a_name() {
        for text in ["a\nb", "a\u{202e}b", "a/b", "a\u{0}", "a\u{200b}b"] {
            assert!(text.parse::<Nickname>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn decoding_validates() {
        let bad = minicbor::to_vec("a\nb").unwrap();
        assert!(minicbor::decode::<NetworkName>(&bad).is_err());
        let good = minicbor::to_vec("a b".parse::<Nickname>().unwrap()).unwrap();
        assert_eq!(minicbor::decode::<Nickname>(&good).unwrap().as_str(), "a b");
    }
}
