//! [`Session`]: what all handles and tasks of one account share.

use herold_crypto::IdentityKeys;
use ruma::{OwnedDeviceId, OwnedUserId};
use tokio::sync::watch;

/// What all handles and tasks of one account share.
pub(crate) struct Session {
    pub(crate) user_id: OwnedUserId,
    pub(crate) device_id: OwnedDeviceId,
    pub(crate) identity_keys: IdentityKeys,
    pub(crate) homeserver: String,
    pub(crate) changed: watch::Sender<u64>,
}
