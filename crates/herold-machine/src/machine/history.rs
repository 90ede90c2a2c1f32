//! Commands about a room's history that is shared with newcomers (MSC4268).

use herold_crypto::EncryptedFile;
use herold_store::Snapshot;
use ruma::{OwnedTransactionId, RoomId, UserId};

use crate::{Context, HistoryBundle, Machine, MachineError, Pending, Step, history, history_share};

impl Machine {
    /// The app's user accepts an invitation, and the room's history if the inviter has shared it or does so within a day. To
    /// be called before the homeserver is asked to join. The room keys come by themselves once the room is joined
    /// ([`Notice::HistoryReceived`](crate::Notice::HistoryReceived)). Replies `false` if none can come: nobody has invited us, or
    /// the policy does not take any.
    ///
    /// # Errors
    /// Those of the store.
    pub fn accept_history(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        room_id: &RoomId,
    ) -> Result<Step<Pending, bool>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let accepted = history::accept(&mut txn, &self.policy, room_id)?;
        self.end(txn, accepted)
    }

    /// Has those devices of a user that are cross-signed told of the room keys in a bundle ([`HistoryBundle`]) which was
    /// encrypted as an attachment and uploaded. To be called when the app's user has decided to invite that user, and at no
    /// other time. Replies with the id under which it is queued; what came of it is told as
    /// [`Notice::HistoryShared`](crate::Notice::HistoryShared).
    ///
    /// # Errors
    /// [`MachineError::PolicyDenied`] if the policy forbids it or the room's history is not open to later members;
    /// [`MachineError::UnknownRoom`], [`MachineError::NotJoined`], [`MachineError::Malformed`] for the own user, or
    /// those of the store.
    pub fn share_history(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        room_id: &RoomId,
        user_id: &UserId,
        file: &EncryptedFile,
    ) -> Result<Step<Pending, OwnedTransactionId>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let txn_id = history_share::share(&mut txn, &self.policy, room_id, user_id, file)?;
        self.end(txn, txn_id)
    }

    /// Reads the next `limit` room keys of a room into a bundle to be shared. Replies whether that were all. If the
    /// room's history is not open to later members now, there are none.
    ///
    /// # Errors
    /// Those of the store.
    pub fn collect_history(
        &self,
        snapshot: &dyn Snapshot,
        bundle: &mut HistoryBundle,
        limit: usize,
    ) -> Result<bool, MachineError> {
        bundle.collect(snapshot, limit)
    }

    /// Whether devices are still to be told of a bundle that was shared under this id.
    ///
    /// # Errors
    /// Those of the store.
    pub fn history_is_under_way(
        &self,
        snapshot: &dyn Snapshot,
        txn_id: &OwnedTransactionId,
    ) -> Result<bool, MachineError> {
        history_share::is_under_way(snapshot, txn_id)
    }
}
