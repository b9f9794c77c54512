//! Calls to auth about people and their accounts.
//!
//! A person shows a session with every call; whoever has none gets the same answers whether an address is known or not.

use std::time::Duration;

use domain::{
    AccountExport, AccountId, AccountOrder, AccountView, AttachCode, ClientAccount, ClientId, EmailAddress,
    OneTimeToken, Passphrase, PersonId, Role, SeatsLost, SessionToken, SourcePrefix, UnixMillis,
};
use minicbor::{Decode, Encode};

/// Why something is not done for a person, a client or an operator.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum AccountRefusal {
    /// The session is over, or was none.
    #[n(0)]
    NotLoggedIn,
    /// No such address, or the password is wrong.
    #[n(1)]
    Denied,
    /// The token is used up, expired, or somebody else's.
    #[n(2)]
    Token,
    /// The role does not allow it.
    #[n(3)]
    NotPermitted,
    #[n(4)]
    Suspended,
    /// There is no such account for this person, or nothing there by that id.
    #[n(5)]
    Unknown,
    /// The network's owner is no client of the account.
    #[n(6)]
    NotOwned,
    #[n(7)]
    Invalid,
    #[n(8)]
    LimitReached {
        #[n(0)]
        limit: u32,
    },
    /// There is no such plan.
    #[n(9)]
    Plan,
    /// Too many tries.
    #[n(10)]
    Limited {
        #[n(0)]
        retry_after_ms: u32,
    },
    /// Too much to do; nothing was done.
    #[n(11)]
    Busy {
        #[n(0)]
        retry_after_ms: u32,
    },
    /// The code for a client is wrong, used or expired.
    #[n(12)]
    Code,
    /// The client belongs to another account.
    #[n(13)]
    Elsewhere,
    /// Something failed; the number is in the log.
    #[n(14)]
    Internal {
        #[n(0)]
        incident: u64,
    },
    /// No provider is configured.
    #[n(15)]
    NoProvider,
    /// The provider does not vouch for anybody with an e-mail address.
    #[n(16)]
    Unvouched,
    /// The address belongs to a person who has to connect the provider first.
    #[n(17)]
    ConnectFirst,
    /// The provider's person is connected to somebody else.
    #[n(18)]
    Taken,
}

macro_rules! calls {
    ($($subject:literal: $call:ty => $reply:ty),+ $(,)?) => {
        $(call!($call, $subject, $reply, AccountRefusal, Duration::from_secs(10));)+
    };
}

calls! {
    "auth.person.sign-up": SignUp => Done,
    "auth.person.verify": Verify => PersonLoggedIn,
    "auth.person.log-in": PersonLogIn => PersonLoggedIn,
    "auth.person.log-out": LogOut => Done,
    "auth.person.who-am-i": WhoAmI => Me,
    "auth.person.change-password": ChangePassword => Done,
    "auth.person.ask-reset": AskReset => Done,
    "auth.person.reset": Reset => Done,
    "auth.provider.offered": OfferedProvider => Offered,
    "auth.provider.start": StartProvider => StartedProvider,
    "auth.provider.finish": FinishProvider => PersonLoggedIn,
    "auth.account.accept": Accept => AccountId,
    "auth.account.order": OrderForAccount => OrderedForAccount,
    "auth.account.view": ViewAccount => AccountView,
    "auth.account.export": ExportAccount => AccountExport,
    "auth.account.erase": EraseAccount => Done,
    "auth.client.attach": AttachClient => ClientAccount,
    "auth.client.detach": DetachClient => Done,
    "auth.client.account": AccountOfClient => Belongs,
    "auth.operator.accounts": ListAccounts => Accounts,
    "auth.operator.view": OperatorView => AccountView,
    "auth.operator.export": OperatorExport => AccountExport,
    "auth.operator.erase": OperatorErase => Done,
    "auth.operator.plan": AssignAccountPlan => Done,
    "auth.operator.plan.seats": SeatsLostByAccount => SeatsLost,
    "auth.operator.suspend": SuspendAccount => Done,
    "auth.operator.transfer": TransferAccount => Done,
    "auth.operator.detach": DetachFromAccount => Done,
}

/// It is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Done;

/// Somebody wants to log in with this address from now on. A mail proves it; the answer is the same for a known address.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SignUp {
    #[n(0)]
    pub email: EmailAddress,
    #[n(1)]
    pub password: Passphrase,
    #[n(2)]
    pub source: SourcePrefix,
}

/// The mail arrived. Whoever has it must know the password of the sign-up, too: otherwise somebody could sign up with
/// another's address and wait until that one follows the link.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Verify {
    #[n(0)]
    pub token: OneTimeToken,
    #[n(1)]
    pub password: Passphrase,
    #[n(2)]
    pub source: SourcePrefix,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PersonLogIn {
    #[n(0)]
    pub email: EmailAddress,
    #[n(1)]
    pub password: Passphrase,
    #[n(2)]
    pub source: SourcePrefix,
}

/// Somebody is logged in.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PersonLoggedIn {
    #[n(0)]
    pub session: SessionToken,
    #[n(1)]
    pub expires: UnixMillis,
}

/// Which sessions end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Where {
    #[n(0)]
    Here,
    #[n(1)]
    Everywhere,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LogOut {
    #[n(0)]
    pub session: SessionToken,
    #[n(1)]
    pub whence: Where,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct WhoAmI {
    #[n(0)]
    pub session: SessionToken,
}

/// A person and what it is in which accounts.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
pub struct Me {
    #[n(0)]
    pub person: PersonId,
    #[n(1)]
    pub email: EmailAddress,
    /// Oldest first; the first is meant where none is named.
    #[n(2)]
    pub accounts: Vec<MyAccount>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
pub struct MyAccount {
    #[n(0)]
    pub account: AccountId,
    #[n(1)]
    pub role: Role,
    #[n(2)]
    pub plan: String,
    #[n(3)]
    pub suspended: bool,
    /// The e-mail address of its owner.
    #[n(4)]
    pub owner: Option<EmailAddress>,
}

/// Ends all other sessions of the person.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ChangePassword {
    #[n(0)]
    pub session: SessionToken,
    #[n(1)]
    pub old: Passphrase,
    #[n(2)]
    pub new: Passphrase,
    #[n(3)]
    pub source: SourcePrefix,
}

/// A mail that sets another password goes to the address, if a person has it. The answer is the same if not.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AskReset {
    #[n(0)]
    pub email: EmailAddress,
    #[n(1)]
    pub source: SourcePrefix,
}

/// Ends all sessions of the person.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Reset {
    #[n(0)]
    pub token: OneTimeToken,
    #[n(1)]
    pub password: Passphrase,
    #[n(2)]
    pub source: SourcePrefix,
}

/// Whether people can log in through a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OfferedProvider;

/// The provider that people can log in through, by its issuer; `None`: there is none.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Offered {
    #[n(0)]
    pub issuer: Option<String>,
}

/// Somebody wants to log in through the provider, or, with a session, to connect it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StartProvider {
    #[n(0)]
    pub session: Option<SessionToken>,
    #[n(1)]
    pub source: SourcePrefix,
}

/// Where the browser goes.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct StartedProvider {
    #[n(0)]
    pub url: String,
    /// For the browser that began: whoever returns must have it.
    #[n(1)]
    pub state: OneTimeToken,
    #[n(2)]
    pub expires: UnixMillis,
}

impl std::fmt::Debug for StartedProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StartedProvider").finish_non_exhaustive()
    }
}

/// The browser is back.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct FinishProvider {
    #[n(0)]
    pub state: OneTimeToken,
    #[n(1)]
    pub code: String,
    #[n(2)]
    pub source: SourcePrefix,
}

impl std::fmt::Debug for FinishProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FinishProvider").finish_non_exhaustive()
    }
}

/// A person takes an invitation that was mailed to its address.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Accept {
    #[n(0)]
    pub session: SessionToken,
    #[n(1)]
    pub token: OneTimeToken,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OrderForAccount {
    #[n(0)]
    pub session: SessionToken,
    /// `None`: the person's first.
    #[n(1)]
    pub account: Option<AccountId>,
    #[n(2)]
    pub order: AccountOrder,
}

/// The order is carried out.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OrderedForAccount {
    /// For one client, when a code was ordered.
    #[n(0)]
    pub code: Option<AttachCode>,
    #[n(1)]
    pub code_expires: Option<UnixMillis>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ViewAccount {
    #[n(0)]
    pub session: SessionToken,
    #[n(1)]
    pub account: Option<AccountId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ExportAccount {
    #[n(0)]
    pub session: SessionToken,
    #[n(1)]
    pub account: Option<AccountId>,
}

/// The password is asked for again, from those who have one.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EraseAccount {
    #[n(0)]
    pub session: SessionToken,
    #[n(1)]
    pub account: Option<AccountId>,
    #[n(2)]
    pub password: Option<Passphrase>,
    #[n(3)]
    pub source: SourcePrefix,
}

/// A client with a session shows a code that somebody of the account gave it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AttachClient {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub code: AttachCode,
}

/// A client leaves its account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DetachClient {
    #[n(0)]
    pub client: ClientId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AccountOfClient {
    #[n(0)]
    pub client: ClientId,
}

/// The account of a client, or that it has none.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Belongs {
    #[n(0)]
    pub account: Option<ClientAccount>,
}

/// Which accounts are looked for.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum AccountSearch {
    /// Those whose id lies between the two, both included.
    #[n(0)]
    Ids(#[n(0)] AccountId, #[n(1)] AccountId),
    /// Those of the person with this address.
    #[n(1)]
    Email(#[n(0)] EmailAddress),
}

/// A page of accounts by id.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ListAccounts {
    #[n(0)]
    pub after: Option<AccountId>,
    #[n(1)]
    pub limit: u16,
    /// `None`: all of them.
    #[n(2)]
    pub search: Option<AccountSearch>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Accounts {
    #[n(0)]
    pub accounts: Vec<AccountLine>,
}

/// An account in a list.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
pub struct AccountLine {
    #[n(0)]
    pub account: AccountId,
    #[n(1)]
    pub plan: String,
    #[n(2)]
    pub suspended: bool,
    #[n(3)]
    pub owner: Option<EmailAddress>,
    #[n(4)]
    pub people: u32,
    #[n(5)]
    pub clients: u32,
    #[n(6)]
    #[serde(rename = "made_unix_ms")]
    pub made: UnixMillis,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OperatorView {
    #[n(0)]
    pub account: AccountId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OperatorExport {
    #[n(0)]
    pub account: AccountId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OperatorErase {
    #[n(0)]
    pub account: AccountId,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AssignAccountPlan {
    #[n(0)]
    pub account: AccountId,
    #[n(1)]
    pub plan: String,
}

/// Asks who would lose a seat by [`AssignAccountPlan`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SeatsLostByAccount {
    #[n(0)]
    pub account: AccountId,
    #[n(1)]
    pub plan: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SuspendAccount {
    #[n(0)]
    pub account: AccountId,
    /// Or lets it act again.
    #[n(1)]
    pub suspended: bool,
}

/// Makes somebody in the account its owner; the old one becomes an admin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TransferAccount {
    #[n(0)]
    pub account: AccountId,
    #[n(1)]
    pub heir: PersonId,
}

/// Takes a client out of the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DetachFromAccount {
    #[n(0)]
    pub account: AccountId,
    #[n(1)]
    pub client: ClientId,
}
