#![no_main]

#[path = "../checks/punch.rs"]
mod punch;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| punch::check(bytes));
