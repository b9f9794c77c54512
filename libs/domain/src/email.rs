//! E-mail addresses that people log in with.

use crate::name::text_value;

/// Why a text is not an e-mail address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EmailError {
    #[error("an e-mail address has at most {limit} bytes")]
    Length { limit: usize },
    #[error("this is no e-mail address: NAME@DOMAIN, in ASCII, is")]
    Form,
}

/// An address as RFC 5321 allows it without quoting or comments, in lower case: two spellings of one mailbox that differ in
/// case only are one person. Domains in other scripts are written in their ASCII form.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EmailAddress(String);

impl EmailAddress {
    /// The longest address (RFC 5321, section 4.5.3.1.3, without the brackets).
    pub const MAX_BYTES: usize = 254;

    /// The address in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

text_value!(EmailAddress, EmailError, checked);

/// The longest name before the `@`.
const MAX_LOCAL_BYTES: usize = 64;

/// The longest label of a domain.
const MAX_LABEL_BYTES: usize = 63;

fn checked(text: &str) -> Result<String, EmailError> {
    let text = text.trim();
    if text.len() > EmailAddress::MAX_BYTES {
        return Err(EmailError::Length { limit: EmailAddress::MAX_BYTES });
    }
    let (local, domain) = text.rsplit_once('@').ok_or(EmailError::Form)?;
    let atom = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || ATOM.contains(&b));
    let label = |part: &str| {
        (1..=MAX_LABEL_BYTES).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    let good = local.len() <= MAX_LOCAL_BYTES
        && local.split('.').all(atom)
        && domain.contains('.')
        && domain.split('.').all(label);
    if good { Ok(text.to_ascii_lowercase()) } else { Err(EmailError::Form) }
}

/// What a name may have beside letters and digits (`atext` of RFC 5322).
const ATOM: &[u8] = b"!#$%&'*+-/=?^_`{|}~";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_space_around_do_not_matter() {
        let address: EmailAddress = " Anna.B+buri@Example.TEST ".parse().unwrap();
        assert_eq!(address.as_str(), "anna.b+buri@example.test");
    }

    #[test]
    fn what_could_be_a_header_or_another_mailbox_is_refused() {
        for text in [
            "",
            "@",
            "anna",
            "anna@",
            "@example.test",
            "anna@example",
            "a b@example.test",
            "anna@example.test\r\nBcc: x@y.z",
            "anna@exa mple.test",
            ".anna@example.test",
            "an..na@example.test",
            "anna@-example.test",
            "anna@example-.test",
            "anna@example..test",
            "änna@example.test",
            "\"anna\"@example.test",
            "anna@[192.0.2.1]",
            "<anna@example.test>",
            "a@b@example.test",
            "anna,bert@example.test",
        ] {
            assert_eq!(text.parse::<EmailAddress>(), Err(EmailError::Form), "{text}");
        }
    }

    #[test]
    fn lengths_are_bounded() {
        let local = |bytes| format!("{}@example.test", "a".repeat(bytes)).parse::<EmailAddress>();
        assert!(local(64).is_ok() && local(65).is_err());
        let label = |bytes| format!("a@{}.test", "b".repeat(bytes)).parse::<EmailAddress>();
        assert!(label(63).is_ok() && label(64).is_err());
        let whole = |bytes: usize| {
            let labels = format!("{0}.{0}.{0}.", "b".repeat(60));
            format!("{}@{labels}{}", "a".repeat(8), "c".repeat(bytes - 9 - labels.len())).parse::<EmailAddress>()
        };
        assert!(whole(235).is_ok());
        assert_eq!("a".repeat(255).parse::<EmailAddress>(), Err(EmailError::Length { limit: 254 }));
    }

    #[test]
    fn decoding_validates() {
        assert!(minicbor::decode::<EmailAddress>(&minicbor::to_vec("anna").unwrap()).is_err());
        assert!(serde_json::from_str::<EmailAddress>("\"anna\"").is_err());
    }
}
