//! To-device messages on their way into the outbox, in requests of bounded size.

use std::collections::BTreeSet;

use herold_crypto::SessionId;
use herold_store::records::{OutboxBodyRecord, OutboxRecord, OutboxShare, SequenceKey};
use herold_trust::Device;
use ruma::{OwnedDeviceId, OwnedTransactionId, OwnedUserId, UserId};

use crate::{MachineError, txn::Txn};

/// As many messages go into one request.
pub(crate) const MESSAGES_PER_REQUEST: usize = 250;

/// A message for one device.
pub(crate) struct Message {
    pub(crate) user_id: OwnedUserId,
    pub(crate) device_id: OwnedDeviceId,
    /// The event's content, as JSON text.
    pub(crate) content: String,
    /// The Megolm session whose key it carries.
    pub(crate) session: Option<SessionId>,
}

/// Messages for many devices, one for each.
#[derive(Default)]
pub(crate) struct Messages {
    messages: Vec<Message>,
}

impl Messages {
    /// A message for `device`; its content is JSON text.
    pub(crate) fn add(&mut self, device: &Device, content: String) {
        self.push(device, content, None);
    }

    /// A message for `device` that carries the key of a Megolm session.
    pub(crate) fn add_share(&mut self, device: &Device, content: String, session: SessionId) {
        self.push(device, content, Some(session));
    }

    fn push(&mut self, device: &Device, content: String, session: Option<SessionId>) {
        self.messages.push(Message {
            user_id: device.user_id.clone(),
            device_id: device.device_id.clone(),
            content,
            session,
        });
    }

    /// Puts the messages into the outbox: from there they go out with the same transaction id and the
    /// same bytes until the server has accepted them. Answers the numbers of the requests, one for each
    /// [`MESSAGES_PER_REQUEST`] messages.
    pub(crate) fn enqueue(
        mut self,
        txn: &mut Txn<'_, '_>,
        event_type: &str,
    ) -> Result<Vec<u64>, MachineError> {
        let mut requests = Vec::new();
        for chunk in self.messages.chunks_mut(MESSAGES_PER_REQUEST) {
            requests.push(put_request(txn, event_type, chunk)?);
        }
        Ok(requests)
    }
}

/// Sends devices of a user the same content in the clear.
pub(crate) fn put_clear(
    txn: &mut Txn<'_, '_>,
    event_type: &str,
    user_id: &UserId,
    devices: &[OwnedDeviceId],
    content: &serde_json::Value,
) -> Result<(), MachineError> {
    let content = content.to_string();
    let mut messages: Vec<Message> = devices
        .iter()
        .map(|device_id| Message {
            user_id: user_id.to_owned(),
            device_id: device_id.clone(),
            content: content.clone(),
            session: None,
        })
        .collect();
    for chunk in messages.chunks_mut(MESSAGES_PER_REQUEST) {
        put_request(txn, event_type, chunk)?;
    }
    Ok(())
}

/// Puts one request with these messages into the outbox, and answers its number.
pub(crate) fn put_request(
    txn: &mut Txn<'_, '_>,
    event_type: &str,
    messages: &mut [Message],
) -> Result<u64, MachineError> {
    messages.sort_by(|a, b| (&a.user_id, &a.device_id).cmp(&(&b.user_id, &b.device_id)));
    let body = body(messages);
    let shares: Vec<OutboxShare> = messages
        .iter()
        .filter_map(|message| {
            Some(OutboxShare {
                session_id: message.session.clone()?,
                user_id: message.user_id.clone(),
                device_id: message.device_id.clone(),
            })
        })
        .collect();
    let sessions: BTreeSet<&SessionId> = shares.iter().map(|share| &share.session_id).collect();
    let sessions = sessions.into_iter().cloned().collect();
    let txn_id = new_txn_id(txn);
    let key = SequenceKey { sequence: txn.next_number("outbox")? };
    let event_type = event_type.to_owned();
    txn.put(&key, &OutboxRecord { event_type, txn_id, sessions, failures: 0, retry_at: None });
    txn.put(&key, &OutboxBodyRecord { body, shares });
    txn.require_full();
    Ok(key.sequence)
}

/// The request's body. The contents are text already, and are not parsed again for it.
fn body(messages: &[Message]) -> String {
    const AROUND: usize = 16;
    let length = messages.iter().map(|message| {
        message.content.len() + message.user_id.as_str().len() + message.device_id.as_str().len()
    });
    let mut body =
        String::with_capacity(length.map(|length| length + AROUND).sum::<usize>() + AROUND);
    body.push_str(r#"{"messages":{"#);
    let mut user_id = None;
    for message in messages {
        if user_id == Some(&message.user_id) {
            body.push(',');
        } else {
            body.push_str(if user_id.is_some() { "}," } else { "" });
            push_quoted(&mut body, message.user_id.as_str());
            body.push_str(":{");
            user_id = Some(&message.user_id);
        }
        push_quoted(&mut body, message.device_id.as_str());
        body.push(':');
        body.push_str(&message.content);
    }
    body.push_str(if user_id.is_some() { "}}}" } else { "}}" });
    body
}

/// Appends `text` as a JSON string.
pub(crate) fn push_quoted(out: &mut String, text: &str) {
    if text.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        out.push_str(&serde_json::Value::String(text.to_owned()).to_string());
    } else {
        out.push('"');
        out.push_str(text);
        out.push('"');
    }
}

/// A new transaction id.
pub(crate) fn new_txn_id(txn: &mut Txn<'_, '_>) -> OwnedTransactionId {
    OwnedTransactionId::from(txn.cx.random_hex(16))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn message(user_id: &str, device_id: &str, content: &Value) -> Message {
        Message {
            user_id: OwnedUserId::try_from(user_id).unwrap(),
            device_id: device_id.into(),
            content: content.to_string(),
            session: None,
        }
    }

    #[test]
    fn a_body_is_what_a_tree_would_have_made() {
        let a = json!({ "a": 1 });
        let b = json!({ "b": "\"\\\n" });
        let messages = [
            message("@a:x", "ONE", &a),
            message("@a:x", "a \"b\" \\ \u{1}", &b),
            message("@b:x", "ONE", &b),
        ];
        let asked = json!({ "messages": {
            "@a:x": { "ONE": a, "a \"b\" \\ \u{1}": b },
            "@b:x": { "ONE": b },
        } });
        assert_eq!(body(&messages), asked.to_string());
        assert_eq!(
            body(&messages[2..]),
            json!({ "messages": { "@b:x": { "ONE": b } } }).to_string()
        );
        assert_eq!(body(&[]), r#"{"messages":{}}"#);
    }
}
