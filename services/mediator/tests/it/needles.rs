//! Finds bytes in a log, however a program may have written them there, and addresses.

use std::{fmt::Write as _, net::IpAddr};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};

/// Pieces of a secret are as bad as the whole: of longer ones every part of so many bytes is looked for.
const PIECE: usize = 16;

/// One that must not be found.
#[derive(Debug)]
pub(crate) struct Needle {
    name: String,
    written: Vec<(&'static str, String)>,
}

/// A log in the forms that needles are looked for in.
#[derive(Debug)]
pub(crate) struct Haystack {
    text: String,
    lower: String,
    /// Without white space, so that `[1, 2]` and the lines of `{:#?}` are the same.
    dense: String,
}

impl Needle {
    /// Secret bytes.
    pub(crate) fn new(name: impl Into<String>, secret: &[u8]) -> Self {
        let pieces = if secret.len() < 2 * PIECE { vec![secret] } else { secret.chunks_exact(PIECE).collect() };
        assert!(pieces.iter().all(|piece| piece.len() >= 8), "what is so short is found by chance");
        Self { name: name.into(), written: pieces.into_iter().flat_map(forms).collect() }
    }

    /// How the secret is written in `haystack`, if it is.
    pub(crate) fn found_in(&self, haystack: &Haystack) -> Option<String> {
        let (form, written) = self.written.iter().find(|(form, written)| match *form {
            "hex" => haystack.lower.contains(written),
            "decimal" | "spaced hex" | "short hex" => haystack.dense.contains(written),
            _ => haystack.text.contains(written),
        })?;
        let line = haystack.text.lines().find(|line| line.contains(written.as_str())).unwrap_or("(over several lines)");
        Some(format!("{} as {form}: {line}", self.name))
    }
}

impl Haystack {
    pub(crate) fn new(log: &str) -> Self {
        // Colours would divide what belongs together.
        let mut text = String::new();
        for (nth, part) in log.split('\u{1b}').enumerate() {
            let code = if nth == 0 { None } else { part.find('m') };
            text.push_str(code.map_or(part, |end| &part[end + 1..]));
        }
        let lower = text.to_lowercase();
        let dense = lower.chars().filter(|letter| !letter.is_whitespace()).collect();
        Self { text, lower, dense }
    }

    /// Everything that reads as an IP address, with the line it is in.
    pub(crate) fn addresses(&self) -> Vec<(IpAddr, &str)> {
        let ends = |letter: char| !letter.is_ascii_alphanumeric() && letter != ':' && letter != '.';
        let words = self.text.lines().flat_map(|line| line.split(ends).map(move |word| (word, line)));
        words.filter_map(|(word, line)| Some((address(word.trim_end_matches(['.', ':']))?, line))).collect()
    }

    /// Whether `word` occurs in any case.
    pub(crate) fn names(&self, word: &str) -> bool {
        self.lower.contains(&word.to_lowercase())
    }
}

/// `word` as an IPv4 address with or without a port, or as an IPv6 address (its port is behind a bracket).
fn address(word: &str) -> Option<IpAddr> {
    let host = word.rsplit_once(':').filter(|(host, _)| host.contains('.') && !host.contains(':'));
    host.map_or(word, |(host, _)| host).parse().ok()
}

/// The ways in which bytes are written by accident.
fn forms(bytes: &[u8]) -> Vec<(&'static str, String)> {
    let joined = |piece: &dyn Fn(u8) -> String, between: &str| {
        bytes.iter().map(|&byte| piece(byte)).collect::<Vec<_>>().join(between)
    };
    let mut forms = vec![
        ("hex", joined(&|byte| format!("{byte:02x}"), "")),
        ("spaced hex", joined(&|byte| format!("{byte:02x}"), ",")),
        ("short hex", joined(&|byte| format!("{byte:x}"), ",")),
        ("decimal", joined(&|byte| byte.to_string(), ",")),
        ("escaped", bytes.escape_ascii().to_string()),
    ];
    if let Ok(text) = str::from_utf8(bytes) {
        forms.push(("raw", text.to_owned()));
    }
    for before in 0..3 {
        // Where the bytes stand in what was encoded decides their letters; those at the ends belong to others, too.
        let padded = [&[0; 2][..before], bytes].concat();
        let (first, last) = ((before * 8).div_ceil(6), padded.len() * 8 / 6);
        forms.push(("base64", STANDARD_NO_PAD.encode(&padded)[first..last].to_owned()));
        forms.push(("base64url", URL_SAFE_NO_PAD.encode(&padded)[first..last].to_owned()));
    }
    forms
}

#[test]
fn a_needle_is_found_in_every_form() {
    let secret: Vec<u8> = (0..32).map(|nth: u8| nth.wrapping_mul(37) ^ 0xfb).collect();
    let needle = Needle::new("secret", &secret);
    let base64 = |before: &[u8], after: &[u8]| URL_SAFE_NO_PAD.encode([before, &secret, after].concat());
    let mut hex = String::new();
    for byte in &secret[..20] {
        write!(hex, "{byte:02X}").unwrap();
    }
    let logs = [
        ("upper hex of a part", hex),
        ("list", format!("key={secret:?}")),
        ("list over lines", format!("{secret:#?}")),
        ("list of hex", format!("{secret:02x?}")),
        ("list of short hex", format!("{secret:X?}")),
        ("inside a list", format!("{:?}", [&[1, 2][..], &secret, &[3]].concat())),
        ("bytes literal", format!("b\"{}\"", secret.escape_ascii())),
        ("base64", STANDARD_NO_PAD.encode(&secret)),
        ("base64url", base64(&[], &[])),
        ("inside base64url", base64(b"x", b"yz")),
        ("further inside base64url", base64(b"xy", b"z")),
        ("coloured", format!("\u{1b}[3mkey\u{1b}[0m\u{1b}[2m=\u{1b}[0m{}", base64(&[], &[]))),
    ];
    for (name, log) in logs {
        assert!(needle.found_in(&Haystack::new(&log)).is_some(), "{name}: {log}");
    }
    let text = Needle::new("password", b"horse-battery");
    assert!(text.found_in(&Haystack::new("password=\"horse-battery\"")).is_some());
    assert!(text.found_in(&Haystack::new("password=\"horse-buttery\"")).is_none());
}

#[test]
fn an_address_is_found_in_every_form() {
    let log = "relay::core: a=127.0.0.1:80 b=V4(10.1.2.3:4) c=[fd00::1%3]:5 d=Ipv6(::1), e=192.0.2.1.\n00:01:02 1.2.3 a::b::zoo";
    let found: Vec<String> = Haystack::new(log).addresses().iter().map(|(address, _)| address.to_string()).collect();
    assert_eq!(found, ["127.0.0.1", "10.1.2.3", "fd00::1", "::1", "192.0.2.1"]);
}
