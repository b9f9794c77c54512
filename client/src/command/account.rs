//! The account that this machine belongs to.

use domain::{AccountId, AttachCode, ClientAccount};
use serde::{Deserialize, Serialize};

/// What a user wants with the account.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccountWish {
    Status,
    /// The code is as typed: whoever uses it does so once, and soon.
    Attach(String),
    Detach,
}

impl std::fmt::Debug for AccountWish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Status => "Status",
            Self::Attach(_) => "Attach(..)",
            Self::Detach => "Detach",
        })
    }
}

impl AccountWish {
    /// The code to attach with; `None` for other wishes, an error for what cannot be a code.
    pub(crate) fn code(&self) -> Option<Result<AttachCode, domain::SecretError>> {
        match self {
            Self::Attach(typed) => Some(AttachCode::read(typed)),
            Self::Status | Self::Detach => None,
        }
    }
}

/// `buri account status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountStatus {
    pub attached: bool,
    pub account: Option<AccountId>,
    pub plan: Option<String>,
}

impl From<Option<ClientAccount>> for AccountStatus {
    fn from(account: Option<ClientAccount>) -> Self {
        let (id, plan) = account.map(|account| (account.account, account.plan)).unzip();
        Self { attached: id.is_some(), account: id, plan }
    }
}
