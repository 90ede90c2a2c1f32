//! The storage key itself, and the text in which a user keeps it.

use std::fmt;

use zeroize::Zeroizing;

use crate::entropy::{Entropy, secret_bytes};
use crate::identity::KeyError;
use crate::record::{self, RecordError};
use crate::secret::{SecretBytes, SecretString};
use crate::secret_base64;
use crate::secret_storage::cipher::{EncryptedSecret, Keys, fresh_iv};
use crate::secret_storage::{KeyCheck, KeyDescription, PassphraseParameters, SecretStorageError};

const KIND: &str = "a secret storage key";

/// Why a text is no recovery key. The texts quote nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecoveryKeyError {
    /// A character is not in the base58 alphabet (which has no `0`, `O`, `I` and `l`).
    #[error("character {position} of the recovery key is not in its alphabet")]
    Character {
        /// Which one, counted from 1 without white space.
        position: usize,
    },
    /// The text is too short or too long for 35 bytes.
    #[error("the recovery key has the wrong length")]
    Length,
    /// The bytes do not begin with 0x8B 0x01: a key of another kind.
    #[error("this is not a recovery key of Matrix")]
    Prefix,
    /// The parity byte is wrong: a typing error.
    #[error("the recovery key is mistyped")]
    Parity,
}

/// The key of secret storage: 32 bytes that open every secret under it.
///
/// Secrecy: `Debug` prints nothing; wiped on drop. Keep it no longer than a recovery lasts.
pub struct StorageKey(Zeroizing<[u8; 32]>);

impl StorageKey {
    /// A new random key.
    pub fn generate(entropy: &mut dyn Entropy) -> Self {
        Self(secret_bytes(entropy))
    }

    /// Reads the text form; white space is ignored.
    ///
    /// # Errors
    ///
    /// [`RecoveryKeyError`], precise enough to help a user who types.
    pub fn from_recovery_key(text: &str) -> Result<Self, RecoveryKeyError> {
        decode_recovery_key(text).map(Self)
    }

    /// The text form in groups of four characters, to be written down by the user.
    #[must_use]
    pub fn to_recovery_key(&self) -> SecretString {
        encode_recovery_key(&self.0)
    }

    /// Derives the key from a passphrase. Takes time in proportion to the iterations: about a
    /// third of a second for half a million, a few seconds at most.
    #[must_use]
    pub fn from_passphrase(passphrase: &str, parameters: &PassphraseParameters) -> Self {
        Self(parameters.derive(passphrase))
    }

    /// Reads unpadded base64, as in a secret that holds a storage key.
    ///
    /// # Errors
    ///
    /// [`KeyError::NotBase64`] or [`KeyError::WrongLength`].
    pub fn from_secret(text: &SecretString) -> Result<Self, KeyError> {
        secret_base64::decode_key(text.as_str()).map(Self)
    }

    /// Unpadded base64.
    #[must_use]
    pub fn to_secret(&self) -> SecretString {
        secret_base64::encode_key(&self.0)
    }

    /// Describes the key with fresh check values, for a new `m.secret_storage.key.<id>` event.
    #[must_use]
    pub fn describe(
        &self,
        name: Option<String>,
        passphrase: Option<PassphraseParameters>,
        entropy: &mut dyn Entropy,
    ) -> KeyDescription {
        let iv = fresh_iv(entropy);
        KeyDescription { name, passphrase, check: Some((iv, self.check_mac(&iv))) }
    }

    /// Compares the key with a description's check values, in constant time.
    #[must_use]
    pub fn check(&self, description: &KeyDescription) -> KeyCheck {
        let Some((iv, mac)) = &description.check else {
            return KeyCheck::Absent;
        };
        let keys = Keys::derive(&self.0, "");
        let mut zeros = [0; 32];
        keys.apply(iv, &mut zeros);
        if keys.is_authentic(&zeros, mac) { KeyCheck::Right } else { KeyCheck::Wrong }
    }

    /// Encrypts `secret` under `name`, its event type.
    #[must_use]
    pub fn encrypt(&self, name: &str, secret: &str, entropy: &mut dyn Entropy) -> EncryptedSecret {
        let keys = Keys::derive(&self.0, name);
        let iv = fresh_iv(entropy);
        // In place, so that the plaintext's copy becomes the ciphertext.
        let mut ciphertext = secret.as_bytes().to_vec();
        keys.apply(&iv, &mut ciphertext);
        let mac = keys.mac(&ciphertext);
        EncryptedSecret { iv, ciphertext, mac }
    }

    /// Decrypts the secret with this name. The MAC does not cover the initialisation vector, so a
    /// changed one gives other text of the same length: compare a key with its public key.
    ///
    /// # Errors
    ///
    /// [`SecretStorageError::BadMac`] for another key, another name or changed ciphertext;
    /// [`SecretStorageError::NotText`] if it decrypts to no UTF-8.
    pub fn decrypt(
        &self,
        name: &str,
        secret: &EncryptedSecret,
    ) -> Result<SecretString, SecretStorageError> {
        let keys = Keys::derive(&self.0, name);
        if !keys.is_authentic(&secret.ciphertext, &secret.mac) {
            return Err(SecretStorageError::BadMac);
        }
        let mut plaintext = Zeroizing::new(secret.ciphertext.clone());
        keys.apply(&secret.iv, &mut plaintext);
        let text = String::from_utf8(std::mem::take(&mut *plaintext)).map_err(|error| {
            drop(Zeroizing::new(error.into_bytes()));
            SecretStorageError::NotText
        })?;
        Ok(SecretString::new(text))
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
    pub fn from_record(record: &[u8]) -> Result<Self, RecordError> {
        record::key(KIND, record).map(Self)
    }

    fn check_mac(&self, iv: &[u8; 16]) -> [u8; 32] {
        let keys = Keys::derive(&self.0, "");
        let mut zeros = [0; 32];
        keys.apply(iv, &mut zeros);
        keys.mac(&zeros)
    }
}

impl fmt::Debug for StorageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StorageKey(..)")
    }
}

// Clause of the rest: appendices, *Cryptographic key representation*.

const PREFIX: [u8; 2] = [0x8b, 0x01];
const RECOVERY_KEY_BYTES: usize = 35;
const ALPHABET: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

/// The digits of 35 bytes in base 58. The first byte is 0x8B, so the number never has fewer.
const RECOVERY_KEY_DIGITS: usize = 48;

/// Base58 of prefix, key and parity, a space after every fourth character.
pub(crate) fn encode_recovery_key(key: &[u8; 32]) -> SecretString {
    let mut bytes = Zeroizing::new([0; RECOVERY_KEY_BYTES]);
    bytes[..2].copy_from_slice(&PREFIX);
    bytes[2..34].copy_from_slice(key);
    bytes[34] = bytes[..34].iter().fold(0, |parity, byte| parity ^ byte);

    // Least significant digit first.
    let mut digits = Zeroizing::new([0u8; RECOVERY_KEY_DIGITS]);
    for byte in *bytes {
        let mut carry = u32::from(byte);
        for digit in digits.iter_mut() {
            carry += u32::from(*digit) << 8;
            *digit = (carry % 58) as u8;
            carry /= 58;
        }
    }
    let mut text = String::with_capacity(RECOVERY_KEY_DIGITS * 5 / 4);
    for (position, digit) in digits.iter().rev().enumerate() {
        if position > 0 && position % 4 == 0 {
            text.push(' ');
        }
        text.push(char::from(ALPHABET[usize::from(*digit)]));
    }
    SecretString::new(text)
}

/// The reverse; white space is ignored wherever it stands.
pub(crate) fn decode_recovery_key(text: &str) -> Result<Zeroizing<[u8; 32]>, RecoveryKeyError> {
    // Most significant byte last while it grows.
    let mut bytes = Zeroizing::new([0u8; RECOVERY_KEY_BYTES]);
    let mut count = 0;
    for character in text.chars().filter(|c| !c.is_whitespace()) {
        count += 1;
        let digit = ALPHABET
            .iter()
            .position(|letter| char::from(*letter) == character)
            .ok_or(RecoveryKeyError::Character { position: count })?;
        let mut carry = digit as u32;
        for byte in bytes.iter_mut() {
            carry += u32::from(*byte) * 58;
            *byte = (carry & 0xff) as u8;
            carry >>= 8;
        }
        if carry != 0 || count > RECOVERY_KEY_DIGITS {
            return Err(RecoveryKeyError::Length);
        }
    }
    bytes.reverse();
    // A shorter text than 48 digits leaves the first byte far below 0x8B.
    if count != RECOVERY_KEY_DIGITS {
        return Err(RecoveryKeyError::Length);
    }
    if bytes[..2] != PREFIX {
        return Err(RecoveryKeyError::Prefix);
    }
    if bytes.iter().fold(0, |parity, byte| parity ^ byte) != 0 {
        return Err(RecoveryKeyError::Parity);
    }
    let mut key = Zeroizing::new([0; 32]);
    key.copy_from_slice(&bytes[2..34]);
    Ok(key)
}
