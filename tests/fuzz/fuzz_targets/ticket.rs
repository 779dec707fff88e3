//! Fuzzes [`hawser_fuzz::bytes::ticket`], which says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hawser_fuzz::bytes::ticket(input));
