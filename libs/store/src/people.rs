//! People, their accounts, and what belongs to those.

use std::time::Duration;

use async_trait::async_trait;
use domain::{
    AccountExport, AccountId, AccountOrder, AccountView, ClientId, EmailAddress, PersonId, Role, SeatsLost, TokenHash,
    UnixMillis,
};

use crate::Error;

/// People and accounts.
///
/// Writes to an account begin with raising its revision, which locks its row: before the locks of networks and clients. A token
/// is deleted by the statement that uses it, so it is used once however many try.
#[async_trait]
pub trait People: Send + Sync {
    /// Keeps that somebody wants to log in with `email` and this password, and a mail to that address; or, when a person has
    /// it already, only a mail that says so. The caller cannot tell which.
    async fn ask_sign_up(
        &self,
        email: EmailAddress,
        password: PasswordHash,
        fresh: Fresh,
        at: UnixMillis,
    ) -> Result<(), Error>;

    /// The password that belongs to a sign-up; `None` when there is none with this token any more.
    async fn sign_up_password(&self, token: TokenHash, at: UnixMillis) -> Result<Option<PasswordHash>, Error>;

    /// Makes the person and an account of its own, and logs it in. `None` when the token is used up, or somebody has the address.
    async fn confirm_sign_up(
        &self,
        token: TokenHash,
        session: NewSession,
        at: UnixMillis,
    ) -> Result<Option<PersonId>, Error>;

    /// What a password is checked with.
    async fn credentials(&self, email: &EmailAddress) -> Result<Option<Credentials>, Error>;

    /// Logs `person` in. Forgets the person's sessions that are over, and the oldest beyond [`MAX_SESSIONS`].
    async fn open_session(&self, person: PersonId, session: NewSession, at: UnixMillis) -> Result<(), Error>;

    /// Who has this session.
    async fn person(&self, session: TokenHash, at: UnixMillis) -> Result<Option<Person>, Error>;

    /// Ends one session, or all of a person; returns how many.
    async fn end_sessions(&self, which: Sessions) -> Result<u64, Error>;

    /// Gives `person` another password and ends all its sessions but `kept`.
    async fn set_password(&self, person: PersonId, password: PasswordHash, kept: TokenHash) -> Result<(), Error>;

    /// Keeps a token that sets another password, and a mail with it, if a person has this address.
    async fn ask_reset(&self, email: EmailAddress, fresh: Fresh, at: UnixMillis) -> Result<(), Error>;

    /// Sets another password and ends all sessions of the person; `false` when the token is used up.
    async fn reset(&self, token: TokenHash, password: PasswordHash, at: UnixMillis) -> Result<bool, Error>;

    /// Makes `person` part of the account that invited its address.
    async fn accept(&self, person: PersonId, token: TokenHash, at: UnixMillis) -> Result<AccountId, AccountError>;

    /// Carries out what `actor` orders for `account`, if it may (see [`domain::may_in_account`]). `fresh` is what an invitation
    /// or a code is made of.
    async fn carry_out_for(
        &self,
        actor: PersonId,
        account: AccountId,
        order: AccountOrder,
        fresh: Fresh,
        at: UnixMillis,
    ) -> Result<(), AccountError>;

    /// The account as its people see it.
    async fn view(&self, actor: Actor, account: AccountId, at: UnixMillis) -> Result<AccountView, AccountError>;

    /// Everything that is kept about the account.
    async fn export(&self, actor: Actor, account: AccountId, at: UnixMillis) -> Result<AccountExport, AccountError>;

    /// Forgets the account and everybody who is in no other. Its clients go on as clients without an account.
    async fn erase(&self, actor: Actor, account: AccountId, at: UnixMillis) -> Result<(), AccountError>;

    /// Makes `client` part of the account that made the code. Repeated after a success, it gives the same answer.
    async fn attach(&self, client: ClientId, code: TokenHash, at: UnixMillis) -> Result<Attachment, AttachError>;

    /// The account of `client`.
    async fn attachment(&self, client: ClientId) -> Result<Option<Attachment>, Error>;

    /// Takes `client` out of its account; `false` when it is in none. Not while operators hold something against the account:
    /// that would be a way around it.
    async fn detach(&self, client: ClientId, at: UnixMillis) -> Result<bool, AccountError>;

    /// A page of accounts by id.
    async fn accounts(
        &self,
        search: AccountSearch,
        after: Option<AccountId>,
        limit: u16,
    ) -> Result<Vec<AccountSummary>, Error>;

    /// Makes `heir`, who is in the account, its owner; the old one becomes an admin. An operator's doing: also while the account
    /// is suspended.
    async fn transfer_account(&self, account: AccountId, heir: PersonId) -> Result<(), AccountError>;

    /// Takes `client` out of `account`. An operator's doing.
    async fn detach_from(&self, account: AccountId, client: ClientId) -> Result<(), AccountError>;

    /// Who would lose a seat if the account were put on this plan.
    async fn seats_lost_by_account(&self, account: AccountId, plan: &str) -> Result<SeatsLost, AccountError>;

    /// Puts an account, its clients and its networks on another plan.
    async fn assign_account_plan(&self, account: AccountId, plan: &str) -> Result<(), AccountError>;

    /// Lets people act for the account, or no more.
    async fn set_account_standing(
        &self,
        account: AccountId,
        standing: crate::Standing,
        at: UnixMillis,
    ) -> Result<(), AccountError>;

    /// Keeps that somebody is about to log in at a provider: `person` to connect it, or nobody yet.
    async fn start_provider(&self, flow: TokenHash, person: Option<PersonId>, expires: UnixMillis)
    -> Result<(), Error>;

    /// Logs in whom the provider vouches for, making the person and an account when the address is new.
    async fn finish_provider(
        &self,
        flow: TokenHash,
        who: Vouched,
        session: NewSession,
        at: UnixMillis,
    ) -> Result<PersonId, ProviderError>;

    /// Takes a mail that is due; nobody else gets it within `lease`.
    async fn take_mail(&self, lease: Duration, at: UnixMillis) -> Result<Option<Mail>, Error>;

    /// The mail is on its way, or given up.
    async fn forget_mail(&self, mail: [u8; 16]) -> Result<(), Error>;

    /// The mail is tried again at `due`.
    async fn postpone_mail(&self, mail: [u8; 16], due: UnixMillis) -> Result<(), Error>;

    /// Forgets tokens and sessions that are over; returns how many.
    async fn prune_people(&self, at: UnixMillis) -> Result<u64, Error>;
}

/// Sessions of one person at once.
pub const MAX_SESSIONS: i64 = 32;

/// A password hash in PHC form.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(pub String);

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}

/// What is drawn anew for a token: its hash, what it is derived from, and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fresh {
    pub token: TokenHash,
    /// Kept with the mail.
    pub nonce: [u8; 16],
    pub expires: UnixMillis,
}

/// A session to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewSession {
    pub token: TokenHash,
    pub expires: UnixMillis,
}

/// Which sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sessions {
    One(TokenHash),
    AllOf(PersonId),
}

/// What a password is checked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub person: PersonId,
    /// `None`: the person logs in through a provider.
    pub password: Option<PasswordHash>,
}

/// Somebody who is logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    pub person: PersonId,
    pub email: EmailAddress,
    /// Oldest membership first.
    pub accounts: Vec<Belonging>,
}

/// What a person is in an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Belonging {
    pub account: AccountId,
    pub role: Role,
    pub plan: String,
    pub suspended: bool,
    /// Of the account's owner.
    pub owner: Option<EmailAddress>,
}

/// Which accounts are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccountSearch {
    /// Those whose id lies between the two, both included.
    Ids(AccountId, AccountId),
    /// Those of the person with this address.
    Email(EmailAddress),
}

impl AccountSearch {
    /// All of them.
    pub const ALL: Self = Self::Ids(AccountId::from_bytes([0; 16]), AccountId::from_bytes([0xff; 16]));
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    Person(PersonId),
    Operator,
}

/// Where a client belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub account: AccountId,
    pub plan: String,
}

/// An account as an operator sees it in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountSummary {
    pub account: AccountId,
    pub plan: String,
    pub suspended: bool,
    pub owner: Option<EmailAddress>,
    pub people: u32,
    pub clients: u32,
    pub made: UnixMillis,
}

/// Whom a provider vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vouched {
    pub issuer: String,
    pub subject: String,
    /// Which the provider has verified.
    pub email: EmailAddress,
}

/// What a mail says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailKind {
    /// Prove the address, to sign up.
    SignUp = 0,
    /// Somebody tried to sign up with an address that has a person.
    Known = 1,
    Reset = 2,
    Invitation = 3,
    /// The password was changed.
    Changed = 4,
}

impl MailKind {
    /// Every kind, in the order of the numbers.
    pub const ALL: [Self; 5] = [Self::SignUp, Self::Known, Self::Reset, Self::Invitation, Self::Changed];
}

/// A mail to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    pub id: [u8; 16],
    pub kind: MailKind,
    pub recipient: EmailAddress,
    pub nonce: [u8; 16],
    /// This one included.
    pub tries: u32,
}

/// Why something was not done to an account.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    #[error("there is no such account for this person")]
    Unknown,
    #[error("the role does not allow it")]
    NotPermitted,
    #[error("the account is suspended")]
    Suspended,
    #[error("what it is about is not there")]
    TargetUnknown,
    #[error("the token is used up, expired, or somebody else's")]
    Token,
    #[error("the network's owner is no client of the account")]
    NotOwned,
    #[error("something is out of its bounds")]
    Invalid,
    #[error("there are {limit} already")]
    LimitReached { limit: u32 },
    #[error("there is no such plan")]
    Plan,
    #[error("storage failed")]
    Store(#[from] Error),
}

/// Why a client was not attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("the code is wrong, used or expired")]
    Code,
    #[error("the client belongs to another account")]
    Elsewhere,
    #[error("the account has {limit} clients already")]
    Full { limit: u32 },
    #[error("the account is suspended")]
    Suspended,
    #[error("storage failed")]
    Store(#[from] Error),
}

/// Why somebody whom a provider vouches for is not logged in.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    #[error("the log-in was not begun here, or too long ago")]
    Flow,
    #[error("the address belongs to a person who has not connected the provider")]
    Connect,
    #[error("the provider's person is connected to somebody else")]
    Taken,
    #[error("storage failed")]
    Store(#[from] Error),
}
