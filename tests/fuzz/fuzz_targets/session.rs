//! Fuzzes [`codec_properties::script::session`], which says what must hold. Built without a fuzzer it checks
//! the files given as arguments.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| codec_properties::script::session(input));

#[cfg(not(fuzzing))]
fn main() {
    codec_properties::check_arguments(codec_properties::script::session);
}
