#![no_main]

#[path = "../checks/server_url.rs"]
mod server_url;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| server_url::check(bytes));
