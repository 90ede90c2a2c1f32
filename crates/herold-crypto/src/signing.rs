//! Private keys that sign for a user: the three keys of a cross-signing identity.
//!
//! Each is an Ed25519 seed. It travels as a secret (secret storage, gossip) in unpadded base64.
//! Clause: Matrix specification, *Cross-signing*; appendices, *Signing JSON*.

use std::fmt;

use serde_json::Value;
use vodozemac::{Ed25519SecretKey, Ed25519Signature};
use zeroize::{Zeroize, Zeroizing};

use crate::canonical::{self, CanonicalJsonError};
use crate::entropy::{Entropy, secret_bytes};
use crate::identity::{Ed25519PublicKey, KeyError};
use crate::record::{self, RecordError};
use crate::secret::{SecretBytes, SecretString};
use crate::secret_base64;

const KIND: &str = "a signing key";

/// An Ed25519 private key that signs JSON under its own public key's name.
///
/// Secrecy: `Debug` prints the public key only.
pub struct SigningKey(Ed25519SecretKey);

impl SigningKey {
    /// A new key from 32 random bytes.
    pub fn generate(entropy: &mut dyn Entropy) -> Self {
        Self(Ed25519SecretKey::from_slice(&secret_bytes(entropy)))
    }

    /// Takes the key out of a secret: unpadded base64 of its 32 bytes, padding tolerated.
    ///
    /// Any 32 bytes are a key. Whether it is the *right* one is to be seen by comparing
    /// [`public_key`](Self::public_key) with the published key.
    ///
    /// # Errors
    ///
    /// [`KeyError::NotBase64`] or [`KeyError::WrongLength`].
    pub fn from_secret(text: &SecretString) -> Result<Self, KeyError> {
        let seed = secret_base64::decode_key(text.as_str())?;
        Ok(Self(Ed25519SecretKey::from_slice(&seed)))
    }

    /// The key as a secret: unpadded base64.
    #[must_use]
    pub fn to_secret(&self) -> SecretString {
        secret_base64::encode_key(&self.seed())
    }

    /// The public half, which is also the key's name.
    #[must_use]
    pub fn public_key(&self) -> Ed25519PublicKey {
        self.0.public_key().into()
    }

    /// Signs `message`.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Ed25519Signature {
        self.0.sign(message)
    }

    /// Signs `object` and adds the signature as `signatures[user_id]["ed25519:<public key>"]`.
    /// Other signatures and `unsigned` stay as they are and are not covered.
    ///
    /// # Errors
    ///
    /// If `object` is no object, has no canonical form, or has malformed `signatures`. It is
    /// unchanged then.
    pub fn sign_json(&self, user_id: &str, object: &mut Value) -> Result<(), CanonicalJsonError> {
        let key_id = format!("ed25519:{}", self.public_key().to_base64());
        canonical::sign_json(user_id, key_id, object, |message| self.sign(message))
    }

    /// The key as a record, in clear.
    #[must_use]
    pub fn to_record(&self) -> SecretBytes {
        record::wrap(&*self.seed())
    }

    /// Restores a key from its record.
    ///
    /// # Errors
    ///
    /// If the record is damaged or of an unknown version.
    pub fn from_record(record: &[u8]) -> Result<Self, RecordError> {
        let seed = record::key(KIND, record)?;
        Ok(Self(Ed25519SecretKey::from_slice(&seed)))
    }

    fn seed(&self) -> Zeroizing<[u8; 32]> {
        let mut boxed = self.0.to_bytes();
        let seed = Zeroizing::new(*boxed);
        boxed.zeroize();
        seed
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public_key()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical::verify_json;
    use crate::entropy::SeededEntropy;
    use serde_json::json;

    /// Origin: Matrix specification, appendices, "Cryptographic Test Vectors", "Signing Key". The
    /// last character there is a 1, whose surplus bits are set; the bytes are the same.
    const SEED: &str = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0";

    fn known() -> SigningKey {
        SigningKey::from_secret(&SecretString::new(SEED.into())).unwrap()
    }

    #[test]
    fn the_signatures_of_the_specification_are_made() {
        // Origin: Matrix specification, appendices, "Signed JSON": the signed bytes are the same,
        // the name of the key is ours.
        for (object, signature) in [
            (
                json!({}),
                "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ",
            ),
            (
                json!({ "one": 1, "two": "Two" }),
                "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw",
            ),
        ] {
            let mut signed = object;
            known().sign_json("domain", &mut signed).unwrap();
            let key_id = format!("ed25519:{}", known().public_key().to_base64());
            assert_eq!(signed["signatures"]["domain"][key_id.as_str()], signature);
            verify_json(&known().public_key(), "domain", &key_id, &signed).unwrap();
        }
    }

    #[test]
    fn a_key_survives_its_secret_and_its_record() {
        let key = SigningKey::generate(&mut SeededEntropy::new(1));
        let public = key.public_key();
        assert_eq!(SigningKey::from_secret(&key.to_secret()).unwrap().public_key(), public);
        let record = key.to_record();
        assert_eq!(SigningKey::from_record(record.as_slice()).unwrap().public_key(), public);
        assert!(SigningKey::from_record(&record.as_slice()[..32]).is_err());
        assert!(SigningKey::from_record(&[2; 33]).is_err());
    }

    #[test]
    fn two_keys_of_one_source_differ() {
        let mut entropy = SeededEntropy::new(1);
        let (a, b) = (SigningKey::generate(&mut entropy), SigningKey::generate(&mut entropy));
        assert_ne!(a.public_key(), b.public_key());
    }

    #[test]
    fn debug_shows_the_public_key_only() {
        let text = format!("{:?}", known());
        assert!(text.contains(&known().public_key().to_base64()) && !text.contains(SEED));
    }
}
