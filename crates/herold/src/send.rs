//! Sending: the queue that survives, and waiting for it.

use herold_store::records::QueueRecord;
use ruma::{OwnedEventId, OwnedTransactionId, RoomId, TransactionId};
use serde_json::Value;

use crate::{Client, ClientError};

impl Client {
    /// Sends a text message (`m.room.message`, `m.text`) and waits for the homeserver's answer.
    ///
    /// # Errors
    /// As for [`Client::send_event`].
    pub async fn send_text(&self, room: &RoomId, body: &str) -> Result<OwnedEventId, ClientError> {
        let _ = (room, body);
        Err(ClientError::Unsupported("in progress"))
    }

    /// Queues an event and waits until the homeserver has accepted it, however long that takes:
    /// encrypted when the room is. Dropping the future does not take it out of the queue.
    ///
    /// The same `txn` again, while it is queued, is the same event.
    ///
    /// # Errors
    /// [`ClientError::UnknownRoom`], [`ClientError::NotJoined`], [`ClientError::Unsupported`]: it was
    /// not queued. [`ClientError::SendFailed`]: it was refused for good, and stays in the queue.
    /// [`ClientError::LoggedOut`], [`ClientError::Closed`]: it is in the queue.
    pub async fn send_event(
        &self,
        room: &RoomId,
        event_type: &str,
        content: &Value,
        txn: Option<OwnedTransactionId>,
    ) -> Result<OwnedEventId, ClientError> {
        let _ = (room, event_type, content, txn);
        Err(ClientError::Unsupported("in progress"))
    }

    /// Puts an event into the persistent queue and answers at once. What became of it comes as
    /// [`crate::AppEvent::Sent`] or [`crate::AppEvent::SendFailed`].
    ///
    /// # Errors
    /// [`ClientError::UnknownRoom`], [`ClientError::NotJoined`], [`ClientError::Unsupported`]; those
    /// of the store. It was not queued then.
    pub fn queue_event(
        &self,
        room: &RoomId,
        event_type: &str,
        content: &Value,
        txn: Option<OwnedTransactionId>,
    ) -> Result<OwnedTransactionId, ClientError> {
        let _ = (room, event_type, content, txn);
        Err(ClientError::Unsupported("in progress"))
    }

    /// The queue, oldest first, with running numbers.
    ///
    /// # Errors
    /// Those of the store.
    pub fn queue(&self) -> Result<Vec<(u64, QueueRecord)>, ClientError> {
        Err(ClientError::Unsupported("in progress"))
    }

    /// Takes an event out of the queue. `false` if it is not in it, or may be on its way already.
    ///
    /// # Errors
    /// Those of the store.
    pub fn cancel(&self, txn: &TransactionId) -> Result<bool, ClientError> {
        let _ = txn;
        Err(ClientError::Unsupported("in progress"))
    }

    /// Tries an event again that was refused. `false` if there is none.
    ///
    /// # Errors
    /// Those of the store.
    pub fn retry(&self, txn: &TransactionId) -> Result<bool, ClientError> {
        let _ = txn;
        Err(ClientError::Unsupported("in progress"))
    }

    /// The next message in the room gets a new room key.
    ///
    /// # Errors
    /// [`ClientError::UnknownRoom`]; those of the store.
    pub fn discard_room_key(&self, room: &RoomId) -> Result<(), ClientError> {
        let _ = room;
        Err(ClientError::Unsupported("in progress"))
    }
}
