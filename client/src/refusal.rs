//! Why the server does not take this client in, in words and for scripts.

use domain::{BlockNotice, Degree, UnixMillis};
use serde::{Deserialize, Serialize};
use wire::{Code, control::Refused};

/// What the server said when it refused the last login.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlRefusal {
    /// The stable word of a `wire::Code`; `unknown` for one of a newer server.
    pub code: String,
    /// Not before this long after the refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u32>,
    /// What an operator holds against this client, when that is why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<BlockView>,
}

/// What an operator holds against this client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockView {
    pub degree: Degree,
    /// In the operator's words.
    pub reason: String,
    /// When it ends by itself.
    pub until_ms: UnixMillis,
}

impl From<&Refused> for ControlRefusal {
    fn from(refused: &Refused) -> Self {
        let code = Code::from_number(refused.code).map_or("unknown", Code::name);
        let block = refused.block.as_deref().map(|notice| BlockView {
            degree: notice.degree,
            reason: notice.reason.to_string(),
            until_ms: notice.until,
        });
        Self { code: code.to_owned(), retry_after_ms: refused.retry_after_ms, block }
    }
}

/// The reason of a block and its end.
#[must_use]
pub fn words(notice: &BlockNotice) -> String {
    format!("{}; until {}", notice.reason, utc(notice.until))
}

/// An instant as people write it, to the minute (the calendar of days by H. Hinnant's `civil_from_days`).
#[must_use]
pub fn utc(at: UnixMillis) -> String {
    let minutes = at.0 / 60_000;
    let (days, minute) = (minutes / 1_440, minutes % 1_440);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", minute / 60, minute % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_written_as_people_write_it() {
        assert_eq!(utc(UnixMillis(0)), "1970-01-01 00:00 UTC");
        assert_eq!(utc(UnixMillis(951_827_696_000)), "2000-02-29 12:34 UTC");
        assert_eq!(utc(UnixMillis(1_709_164_740_000)), "2024-02-28 23:59 UTC");
        assert_eq!(utc(UnixMillis(1_767_225_599_999)), "2025-12-31 23:59 UTC");
        assert!(utc(UnixMillis(u64::MAX)).ends_with("UTC"));
    }

    #[test]
    fn a_block_is_shown_with_its_reason_and_its_end() {
        let notice = BlockNotice {
            degree: Degree::Refuse,
            reason: "scripted sign-ups".parse().unwrap(),
            until: UnixMillis(951_827_696_000),
        };
        assert_eq!(words(&notice), "scripted sign-ups; until 2000-02-29 12:34 UTC");
        let refused = Refused { block: Some(Box::new(notice)), ..Refused::because(Code::Blocked) };
        let shown = serde_json::to_value(ControlRefusal::from(&refused)).unwrap();
        let expected = serde_json::json!({
            "code": "blocked",
            "block": { "degree": "refuse", "reason": "scripted sign-ups", "until_ms": 951_827_696_000_u64 },
        });
        assert_eq!(shown, expected);
    }
}
