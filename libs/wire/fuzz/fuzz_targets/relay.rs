#![no_main]

#[path = "../checks/relay.rs"]
mod relay;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| relay::check(bytes));
