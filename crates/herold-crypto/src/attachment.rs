//! Encrypted attachments. Clause: Matrix specification, *Sending encrypted attachments*,
//! `EncryptedFile` version `v2`: AES-256 in counter mode, one key per file, SHA-256 over the
//! ciphertext.
//!
//! The hash travels inside the encrypted event and is what makes the file authentic. It is checked
//! over the whole ciphertext before the first byte is decrypted.

use std::fmt;

use aes::Aes256;
use base64::Engine;
use ctr::Ctr64BE;
use ctr::cipher::{KeyIvInit, StreamCipher};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::entropy::Entropy;
use crate::secret::{SecretBytes, SecretString};
use crate::unpadded;

/// Why an attachment or its description was refused. The texts quote nothing of either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttachmentError {
    /// `v` is missing or not `v2`.
    #[error("the attachment's version is not v2")]
    Version,
    /// `key` is missing or no 256-bit AES key in the prescribed form.
    #[error("the attachment's key is malformed")]
    Key,
    /// `iv` is missing, not 16 bytes long, or its counter half is not zero.
    #[error("the attachment's initialisation vector is malformed")]
    Iv,
    /// `hashes.sha256` is missing or not 32 bytes long.
    #[error("the attachment's hash is missing or malformed")]
    Hash,
    /// `url` is missing or not of the form `mxc://server/media`.
    #[error("the attachment's address is malformed")]
    Url,
    /// The ciphertext is not the one that was described: changed, truncated, or another file.
    #[error("the attachment does not match its hash")]
    HashMismatch,
    /// The file is longer than the counter can count.
    #[error("the attachment is too long")]
    TooLong,
}

/// The `file` object of an event: where an encrypted attachment is, and how to read it.
///
/// Secrecy: contains the key. `Debug` shows the address only.
#[derive(Clone, PartialEq, Eq)]
pub struct EncryptedFile {
    /// The address of the ciphertext, `mxc://server/media`. Empty until the upload is done.
    pub url: String,
    key: SecretBytes,
    iv: [u8; 16],
    sha256: [u8; 32],
}

impl EncryptedFile {
    /// Reads the `file` object of an event, and refuses whatever the specification does not allow.
    ///
    /// # Errors
    ///
    /// The [`AttachmentError`] that names the offending member.
    pub fn parse(file: &Value) -> Result<Self, AttachmentError> {
        if file.get("v").and_then(Value::as_str) != Some("v2") {
            return Err(AttachmentError::Version);
        }
        let url = file.get("url").and_then(Value::as_str).ok_or(AttachmentError::Url)?;
        if !is_plain_mxc(url) {
            return Err(AttachmentError::Url);
        }
        let key = parse_key(file.get("key").ok_or(AttachmentError::Key)?)?;
        let iv = parse_iv(file.get("iv").ok_or(AttachmentError::Iv)?)?;
        let hash = file.get("hashes").and_then(|hashes| hashes.get("sha256"));
        let sha256 = hash
            .and_then(Value::as_str)
            .and_then(|text| unpadded::STANDARD.decode(text).ok())
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(AttachmentError::Hash)?;
        Ok(Self { url: url.to_owned(), key, iv, sha256 })
    }

    /// The `file` object for an event. It contains the key, so it goes into encrypted events only.
    pub fn to_json(&self) -> Value {
        json!({
            "v": "v2",
            "url": self.url,
            "key": {
                "kty": "oct",
                "key_ops": ["encrypt", "decrypt"],
                "alg": "A256CTR",
                "k": unpadded::URL_SAFE.encode(self.key.as_slice()),
                "ext": true,
            },
            "iv": unpadded::STANDARD.encode(self.iv),
            "hashes": { "sha256": unpadded::STANDARD.encode(self.sha256) },
        })
    }

    /// The same as text. Secret.
    pub fn to_secret(&self) -> SecretString {
        SecretString::new(self.to_json().to_string())
    }

    /// Whether both files are encrypted with the same key stream, as a thumbnail and its file
    /// never may: whoever sees both ciphertexts would learn how the plaintexts differ.
    pub fn shares_key_stream_with(&self, other: &Self) -> bool {
        self.key == other.key && self.iv == other.iv
    }

    fn cipher(&self) -> Result<Ctr64BE<Aes256>, AttachmentError> {
        Ctr64BE::new_from_slices(self.key.as_slice(), &self.iv).map_err(|_| AttachmentError::Key)
    }
}

impl fmt::Debug for EncryptedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncryptedFile").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Encrypts a file under a fresh key. Returns the ciphertext and its description, whose `url` is
/// empty until the caller has uploaded the ciphertext.
pub fn encrypt_attachment(plaintext: &[u8], entropy: &mut dyn Entropy) -> (Vec<u8>, EncryptedFile) {
    let mut key = vec![0; KEY_LENGTH];
    entropy.fill(&mut key);
    let mut iv = [0; 16];
    entropy.fill(&mut iv[..8]);
    let mut file =
        EncryptedFile { url: String::new(), key: SecretBytes::new(key), iv, sha256: [0; 32] };
    let mut ciphertext = plaintext.to_vec();
    // Neither step can fail: the key has its length, and no buffer holds 2^64 blocks. If one did,
    // an empty ciphertext would be described truthfully, and no plaintext would leave.
    let applied = file.cipher().and_then(|mut cipher| {
        cipher.try_apply_keystream(&mut ciphertext).map_err(|_| AttachmentError::TooLong)
    });
    debug_assert!(applied.is_ok(), "the key stream covers every buffer");
    if applied.is_err() {
        ciphertext.clear();
    }
    file.sha256 = Sha256::digest(&ciphertext).into();
    (ciphertext, file)
}

/// Checks the ciphertext against the described hash, then decrypts it.
///
/// # Errors
///
/// [`AttachmentError::HashMismatch`] if the ciphertext is not the described one. Nothing is
/// decrypted then.
pub fn decrypt_attachment(
    ciphertext: &[u8],
    file: &EncryptedFile,
) -> Result<Vec<u8>, AttachmentError> {
    let hash: [u8; 32] = Sha256::digest(ciphertext).into();
    if !bool::from(hash.ct_eq(&file.sha256)) {
        return Err(AttachmentError::HashMismatch);
    }
    let mut plaintext = ciphertext.to_vec();
    file.cipher()?.try_apply_keystream(&mut plaintext).map_err(|_| AttachmentError::TooLong)?;
    Ok(plaintext)
}

/// The length of an AES-256 key, bytes.
const KEY_LENGTH: usize = 32;

/// The JSON Web Key: `oct`, usable for both directions, for AES-256 in counter mode, extractable.
fn parse_key(key: &Value) -> Result<SecretBytes, AttachmentError> {
    let text = |name| key.get(name).and_then(Value::as_str);
    let operations = key.get("key_ops").and_then(Value::as_array).ok_or(AttachmentError::Key)?;
    let may = |operation| operations.iter().any(|value| value.as_str() == Some(operation));
    let well_formed = text("kty") == Some("oct")
        && text("alg") == Some("A256CTR")
        && key.get("ext").and_then(Value::as_bool) == Some(true)
        && may("encrypt")
        && may("decrypt");
    if !well_formed {
        return Err(AttachmentError::Key);
    }
    let bytes = text("k")
        .and_then(|text| unpadded::URL_SAFE.decode(text).ok())
        .map(SecretBytes::new)
        .ok_or(AttachmentError::Key)?;
    if bytes.as_slice().len() != KEY_LENGTH {
        return Err(AttachmentError::Key);
    }
    Ok(bytes)
}

/// The upper half is random, the lower half counts blocks and starts at zero.
fn parse_iv(iv: &Value) -> Result<[u8; 16], AttachmentError> {
    let iv: [u8; 16] = iv
        .as_str()
        .and_then(|text| unpadded::STANDARD.decode(text).ok())
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(AttachmentError::Iv)?;
    if iv[8..].iter().any(|byte| *byte != 0) {
        return Err(AttachmentError::Iv);
    }
    Ok(iv)
}

/// Whether `url` is `mxc://server/media` with nothing that a path or a query could be made of.
fn is_plain_mxc(url: &str) -> bool {
    let Some((server, media)) = url.strip_prefix("mxc://").and_then(|rest| rest.split_once('/'))
    else {
        return false;
    };
    let in_server = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
    let in_media = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    server.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[')
        && server.chars().all(in_server)
        && !server.contains("..")
        && !media.is_empty()
        && media.chars().all(in_media)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::SeededEntropy;
    use proptest::prelude::*;

    fn encrypted(plaintext: &[u8]) -> (Vec<u8>, EncryptedFile) {
        let (ciphertext, mut file) = encrypt_attachment(plaintext, &mut SeededEntropy::new(7));
        file.url = "mxc://example.org/Media_id-1".into();
        (ciphertext, file)
    }

    /// Parses the description after `change`.
    fn parse_changed(change: impl FnOnce(&mut Value)) -> Result<EncryptedFile, AttachmentError> {
        let mut json = encrypted(b"content").1.to_json();
        change(&mut json);
        EncryptedFile::parse(&json)
    }

    #[test]
    fn known_files_decrypt() {
        // Origin: test vectors of matrix-encrypt-attachment (`v2` only); the JSON around them is
        // completed as the specification asks.
        let ones = "__________________________________________8";
        for (ciphertext, key, iv, hash, plaintext) in [
            (
                "",
                "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
                "AAAAAAAAAAAAAAAAAAAAAA",
                "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
                "",
            ),
            (
                "5xJZTt5cQicm+9f4",
                ones,
                "//////////8AAAAAAAAAAA",
                "YzF08lARDdOCzJpzuSwsjTNlQc4pHxpdHcXiD/wpK6k",
                "Hello, World",
            ),
            (
                "zhtFStAeFx0s+9L/sSQO+WQMtldqYEHqTxMduJrCIpnkyer09kxJJuA4K+adQE4w+7jZe/vR9kIcqj9rOhDR8Q",
                ones,
                "//////////8AAAAAAAAAAA",
                "IOq7/dHHB+mfHfxlRY5XMeCWEwTPmlf4cJcgrkf6fVU",
                "alphanumericallyalphanumericallyalphanumericallyalphanumerically",
            ),
        ] {
            let file = parse_changed(|json| {
                json["key"]["k"] = key.into();
                json["iv"] = iv.into();
                json["hashes"]["sha256"] = hash.into();
            })
            .unwrap();
            let ciphertext = unpadded::STANDARD.decode(ciphertext).unwrap();
            assert_eq!(decrypt_attachment(&ciphertext, &file).unwrap(), plaintext.as_bytes());
        }
    }

    #[test]
    fn the_counter_runs_as_in_the_standard() {
        // Origin: NIST SP 800-38A, section F.5.5, CTR-AES256.Encrypt, blocks 1 to 4. Its initial
        // counter has a non-zero lower half, so the file is built here and not parsed.
        fn hex<const N: usize>(text: &str) -> [u8; N] {
            std::array::from_fn(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
        }
        let key: [u8; 32] = hex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4");
        let plaintext: [u8; 64] = hex(concat!(
            "6bc1bee22e409f96e93d7e117393172a",
            "ae2d8a571e03ac9c9eb76fac45af8e51",
            "30c81c46a35ce411e5fbc1191a0a52ef",
            "f69f2445df4f9b17ad2b417be66c3710"
        ));
        let ciphertext: [u8; 64] = hex(concat!(
            "601ec313775789a5b7a7f504bbf3d228",
            "f443e3ca4d62b59aca84e990cacaf5c5",
            "2b0930daa23de94ce87017ba2d84988d",
            "dfc9c58db67aada613c2dd08457941a6"
        ));
        let file = EncryptedFile {
            url: String::new(),
            key: SecretBytes::new(key.to_vec()),
            iv: hex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"),
            sha256: Sha256::digest(ciphertext).into(),
        };
        assert_eq!(decrypt_attachment(&ciphertext, &file).unwrap(), plaintext);
    }

    #[test]
    fn the_description_survives_the_event() {
        let (_, file) = encrypted(b"content");
        assert_eq!(EncryptedFile::parse(&file.to_json()), Ok(file));
    }

    #[test]
    fn every_file_has_its_own_key_stream() {
        let mut entropy = SeededEntropy::new(7);
        let (first, file) = encrypt_attachment(b"content", &mut entropy);
        let (second, thumbnail) = encrypt_attachment(b"content", &mut entropy);
        assert_ne!(first, second);
        assert!(!file.shares_key_stream_with(&thumbnail));
    }

    #[test]
    fn n12_a_thumbnail_with_the_files_key_stream_is_recognised() {
        let (_, file) = encrypted(b"content");
        let (_, thumbnail) = encrypted(b"other content");
        assert!(file.shares_key_stream_with(&thumbnail));
    }

    #[test]
    fn n12_a_changed_ciphertext_releases_nothing() {
        let (ciphertext, file) = encrypted(b"some content");
        for at in 0..ciphertext.len() {
            let mut changed = ciphertext.clone();
            changed[at] ^= 1;
            let refused = decrypt_attachment(&changed, &file);
            assert_eq!(refused, Err(AttachmentError::HashMismatch));
        }
    }

    #[test]
    fn n12_a_truncated_or_prolonged_body_releases_nothing() {
        let (mut ciphertext, file) = encrypted(b"some content");
        for end in 0..ciphertext.len() {
            let refused = decrypt_attachment(&ciphertext[..end], &file);
            assert_eq!(refused, Err(AttachmentError::HashMismatch));
        }
        ciphertext.push(0);
        assert_eq!(decrypt_attachment(&ciphertext, &file), Err(AttachmentError::HashMismatch));
    }

    #[test]
    fn n12_a_missing_or_empty_hash_is_refused() {
        for hashes in [
            Value::Null,
            json!({}),
            json!([]),
            json!({ "sha256": "" }),
            json!({ "sha256": null }),
            json!({ "sha256": "AAAA" }),
            json!({ "sha512": "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU" }),
        ] {
            let refused = parse_changed(|json| json["hashes"] = hashes.clone());
            assert_eq!(refused, Err(AttachmentError::Hash), "{hashes}");
        }
    }

    #[test]
    fn n12_other_versions_are_refused() {
        for version in [json!("v1"), json!("V2"), json!(2), json!(""), Value::Null] {
            let refused = parse_changed(|json| json["v"] = version);
            assert_eq!(refused, Err(AttachmentError::Version));
        }
        assert_eq!(EncryptedFile::parse(&json!("v2")), Err(AttachmentError::Version));
    }

    #[test]
    fn n12_an_iv_with_a_started_counter_is_refused() {
        for at in 8..16 {
            let mut iv = [0; 16];
            iv[at] = 1;
            let refused = parse_changed(|json| json["iv"] = unpadded::STANDARD.encode(iv).into());
            assert_eq!(refused, Err(AttachmentError::Iv));
        }
        for length in [0, 8, 12, 15, 17, 32] {
            let iv = unpadded::STANDARD.encode(vec![0; length]);
            assert_eq!(parse_changed(|json| json["iv"] = iv.into()), Err(AttachmentError::Iv));
        }
    }

    #[test]
    fn n12_a_key_of_another_length_is_refused() {
        for length in [0, 16, 24, 31, 33, 64] {
            let key = unpadded::URL_SAFE.encode(vec![7; length]);
            let refused = parse_changed(|json| json["key"]["k"] = key.into());
            assert_eq!(refused, Err(AttachmentError::Key), "{length}");
        }
    }

    #[test]
    fn n12_a_key_for_another_purpose_is_refused() {
        for (member, value) in [
            ("kty", json!("RSA")),
            ("alg", json!("A128CTR")),
            ("alg", json!("A256GCM")),
            ("ext", json!(false)),
            ("ext", Value::Null),
            ("key_ops", json!(["encrypt"])),
            ("key_ops", json!("decrypt")),
            ("k", json!("++++")),
        ] {
            let refused = parse_changed(|json| json["key"][member] = value);
            assert_eq!(refused, Err(AttachmentError::Key), "{member}");
        }
    }

    #[test]
    fn n12_an_address_that_points_elsewhere_is_refused() {
        for url in [
            "",
            "mxc://",
            "mxc://example.org",
            "mxc://example.org/",
            "mxc:///media",
            "mxc://example.org/media/more",
            "mxc://example.org//media",
            "mxc://example.org/../media",
            "mxc://example.org/..",
            "mxc://example.org/a%2fb",
            "mxc://example.org/a%2Fb",
            "mxc://example.org/a?b",
            "mxc://example.org/a#b",
            "mxc://../media",
            "mxc://a..b/media",
            "mxc://user@example.org/media",
            "mxc://exam ple.org/media",
            "mxc://example.org/me\ndia",
            "mxc://example.org/m\u{e9}dia",
            "MXC://example.org/media",
            "https://example.org/media",
            "file:///etc/passwd",
        ] {
            let refused = parse_changed(|json| json["url"] = url.into());
            assert_eq!(refused, Err(AttachmentError::Url), "{url}");
        }
    }

    #[test]
    fn plain_addresses_are_accepted() {
        for url in ["mxc://a/b", "mxc://example.org:8448/x_Y-1", "mxc://[2001:db8::1]:80/m"] {
            assert!(parse_changed(|json| json["url"] = url.into()).is_ok(), "{url}");
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let (_, file) = encrypted(b"content");
        let expected = "EncryptedFile { url: \"mxc://example.org/Media_id-1\", .. }";
        assert_eq!(format!("{file:?}"), expected);
    }

    proptest! {
        #[test]
        fn every_content_comes_back(content: Vec<u8>, seed: u64) {
            let (ciphertext, file) = encrypt_attachment(&content, &mut SeededEntropy::new(seed));
            prop_assert_eq!(ciphertext.len(), content.len());
            prop_assert_eq!(decrypt_attachment(&ciphertext, &file), Ok(content));
        }

        #[test]
        fn no_address_makes_the_parser_panic(url: String) {
            let _ = parse_changed(|json| json["url"] = url.into());
        }
    }
}
