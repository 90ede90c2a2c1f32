//! The fuzz targets: one function each, so that they run under libFuzzer (`cargo xtask fuzz`), and, over
//! the seeds and everything found so far, as an ordinary test (`cargo test --release` in this folder).
//!
//! The device under test is Alice of the recorded [`scene`]. [`subject`] says what has to hold after each
//! input, whatever it was:
//!
//! - no panic, no overflow (`overflow-checks` and `debug-assertions` are on), bounded time and memory;
//! - an input that is refused has changed nothing, and a step whose commit failed has left nothing behind;
//! - every row written can be read back, and no input makes a later step or question fail;
//! - the same input again changes nothing of what is shown;
//! - a decrypted event is shown as the owner's of its session; owners and keys once known stay;
//! - a genuine message arrives after it.
//!
//! Build without `cfg(fuzzing)`: under it vodozemac takes every signature and authentication code for
//! good, and half of the above would be found wrong.

#[cfg(fuzzing)]
compile_error!("build with --no-cfg-fuzzing: under cfg(fuzzing) vodozemac checks no signature");

pub mod attachment;
pub mod key_material;
pub mod keys_answers;
pub mod megolm_message;
pub mod mutate;
pub mod network;
pub mod olm_message;
pub mod random;
pub mod records;
pub mod scene;
pub mod store_file;
pub mod store_record;
pub mod subject;
pub mod sync_response;
pub mod to_device_payload;
pub mod two_clients;

/// Every target by its name.
pub const TARGETS: [(&str, fn(&[u8])); 10] = [
    ("attachment", attachment::run),
    ("key_material", key_material::run),
    ("keys_answers", keys_answers::run),
    ("megolm_message", megolm_message::run),
    ("olm_message", olm_message::run),
    ("store_file", store_file::run),
    ("store_record", store_record::run),
    ("sync_response", sync_response::run),
    ("to_device_payload", to_device_payload::run),
    ("two_clients", two_clients::run),
];

/// The input before and after the first zero byte.
pub(crate) fn split(data: &[u8]) -> (&[u8], &[u8]) {
    match data.iter().position(|byte| *byte == 0) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &[]),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::TARGETS;

    #[test]
    fn everything_found_so_far_stays_fixed() {
        for (name, run) in TARGETS {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
            let mut inputs: Vec<_> =
                fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert!(!inputs.is_empty(), "{name} has no seeds");
            inputs.sort();
            for input in inputs {
                println!("{}", input.display());
                run(&fs::read(input).unwrap());
            }
        }
    }
}
