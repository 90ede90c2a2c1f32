//! Commands about verifications and secrets.

use herold_crypto::SecretBytes;
use herold_store::Snapshot;
use herold_trust::Methods;
use ruma::{OwnedDeviceId, OwnedTransactionId, RoomId, UserId};

use crate::{
    Context, Machine, MachineError, Pending, Step, VerificationAction, queue, secrets, verification,
};

impl Machine {
    /// Asks devices of a user (these, or all that are known) to verify each other, by to-device messages. Replies with the
    /// flow's id.
    ///
    /// # Errors
    /// [`MachineError::UnknownDevice`] if there is none to ask; those of the store.
    pub fn request_verification(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        user_id: &UserId,
        devices: Option<Vec<OwnedDeviceId>>,
        methods: Methods,
    ) -> Result<Step<Pending, String>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let flow_id = verification::request(&mut txn, user_id, devices, methods)?;
        self.end(txn, flow_id)
    }

    /// Asks a user to verify each other, in a room. Replies with the transaction id of the request, `txn_id` if that is given:
    /// the event's id, as [`crate::AppEvent::Sent`] tells it, is the flow's.
    ///
    /// # Errors
    /// [`MachineError::UnknownRoom`], [`MachineError::NotJoined`], or those of the store.
    pub fn request_room_verification(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        room_id: &RoomId,
        user_id: &UserId,
        txn_id: Option<OwnedTransactionId>,
    ) -> Result<Step<Pending, OwnedTransactionId>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let txn_id = verification::request_in_room(&mut txn, room_id, user_id, txn_id)?;
        queue::advance_room(&mut txn, &mut self.hot, &self.policy, room_id)?;
        self.end(txn, txn_id)
    }

    /// Does what the app's user has decided about a verification. What does not fit where it stands changes nothing, or
    /// cancels it. Replies `false` if there is no such verification.
    ///
    /// # Errors
    /// Those of the store.
    pub fn act_on_verification(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        user_id: &UserId,
        flow_id: &str,
        action: VerificationAction,
    ) -> Result<Step<Pending, bool>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let known = verification::act(&mut txn, user_id, flow_id, action)?;
        self.end(txn, known)
    }

    /// The QR code to show: its bytes, always the same ones for one flow. Replies `None` if none can be shown now.
    ///
    /// # Errors
    /// Those of the store.
    pub fn show_verification_code(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        user_id: &UserId,
        flow_id: &str,
    ) -> Result<Step<Pending, Option<SecretBytes>>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let code = verification::show_qr(&mut txn, user_id, flow_id)?;
        self.end(txn, code)
    }

    /// Takes the bytes of the QR code that the other side shows. Replies `false` if it is no code of this flow: nothing has
    /// changed then.
    ///
    /// # Errors
    /// Those of the store.
    pub fn scan_verification_code(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        user_id: &UserId,
        flow_id: &str,
        code: &[u8],
    ) -> Result<Step<Pending, bool>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let taken = verification::scan_qr(&mut txn, user_id, flow_id, code)?;
        self.end(txn, taken)
    }

    /// Asks the own verified devices for the secrets that are not here.
    ///
    /// # Errors
    /// Those of the store.
    pub fn request_secrets(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        secrets::ask(&mut txn)?;
        self.end(txn, ())
    }
}
