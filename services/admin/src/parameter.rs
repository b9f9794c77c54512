//! Parameters of paths and queries: what they look like, for the document and for those who send them.

use serde_json::{Value, json};

/// The longest text in a parameter, in bytes.
const LONGEST: usize = 200;

/// A parameter and its meaning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parameter {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) meaning: &'static str,
}

/// What a parameter looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// 32 hexadecimal digits.
    Id,
    /// The first hexadecimal digits of an id.
    IdPrefix,
    /// A whole number from 1 to this.
    Count(u32),
    /// A whole number.
    Number,
    /// `true` or `false`.
    Flag,
    /// A year and a month, `2026-11`.
    Month,
    /// An IPv4 address.
    Address,
    /// An e-mail address.
    Email,
    Text,
}

impl Parameter {
    pub(crate) const fn new(name: &'static str, kind: Kind, meaning: &'static str) -> Self {
        Self { name, kind, meaning }
    }

    /// The parameter of a path with this name.
    pub(crate) fn of_path(name: &'static str) -> Self {
        let (kind, meaning) = match name {
            "plan" => (Kind::Text, "The name of a plan."),
            "a" | "b" => (Kind::Id, "The id of a client."),
            _ => (Kind::Id, "An id."),
        };
        Self { name, kind, meaning }
    }

    /// Says what is wrong with `text`.
    pub(crate) fn check(&self, text: &str) -> Result<(), String> {
        if text.len() > LONGEST {
            return Err(format!("{}: at most {LONGEST} bytes", self.name));
        }
        match self.kind.expects(text) {
            None => Ok(()),
            Some(expected) => Err(format!("{}: {expected} expected", self.name)),
        }
    }
}

impl Kind {
    /// What is expected instead of `text`.
    fn expects(self, text: &str) -> Option<String> {
        let hexadecimal = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let (fits, expected) = match self {
            Self::Id => (text.len() == 32 && hexadecimal, "32 hexadecimal digits".to_owned()),
            Self::IdPrefix => ((1..=32).contains(&text.len()) && hexadecimal, "1 to 32 hexadecimal digits".to_owned()),
            Self::Count(most) => {
                (text.parse().is_ok_and(|count: u32| (1..=most).contains(&count)), format!("between 1 and {most}"))
            }
            Self::Number => (text.parse::<u64>().is_ok_and(|number| number >> 63 == 0), "a whole number".to_owned()),
            Self::Flag => (matches!(text, "true" | "false"), "true or false".to_owned()),
            Self::Month => (month(text).is_some(), "a month, like 2026-11,".to_owned()),
            Self::Address => (text.parse::<std::net::Ipv4Addr>().is_ok(), "an IPv4 address".to_owned()),
            Self::Email => (text.parse::<domain::EmailAddress>().is_ok(), "an e-mail address".to_owned()),
            Self::Text => (!text.is_empty(), "a text".to_owned()),
        };
        (!fits).then_some(expected)
    }

    /// The JSON schema.
    pub(crate) fn schema(self) -> Value {
        match self {
            Self::Id => json!({ "type": "string", "pattern": "^[0-9a-fA-F]{32}$" }),
            Self::IdPrefix => json!({ "type": "string", "pattern": "^[0-9a-fA-F]{1,32}$" }),
            Self::Count(most) => json!({ "type": "integer", "minimum": 1, "maximum": most }),
            Self::Number => json!({ "type": "integer", "minimum": 0, "maximum": i64::MAX }),
            Self::Flag => json!({ "type": "boolean" }),
            Self::Month => json!({ "type": "string", "pattern": "^[0-9]{4}-(0[1-9]|1[0-2])$" }),
            Self::Address => json!({ "type": "string", "format": "ipv4" }),
            Self::Email => json!({ "type": "string", "format": "email", "maxLength": LONGEST }),
            Self::Text => json!({ "type": "string", "minLength": 1, "maxLength": LONGEST }),
        }
    }
}

/// The number of a month that is written as `2026-11`, see [`domain::Month::number`].
pub(crate) fn month(text: &str) -> Option<u32> {
    let (year, month) = text.split_once('-').filter(|(year, month)| (year.len(), month.len()) == (4, 2))?;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let month: u32 = month.parse().ok().filter(|number| (1..=12).contains(number) && digits(month))?;
    Some(year.parse::<u32>().ok().filter(|_| digits(year))? * 12 + month - 1)
}

/// The first and the last id that begin with these digits.
pub(crate) fn first_and_last(digits: &str) -> ([u8; 16], [u8; 16]) {
    let filled = |filler: &str| {
        let text: String = digits.chars().chain(filler.repeat(32).chars()).take(32).collect();
        u128::from_str_radix(&text, 16).unwrap_or_default().to_be_bytes()
    };
    (filled("0"), filled("f"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_digits_of_an_id_are_a_range() {
        let (mut low, mut high) = ([0; 16], [0xff; 16]);
        assert_eq!(first_and_last(""), (low, high));
        (low[0], high[0], low[1], high[1]) = (0xab, 0xab, 0xc0, 0xcf);
        assert_eq!(first_and_last("AbC"), (low, high));
        assert_eq!(first_and_last(&"7".repeat(32)), ([0x77; 16], [0x77; 16]));
    }

    #[test]
    fn bounds_are_inclusive() {
        let good = [
            (Kind::Count(200), "200"),
            (Kind::Count(200), "1"),
            (Kind::Number, "9223372036854775807"),
            (Kind::Month, "0000-01"),
            (Kind::Month, "9999-12"),
            (Kind::IdPrefix, "a"),
            (Kind::Id, "00112233445566778899aabbccddeeff"),
            (Kind::Email, "anna@example.test"),
            (Kind::Text, "\u{1f41f}"),
        ];
        let bad = [
            (Kind::Count(200), "201"),
            (Kind::Count(200), "0"),
            (Kind::Count(200), "-1"),
            (Kind::Count(200), ""),
            (Kind::Number, "9223372036854775808"),
            (Kind::Month, "2026-13"),
            (Kind::Month, "2026-00"),
            (Kind::Month, "+026-01"),
            (Kind::Month, "2026-1"),
            (Kind::IdPrefix, ""),
            (Kind::Id, "00112233445566778899aabbccddeef"),
            (Kind::Id, "00112233445566778899aabbccddeefg"),
            (Kind::Flag, "True"),
            (Kind::Email, "anna"),
            (Kind::Text, ""),
        ];
        let check = |kind: Kind, text: &str| Parameter::new("p", kind, "").check(text);
        assert!(good.iter().all(|(kind, text)| check(*kind, text).is_ok()));
        assert!(bad.iter().all(|(kind, text)| check(*kind, text).is_err()));
        assert!(check(Kind::Text, &"x".repeat(LONGEST)).is_ok());
        assert!(check(Kind::Text, &"x".repeat(LONGEST + 1)).is_err());
    }
}
