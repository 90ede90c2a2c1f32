//! Receiving: the timeline, single events, and the numbered events for the app.

use std::time::Duration;

use herold_machine::{AppEvent, RoomEvent};
use ruma::{EventId, RoomId};

use crate::{Client, ClientError};

impl Client {
    /// An event as it is in the store.
    ///
    /// # Errors
    /// Those of the store.
    pub fn event(
        &self,
        room: &RoomId,
        event_id: &EventId,
    ) -> Result<Option<RoomEvent>, ClientError> {
        let _ = (room, event_id);
        Err(ClientError::Unsupported("in progress"))
    }

    /// Fetches one event from the homeserver, decrypts it if the key is there, and stores it. Needs no
    /// running sync: what a notification process does.
    ///
    /// # Errors
    /// [`ClientError::Matrix`] with `M_NOT_FOUND`, [`ClientError::Transport`].
    pub async fn fetch_event(
        &self,
        room: &RoomId,
        event_id: &EventId,
    ) -> Result<RoomEvent, ClientError> {
        let _ = (room, event_id);
        Err(ClientError::Unsupported("in progress"))
    }

    /// Waits until an event is there and clear. When the sync does not show it, it is fetched, older
    /// events first if the homeserver does not know it. When the time is up, the event as it is then.
    ///
    /// # Errors
    /// [`ClientError::Timeout`] if the event is not there at all.
    pub async fn wait_for_event(
        &self,
        room: &RoomId,
        event_id: &EventId,
        timeout: Duration,
    ) -> Result<RoomEvent, ClientError> {
        let _ = (room, event_id, timeout);
        Err(ClientError::Unsupported("in progress"))
    }

    /// The last `limit` events of a room, newest last.
    ///
    /// # Errors
    /// Those of the store.
    pub fn timeline(&self, room: &RoomId, limit: usize) -> Result<Vec<RoomEvent>, ClientError> {
        let _ = (room, limit);
        Err(ClientError::Unsupported("in progress"))
    }

    /// Fetches up to `count` events older than those in the timeline; newest last. None at the room's
    /// beginning.
    ///
    /// # Errors
    /// [`ClientError::UnknownRoom`], [`ClientError::Matrix`], [`ClientError::Transport`].
    pub async fn paginate(
        &self,
        room: &RoomId,
        count: u32,
    ) -> Result<Vec<RoomEvent>, ClientError> {
        let _ = (room, count);
        Err(ClientError::Unsupported("in progress"))
    }

    /// Events for the app after number `after` (from the oldest not acknowledged if `None`), 256 at
    /// most. They stay until acknowledged.
    ///
    /// # Errors
    /// Those of the store.
    pub fn events(&self, after: Option<u64>) -> Result<Vec<(u64, AppEvent)>, ClientError> {
        let _ = after;
        Err(ClientError::Unsupported("in progress"))
    }

    /// The oldest events not yet acknowledged, 256 at most; waits when there are none, and answers
    /// with none when the time is up. Without [`Client::acknowledge`] the same come again.
    ///
    /// # Errors
    /// [`ClientError::Closed`]; those of the store.
    pub async fn next_events(
        &self,
        timeout: Duration,
    ) -> Result<Vec<(u64, AppEvent)>, ClientError> {
        let _ = timeout;
        Err(ClientError::Unsupported("in progress"))
    }

    /// The app has dealt with all events up to this number: they go.
    ///
    /// # Errors
    /// Those of the store.
    pub fn acknowledge(&self, up_to: u64) -> Result<(), ClientError> {
        let _ = up_to;
        Err(ClientError::Unsupported("in progress"))
    }
}
