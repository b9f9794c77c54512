#![no_main]

#[path = "../checks/secure.rs"]
mod secure;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| secure::check(bytes));
