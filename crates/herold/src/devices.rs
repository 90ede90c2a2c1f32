//! Devices of users, blocking, policy, and encrypted to-device events.

use std::{sync::Arc, time::Duration};

use herold_crypto::SecretString;
use herold_machine::{
    HttpRequest, Method, ToDeviceOutcome, ToDeviceRecipient, ToDeviceResult, UserDevices,
};
use herold_trust::{DecryptTrust, Policy, Recipients};
use ruma::{DeviceId, OwnedDeviceId, OwnedTransactionId, UserId};
use serde_json::{Value, json};

use crate::{
    Authentication, Client, ClientError, authenticate, send::new_txn_id, session::Session,
    tasks::detached,
};

/// How long a query for a user's devices is waited for.
const QUERY_PATIENCE: Duration = Duration::from_secs(15);

impl Client {
    /// A user's devices and identity. Asks the homeserver first when the list is outdated or the user
    /// not tracked; when that takes longer than 15 seconds, what is known, marked as outdated.
    ///
    /// # Errors
    /// Those of the store; [`ClientError::Closed`].
    pub async fn devices(&self, user: &UserId) -> Result<UserDevices, ClientError> {
        let view =
            |session: &Session| session.read(|machine, snapshot| machine.devices(snapshot, user));
        let known = view(self.session())?;
        if known.tracked && !known.outdated {
            return Ok(known);
        }
        if !known.outdated {
            self.refresh_devices(user)?;
        }
        let fresh = |session: &Session| Ok(Some(view(session)?).filter(|known| !known.outdated));
        match self.session().wait_until(QUERY_PATIENCE, fresh).await {
            Err(ClientError::Timeout) => view(self.session()),
            result => result,
        }
    }

    /// Marks a user's list as outdated, tracking the user if need be: a query follows.
    ///
    /// # Errors
    /// Those of the store.
    pub fn refresh_devices(&self, user: &UserId) -> Result<(), ClientError> {
        self.session().step(|machine, snapshot, cx| machine.refresh_devices(snapshot, cx, user))
    }

    /// Removes another device of the own account from the homeserver, with the account's password or an answer to what the
    /// homeserver asks.
    ///
    /// # Errors
    /// [`ClientError::Matrix`] with `M_FORBIDDEN` for a wrong password; [`ClientError::AuthenticationNeeded`]
    /// if the homeserver wants to see something else.
    pub async fn delete_device(
        &self,
        device: &DeviceId,
        authentication: impl Into<Authentication>,
    ) -> Result<(), ClientError> {
        let (session, device) = (self.session().clone(), device.to_owned());
        detached(delete(session, device, authentication.into())).await
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
        self.session()
            .step(|machine, snapshot, cx| machine.set_blocked(snapshot, cx, user, device, blocked))
    }

    /// Accepts a user's identity as it is known now, after the app's user has been told that it changed
    /// ([`herold_machine::Notice::IdentityChanged`]): its devices may be given room keys again.
    ///
    /// # Errors
    /// [`ClientError::InvalidInput`] if the user has no identity that is known; those of the store.
    pub fn pin_identity(&self, user: &UserId) -> Result<(), ClientError> {
        self.session().step(|machine, snapshot, cx| machine.pin_identity(snapshot, cx, user))
    }

    /// Lets a verification go that another master key has broken: the user's current identity is used as one that nobody
    /// has verified.
    ///
    /// # Errors
    /// [`ClientError::InvalidInput`] if the user has no identity that is known; those of the store.
    pub fn withdraw_verification(&self, user: &UserId) -> Result<(), ClientError> {
        self.session()
            .step(|machine, snapshot, cx| machine.withdraw_verification(snapshot, cx, user))
    }

    /// A secret of the user's own, by its name in secret storage; `None` if it is not here. Secret.
    ///
    /// # Errors
    /// Those of the store.
    pub fn secret(&self, name: &str) -> Result<Option<SecretString>, ClientError> {
        self.session().read(|machine, snapshot| machine.secret(snapshot, name))
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
        let session = self.session();
        // The deployment as it is now may be stricter than when the account was made.
        session
            .deployment_policy
            .tighten(recipients, decrypt_trust)
            .map_err(|_| ClientError::PolicyDenied)?;
        session.step(|machine, snapshot, cx| {
            machine.set_policy(snapshot, cx, recipients, decrypt_trust)
        })
    }

    /// The policy in force.
    ///
    /// # Errors
    /// [`ClientError::Closed`].
    pub fn policy(&self) -> Result<Policy, ClientError> {
        self.session().read(|machine, _| Ok(machine.policy().clone()))
    }

    /// Sends an event of the app's own to one device, encrypted with Olm, and waits until the homeserver has
    /// accepted it. Dropping the future does not take it back.
    ///
    /// # Errors
    /// [`ClientError::UnknownDevice`]; [`ClientError::PolicyDenied`] if the policy withholds it from that device;
    /// [`ClientError::NoOlmSession`] if no session could be made within 15 seconds;
    /// [`ClientError::SendFailed`] if the homeserver refused it; those of [`Client::send_to_devices`].
    pub async fn send_to_device(
        &self,
        user: &UserId,
        device: &DeviceId,
        event_type: &str,
        content: &Value,
    ) -> Result<(), ClientError> {
        let recipient = ToDeviceRecipient::Device(user.to_owned(), device.to_owned());
        let outcomes = self.send_to_devices(&[recipient], event_type, content).await?;
        match outcomes.into_iter().next().map(|outcome| outcome.result) {
            Some(ToDeviceResult::Sent) => Ok(()),
            Some(ToDeviceResult::Withheld(_)) => Err(ClientError::PolicyDenied),
            Some(ToDeviceResult::NoOlm) => Err(ClientError::NoOlmSession),
            Some(ToDeviceResult::Refused(errcode)) => Err(ClientError::SendFailed { errcode }),
            _ => Err(ClientError::UnknownDevice),
        }
    }

    /// Sends an event of the app's own to devices, or to all devices of users, encrypted with Olm for each, and
    /// waits until it is known what became of it for every one of them. Who may be given room keys may be sent it.
    /// Dropping the future does not take it back.
    ///
    /// # Errors
    /// [`ClientError::InvalidInput`] for a content that is no object or too large, and for an event type that is
    /// not the app's to send; [`ClientError::LoggedOut`], [`ClientError::Closed`].
    pub async fn send_to_devices(
        &self,
        recipients: &[ToDeviceRecipient],
        event_type: &str,
        content: &Value,
    ) -> Result<Vec<ToDeviceOutcome>, ClientError> {
        let session = self.session();
        if session.is_logged_out() {
            return Err(ClientError::LoggedOut);
        }
        let txn = new_txn_id();
        let ticket = session.outcomes.to_device_ticket(txn.clone());
        self.queue_to_device(recipients, event_type, content, Some(txn))?;
        let outcome = |session: &Session| match ticket.outcome() {
            None if session.is_logged_out() => Err(ClientError::LoggedOut),
            outcome => Ok(outcome),
        };
        session.wait_until(Duration::MAX, outcome).await
    }

    /// As [`Client::send_to_devices`], answering at once: what became of it comes as
    /// [`crate::AppEvent::ToDeviceSent`]. The same `txn` again, while it is queued, is the same event.
    ///
    /// # Errors
    /// [`ClientError::InvalidInput`]; those of the store. It was not queued then.
    pub fn queue_to_device(
        &self,
        recipients: &[ToDeviceRecipient],
        event_type: &str,
        content: &Value,
        txn: Option<OwnedTransactionId>,
    ) -> Result<OwnedTransactionId, ClientError> {
        let queued = self.session().step(|machine, snapshot, cx| {
            machine.send_to_device(snapshot, cx, recipients, event_type, content, txn)
        });
        queued.map_err(|error| match error {
            ClientError::BadResponse(what) => ClientError::InvalidInput(what),
            error => error,
        })
    }
}

/// Deletes a device, with the user-interactive authentication that it takes.
async fn delete(
    session: Arc<Session>,
    device: OwnedDeviceId,
    authentication: Authentication,
) -> Result<(), ClientError> {
    let request = |auth: Option<Value>| {
        let body = auth.map_or_else(|| json!({}), |auth| json!({ "auth": auth }));
        HttpRequest::new(Method::Delete, "/_matrix/client/v3/devices", &[device.as_str()])
            .json(body.to_string())
    };
    authenticate::call(&session, &authentication, request).await?;
    // The next message should not go to it, whenever the sync tells.
    let user = session.user_id.clone();
    session.step(|machine, snapshot, cx| machine.refresh_devices(snapshot, cx, &user))
}
