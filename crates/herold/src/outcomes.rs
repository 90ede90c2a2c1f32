//! [`Outcomes`]: what became of queued events, for those who wait for it.

use std::{collections::HashMap, sync::Mutex};

use herold_machine::{AppEvent, ToDeviceOutcome};
use ruma::{OwnedEventId, OwnedRoomId, OwnedTransactionId};

use crate::{ClientError, session::lock};

/// A queued event.
type Item = (OwnedRoomId, OwnedTransactionId);

/// What became of queued events somebody waits for. Others leave no trace.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    awaited: Mutex<HashMap<Item, Awaited>>,
    to_device: Mutex<HashMap<OwnedTransactionId, Option<Vec<ToDeviceOutcome>>>>,
}

/// As long as it is there, the outcome of its to-device event is kept. Only who made the id has one.
pub(crate) struct ToDeviceTicket<'a> {
    outcomes: &'a Outcomes,
    txn_id: OwnedTransactionId,
}

impl ToDeviceTicket<'_> {
    /// What became of the event, if it is known.
    pub(crate) fn outcome(&self) -> Option<Vec<ToDeviceOutcome>> {
        lock(&self.outcomes.to_device).get(&self.txn_id).cloned().flatten()
    }
}

impl Drop for ToDeviceTicket<'_> {
    fn drop(&mut self) {
        lock(&self.outcomes.to_device).remove(&self.txn_id);
    }
}

#[derive(Debug, Default)]
struct Awaited {
    waiting: usize,
    outcome: Option<Result<OwnedEventId, String>>,
}

/// As long as it is there, the outcome of its item is kept.
pub(crate) struct Ticket<'a> {
    outcomes: &'a Outcomes,
    item: Item,
}

impl Outcomes {
    /// Waits for an item from now on.
    pub(crate) fn ticket(&self, item: Item) -> Ticket<'_> {
        lock(&self.awaited).entry(item.clone()).or_default().waiting += 1;
        Ticket { outcomes: self, item }
    }

    /// Waits for a to-device event from now on.
    pub(crate) fn to_device_ticket(&self, txn_id: OwnedTransactionId) -> ToDeviceTicket<'_> {
        lock(&self.to_device).insert(txn_id.clone(), None);
        ToDeviceTicket { outcomes: self, txn_id }
    }

    /// Whether anybody waits for anything.
    pub(crate) fn is_awaited(&self) -> bool {
        !lock(&self.awaited).is_empty() || !lock(&self.to_device).is_empty()
    }

    /// Takes note of an event, if it says what became of an item.
    pub(crate) fn note(&self, event: &AppEvent) {
        let (item, outcome) = match event {
            AppEvent::Sent { room_id, txn_id, event_id } => {
                ((room_id.clone(), txn_id.clone()), Ok(event_id.clone()))
            }
            AppEvent::SendFailed { room_id, txn_id, errcode } => {
                ((room_id.clone(), txn_id.clone()), Err(errcode.clone()))
            }
            AppEvent::ToDeviceSent { txn_id, outcomes } => {
                if let Some(outcome) = lock(&self.to_device).get_mut(txn_id) {
                    *outcome = Some(outcomes.clone());
                }
                return;
            }
            _ => return,
        };
        if let Some(awaited) = lock(&self.awaited).get_mut(&item) {
            awaited.outcome = Some(outcome);
        }
    }
}

impl Ticket<'_> {
    /// What became of the item, if it is known.
    pub(crate) fn outcome(&self) -> Result<Option<OwnedEventId>, ClientError> {
        match lock(&self.outcomes.awaited).get(&self.item).and_then(|a| a.outcome.clone()) {
            None => Ok(None),
            Some(Ok(event_id)) => Ok(Some(event_id)),
            Some(Err(errcode)) => Err(ClientError::SendFailed { errcode }),
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut awaited = lock(&self.outcomes.awaited);
        if let Some(entry) = awaited.get_mut(&self.item) {
            entry.waiting -= 1;
            if entry.waiting == 0 {
                awaited.remove(&self.item);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::{event_id, room_id};

    use super::*;

    fn item() -> Item {
        (room_id!("!r:x").to_owned(), "t1".into())
    }

    fn sent() -> AppEvent {
        let (room_id, txn_id) = item();
        AppEvent::Sent { room_id, txn_id, event_id: event_id!("$e").to_owned() }
    }

    #[test]
    fn everybody_who_waits_is_told_and_nothing_is_kept_afterwards() {
        let outcomes = Outcomes::default();
        let (first, second) = (outcomes.ticket(item()), outcomes.ticket(item()));
        assert_eq!(first.outcome().unwrap(), None);
        outcomes.note(&sent());
        drop(first);
        assert_eq!(second.outcome().unwrap().unwrap(), "$e");
        drop(second);
        assert!(outcomes.awaited.lock().unwrap().is_empty());
    }

    #[test]
    fn what_nobody_waits_for_leaves_no_trace() {
        let outcomes = Outcomes::default();
        outcomes.note(&sent());
        assert_eq!(outcomes.ticket(item()).outcome().unwrap(), None);
    }

    #[test]
    fn a_refusal_is_an_error_with_its_code() {
        let outcomes = Outcomes::default();
        let ticket = outcomes.ticket(item());
        let (room_id, txn_id) = item();
        outcomes.note(&AppEvent::SendFailed { room_id, txn_id, errcode: "M_FORBIDDEN".into() });
        assert_eq!(ticket.outcome().unwrap_err().code(), "send_failed");
    }
}
