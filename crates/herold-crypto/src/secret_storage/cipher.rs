//! AES-256 in counter mode with HMAC-SHA-256, under keys derived from a storage key and a name.

use aes::Aes256;
use base64::Engine;
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit, StreamCipher};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::entropy::Entropy;
use crate::secret_storage::SecretStorageError;
use crate::unpadded;

/// A secret as it lies in account data, under one storage key. Not secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncryptedSecret {
    pub(super) iv: [u8; 16],
    pub(super) ciphertext: Vec<u8>,
    pub(super) mac: [u8; 32],
}

impl EncryptedSecret {
    /// Reads one value of the `encrypted` map (`AesHmacSha2EncryptedData`).
    ///
    /// # Errors
    ///
    /// [`SecretStorageError::Malformed`] names the field.
    pub fn parse(json: &Value) -> Result<Self, SecretStorageError> {
        Ok(Self {
            iv: fixed(json, "iv")?,
            ciphertext: bytes(json, "ciphertext")?,
            mac: fixed(json, "mac")?,
        })
    }

    /// Reads the secret's account data and picks what is encrypted under `key_id`; `None` if
    /// nothing is.
    ///
    /// # Errors
    ///
    /// [`SecretStorageError::Malformed`], also if there is no `encrypted` map at all.
    pub fn from_account_data(
        content: &Value,
        key_id: &str,
    ) -> Result<Option<Self>, SecretStorageError> {
        content
            .get("encrypted")
            .and_then(Value::as_object)
            .ok_or(SecretStorageError::Malformed("encrypted"))?
            .get(key_id)
            .map(Self::parse)
            .transpose()
    }

    /// The value for the `encrypted` map.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "iv": unpadded::STANDARD.encode(self.iv),
            "ciphertext": unpadded::STANDARD.encode(&self.ciphertext),
            "mac": unpadded::STANDARD.encode(self.mac),
        })
    }
}

/// Sixteen random bytes whose bit 63 is clear: implementations differ in how a counter passes it.
pub(crate) fn fresh_iv(entropy: &mut dyn Entropy) -> [u8; 16] {
    let mut iv = [0; 16];
    entropy.fill(&mut iv);
    iv[8] &= 0x7f;
    iv
}

/// The two keys for one name.
pub(super) struct Keys(Zeroizing<[u8; 64]>);

impl Keys {
    pub(super) fn derive(storage_key: &[u8; 32], name: &str) -> Self {
        let mut okm = Zeroizing::new([0; 64]);
        let hkdf = Hkdf::<Sha256>::new(Some(&[0; 32]), storage_key);
        let derived = hkdf.expand(name.as_bytes(), &mut *okm);
        debug_assert!(derived.is_ok(), "64 bytes are within what HKDF gives");
        Self(okm)
    }

    /// Applies the key stream in place; the same call encrypts and decrypts.
    pub(super) fn apply(&self, iv: &[u8; 16], data: &mut [u8]) {
        if let Ok(mut cipher) = Ctr128BE::<Aes256>::new_from_slices(&self.0[..32], iv) {
            cipher.apply_keystream(data);
        }
    }

    pub(super) fn mac(&self, ciphertext: &[u8]) -> [u8; 32] {
        match self.hmac() {
            Some(mut hmac) => {
                hmac.update(ciphertext);
                hmac.finalize().into_bytes().into()
            }
            None => [0; 32],
        }
    }

    /// Compares in constant time.
    pub(super) fn is_authentic(&self, ciphertext: &[u8], mac: &[u8; 32]) -> bool {
        self.hmac().is_some_and(|mut hmac| {
            hmac.update(ciphertext);
            hmac.verify_slice(mac).is_ok()
        })
    }

    fn hmac(&self) -> Option<Hmac<Sha256>> {
        Hmac::new_from_slice(&self.0[32..]).ok()
    }
}

fn bytes(json: &Value, field: &'static str) -> Result<Vec<u8>, SecretStorageError> {
    json.get(field)
        .and_then(Value::as_str)
        .and_then(|text| unpadded::STANDARD.decode(text).ok())
        .ok_or(SecretStorageError::Malformed(field))
}

pub(super) fn fixed<const N: usize>(
    json: &Value,
    field: &'static str,
) -> Result<[u8; N], SecretStorageError> {
    bytes(json, field)?.try_into().map_err(|_| SecretStorageError::Malformed(field))
}
