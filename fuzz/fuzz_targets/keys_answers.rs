#![no_main]
#![allow(missing_docs)]

use herold_fuzz::{keys_answers, mutate};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

fuzz_target!(|data: &[u8]| keys_answers::run(data));
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate::json(data, size, max_size, seed, 2, fuzzer_mutate)
});
