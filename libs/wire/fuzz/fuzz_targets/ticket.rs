#![no_main]

#[path = "../checks/ticket.rs"]
mod ticket;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ticket::check(bytes));
