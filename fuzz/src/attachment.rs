//! Encrypted attachments: the description in an event, and the bytes that a server hands out.
//!
//! Input: the description as JSON, a zero byte, the ciphertext.

use base64::Engine as _;
use herold_crypto::{AttachmentError, EncryptedFile, decrypt_attachment};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// One run.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    let (description, ciphertext) = crate::split(data);
    let Ok(mut description) = serde_json::from_slice::<Value>(description) else { return };
    let truthful = base64::prelude::BASE64_STANDARD_NO_PAD.encode(Sha256::digest(ciphertext));
    if let Ok(file) = EncryptedFile::parse(&description) {
        round_trip(&file);
        let told = file.to_json()["hashes"]["sha256"].as_str() == Some(&truthful);
        match decrypt_attachment(ciphertext, &file) {
            Ok(plaintext) => {
                assert!(told, "a ciphertext was decrypted that is not the described one");
                assert_eq!(plaintext.len(), ciphertext.len());
            }
            Err(AttachmentError::HashMismatch) => assert!(!told, "a good ciphertext was refused"),
            Err(error) => panic!("a parsed description failed later: {error}"),
        }
        assert!(!format!("{file:?}").contains(file.to_json()["key"]["k"].as_str().unwrap_or("?")));
    }
    // The same with the hash that fits, or a mutation would never come past it.
    if let Some(hash) = description.get_mut("hashes").and_then(|hashes| hashes.get_mut("sha256")) {
        *hash = Value::String(truthful);
        if let Ok(file) = EncryptedFile::parse(&description) {
            let plaintext = decrypt_attachment(ciphertext, &file);
            assert_eq!(plaintext.map(|plain| plain.len()), Ok(ciphertext.len()));
        }
    }
}

fn round_trip(file: &EncryptedFile) {
    let again = EncryptedFile::parse(&file.to_json());
    assert_eq!(again.as_ref(), Ok(file), "a description does not survive writing and reading");
    assert!(file.shares_key_stream_with(file));
    let rest = file.url.strip_prefix("mxc://").expect("only such addresses are taken");
    assert!(!rest.contains("..") && !rest.contains(['%', '?', '#', '\\', '\0']), "{rest:?}");
    assert_eq!(rest.matches('/').count(), 1, "an address with a path: {rest:?}");
}
