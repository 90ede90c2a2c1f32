//! Sending: the queue that survives, and waiting for it.

use std::time::Duration;

use herold_crypto::Entropy;
use herold_machine::{AppEvent, MachineError};
use herold_store::records::{QueueRecord, QueueState};
use ruma::{OwnedEventId, OwnedTransactionId, RoomId, TransactionId};
use serde_json::{Value, json};

use crate::{Client, ClientError, OsEntropy, session::Session};

impl Client {
    /// Sends a text message (`m.room.message`, `m.text`) and waits for the homeserver's answer.
    ///
    /// # Errors
    /// As for [`Client::send_event`].
    pub async fn send_text(&self, room: &RoomId, body: &str) -> Result<OwnedEventId, ClientError> {
        let content = json!({ "msgtype": "m.text", "body": body });
        self.send_event(room, "m.room.message", &content, None).await
    }

    /// Queues an event and waits until the homeserver has accepted it, however long that takes:
    /// encrypted when the room is. Dropping the future does not take it out of the queue.
    ///
    /// The same `txn` again, while it is queued, is the same event.
    ///
    /// # Errors
    /// [`ClientError::UnknownRoom`], [`ClientError::NotJoined`], [`ClientError::Unsupported`]: it was
    /// not queued. [`ClientError::SendFailed`]: it was refused for good, and stays in the queue.
    /// [`ClientError::LoggedOut`], [`ClientError::Closed`]: it is in the queue. [`ClientError::UnknownEvent`]: another
    /// process that shares the store has sent it, and its id was acknowledged there.
    pub async fn send_event(
        &self,
        room: &RoomId,
        event_type: &str,
        content: &Value,
        txn: Option<OwnedTransactionId>,
    ) -> Result<OwnedEventId, ClientError> {
        let session = self.session();
        if session.is_logged_out() {
            return Err(ClientError::LoggedOut);
        }
        let txn = txn.unwrap_or_else(new_txn_id);
        let ticket = session.outcomes.ticket((room.to_owned(), txn.clone()));
        self.queue_event(room, event_type, content, Some(txn.clone()))?;
        if let Fate::Known(outcome) = session.fate(room, &txn)? {
            return outcome;
        }
        let outcome = |session: &Session| match ticket.outcome()? {
            None if session.is_logged_out() => Err(ClientError::LoggedOut),
            // Another process may have sent it.
            None if session.is_shared => match session.fate(room, &txn)? {
                Fate::Queued => Ok(None),
                Fate::Known(outcome) => outcome.map(Some),
                Fate::Gone => Err(ClientError::UnknownEvent),
            },
            outcome => Ok(outcome),
        };
        session.wait_until(Duration::MAX, outcome).await
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
        let queued = self.session().step(|machine, snapshot, cx| {
            machine.queue_event(snapshot, cx, room, event_type, content, txn)
        });
        queued.map_err(|error| match error {
            ClientError::BadResponse(what) => ClientError::InvalidInput(what),
            error => error,
        })
    }

    /// The queue, oldest first, with running numbers.
    ///
    /// # Errors
    /// Those of the store.
    pub fn queue(&self) -> Result<Vec<(u64, QueueRecord)>, ClientError> {
        self.session().read(|machine, snapshot| machine.queue(snapshot))
    }

    /// Takes an event out of the queue. `false` if it is not in it, or may be on its way already.
    ///
    /// # Errors
    /// Those of the store.
    pub fn cancel(&self, txn: &TransactionId) -> Result<bool, ClientError> {
        self.session().step(|machine, snapshot, cx| machine.cancel_queued(snapshot, cx, txn))
    }

    /// Tries an event again that was refused. `false` if there is none.
    ///
    /// # Errors
    /// Those of the store.
    pub fn retry(&self, txn: &TransactionId) -> Result<bool, ClientError> {
        self.session().step(|machine, snapshot, cx| machine.retry_queued(snapshot, cx, txn))
    }

    /// The next message in the room gets a new room key.
    ///
    /// # Errors
    /// [`ClientError::UnknownRoom`]; those of the store.
    pub fn discard_room_key(&self, room: &RoomId) -> Result<(), ClientError> {
        self.session().step(|machine, snapshot, cx| {
            if machine.room(snapshot, room)?.is_none() {
                return Err(MachineError::UnknownRoom);
            }
            machine.discard_room_key(snapshot, cx, room)
        })
    }
}

/// What became of an item that was queued.
enum Fate {
    /// It waits to be sent.
    Queued,
    /// It was refused and is still in the queue, or sent, which the app has not acknowledged yet.
    Known(Result<OwnedEventId, ClientError>),
    /// There is no trace of it left.
    Gone,
}

impl Session {
    /// What became of an item that was queued under this id.
    fn fate(&self, room: &RoomId, txn: &TransactionId) -> Result<Fate, ClientError> {
        let queue = self.read(|machine, snapshot| machine.queue(snapshot))?;
        let item = queue.into_iter().find(|(_, row)| row.txn_id == txn && row.room_id == room);
        match item.map(|(_, row)| row.state) {
            Some(QueueState::Failed { errcode }) => {
                return Ok(Fate::Known(Err(ClientError::SendFailed { errcode })));
            }
            Some(_) => return Ok(Fate::Queued),
            None => {}
        }
        let events =
            self.read(|machine, snapshot| machine.events_after(snapshot, None, usize::MAX))?;
        let sent = events.into_iter().rev().find_map(|(_, event)| match event {
            AppEvent::Sent { room_id, txn_id, event_id } if room_id == room && txn_id == txn => {
                Some(event_id)
            }
            _ => None,
        });
        Ok(sent.map_or(Fate::Gone, |event_id| Fate::Known(Ok(event_id))))
    }
}

/// A transaction id nobody else uses.
pub(crate) fn new_txn_id() -> OwnedTransactionId {
    let mut random = [0; 16];
    OsEntropy.fill(&mut random);
    let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    text.into()
}

#[cfg(test)]
#[path = "send_tests.rs"]
mod tests;
