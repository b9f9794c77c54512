//! Who may depend on whom, and what may enter the build: STYLE's table and `deny.toml` against `cargo metadata`.
//!
//! Change the table here and the one in the README together, with a reason.

#[path = "layering/dependencies.rs"]
mod dependencies;
#[path = "layering/metadata.rs"]
mod metadata;

use std::collections::BTreeMap;

use metadata::{Kind, Metadata};

/// Every crate of the workspace, and which of the others it may use.
const LAYERS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("bus", &[]),
    ("telemetry", &[]),
    // One careful HTTP client for providers (auth) and webhooks (admin): services never depend on services.
    ("outbound", &["domain"]),
    ("wire", &["domain"]),
    ("traversal", &["domain"]),
    ("tunnel", &["domain", "wire"]),
    ("presence", &["domain"]),
    ("store", &["domain"]),
    ("contract", &["domain", "bus"]),
    ("gateway", &["domain", "wire", "contract", "bus", "presence", "telemetry"]),
    ("auth", &["domain", "contract", "bus", "store", "telemetry", "outbound"]),
    ("network", &["domain", "contract", "bus", "store", "presence", "telemetry"]),
    ("rendezvous", &["domain", "wire", "traversal", "contract", "bus", "presence", "telemetry"]),
    ("relay", &["domain", "wire", "contract", "bus", "telemetry"]),
    // The store for what this role alone owns: tokens, the audit log and webhooks need no hop.
    ("admin", &["domain", "contract", "bus", "store", "telemetry", "outbound"]),
    ("client", &["domain", "wire", "traversal", "tunnel"]),
    // It simulates populations of NATs with the machines that the product decides with, and fills databases.
    ("loadtest", &["client", "domain", "wire", "traversal", "store"]),
    (
        "mediator",
        &[
            "domain",
            "wire",
            "traversal",
            "contract",
            "bus",
            "presence",
            "store",
            "telemetry",
            "gateway",
            "auth",
            "network",
            "rendezvous",
            "relay",
            "admin",
        ],
    ),
];

/// Where a technology lives, and nowhere else.
const HOMES: &[(&str, &[&str])] = &[
    ("sqlx", &["store"]),
    ("redis", &["presence"]),
    ("lapin", &["bus"]),
    ("argon2", &["auth"]),
    ("jsonwebtoken", &["contract", "auth"]),
    ("actix-web", &["admin", "telemetry"]),
    ("gotatun", &["tunnel"]),
    ("tun-rs", &["client"]),
    ("clap", &["mediator", "client", "loadtest"]),
];

/// These decide; others act.
const PURE: &[&str] = &["domain", "wire", "traversal", "tunnel"];

/// What a pure crate cannot reach: runtimes, sockets and the system.
const IMPURE: &[&str] =
    &["tokio", "tokio-util", "futures-util", "socket2", "nix", "libc", "quinn-udp", "mio", "async-io", "rustix"];

#[test]
fn crates_use_only_the_layers_below_them() {
    let metadata = Metadata::read();
    let layers: BTreeMap<_, _> = LAYERS.iter().copied().collect();
    let mut violations = Vec::new();
    for member in metadata.members() {
        let Some(allowed) = layers.get(member.name.as_str()) else {
            violations.push(format!("{} is not in the table", member.name));
            continue;
        };
        for used in member.dependencies.iter().filter(|dependency| dependency.kind != Kind::Dev) {
            let ours = layers.contains_key(used.name.as_str());
            if ours && !allowed.contains(&used.name.as_str()) {
                violations.push(format!("{} must not use {}", member.name, used.name));
            }
        }
    }
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn the_table_names_every_crate_once() {
    let mut members: Vec<_> = Metadata::read().members().map(|member| member.name.clone()).collect();
    let mut named: Vec<_> = LAYERS.iter().map(|(name, _)| (*name).to_owned()).collect();
    members.sort();
    named.sort();
    assert_eq!(members, named);
}

#[test]
fn each_technology_lives_in_its_own_place() {
    let metadata = Metadata::read();
    let mut violations = Vec::new();
    for (technology, homes) in HOMES {
        for member in metadata.members().filter(|member| !homes.contains(&member.name.as_str())) {
            if member.dependencies.iter().any(|used| used.name == *technology && used.kind != Kind::Dev) {
                violations.push(format!("{} must not use {technology}: it lives in {homes:?}", member.name));
            }
        }
    }
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn pure_crates_know_neither_runtimes_nor_sockets() {
    let metadata = Metadata::read();
    let mut violations = Vec::new();
    for member in metadata.members().filter(|member| PURE.contains(&member.name.as_str())) {
        for used in member.dependencies.iter().filter(|used| used.kind != Kind::Dev) {
            if IMPURE.contains(&used.name.as_str()) {
                violations.push(format!("{} is pure and must not use {}", member.name, used.name));
            }
        }
        let lints = member.folder().join("clippy.toml");
        if !lints.is_file() {
            violations.push(format!("{} is missing: a pure crate forbids clocks and sockets there", lints.display()));
        }
    }
    assert!(violations.is_empty(), "{violations:#?}");
}
