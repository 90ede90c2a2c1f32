//! The server-side backup of room keys: encrypting to its public key, decrypting with its private
//! one.
//!
//! What is encrypted with the public key is confidential and nothing more: anyone who knows the
//! public key, the server first of all, can write an entry. The `mac` of an entry covers the empty
//! string, as in every deployed implementation (the specification warns of it), so it only tells
//! that the right key was used. Treat what was decrypted as written by anybody.
//!
//! Clause: Matrix specification, *Server-side key backups*, algorithm
//! `m.megolm_backup.v1.curve25519-aes-sha2`.

use std::borrow::Cow;
use std::fmt;

use aes::Aes256;
use base64::Engine;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use vodozemac::{Curve25519PublicKey, Curve25519SecretKey};
use zeroize::Zeroizing;

use crate::agreement::{agree, private_bytes};
use crate::entropy::{Entropy, secret_bytes};
use crate::identity::{KeyError, curve25519_from_base64};
use crate::record::{self, RecordError};
use crate::secret::{SecretBytes, SecretString};
use crate::secret_storage::{RecoveryKeyError, decode_recovery_key, encode_recovery_key};
use crate::session_data::{SessionData, SessionDataError};
use crate::{secret_base64, unpadded};

const KIND: &str = "a backup decryption key";

/// The one algorithm of backups.
pub const BACKUP_ALGORITHM: &str = "m.megolm_backup.v1.curve25519-aes-sha2";

/// The bytes of a MAC that are kept.
const MAC_LENGTH: usize = 8;

/// Why one entry of a backup was not decrypted. The others are not concerned. The texts quote
/// nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// A field is not base64 or has the wrong length.
    #[error("the backup entry is malformed")]
    Malformed,
    /// The ephemeral key was refused.
    #[error("the backup entry's key is not usable: {0}")]
    Key(#[source] KeyError),
    /// The entry was not encrypted for this key.
    #[error("the backup entry is for another key")]
    WrongKey,
    /// The ciphertext was changed: its padding is wrong.
    #[error("the backup entry is damaged")]
    Damaged,
    /// It decrypts to no session.
    #[error(transparent)]
    Session(#[from] SessionDataError),
}

/// `session_data` of one entry. Not secret.
///
/// Borrows from the JSON it was read from where it can, so that a restore of a hundred thousand
/// does not copy them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncryptedSessionData<'a> {
    /// The ephemeral public key, unpadded base64.
    #[serde(borrow)]
    pub ephemeral: Cow<'a, str>,
    /// AES-256-CBC of the session's JSON, unpadded base64.
    #[serde(borrow)]
    pub ciphertext: Cow<'a, str>,
    /// Eight bytes, unpadded base64.
    #[serde(borrow)]
    pub mac: Cow<'a, str>,
}

/// The public key of a backup. Whether to trust it is not decided here.
#[derive(Clone, Copy)]
pub struct BackupPublicKey(Curve25519PublicKey);

impl BackupPublicKey {
    /// Reads `auth_data.public_key`.
    ///
    /// # Errors
    ///
    /// [`KeyError`]; a key of small order is refused, since everyone could read such a backup.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        curve25519_from_base64(text).map(Self)
    }

    /// Unpadded base64.
    #[must_use]
    pub fn to_base64(&self) -> String {
        self.0.to_base64()
    }

    /// Encrypts a session under a fresh ephemeral key.
    #[must_use]
    pub fn encrypt(
        &self,
        session: &SessionData,
        entropy: &mut dyn Entropy,
    ) -> EncryptedSessionData<'static> {
        let seed = secret_bytes(entropy);
        let ephemeral = Curve25519SecretKey::from_slice(&seed);
        // `None` only for keys of small order, of which no value of this type exists. The keys are
        // all zero then, and so nothing may be written under them.
        let shared = agree(&ephemeral, &self.0);
        debug_assert!(shared.is_some(), "a backup key has a large order");
        let json = session.to_json();
        let (ciphertext, mac) = match shared {
            Some(shared) => {
                let keys = Keys::derive(&shared);
                (keys.encrypt(json.as_slice()), keys.mac())
            }
            None => (Vec::new(), [0; MAC_LENGTH]),
        };
        EncryptedSessionData {
            ephemeral: Curve25519PublicKey::from(&ephemeral).to_base64().into(),
            ciphertext: unpadded::STANDARD.encode(ciphertext).into(),
            mac: unpadded::STANDARD.encode(mac).into(),
        }
    }
}

impl PartialEq for BackupPublicKey {
    /// In constant time.
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for BackupPublicKey {}

impl fmt::Debug for BackupPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BackupPublicKey").field(&self.to_base64()).finish()
    }
}

/// The private key of a backup (secret `m.megolm_backup.v1`).
///
/// Secrecy: `Debug` prints nothing; wiped on drop.
pub struct BackupDecryptionKey(Curve25519SecretKey);

impl BackupDecryptionKey {
    /// A new key from 32 random bytes.
    pub fn generate(entropy: &mut dyn Entropy) -> Self {
        Self(Curve25519SecretKey::from_slice(&secret_bytes(entropy)))
    }

    /// Takes the key out of a secret: unpadded base64, padding tolerated. Any 32 bytes are a key;
    /// compare [`public_key`](Self::public_key) with the backup's.
    ///
    /// # Errors
    ///
    /// [`KeyError::NotBase64`] or [`KeyError::WrongLength`].
    pub fn from_secret(text: &SecretString) -> Result<Self, KeyError> {
        let seed = secret_base64::decode_key(text.as_str())?;
        Ok(Self(Curve25519SecretKey::from_slice(&seed)))
    }

    /// The key as a secret: unpadded base64.
    #[must_use]
    pub fn to_secret(&self) -> SecretString {
        secret_base64::encode_key(&self.seed())
    }

    /// Reads the text that older clients gave to their users.
    ///
    /// # Errors
    ///
    /// [`RecoveryKeyError`].
    pub fn from_recovery_key(text: &str) -> Result<Self, RecoveryKeyError> {
        let seed = decode_recovery_key(text)?;
        Ok(Self(Curve25519SecretKey::from_slice(&seed)))
    }

    /// The text form for users who keep this key itself.
    #[must_use]
    pub fn to_recovery_key(&self) -> SecretString {
        encode_recovery_key(&self.seed())
    }

    /// The public half: what `auth_data.public_key` has to be.
    #[must_use]
    pub fn public_key(&self) -> BackupPublicKey {
        BackupPublicKey(Curve25519PublicKey::from(&self.0))
    }

    /// Decrypts one entry. Success says nothing about who wrote it.
    ///
    /// The cost is one key agreement; the rest is small beside it. `&self`, so that many threads
    /// can share the key.
    ///
    /// # Errors
    ///
    /// [`BackupError`].
    pub fn decrypt(&self, entry: &EncryptedSessionData<'_>) -> Result<SessionData, BackupError> {
        let ephemeral = curve25519_from_base64(&entry.ephemeral).map_err(BackupError::Key)?;
        let decode =
            |text: &str| unpadded::STANDARD.decode(text).map_err(|_| BackupError::Malformed);
        let mut plaintext = Zeroizing::new(decode(&entry.ciphertext)?);
        let mac: [u8; MAC_LENGTH] =
            decode(&entry.mac)?.try_into().map_err(|_| BackupError::Malformed)?;
        let shared = agree(&self.0, &ephemeral).ok_or(BackupError::Key(KeyError::LowOrder))?;
        let keys = Keys::derive(&shared);
        if !bool::from(keys.mac().ct_eq(&mac)) {
            return Err(BackupError::WrongKey);
        }
        let json = keys.decrypt(&mut plaintext).ok_or(BackupError::Damaged)?;
        Ok(SessionData::parse(json)?)
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
        Ok(Self(Curve25519SecretKey::from_slice(&seed)))
    }

    fn seed(&self) -> Zeroizing<[u8; 32]> {
        private_bytes(&self.0)
    }
}

impl fmt::Debug for BackupDecryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BackupDecryptionKey(..)")
    }
}

/// What one key agreement gives: AES key, MAC key, initialisation vector.
struct Keys(Zeroizing<[u8; 80]>);

impl Keys {
    fn derive(shared: &[u8; 32]) -> Self {
        let mut okm = Zeroizing::new([0; 80]);
        let derived = Hkdf::<Sha256>::new(Some(&[0; 32]), shared).expand(&[], &mut *okm);
        debug_assert!(derived.is_ok(), "80 bytes are within what HKDF gives");
        Self(okm)
    }

    /// The MAC of nothing: the deployed flaw that the specification describes.
    fn mac(&self) -> [u8; MAC_LENGTH] {
        let mut mac = [0; MAC_LENGTH];
        if let Ok(hmac) = Hmac::<Sha256>::new_from_slice(&self.0[32..64]) {
            mac.copy_from_slice(&hmac.finalize().into_bytes()[..MAC_LENGTH]);
        }
        mac
    }

    fn encrypt(&self, plaintext: &[u8]) -> Vec<u8> {
        cbc::Encryptor::<Aes256>::new_from_slices(&self.0[..32], &self.0[64..])
            .map(|cipher| cipher.encrypt_padded_vec::<Pkcs7>(plaintext))
            .unwrap_or_default()
    }

    /// In place, so that the plaintext stands in one buffer only.
    fn decrypt<'a>(&self, data: &'a mut [u8]) -> Option<&'a [u8]> {
        cbc::Decryptor::<Aes256>::new_from_slices(&self.0[..32], &self.0[64..])
            .ok()?
            .decrypt_padded::<Pkcs7>(data)
            .ok()
    }
}

#[cfg(test)]
#[path = "backup_tests.rs"]
pub(crate) mod tests;
