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
use crate::secret::SecretBytes;
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
