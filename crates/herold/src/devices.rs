//! Devices of users, blocking, policy, and encrypted to-device events.

use herold_crypto::SecretString;
use herold_machine::UserDevices;
use herold_trust::{DecryptTrust, Policy, Recipients};
use ruma::{DeviceId, UserId};
use serde_json::Value;

use crate::{Client, ClientError};

impl Client {
    /// A user's devices and identity. Asks the homeserver first when the list is outdated or the user
    /// not tracked; when that takes longer than 15 seconds, what is known, marked as outdated.
    ///
    /// # Errors
    /// Those of the store; [`ClientError::Closed`].
    pub async fn devices(&self, user: &UserId) -> Result<UserDevices, ClientError> {
        let _ = user;
        Err(ClientError::Unsupported("in progress"))
    }

    /// Marks a user's list as outdated, tracking the user if need be: a query follows.
    ///
    /// # Errors
    /// Those of the store.
    pub fn refresh_devices(&self, user: &UserId) -> Result<(), ClientError> {
        let _ = user;
        Err(ClientError::Unsupported("in progress"))
    }

    /// Removes another device of the own account from the homeserver, with the account's password.
    ///
    /// # Errors
    /// [`ClientError::Matrix`] with `M_FORBIDDEN` for a wrong password; [`ClientError::Unsupported`]
    /// if the homeserver wants another kind of authentication.
    pub async fn delete_device(
        &self,
        device: &DeviceId,
        password: SecretString,
    ) -> Result<(), ClientError> {
        let _ = (device, password);
        Err(ClientError::Unsupported("in progress"))
    }

    /// Gives a device no more room keys, or gives them again.
    ///
    /// # Errors
    /// [`ClientError::UnknownDevice`]; those of the store.
    pub fn set_blocked(
        &self,
        user: &UserId,
        device: &DeviceId,
        blocked: bool,
    ) -> Result<(), ClientError> {
        let _ = (user, device, blocked);
        Err(ClientError::Unsupported("in progress"))
    }

    /// Chooses among what the deployment allows.
    ///
    /// # Errors
    /// [`ClientError::PolicyDenied`] if it is laxer than the deployment's floor: nothing has changed.
    pub fn set_policy(
        &self,
        recipients: Recipients,
        decrypt_trust: DecryptTrust,
    ) -> Result<(), ClientError> {
        let _ = (recipients, decrypt_trust);
        Err(ClientError::Unsupported("in progress"))
    }

    /// The policy in force.
    ///
    /// # Errors
    /// [`ClientError::Closed`].
    pub fn policy(&self) -> Result<Policy, ClientError> {
        Err(ClientError::Unsupported("in progress"))
    }

    /// Sends an Olm-encrypted event to one device. It is in the persistent outbox when this answers.
    /// A session with the device is made first if there is none.
    ///
    /// # Errors
    /// [`ClientError::UnknownDevice`]; [`ClientError::NoOlmSession`] if no session could be made
    /// within 20 seconds.
    pub async fn send_to_device(
        &self,
        user: &UserId,
        device: &DeviceId,
        event_type: &str,
        content: &Value,
    ) -> Result<(), ClientError> {
        let _ = (user, device, event_type, content);
        Err(ClientError::Unsupported("in progress"))
    }
}
