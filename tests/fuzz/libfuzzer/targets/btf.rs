#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| steer_fuzz::check("btf", input));
