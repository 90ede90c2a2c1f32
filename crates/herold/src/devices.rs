//! Devices of users, blocking, policy, and encrypted to-device events.

use std::{sync::Arc, time::Duration};

use herold_crypto::SecretString;
use herold_machine::{HttpRequest, Method, UserDevices};
use herold_trust::{DecryptTrust, Policy, Recipients};
use ruma::{DeviceId, OwnedDeviceId, UserId};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use crate::{
    Client, ClientError,
    homeserver::{RESPONSE_LIMIT, Retry, success},
    session::{Session, deadline},
    tasks::detached,
};

/// How long a query for a user's devices is waited for.
const QUERY_PATIENCE: Duration = Duration::from_secs(15);

/// How long a session with a device is waited for.
const CLAIM_PATIENCE: Duration = Duration::from_secs(20);

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
        let (session, device) = (self.session().clone(), device.to_owned());
        detached(delete(session, device, password)).await
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
        if !content.is_object() {
            return Err(ClientError::InvalidInput("an event's content must be an object"));
        }
        let session = self.session();
        let mut changes = self.changed();
        let end = deadline(CLAIM_PATIENCE);
        loop {
            let sent = session.step(|machine, snapshot, cx| {
                machine.send_to_device(snapshot, cx, user, device, event_type, content)
            })?;
            if sent {
                return Ok(());
            }
            if Instant::now() >= end {
                return Err(ClientError::NoOlmSession);
            }
            match timeout_at(end, changes.wait()).await {
                Ok(changed) => changed?,
                Err(_) => return Err(ClientError::NoOlmSession),
            }
        }
    }
}

/// Deletes a device, with the user-interactive authentication by password that it takes.
async fn delete(
    session: Arc<Session>,
    device: OwnedDeviceId,
    password: SecretString,
) -> Result<(), ClientError> {
    #[derive(serde::Deserialize)]
    struct Challenge {
        flows: Vec<Flow>,
        session: Option<String>,
    }
    #[derive(serde::Deserialize)]
    struct Flow {
        stages: Vec<String>,
    }
    const PASSWORD: &str = "m.login.password";
    let request = |body: Value| {
        HttpRequest::new(Method::Delete, "/_matrix/client/v3/devices", &[device.as_str()])
            .json(body.to_string())
    };
    let response = session.call_raw(request(json!({})), Retry::Always, RESPONSE_LIMIT).await?;
    if response.status == 401 {
        let challenge: Challenge = serde_json::from_slice(&response.body)
            .map_err(|_| ClientError::BadResponse("an authentication challenge"))?;
        if !challenge.flows.iter().any(|flow| flow.stages == [PASSWORD]) {
            return Err(ClientError::Unsupported("authentication other than by password"));
        }
        let auth = json!({
            "type": PASSWORD,
            "identifier": { "type": "m.id.user", "user": session.user_id },
            "password": password.as_str(),
            "session": challenge.session,
        });
        let request = request(json!({ "auth": auth }));
        let response = session.call_raw(request, Retry::Always, RESPONSE_LIMIT).await?;
        success(response, &[&password])?;
    } else {
        session.success(response)?;
    }
    // The next message should not go to it, whenever the sync tells.
    let user = session.user_id.clone();
    session.step(|machine, snapshot, cx| machine.refresh_devices(snapshot, cx, &user))
}
