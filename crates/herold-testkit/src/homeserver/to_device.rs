//! To-device messages: sent once per transaction, repeated until acknowledged.

use serde_json::{Value, json};

use super::HomeServer;
use super::http::{Answer, ApiError, Call};
use super::model::{Requester, SentToDevice};

impl HomeServer {
    pub(super) fn send_to_device(
        &mut self,
        call: &Call<'_>,
        requester: &Requester,
        kind: &str,
        txn: &str,
    ) -> Answer {
        let body = call.object()?;
        let messages = body
            .get("messages")
            .and_then(Value::as_object)
            .ok_or_else(|| ApiError::bad_json("'messages' must be an object"))?;
        let mut all = Vec::new();
        for (user, devices) in messages {
            let devices = devices
                .as_object()
                .ok_or_else(|| ApiError::bad_json("The devices of a user must be an object"))?;
            for (device, content) in devices {
                all.push((user.as_str(), device.as_str(), content));
            }
        }
        let sender = self
            .device_mut(&requester.user, &requester.device)
            .ok_or_else(|| ApiError::not_found("Unknown device"))?;
        if !sender.to_device_txns.insert((kind.to_owned(), txn.to_owned())) {
            return Ok(json!({}));
        }
        for (user, device, content) in all {
            let devices: Vec<String> = if device == "*" {
                let user = self.users.get(user);
                user.map(|user| user.devices.keys().cloned().collect()).unwrap_or_default()
            } else {
                vec![device.to_owned()]
            };
            for device in devices {
                self.post(SentToDevice {
                    now_ms: call.now_ms,
                    sender: requester.user.clone(),
                    sender_device: Some(requester.device.clone()),
                    recipient: user.to_owned(),
                    recipient_device: device,
                    event_type: kind.to_owned(),
                    content: content.clone(),
                    delivered: true,
                });
            }
        }
        Ok(json!({}))
    }

    fn post(&mut self, mut message: SentToDevice) {
        let event = json!({
            "type": message.event_type,
            "sender": message.sender,
            "content": message.content,
        });
        message.delivered = self.put_in_inbox(&message.recipient, &message.recipient_device, event);
        if self.keep != Some(0) {
            self.to_device_log.push(message);
        }
    }

    pub(super) fn put_in_inbox(&mut self, user: &str, device: &str, event: Value) -> bool {
        let pos = self.pos + 1;
        let Some(found) = self.device_mut(user, device) else { return false };
        found.inbox.push((pos, event));
        self.pos = pos;
        true
    }

    /// Deletes what a sync with this token acknowledged.
    pub(super) fn acknowledge(&mut self, requester: &Requester, up_to: u64) {
        if let Some(device) = self.device_mut(&requester.user, &requester.device) {
            device.inbox.retain(|(pos, _)| *pos > up_to);
        }
    }

    /// The next messages after a position and the position that acknowledges them.
    pub(super) fn pending_to_device(&self, requester: &Requester, after: u64) -> (Vec<Value>, u64) {
        let Some(device) = self.device(&requester.user, &requester.device) else {
            return (Vec::new(), self.pos);
        };
        let mut pending = device.inbox.iter().filter(|(pos, _)| *pos > after);
        let mut events = Vec::new();
        let mut last = self.pos;
        for (pos, event) in pending.by_ref().take(super::TO_DEVICE_LIMIT) {
            events.push(event.clone());
            last = *pos;
        }
        // With nothing left behind, the token is that of everything else.
        let upto = if pending.next().is_some() { last } else { self.pos };
        (events, upto)
    }
}
