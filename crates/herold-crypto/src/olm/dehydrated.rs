//! A device that lies encrypted on the server and receives while no other device of its user does.
//!
//! Clause: MSC3814 (*Dehydrated devices with SSSS*), the encryption of the device's keys.

use vodozemac::olm;
use zeroize::Zeroizing;

use crate::entropy::Entropy;
use crate::identity::KeyError;
use crate::olm::Account;
use crate::record;
use crate::secret::{SecretBytes, SecretString};
use crate::secret_base64;

/// A dehydrated device's private keys, encrypted. Not secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DehydratedAccount {
    /// ChaCha20-Poly1305 of the keys, unpadded base64 (`device_pickle`).
    pub ciphertext: String,
    /// The nonce, unpadded base64.
    pub nonce: String,
}

/// The key that dehydrated devices are encrypted with (secret `org.matrix.msc3814`).
///
/// Secrecy: `Debug` prints nothing; wiped on drop.
pub struct DehydrationKey(Zeroizing<[u8; 32]>);

/// A dehydrated device was not opened or closed: another key, damaged data, or an unknown version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the dehydrated device cannot be opened with this key")]
pub struct DehydrationError;

impl DehydrationKey {
    /// A new random key.
    pub fn generate(entropy: &mut dyn Entropy) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        entropy.fill(&mut *key);
        Self(key)
    }

    /// Takes the key out of a secret: unpadded base64, padding tolerated.
    ///
    /// # Errors
    ///
    /// [`KeyError::NotBase64`] or [`KeyError::WrongLength`].
    pub fn from_secret(text: &SecretString) -> Result<Self, KeyError> {
        secret_base64::decode_key(text.as_str()).map(Self)
    }

    /// The key as a secret: unpadded base64.
    #[must_use]
    pub fn to_secret(&self) -> SecretString {
        secret_base64::encode_key(&self.0)
    }

    /// The key as a record, in clear.
    #[must_use]
    pub fn to_record(&self) -> SecretBytes {
        record::wrap(&*self.0)
    }

    /// Restores a key from its record.
    ///
    /// # Errors
    ///
    /// If the record is damaged or of an unknown version.
    pub fn from_record(record: &[u8]) -> Result<Self, crate::RecordError> {
        record::key("a dehydration key", record).map(Self)
    }
}

impl std::fmt::Debug for DehydrationKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DehydrationKey(..)")
    }
}

impl Account {
    /// Encrypts a newly made account, which has no sessions yet, as a dehydrated device. The nonce
    /// comes from the operating system.
    ///
    /// # Errors
    ///
    /// [`DehydrationError`] if the account cannot be encoded.
    pub fn dehydrate(&self, key: &DehydrationKey) -> Result<DehydratedAccount, DehydrationError> {
        let made = self.0.to_dehydrated_device(&key.0).map_err(|_| DehydrationError)?;
        Ok(DehydratedAccount { ciphertext: made.ciphertext, nonce: made.nonce })
    }

    /// Decrypts a dehydrated device. The account is as trustworthy as the key: compare its identity
    /// keys with the cross-signed device keys before believing in it.
    ///
    /// # Errors
    ///
    /// [`DehydrationError`].
    pub fn rehydrate(
        account: &DehydratedAccount,
        key: &DehydrationKey,
    ) -> Result<Self, DehydrationError> {
        olm::Account::from_dehydrated_device(&account.ciphertext, &account.nonce, &key.0)
            .map(Self)
            .map_err(|_| DehydrationError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::SeededEntropy;

    #[test]
    fn a_dehydrated_device_comes_back_with_its_key_only() {
        let mut entropy = SeededEntropy::new(1);
        let key = DehydrationKey::generate(&mut entropy);
        let mut account = Account::new();
        account.generate_one_time_keys(3);
        let stored = account.dehydrate(&key).unwrap();
        let key = DehydrationKey::from_secret(&key.to_secret()).unwrap();
        let back = Account::rehydrate(&stored, &key).unwrap();
        assert_eq!(back.identity_keys(), account.identity_keys());
        assert_eq!(back.stored_one_time_key_count(), 3);
        let other = DehydrationKey::generate(&mut entropy);
        assert_eq!(Account::rehydrate(&stored, &other).unwrap_err(), DehydrationError);
        let damaged = DehydratedAccount { nonce: "AAAA".into(), ..stored };
        assert_eq!(Account::rehydrate(&damaged, &key).unwrap_err(), DehydrationError);
    }
}
