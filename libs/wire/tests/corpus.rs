//! The fuzz corpus on a stable compiler: every file, every golden vector, and what becomes of both when they are cut off
//! anywhere or one bit is wrong, through the checks of the fuzz targets.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{fs, path::Path};

#[path = "../fuzz/checks/control.rs"]
mod control;
#[path = "../fuzz/checks/membership.rs"]
mod membership;
#[path = "../fuzz/checks/probe.rs"]
mod probe;
#[path = "../fuzz/checks/punch.rs"]
mod punch;
#[path = "../fuzz/checks/relay.rs"]
mod relay;
#[path = "../fuzz/checks/secure.rs"]
mod secure;
#[path = "../fuzz/checks/server_url.rs"]
mod server_url;
#[path = "../fuzz/checks/ticket.rs"]
mod ticket;

#[test]
fn relay_messages_bear_all_seeds() {
    let seeds = seeds("relay", include_str!("vectors/relay.txt"));
    seeds.iter().for_each(|seed| damaged(seed, relay::check));
}

#[test]
fn tickets_bear_all_seeds() {
    seeds("ticket", "").iter().for_each(|seed| damaged(seed, ticket::check));
}

#[test]
fn memberships_bear_all_seeds() {
    seeds("membership", "").iter().for_each(|seed| damaged(seed, membership::check));
}

#[test]
fn probes_bear_all_seeds() {
    let seeds = seeds("probe", include_str!("vectors/probe.txt"));
    seeds.iter().for_each(|seed| damaged(seed, probe::check));
}

#[test]
fn punch_packets_bear_all_seeds() {
    let seeds = seeds("punch", include_str!("vectors/probe.txt"));
    seeds.iter().for_each(|seed| damaged(seed, punch::check));
}

#[test]
fn control_frames_bear_all_seeds() {
    let seeds = seeds("control", include_str!("vectors/control.txt"));
    seeds.iter().for_each(|seed| damaged(seed, control::check));
}

#[test]
fn secure_channels_bear_all_seeds() {
    // Not damaged: a handshake takes tens of milliseconds without optimisation.
    let seeds = seeds("secure", include_str!("vectors/secure.txt"));
    seeds.iter().for_each(|seed| secure::check(seed));
}

#[test]
fn server_urls_bear_all_seeds() {
    seeds("server_url", "").iter().for_each(|seed| damaged(seed, server_url::check));
}

#[test]
fn every_target_has_a_check_that_is_replayed_here() {
    let names = |folder: &str| {
        let entries = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    let here = ["control", "membership", "probe", "punch", "relay", "secure", "server_url", "ticket"];
    assert_eq!(names("fuzz_targets"), here);
    assert_eq!(names("checks"), here);
    assert_eq!(names("corpus"), here);
}

/// The files of a corpus in the order of their names, then the golden vectors.
fn seeds(target: &str, vectors: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    let files = files.iter().map(|file| fs::read(file).unwrap());
    let vectors = vectors.lines().map(|line| unhex(line.split_once(' ').unwrap().1));
    files.chain(vectors).collect()
}

/// The seed, each of its beginnings, and the seed with each of its bits turned.
fn damaged(seed: &[u8], check: fn(&[u8])) {
    (0..=seed.len()).for_each(|end| check(&seed[..end]));
    let mut bytes = seed.to_vec();
    for bit in 0..seed.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        check(&bytes);
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}
