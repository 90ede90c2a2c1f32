#![no_main]
#![allow(missing_docs)]

use herold_fuzz::{mutate, sync_response};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

fuzz_target!(|data: &[u8]| sync_response::run(data));
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate::json(data, size, max_size, seed, 0, fuzzer_mutate)
});
