//! Mail arrives, by either way: one suite for both.

use std::{path::Path, sync::Arc};

use auth::mail::{Letter, Mailer, SendError};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::Mutex,
    task::JoinSet,
};

macro_rules! conformance {
    ($($rule:ident),+ $(,)?) => {
        mod by_file {
            $(#[tokio::test]
            async fn $rule() {
                super::$rule(super::Office::with_folder()).await;
            })+
        }

        mod by_smtp {
            $(#[tokio::test]
            async fn $rule() {
                super::$rule(super::Office::with_server(super::Mood::Good).await).await;
            })+
        }
    };
}

conformance! {
    a_letter_arrives_whole,
    several_letters_arrive_one_by_one,
    the_same_letter_twice_can_be_told,
}

async fn a_letter_arrives_whole(office: Office) {
    office.mailer.send(&letter(1, "anna@example.test")).await.unwrap();
    let arrived = office.arrived().await;
    assert_eq!(arrived.len(), 1);
    for line in [
        "From: Buri <buri@example.test>",
        "To: anna@example.test",
        "Subject: Confirm it",
        "First line",
        // A line that is a dot would end a message of SMTP.
        ".",
        "last line",
    ] {
        assert!(arrived[0].lines().any(|found| found.trim_end() == line), "{line:?} is not in {}", arrived[0]);
    }
}

async fn several_letters_arrive_one_by_one(office: Office) {
    for id in 1..=5 {
        office.mailer.send(&letter(id, &format!("guest{id}@example.test"))).await.unwrap();
    }
    let arrived = office.arrived().await;
    assert_eq!(arrived.len(), 5);
    for id in 1..=5 {
        let to = format!("To: guest{id}@example.test");
        assert_eq!(arrived.iter().filter(|text| text.contains(&to)).count(), 1, "{to}");
    }
}

async fn the_same_letter_twice_can_be_told(office: Office) {
    for _ in 0..2 {
        office.mailer.send(&letter(9, "anna@example.test")).await.unwrap();
    }
    let id = format!("Message-ID: <{}@example.test>", "09".repeat(16));
    assert!(office.arrived().await.iter().all(|text| text.contains(&id)));
}

#[tokio::test]
async fn what_a_server_refuses_for_good_is_told_from_what_may_be_tried_again() {
    for (mood, forever) in [(Mood::Never, true), (Mood::Later, false)] {
        let office = Office::with_server(mood).await;
        let refused = office.mailer.send(&letter(1, "anna@example.test")).await.unwrap_err();
        assert_eq!(matches!(refused, SendError::Refused(_)), forever, "{refused:?}");
    }
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mailer = Mailer::at(&format!("smtp://{nobody}"), FROM).unwrap();
    assert!(matches!(mailer.send(&letter(1, "anna@example.test")).await, Err(SendError::Smtp(_))));
}

#[tokio::test]
async fn a_mailer_is_a_folder_or_an_smtp_server() {
    for url in ["", "mail", "file://relative", "http://example.test", "smtp", "sendmail:"] {
        assert!(Mailer::at(url, FROM).is_err(), "{url}");
    }
    assert!(Mailer::at("file:///tmp", "nobody").is_err());
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_an_error_to_be_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let mailer = Mailer::at(&format!("file://{}/file", folder.path().display()), FROM).unwrap();
    assert!(matches!(mailer.send(&letter(1, "anna@example.test")).await, Err(SendError::File { .. })));
}

const FROM: &str = "Buri <buri@example.test>";

fn letter(id: u8, to: &str) -> Letter {
    Letter {
        id: [id; 16],
        to: to.parse().unwrap(),
        subject: "Confirm it".into(),
        text: "First line\n.\nlast line\n".into(),
    }
}

/// A mailer and where its mail arrives.
struct Office {
    mailer: Mailer,
    place: Place,
}

enum Place {
    Folder(tempfile::TempDir),
    Server { taken: Arc<Mutex<Vec<String>>>, _task: JoinSet<()> },
}

/// What a server does with recipients.
#[derive(Clone, Copy)]
pub(crate) enum Mood {
    Good,
    Later,
    Never,
}

impl Office {
    fn with_folder() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mailer = Mailer::at(&format!("file://{}/mail", folder.path().display()), FROM).unwrap();
        Self { mailer, place: Place::Folder(folder) }
    }

    async fn with_server(mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mailer = Mailer::at(&format!("smtp://{}", listener.local_addr().unwrap()), FROM).unwrap();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let mut task = JoinSet::new();
        task.spawn(serve(listener, mood, Arc::clone(&taken)));
        Self { mailer, place: Place::Server { taken, _task: task } }
    }

    async fn arrived(&self) -> Vec<String> {
        match &self.place {
            Place::Folder(folder) => in_folder(&folder.path().join("mail")).into_iter().collect(),
            Place::Server { taken, .. } => taken.lock().await.clone(),
        }
    }
}

/// The messages in a folder of the file mailer.
pub(crate) fn in_folder(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let messages = entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().unwrap() == "eml");
    messages.map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

/// An SMTP server (RFC 5321) that takes whatever comes, as far as its mood allows.
async fn serve(listener: TcpListener, mood: Mood, taken: Arc<Mutex<Vec<String>>>) {
    let mut sessions = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let taken = Arc::clone(&taken);
        sessions.spawn(async move {
            // A client that goes away ends its session.
            let _ = session(stream, mood, &taken).await;
        });
    }
}

async fn session(stream: TcpStream, mood: Mood, taken: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let (reading, mut writing) = stream.into_split();
    let mut lines = BufReader::new(reading).lines();
    writing.write_all(b"220 test\r\n").await?;
    let mut message: Option<String> = None;
    while let Some(line) = lines.next_line().await? {
        if let Some(text) = &mut message {
            if line == "." {
                taken.lock().await.push(message.take().unwrap());
                writing.write_all(b"250 taken\r\n").await?;
            } else {
                text.push_str(line.strip_prefix('.').unwrap_or(&line));
                text.push('\n');
            }
            continue;
        }
        let verb = line.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
        let answer = match (verb.as_str(), mood) {
            ("RCPT", Mood::Later) => "451 later",
            ("RCPT", Mood::Never) => "550 never",
            ("DATA", _) => {
                message = Some(String::new());
                "354 go on"
            }
            ("EHLO", _) => "250 test",
            ("QUIT", _) => "221 bye",
            _ => "250 ok",
        };
        writing.write_all(format!("{answer}\r\n").as_bytes()).await?;
    }
    Ok(())
}
