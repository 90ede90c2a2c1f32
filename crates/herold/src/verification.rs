//! Verification: asking, answering, comparing.

use std::time::Duration;

use herold_crypto::SecretBytes;
use herold_machine::{VerificationAction, VerificationView};
use herold_trust::Methods;
use ruma::{OwnedDeviceId, OwnedEventId, RoomId, UserId};

use crate::{Client, ClientError, send::new_txn_id, session::Session};

impl Client {
    /// Asks devices of a user to verify each other, by to-device messages: these, or all that are known. Answers the
    /// flow's id at once.
    ///
    /// # Errors
    /// [`ClientError::UnknownDevice`] if there is none to ask; those of the store.
    pub fn request_verification(
        &self,
        user: &UserId,
        devices: Option<Vec<OwnedDeviceId>>,
    ) -> Result<String, ClientError> {
        self.session().step(|machine, snapshot, cx| {
            machine.request_verification(snapshot, cx, user, devices, Methods::ALL)
        })
    }

    /// Asks a user to verify each other, in a room. Answers the flow's id, the request's event id, once the homeserver has
    /// given it.
    ///
    /// # Errors
    /// [`ClientError::UnknownRoom`], [`ClientError::NotJoined`], [`ClientError::SendFailed`]; those of the store.
    pub async fn request_room_verification(
        &self,
        room: &RoomId,
        user: &UserId,
    ) -> Result<OwnedEventId, ClientError> {
        let session = self.session();
        let txn = new_txn_id();
        let ticket = session.outcomes.ticket((room.to_owned(), txn.clone()));
        session.step(|machine, snapshot, cx| {
            machine.request_room_verification(snapshot, cx, room, user, Some(txn))
        })?;
        let outcome = |session: &Session| match ticket.outcome()? {
            None if session.is_logged_out() => Err(ClientError::LoggedOut),
            outcome => Ok(outcome),
        };
        session.wait_until(Duration::MAX, outcome).await
    }

    /// Every verification that is under way, or was a day ago.
    ///
    /// # Errors
    /// Those of the store.
    pub fn verifications(&self) -> Result<Vec<VerificationView>, ClientError> {
        self.session().read(|machine, snapshot| machine.verifications(snapshot))
    }

    /// One verification.
    ///
    /// # Errors
    /// [`ClientError::UnknownVerification`]; those of the store.
    pub fn verification(
        &self,
        user: &UserId,
        flow_id: &str,
    ) -> Result<VerificationView, ClientError> {
        self.session()
            .read(|machine, snapshot| machine.verification(snapshot, user, flow_id))?
            .ok_or(ClientError::UnknownVerification)
    }

    /// Does what the app's user has decided. What does not fit where the verification stands changes nothing, or cancels
    /// it: look at [`Client::verification`].
    ///
    /// # Errors
    /// [`ClientError::UnknownVerification`]; those of the store.
    pub fn act_on_verification(
        &self,
        user: &UserId,
        flow_id: &str,
        action: VerificationAction,
    ) -> Result<(), ClientError> {
        let known = self.session().step(|machine, snapshot, cx| {
            machine.act_on_verification(snapshot, cx, user, flow_id, action)
        })?;
        if known { Ok(()) } else { Err(ClientError::UnknownVerification) }
    }

    /// The bytes of the QR code to show; `None` if none can be shown now. Secret until the other side has scanned it.
    ///
    /// # Errors
    /// Those of the store.
    pub fn show_verification_code(
        &self,
        user: &UserId,
        flow_id: &str,
    ) -> Result<Option<SecretBytes>, ClientError> {
        self.session().step(|machine, snapshot, cx| {
            machine.show_verification_code(snapshot, cx, user, flow_id)
        })
    }

    /// Takes the bytes of the QR code that the other side shows.
    ///
    /// # Errors
    /// [`ClientError::InvalidInput`] if they are no code of this verification: scan again. Those of the store.
    pub fn scan_verification_code(
        &self,
        user: &UserId,
        flow_id: &str,
        code: &[u8],
    ) -> Result<(), ClientError> {
        let taken = self.session().step(|machine, snapshot, cx| {
            machine.scan_verification_code(snapshot, cx, user, flow_id, code)
        })?;
        if taken { Ok(()) } else { Err(ClientError::InvalidInput("no code of this verification")) }
    }
}
