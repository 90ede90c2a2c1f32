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
            for (sequence, event) in &events {
                self.sort(*sequence, event);
            }
        }
    }

    /// Acknowledges what has been handed out. To be called after the answer was written.
    ///
    /// # Errors
    /// Those of the SDK; it is tried again with the next call.
    pub fn settle(&mut self, client: &Client) -> Result<(), ClientError> {
        if let Some(up_to) = self.handed_out() {
            client.acknowledge(up_to)?;
            self.acknowledged = Some(up_to);
        }
        Ok(())
    }

    /// Up to which number all has been handed out, if that is further than what is acknowledged.
    fn handed_out(&self) -> Option<u64> {
        let first_waiting = [&self.to_device, &self.notices]
            .into_iter()
            .filter_map(|waiting| waiting.keys().next().copied())
            .min();
        let up_to = match first_waiting {
            Some(first) => first.checked_sub(1),
            None => self.read,
        };
        up_to.filter(|up_to| self.acknowledged < Some(*up_to))
    }

    /// The application's to-device events since the last call.
    pub fn take_to_device(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.to_device).into_values().collect()
    }

    /// The notices since the last call.
    pub fn take_notices(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.notices).into_values().collect()
    }

    fn sort(&mut self, sequence: u64, event: &AppEvent) {
        self.read = self.read.max(Some(sequence));
        let waiting = match event {
            AppEvent::ToDevice { .. } => &mut self.to_device,
            AppEvent::Notice(_)
            | AppEvent::Sent { .. }
            | AppEvent::SendFailed { .. }
            | AppEvent::ToDeviceSent { .. }
            | AppEvent::LoggedOut => &mut self.notices,
            // Room events, decryptions and memberships are asked for by room.
            _ => return,
        };
        waiting.insert(sequence, message::app_event(sequence, event));
    }
}

#[cfg(test)]
mod tests {
    use herold::{EventId, Notice, RoomId, UserId};

    use super::*;

    fn to_device() -> AppEvent {
        AppEvent::ToDevice {
            sender: <&UserId>::try_from("@bob:h").unwrap().to_owned(),
            sender_device: None,
            event_type: "org.test".to_owned(),
            content: r#"{"x":1}"#.to_owned(),
        }
    }

    fn room_event() -> AppEvent {
        AppEvent::RoomEvent {
            room_id: <&RoomId>::try_from("!r:h").unwrap().to_owned(),
            event_id: <&EventId>::try_from("$e").unwrap().to_owned(),
        }
    }

    #[test]
    fn nothing_is_acknowledged_before_all_that_came_earlier_was_told() {
        let mut inbox = Inbox::default();
        inbox.sort(3, &room_event());
        inbox.sort(4, &to_device());
        inbox.sort(5, &AppEvent::Notice(Notice::OneTimeKeyClash));
        inbox.sort(6, &room_event());
        assert_eq!(inbox.handed_out(), Some(3));
        inbox.acknowledged = Some(3);
        assert_eq!(inbox.handed_out(), None);

        assert_eq!(inbox.take_notices().len(), 1);
        assert_eq!(inbox.handed_out(), None, "a to-device event has not been told");
        assert_eq!(inbox.take_to_device().len(), 1);
        assert_eq!(inbox.handed_out(), Some(6));
    }

    #[test]
    fn the_first_number_of_all_can_wait() {
        let mut inbox = Inbox::default();
        inbox.sort(0, &to_device());
        assert_eq!(inbox.handed_out(), None);
        inbox.take_to_device();
        assert_eq!(inbox.handed_out(), Some(0));
    }

    #[test]
    fn each_is_told_once_with_its_number_and_kind() {
        let mut inbox = Inbox::default();
        inbox.sort(7, &to_device());
        let withheld = Notice::KeyWithheld {
            room_id: None,
            sender: <&UserId>::try_from("@bob:h").unwrap().to_owned(),
            code: "m.blacklisted".to_owned(),
        };
        inbox.sort(8, &AppEvent::Notice(withheld));
        inbox.sort(9, &AppEvent::LoggedOut);

        let events = inbox.take_to_device();
        assert_eq!(events[0]["type"], "org.test");
        assert_eq!(events[0]["content"]["x"], 1);
        assert_eq!(events[0]["sender"], "@bob:h");
        assert_eq!(events[0]["verified"], false);
        let notices = inbox.take_notices();
        assert_eq!(notices[0]["seq"], 8);
        assert_eq!(notices[0]["kind"], "key_withheld");
        assert_eq!(notices[0]["code"], "m.blacklisted");
        assert_eq!(notices[1]["kind"], "logged_out");
        assert!(inbox.take_to_device().is_empty() && inbox.take_notices().is_empty());
    }
}
