//! What operators and their programs may do through the API.

use std::{fmt, str::FromStr};

/// One part of what the API can do. No scope implies another: a token that also reads says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ApiScope {
    /// See clients, networks, sessions, relays, pairs, plans, usage and what happens.
    Read,
    /// Change networks and their members, and end sessions.
    Write,
    /// Drain and resume relays.
    Relays,
    /// Make, change and lift blocks.
    Blocks,
    /// See and change accounts, say who has which plan, and what plans there are.
    Accounts,
    /// See, make and revoke tokens: of the scopes that the maker has itself.
    Tokens,
    /// Read and check the audit log.
    Audit,
    /// See, make and change webhooks, and send again what they did not take.
    Webhooks,
}

impl ApiScope {
    /// Every scope.
    pub const ALL: [Self; 8] = [
        Self::Read,
        Self::Write,
        Self::Relays,
        Self::Blocks,
        Self::Accounts,
        Self::Tokens,
        Self::Audit,
        Self::Webhooks,
    ];

    /// The word that people write.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Relays => "relays",
            Self::Blocks => "blocks",
            Self::Accounts => "accounts",
            Self::Tokens => "tokens",
            Self::Audit => "audit",
            Self::Webhooks => "webhooks",
        }
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// A word that names no scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a scope: read, write, relays, blocks, accounts, tokens, audit and webhooks are")]
pub struct ParseScopeError;

impl FromStr for ApiScope {
    type Err = ParseScopeError;

    fn from_str(text: &str) -> Result<Self, ParseScopeError> {
        Self::ALL.into_iter().find(|scope| scope.name() == text).ok_or(ParseScopeError)
    }
}

impl fmt::Display for ApiScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of scopes. Its text form is their names with a blank between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ApiScopes(u16);

impl ApiScopes {
    /// Every scope there is.
    #[must_use]
    pub fn all() -> Self {
        ApiScope::ALL.into_iter().collect()
    }

    #[must_use]
    pub const fn has(self, scope: ApiScope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// Whether everything in `other` is here, too.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The scopes, in the order of [`ApiScope::ALL`].
    pub fn iter(self) -> impl Iterator<Item = ApiScope> {
        ApiScope::ALL.into_iter().filter(move |scope| self.has(*scope))
    }
}

impl FromIterator<ApiScope> for ApiScopes {
    fn from_iter<I: IntoIterator<Item = ApiScope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | scope.bit()))
    }
}

impl FromStr for ApiScopes {
    type Err = ParseScopeError;

    fn from_str(text: &str) -> Result<Self, ParseScopeError> {
        text.split_ascii_whitespace().map(str::parse).collect::<Result<Self, _>>()
    }
}

impl fmt::Display for ApiScopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, scope) in self.iter().enumerate() {
            write!(f, "{}{scope}", if nth > 0 { " " } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_read_back_from_their_text() {
        for scope in ApiScope::ALL {
            assert_eq!(scope.to_string().parse(), Ok(scope));
        }
        let some: ApiScopes = [ApiScope::Audit, ApiScope::Read].into_iter().collect();
        assert_eq!(some.to_string(), "read audit");
        assert_eq!("read audit".parse(), Ok(some));
        assert_eq!("read root".parse::<ApiScopes>(), Err(ParseScopeError));
        assert!("".parse::<ApiScopes>().unwrap().is_empty());
    }

    #[test]
    fn no_scope_implies_another() {
        for scope in ApiScope::ALL {
            let only: ApiScopes = [scope].into_iter().collect();
            for other in ApiScope::ALL {
                assert_eq!(only.has(other), other == scope);
            }
            assert!(ApiScopes::all().covers(only) && !only.covers(ApiScopes::all()));
        }
    }
}
