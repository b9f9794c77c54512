//! Mail: what it says, and the two ways it goes. One file per message in a folder, or SMTP.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::PathBuf,
    time::Duration,
};

use domain::{EmailAddress, OneTimeToken};
use lettre::{
    Address, AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor,
    message::{Mailbox, header::ContentType},
    transport::smtp,
};
use store::MailKind;

/// How long one message may take to be handed over.
const DEADLINE: Duration = Duration::from_secs(30);

/// Why a mailer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MailerError {
    #[error("not a mailer: file:///folder, smtp://host:port and smtps://user:password@host are")]
    Url,
    #[error("the sender is no e-mail address")]
    Sender,
    #[error("not a URL of an SMTP server")]
    Smtp(#[from] smtp::Error),
}

/// Why a message did not go out.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Trying again is of no use.
    #[error("the message is refused for good")]
    Refused(#[source] smtp::Error),
    #[error("the SMTP server did not take the message")]
    Smtp(#[source] smtp::Error),
    #[error("the message cannot be written to {path}")]
    File { path: PathBuf, source: io::Error },
    #[error("the message has no form")]
    Form,
}

/// Where messages go.
pub struct Mailer {
    from: Mailbox,
    way: Way,
}

enum Way {
    File(PathBuf),
    Smtp(Box<AsyncSmtpTransport<Tokio1Executor>>),
}

impl std::fmt::Debug for Mailer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailer").finish_non_exhaustive()
    }
}

/// A message as people read it.
#[derive(Clone, PartialEq, Eq)]
pub struct Letter {
    /// The same for every try: whoever gets it twice can tell.
    pub id: [u8; 16],
    pub to: EmailAddress,
    pub subject: String,
    pub text: String,
}

impl std::fmt::Debug for Letter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Letter(..)")
    }
}

impl Mailer {
    /// The mailer that `url` selects: `file:///folder`, `smtp://host:port`, or `smtps://user:password@host`; `?tls=required`
    /// after the second makes it insist on STARTTLS.
    ///
    /// # Errors
    /// [`MailerError`] for anything else.
    pub fn at(url: &str, from: &str) -> Result<Self, MailerError> {
        let from: Mailbox = from.parse().map_err(|_| MailerError::Sender)?;
        let way = match url.split_once("://") {
            Some(("file", path)) if path.starts_with('/') => Way::File(path.into()),
            Some(("smtp" | "smtps", _)) => {
                let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(url)?.timeout(Some(DEADLINE));
                Way::Smtp(Box::new(transport.build()))
            }
            _ => return Err(MailerError::Url),
        };
        Ok(Self { from, way })
    }

    /// Hands `letter` over. It arrives once or, after a failure that was none, more often.
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn send(&self, letter: &Letter) -> Result<(), SendError> {
        let name: String = letter.id.iter().map(|byte| format!("{byte:02x}")).collect();
        let to: Address = letter.to.as_str().parse().map_err(|_| SendError::Form)?;
        let message = Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(letter.subject.clone())
            .message_id(Some(format!("<{name}@{}>", self.from.email.domain())))
            .header(ContentType::TEXT_PLAIN)
            .body(letter.text.clone())
            .map_err(|_| SendError::Form)?;
        match &self.way {
            Way::File(folder) => {
                let path = folder.join(format!("{name}.eml"));
                let (bytes, folder, written) = (message.formatted(), folder.clone(), path.clone());
                let write = tokio::task::spawn_blocking(move || write(&folder, &written, &bytes));
                let done = write.await.unwrap_or_else(|crashed| Err(io::Error::other(crashed)));
                done.map_err(|source| SendError::File { path, source })
            }
            Way::Smtp(transport) => match transport.send(message).await {
                Ok(_) => Ok(()),
                Err(error) if error.is_permanent() => Err(SendError::Refused(error)),
                Err(error) => Err(SendError::Smtp(error)),
            },
        }
    }
}

/// Writes the message whole or not at all, for its owner only.
fn write(folder: &std::path::Path, path: &std::path::Path, bytes: &[u8]) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let partial = path.with_extension("partial");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&partial, path)
}

/// What a mail of this kind says. `site` is where people find their account.
pub(crate) fn compose(kind: MailKind, site: &str, token: &OneTimeToken) -> (&'static str, String) {
    let link = |what: &str| format!("{site}/account#{what}={}\n\nToken: {}", token.reveal(), token.reveal());
    match kind {
        MailKind::SignUp => (
            "Confirm your e-mail address",
            format!(
                "Somebody, hopefully you, made a Buri account with this address. To confirm it, follow the link and enter \
                 the password that you chose:\n\n{}\n\nIf it was not you, do nothing: the account will never exist.\n",
                link("verify")
            ),
        ),
        MailKind::Known => (
            "You already have an account",
            format!(
                "Somebody, perhaps you, tried to make a Buri account with this address. You have one: log in, or set \
                 another password, at\n\n{site}/account\n\nIf it was not you, there is nothing to do.\n"
            ),
        ),
        MailKind::Reset => (
            "Set another password",
            format!(
                "Somebody, hopefully you, asked for another password for your Buri account. To set it, follow the \
                 link:\n\n{}\n\nIf it was not you, do nothing: your password stays as it is.\n",
                link("reset")
            ),
        ),
        MailKind::Invitation => (
            "You are invited to an account",
            format!(
                "Somebody invites you to share a Buri account. To accept, follow the link and log in with this address, or \
                 sign up with it first:\n\n{}\n\nIf you do not know what this is about, do nothing.\n",
                link("accept")
            ),
        ),
        MailKind::Changed => (
            "Your password was changed",
            format!(
                "The password of your Buri account was set anew, and all sessions were ended. If it was not you, set \
                 another one at once, at\n\n{site}/account\n"
            ),
        ),
    }
}
