//! The two sides of a verification: keys as values, fixed when the flow begins.

use herold_crypto::Ed25519PublicKey;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Device, Identity};

/// A user has a device whose id is one of the user's cross-signing keys, so that a proof about one
/// could be passed off as a proof about the other (CVE-2022-39250). Such a user is not verified at all,
/// and the app's user is to be warned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the user has a device whose id is a cross-signing key")]
pub struct KeyIdConflict;

/// One side's keys, by value.
///
/// Exists only for users none of whose devices is named like a cross-signing key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartyKeys {
    pub(super) user_id: OwnedUserId,
    pub(super) device_id: OwnedDeviceId,
    pub(super) device_key: Ed25519PublicKey,
    pub(super) master: Option<Ed25519PublicKey>,
}

impl PartyKeys {
    /// The keys of the *other* side: its device, its user's identity if there is one, and the ids of
    /// all devices of that user.
    ///
    /// # Errors
    ///
    /// [`KeyIdConflict`]; an identity of another user counts as one.
    pub fn theirs<'a>(
        device: &Device,
        identity: Option<&Identity>,
        all_devices: impl IntoIterator<Item = &'a DeviceId>,
    ) -> Result<Self, KeyIdConflict> {
        if let Some(identity) = identity {
            let conflict = identity.user_id != device.user_id
                || identity.has_key_named(device.device_id.as_str())
                || all_devices.into_iter().any(|id| identity.has_key_named(id.as_str()));
            if conflict {
                return Err(KeyIdConflict);
            }
        }
        Ok(Self {
            user_id: device.user_id.clone(),
            device_id: device.device_id.clone(),
            device_key: device.keys.ed25519,
            master: identity.map(|identity| identity.master),
        })
    }

    /// The keys of *this* side: the own device, and the own identity **if this device trusts its
    /// master key**. Give `None` for the identity otherwise: what is named here is vouched for.
    ///
    /// # Errors
    ///
    /// As for [`theirs`](Self::theirs).
    pub fn ours<'a>(
        device: &Device,
        trusted_identity: Option<&Identity>,
        all_devices: impl IntoIterator<Item = &'a DeviceId>,
    ) -> Result<Self, KeyIdConflict> {
        Self::theirs(device, trusted_identity, all_devices)
    }

    /// The user.
    #[must_use]
    pub fn user_id(&self) -> &UserId {
        &self.user_id
    }

    /// The device.
    #[must_use]
    pub fn device_id(&self) -> &DeviceId {
        &self.device_id
    }

    pub(super) fn verified_device(&self) -> VerifiedKey {
        VerifiedKey::Device {
            user_id: self.user_id.clone(),
            device_id: self.device_id.clone(),
            key: self.device_key,
        }
    }

    pub(super) fn verified_master(&self) -> Option<VerifiedKey> {
        self.master.map(|key| VerifiedKey::Master { user_id: self.user_id.clone(), key })
    }

    /// The order that decides between two starts.
    pub(super) fn order(&self) -> (&str, &str) {
        (self.user_id.as_str(), self.device_id.as_str())
    }
}

/// Both sides' keys as they are now; compared with the fixed ones in every step.
#[derive(Clone, Copy, Debug)]
pub struct CurrentKeys<'a> {
    /// The own keys.
    pub ours: &'a PartyKeys,
    /// The keys of the other side's device: the one the flow is bound to
    /// ([`Verification::their_device`](crate::Verification::their_device)), otherwise the one that the
    /// message says it is from ([`from_device`](crate::from_device)). `None` if they are not known, or
    /// refused as a [`KeyIdConflict`].
    pub theirs: Option<&'a PartyKeys>,
}

/// A key that both sides have confirmed, by value. What may be signed, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VerifiedKey {
    /// A device's Ed25519 key.
    Device {
        /// The device's user.
        user_id: OwnedUserId,
        /// The device.
        device_id: OwnedDeviceId,
        /// Its key.
        key: Ed25519PublicKey,
    },
    /// A user's master key.
    Master {
        /// The user.
        user_id: OwnedUserId,
        /// The key.
        key: Ed25519PublicKey,
    },
}
