//! To-device messages on their way into the outbox, in requests of bounded size.

use std::collections::BTreeMap;

use herold_store::records::{OutboxRecord, OutboxShare, SequenceKey};
use herold_trust::Device;
use ruma::OwnedTransactionId;
use serde_json::{Value, json};

use crate::{MachineError, txn::Txn};

/// As many messages go into one request.
pub(crate) const MESSAGES_PER_REQUEST: usize = 250;

/// Messages for many devices.
#[derive(Default)]
pub(crate) struct Messages {
    messages: Vec<(Device, Value, Option<OutboxShare>)>,
}

impl Messages {
    /// A message for `device`.
    pub(crate) fn add(&mut self, device: &Device, content: Value) {
        self.messages.push((device.clone(), content, None));
    }

    /// A message for `device` that carries the key of a Megolm session.
    pub(crate) fn add_share(&mut self, device: &Device, content: Value, share: OutboxShare) {
        self.messages.push((device.clone(), content, Some(share)));
    }

    /// Puts the messages into the outbox: from there they go out with the same transaction id and the
    /// same bytes until the server has accepted them. Answers the numbers of the requests, one for each
    /// [`MESSAGES_PER_REQUEST`] messages.
    pub(crate) fn enqueue(
        self,
        txn: &mut Txn<'_, '_>,
        event_type: &str,
    ) -> Result<Vec<u64>, MachineError> {
        let mut requests = Vec::new();
        for chunk in self.messages.chunks(MESSAGES_PER_REQUEST) {
            let mut by_user: BTreeMap<&str, serde_json::Map<String, Value>> = BTreeMap::new();
            let mut shares = Vec::new();
            for (device, content, share) in chunk {
                by_user
                    .entry(device.user_id.as_str())
                    .or_default()
                    .insert(device.device_id.to_string(), content.clone());
                shares.extend(share.clone());
            }
            let body = json!({ "messages": by_user }).to_string();
            let txn_id = new_txn_id(txn);
            let sequence = txn.next_number("outbox")?;
            txn.put(
                &SequenceKey { sequence },
                &OutboxRecord {
                    event_type: event_type.to_owned(),
                    txn_id,
                    body,
                    shares,
                    failures: 0,
                    retry_at: None,
                },
            );
            requests.push(sequence);
            txn.require_full();
        }
        Ok(requests)
    }
}

/// A new transaction id.
pub(crate) fn new_txn_id(txn: &mut Txn<'_, '_>) -> OwnedTransactionId {
    OwnedTransactionId::from(txn.cx.random_hex(16))
}
