//! What a person has: a program that speaks HTTP and keeps a session.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use serde_json::Value;

/// Somebody who uses the self-service.
pub(crate) struct Browser<'a> {
    address: &'a str,
    /// The header lines that every request has.
    headers: String,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl<'a> Browser<'a> {
    pub(crate) fn at(address: &'a str) -> Self {
        Self { address, headers: String::new() }
    }

    /// The same with these header lines.
    pub(crate) fn with(&self, headers: &str) -> Self {
        Self { address: self.address, headers: headers.to_owned() }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "")
    }

    pub(crate) fn post(&self, path: &str, document: &Value) -> Answer {
        self.ask("POST", path, &document.to_string())
    }

    pub(crate) fn delete(&self, path: &str) -> Answer {
        self.ask("DELETE", path, "")
    }

    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        let kind = if self.headers.contains("Content-Type") || body.is_empty() {
            ""
        } else {
            "Content-Type: application/json\r\n"
        };
        let mut stream = TcpStream::connect(self.address).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: buri\r\nConnection: close\r\nContent-Length: {}\r\n{kind}{}\r\n{body}",
            body.len(),
            self.headers
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }
}

impl Answer {
    /// The document of an answer with this status.
    #[track_caller]
    pub(crate) fn of(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }

    /// The code of a problem with this status.
    #[track_caller]
    pub(crate) fn problem(self, status: u16) -> String {
        assert!(self.head.to_ascii_lowercase().contains("application/problem+json"), "{self:?}");
        self.of(status)["code"].as_str().unwrap().to_owned()
    }

    /// The cookie that a browser keeps of it.
    #[track_caller]
    pub(crate) fn cookie(&self) -> String {
        let line = self.head.lines().find(|line| line.to_ascii_lowercase().starts_with("set-cookie:"));
        let line = line.unwrap_or_else(|| panic!("no cookie in {self:?}"));
        for flag in ["HttpOnly", "SameSite=Strict", "Path=/v1/account"] {
            assert!(line.contains(flag), "{flag} is not in {line}");
        }
        line.split_once(':').unwrap().1.split(';').next().unwrap().trim().to_owned()
    }
}
