//! [`Inbox`]: the app's numbered events, handed out by kind.
//!
//! The runner asks for to-device events and notices separately, the SDK keeps one numbered list of
//! both until they are acknowledged, in order. An event is acknowledged once it and all before it
//! have been handed out *and* the answer has been written: a killed peer tells what it had not told
//! when it is back.

use std::collections::BTreeMap;

use herold::{AppEvent, Client, ClientError};
use serde_json::Value;

use super::message;

/// What waits to be handed out, and how far the list was read.
#[derive(Debug, Default)]
pub struct Inbox {
    read: Option<u64>,
    acknowledged: Option<u64>,
    to_device: BTreeMap<u64, Value>,
    notices: BTreeMap<u64, Value>,
}

impl Inbox {
    /// Reads what is new. Kinds nobody asks for count as handed out.
    ///
    /// # Errors
    /// Those of the SDK.
    pub fn read(&mut self, client: &Client) -> Result<(), ClientError> {
        loop {
            let events = client.events(self.read)?;
            if events.is_empty() {
                return Ok(());
            }
            for (sequence, event) in events {
                self.read = self.read.max(Some(sequence));
                self.sort(sequence, event);
            }
        }
    }

    /// Acknowledges what has been handed out. To be called after the answer was written.
    ///
    /// # Errors
    /// Those of the SDK.
    pub fn settle(&mut self, client: &Client) -> Result<(), ClientError> {
        let first_waiting = [&self.to_device, &self.notices]
            .into_iter()
            .filter_map(|waiting| waiting.keys().next().copied())
            .min();
        let up_to = match first_waiting {
            Some(first) => first.checked_sub(1),
            None => self.read,
        };
        if let Some(up_to) = up_to
            && self.acknowledged < Some(up_to)
        {
            client.acknowledge(up_to)?;
            self.acknowledged = Some(up_to);
        }
        Ok(())
    }

    /// The application's to-device events since the last call.
    pub fn take_to_device(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.to_device).into_values().collect()
    }

    /// The notices since the last call.
    pub fn take_notices(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.notices).into_values().collect()
    }

    fn sort(&mut self, sequence: u64, event: AppEvent) {
        let waiting = match &event {
            AppEvent::ToDevice { .. } => &mut self.to_device,
            AppEvent::Notice(_)
            | AppEvent::Sent { .. }
            | AppEvent::SendFailed { .. }
            | AppEvent::LoggedOut => &mut self.notices,
            // Room events, decryptions and memberships are asked for by room.
            _ => return,
        };
        waiting.insert(sequence, message::app_event(sequence, &event));
    }
}
