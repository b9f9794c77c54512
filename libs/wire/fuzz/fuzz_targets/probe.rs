#![no_main]

#[path = "../checks/probe.rs"]
mod probe;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| probe::check(bytes));
