//! The account: the long-term keys of a device and its stock of one-time keys. Clause: Matrix
//! specification, *One-time and fallback keys*, *Olm & Megolm*.

use std::collections::HashMap;
use std::fmt;

use serde_json::Value;
use vodozemac::olm::{self, AccountPickle, SessionConfig};
use vodozemac::{Curve25519PublicKey, Ed25519Signature, KeyId};
use zeroize::Zeroizing;

use crate::canonical::{self, CanonicalJsonError};
use crate::identity::{IdentityKeys, is_low_order_curve25519};
use crate::olm::{OlmError, OlmMessage, OlmSession};
use crate::record::{self, RecordError};
use crate::secret::SecretBytes;

const KIND: &str = "an account";

/// The private side of a device: identity keys, one-time keys, fallback keys.
///
/// Every `&mut` call changes what must be stored. Store the record before keys are uploaded and
/// before a plaintext of [`create_inbound_session`](Self::create_inbound_session) is handed on.
///
/// Secrecy: `Debug` prints no content.
pub struct Account(pub(crate) olm::Account);

impl Account {
    /// A new device with fresh identity keys from the operating system's randomness.
    #[expect(clippy::new_without_default, reason = "a new identity should be asked for by name")]
    pub fn new() -> Self {
        Self(olm::Account::new())
    }

    /// The public halves of the identity keys.
    pub fn identity_keys(&self) -> IdentityKeys {
        IdentityKeys { curve25519: self.0.curve25519_key(), ed25519: self.0.ed25519_key().into() }
    }

    /// Signs `message` with the device's Ed25519 key.
    pub fn sign(&self, message: &[u8]) -> Ed25519Signature {
        self.0.sign(message)
    }

    /// Signs `object` and adds the signature as `signatures[user_id]["ed25519:device_id"]`. Other
    /// signatures and `unsigned` stay as they are and are not covered.
    ///
    /// # Errors
    ///
    /// If `object` is no object, has no canonical form, or has malformed `signatures`. It is
    /// unchanged then.
    pub fn sign_json(
        &self,
        user_id: &str,
        device_id: &str,
        object: &mut Value,
    ) -> Result<(), CanonicalJsonError> {
        let key_id = format!("ed25519:{device_id}");
        canonical::sign_json(user_id, key_id, object, |message| self.sign(message))
    }

    /// How many one-time keys the server should hold, in keys.
    pub fn max_one_time_keys(&self) -> usize {
        self.0.max_number_of_one_time_keys()
    }

    /// Adds `count` one-time keys. An account holds a hundred times
    /// [`max_one_time_keys`](Self::max_one_time_keys) at most: beyond that the oldest are
    /// forgotten, and a larger `count` is cut to it.
    pub fn generate_one_time_keys(&mut self, count: usize) {
        self.0.generate_one_time_keys(count.min(100 * self.max_one_time_keys()));
    }

    /// The one-time keys that are not marked as published, with their key ids, sorted by key id.
    /// The same keys come back in the same order until
    /// [`mark_keys_as_published`](Self::mark_keys_as_published), so an upload can be repeated
    /// byte by byte.
    pub fn unpublished_one_time_keys(&self) -> Vec<(String, Curve25519PublicKey)> {
        sorted(self.0.one_time_keys())
    }

    /// Replaces the fallback key. The one before stays usable until
    /// [`forget_previous_fallback_key`](Self::forget_previous_fallback_key).
    pub fn generate_fallback_key(&mut self) {
        self.0.generate_fallback_key();
    }

    /// The current fallback key with its key id, unless it is marked as published.
    pub fn unpublished_fallback_key(&self) -> Option<(String, Curve25519PublicKey)> {
        sorted(self.0.fallback_key()).pop()
    }

    /// Forgets the fallback key before the current one; says whether there was one.
    pub fn forget_previous_fallback_key(&mut self) -> bool {
        self.0.forget_fallback_key()
    }

    /// Records that the server has accepted all unpublished keys, the fallback key included.
    pub fn mark_keys_as_published(&mut self) {
        self.0.mark_keys_as_published();
    }

    /// How many private one-time keys are stored, published or not, without fallback keys.
    pub fn stored_one_time_key_count(&self) -> usize {
        self.0.stored_one_time_key_count()
    }

    /// Opens a session to a device from its identity key and a claimed one-time or fallback key.
    /// Both must have been authenticated by the caller.
    ///
    /// # Errors
    ///
    /// [`OlmError::LowOrderKey`] if either key has small order.
    pub fn create_outbound_session(
        &self,
        identity_key: Curve25519PublicKey,
        one_time_key: Curve25519PublicKey,
    ) -> Result<OlmSession, OlmError> {
        if is_low_order_curve25519(&identity_key) || is_low_order_curve25519(&one_time_key) {
            return Err(OlmError::LowOrderKey);
        }
        let session = self.0.create_outbound_session(
            SessionConfig::version_1(),
            identity_key,
            one_time_key,
        )?;
        Ok(OlmSession::new(session))
    }

    /// Opens the session that a pre-key message offers, and decrypts the message.
    ///
    /// The one-time key is spent only if the message decrypts. A fallback key is not spent, so the
    /// caller has to recognise replays of such messages (see [`OlmMessage::hash`]).
    ///
    /// # Errors
    ///
    /// [`OlmError::NotPreKey`], [`OlmError::IdentityKeyMismatch`] if the message comes from
    /// another key than `identity_key`, [`OlmError::UnknownOneTimeKey`], or what the decryption
    /// reports. The account is unchanged then.
    pub fn create_inbound_session(
        &mut self,
        identity_key: Curve25519PublicKey,
        message: &OlmMessage,
    ) -> Result<(OlmSession, Zeroizing<Vec<u8>>), OlmError> {
        let message = message.pre_key().ok_or(OlmError::NotPreKey)?;
        let created =
            self.0.create_inbound_session(SessionConfig::version_1(), identity_key, message)?;
        Ok((OlmSession::new(created.session), Zeroizing::new(created.plaintext)))
    }

    /// The account as a record, which contains its private keys in clear.
    pub fn to_record(&self) -> SecretBytes {
        record::encode(&self.0.pickle())
    }

    /// Restores an account from its record.
    ///
    /// # Errors
    ///
    /// If the record is damaged or of an unknown version.
    pub fn from_record(record: &[u8]) -> Result<Self, RecordError> {
        Ok(Self(olm::Account::from_pickle(record::decode::<AccountPickle>(KIND, record)?)))
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Account(..)")
    }
}

/// Key ids count upwards and encode at a fixed width, but base64 does not sort as its bytes do:
/// sorted by the id itself, then encoded.
fn sorted(keys: HashMap<KeyId, Curve25519PublicKey>) -> Vec<(String, Curve25519PublicKey)> {
    let mut keys: Vec<_> = keys.into_iter().collect();
    keys.sort_unstable_by_key(|(id, _)| *id);
    keys.into_iter().map(|(id, key)| (id.to_base64(), key)).collect()
}
