//! Licences, bans, second versions and unused dependencies, by the lists of `deny.toml`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde::Deserialize;

use crate::metadata::{Kind, Metadata, Package};

/// Named in a manifest for their features only.
const FOR_FEATURES: &[(&str, &str)] = &[];

#[test]
fn every_licence_is_one_that_we_accept() {
    let (metadata, rules) = (Metadata::read(), Rules::read());
    let violations: Vec<_> = metadata
        .packages
        .iter()
        .filter(|package| !rules.accepts(package))
        .map(|package| format!("{} {}: {:?}", package.name, package.version, package.license))
        .collect();
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn nothing_banned_is_built() {
    let (metadata, rules) = (Metadata::read(), Rules::read());
    let violations: Vec<_> = rules
        .bans
        .deny
        .iter()
        .flat_map(|ban| {
            metadata.packages.iter().filter(|package| ban.covers(package)).map(move |package| (ban, package))
        })
        .map(|(ban, package)| format!("{} {}: {:?}", package.name, package.version, ban.reason))
        .collect();
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn second_versions_are_known_and_still_needed() {
    let (metadata, rules) = (Metadata::read(), Rules::read());
    let mut versions: BTreeMap<&str, BTreeSet<Version>> = BTreeMap::new();
    for package in &metadata.packages {
        versions.entry(&package.name).or_default().insert(Version::of(&package.version));
    }
    let older: BTreeSet<_> = versions
        .iter()
        .flat_map(|(name, versions)| {
            versions.iter().rev().skip(1).map(move |version| format!("{name}@{}", version.line()))
        })
        .collect();
    let known: BTreeSet<_> = rules.bans.skip.iter().map(|skip| skip.crate_spec.clone()).collect();
    let new: Vec<_> = older.difference(&known).collect();
    let gone: Vec<_> = known.difference(&older).collect();
    assert!(
        new.is_empty() && gone.is_empty(),
        "bans.skip of deny.toml; missing: {new:#?}, no longer needed: {gone:#?}"
    );
}

#[test]
fn everything_comes_from_the_registry_or_the_tree() {
    let metadata = Metadata::read();
    for package in &metadata.packages {
        match &package.source {
            Some(source) => assert!(source.starts_with("registry+"), "{} comes from {source}", package.name),
            None => assert!(package.folder().starts_with(&metadata.workspace_root), "{} is outside", package.name),
        }
    }
}

#[test]
fn every_dependency_is_used() {
    let mut unused = Vec::new();
    for member in Metadata::read().members() {
        let (source, tests) = (text_below(&member.folder().join("src")), test_text(member));
        for dependency in &member.dependencies {
            let identifier = dependency.identifier();
            let used = match dependency.kind {
                Kind::Normal => mentions(&source, &identifier),
                Kind::Dev => mentions(&tests, &identifier) || mentions(&source, &identifier),
                Kind::Build => true,
            };
            if !used && !FOR_FEATURES.contains(&(member.name.as_str(), dependency.name.as_str())) {
                unused.push(format!("{}: {} ({:?})", member.name, dependency.name, dependency.kind));
            }
        }
    }
    assert!(unused.is_empty(), "{unused:#?}");
}

#[test]
fn a_licence_expression_is_read_as_spdx_says() {
    let accepted = |expression| accepts(expression, &|licence| licence == "MIT" || licence == "A WITH x");
    for expression in ["MIT", "GPL OR MIT", "GPL/MIT", "(GPL OR MIT) AND MIT", "A WITH x", "GPL AND B OR MIT"] {
        assert!(accepted(expression), "{expression}");
    }
    for expression in ["GPL", "MIT AND GPL", "(MIT OR GPL) AND GPL", "A"] {
        assert!(!accepted(expression), "{expression}");
    }
}

/// The part of `deny.toml` that is checked here.
#[derive(Debug, Deserialize)]
struct Rules {
    licenses: Licenses,
    bans: Bans,
}

#[derive(Debug, Deserialize)]
struct Licenses {
    allow: Vec<String>,
    exceptions: Vec<Exception>,
}

#[derive(Debug, Deserialize)]
struct Exception {
    #[serde(rename = "crate")]
    name: String,
    allow: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Bans {
    deny: Vec<Named>,
    skip: Vec<Named>,
}

/// `name`, `name@<version` or `name@line of versions`.
#[derive(Debug, Deserialize)]
struct Named {
    #[serde(rename = "crate")]
    crate_spec: String,
    reason: Option<String>,
}

impl Rules {
    fn read() -> Self {
        let path = Metadata::read().workspace_root.join("deny.toml");
        toml::from_str(&fs::read_to_string(path).expect("deny.toml is at the root")).expect("deny.toml is valid")
    }

    fn accepts(&self, package: &Package) -> bool {
        let exceptions = self.licenses.exceptions.iter().filter(|exception| exception.name == package.name);
        let allowed: Vec<_> =
            self.licenses.allow.iter().chain(exceptions.flat_map(|exception| &exception.allow)).collect();
        package
            .license
            .as_ref()
            .is_some_and(|expression| accepts(expression, &|licence| allowed.iter().any(|a| *a == licence)))
    }
}

impl Named {
    fn covers(&self, package: &Package) -> bool {
        match self.crate_spec.split_once("@<") {
            None => self.crate_spec == package.name,
            Some((name, version)) => name == package.name && Version::of(&package.version) < Version::of(version),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version([u64; 3]);

impl Version {
    fn of(text: &str) -> Self {
        let release = text.split(['-', '+']).next().unwrap_or(text);
        let mut parts = release.split('.').map(|part| part.parse().expect("a version is of numbers"));
        Self(std::array::from_fn(|_| parts.next().unwrap_or(0)))
    }

    /// The versions that cargo takes for compatible with this one.
    fn line(self) -> String {
        let Self([major, minor, _]) = self;
        if major == 0 { format!("0.{minor}") } else { major.to_string() }
    }
}

/// Evaluates an SPDX expression; `/` is the old way to write OR.
fn accepts(expression: &str, accepted: &impl Fn(&str) -> bool) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut tokens = spaced.split_whitespace().peekable();
    let result = any_of(&mut tokens, accepted);
    assert!(tokens.next().is_none(), "{expression} is no licence expression");
    result
}

type Tokens<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(tokens: &mut Tokens<'_>, accepted: &impl Fn(&str) -> bool) -> bool {
    let mut result = all_of(tokens, accepted);
    while tokens.next_if_eq(&"OR").is_some() {
        result |= all_of(tokens, accepted);
    }
    result
}

fn all_of(tokens: &mut Tokens<'_>, accepted: &impl Fn(&str) -> bool) -> bool {
    let mut result = term(tokens, accepted);
    while tokens.next_if_eq(&"AND").is_some() {
        result &= term(tokens, accepted);
    }
    result
}

fn term(tokens: &mut Tokens<'_>, accepted: &impl Fn(&str) -> bool) -> bool {
    let token = tokens.next().expect("a licence");
    if token == "(" {
        let result = any_of(tokens, accepted);
        assert_eq!(tokens.next(), Some(")"));
        return result;
    }
    match tokens.next_if_eq(&"WITH") {
        None => accepted(token),
        Some(_) => accepted(&format!("{token} WITH {}", tokens.next().expect("an exception"))),
    }
}

/// Everything but `src`: tests, benches, examples.
fn test_text(member: &Package) -> String {
    ["tests", "benches", "examples"].map(|folder| text_below(&member.folder().join(folder))).concat()
}

fn text_below(folder: &Path) -> String {
    let Ok(entries) = fs::read_dir(folder) else { return String::new() };
    let mut text = String::new();
    for entry in entries {
        let path = entry.expect("a folder can be listed").path();
        if path.is_dir() {
            text.push_str(&text_below(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(&path).expect("source is text"));
        }
    }
    text
}

/// Whether the code names this crate: as the first part of a path, or in a `use`.
fn mentions(text: &str, identifier: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    text.match_indices(identifier).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = &text[at + identifier.len()..];
        let starts = !before.is_some_and(is_part) || text[..at].ends_with(" ::");
        starts && (after.starts_with("::") || (after.starts_with([';', ' ']) && text[..at].ends_with("use ")))
    })
}
