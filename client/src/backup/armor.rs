//! Bytes as text that survives mail, paper and clipboards: lines of base64 between two markers.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::BackupError;

/// The longest text that is read, in bytes.
pub const MAX_TEXT: usize = 32 * 1024 * 1024;

pub(super) const BEGIN: &str = "-----BEGIN BURI KEY BACKUP-----";
const END: &str = "-----END BURI KEY BACKUP-----";
const LINE: usize = 64;

/// The text; `None` when it would be longer than is read.
pub(super) fn wrap(bytes: &[u8]) -> Option<String> {
    let digits = STANDARD.encode(bytes);
    let mut text = String::with_capacity(digits.len() + digits.len() / LINE + 2 * LINE);
    text.push_str(BEGIN);
    text.push('\n');
    for line in digits.as_bytes().chunks(LINE) {
        text.extend(line.iter().map(|digit| char::from(*digit)));
        text.push('\n');
    }
    text.push_str(END);
    text.push('\n');
    (text.len() <= MAX_TEXT).then_some(text)
}

/// The bytes of the first such text in `text`; whatever is around it does not count.
pub(super) fn unwrap(text: &str) -> Result<Vec<u8>, BackupError> {
    let (_, rest) = text.split_once(BEGIN).ok_or(BackupError::Foreign)?;
    let (digits, _) = rest.split_once(END).ok_or(BackupError::Damaged)?;
    let digits: String = digits.split_ascii_whitespace().collect();
    STANDARD.decode(digits).map_err(|_| BackupError::Damaged)
}
