//! Getters of requests.

use herold_store::Snapshot;
use herold_trust::Timestamp;
use ruma::{EventId, RoomId};

use crate::{
    HttpRequest, Machine, MachineError, Outgoing, SyncMode, outgoing, request::RequestKind,
    sliding, sync::SyncPosition,
};

impl Machine {
    /// The request for the next sync, from the last token committed.
    ///
    /// # Errors
    /// Those of the store.
    pub fn sync_request(
        &self,
        snapshot: &dyn Snapshot,
        timeout_ms: u64,
    ) -> Result<HttpRequest, MachineError> {
        outgoing::sync_request(snapshot, timeout_ms)
    }

    /// The request for the next response of simplified sliding sync, from the last position committed.
    ///
    /// # Errors
    /// Those of the store.
    pub fn sliding_sync_request(
        &self,
        snapshot: &dyn Snapshot,
        timeout_ms: u64,
    ) -> Result<HttpRequest, MachineError> {
        sliding::request(snapshot, timeout_ms)
    }

    /// From where the next request of this kind asks: see [`Machine::handle_response`].
    ///
    /// # Errors
    /// Those of the store.
    pub fn sync_position(
        &self,
        snapshot: &dyn Snapshot,
        mode: SyncMode,
    ) -> Result<SyncPosition, MachineError> {
        SyncPosition::of(snapshot, mode)
    }

    /// Every request that is due. Derived from committed state alone: after a restart the same come
    /// again.
    ///
    /// # Errors
    /// Those of the store.
    pub fn requests(
        &self,
        snapshot: &dyn Snapshot,
        now: Timestamp,
    ) -> Result<Vec<Outgoing>, MachineError> {
        let mut requests = outgoing::requests(snapshot, now)?;
        // What is being taken in has been fetched.
        if self.hot.history.is_some() {
            requests.retain(|request| !matches!(request.kind, RequestKind::History { .. }));
        }
        Ok(requests)
    }

    /// When something that has been put off is due, or a waiting message has waited long enough.
    ///
    /// # Errors
    /// Those of the store.
    pub fn next_timeout(
        &self,
        snapshot: &dyn Snapshot,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, MachineError> {
        outgoing::next_timeout(snapshot, now)
    }

    /// The request for the page of history before what is known; `None` at the room's beginning.
    ///
    /// # Errors
    /// [`MachineError::UnknownRoom`], or those of the store.
    pub fn messages_request(
        &self,
        snapshot: &dyn Snapshot,
        room_id: &RoomId,
        limit: u32,
    ) -> Result<Option<HttpRequest>, MachineError> {
        outgoing::messages_request(snapshot, room_id, limit)
    }

    /// The request for the device lists that changed between two sync tokens: needed when syncing
    /// starts over without a token, or with one that another process took further.
    #[must_use]
    pub fn keys_changes_request(from: &str, to: &str) -> HttpRequest {
        outgoing::keys_changes_request(from, to)
    }

    /// The request for a room's complete member list.
    #[must_use]
    pub fn members_request(room_id: &RoomId) -> HttpRequest {
        outgoing::members_request(room_id)
    }

    /// The request for all room keys of a backup.
    #[must_use]
    pub fn backup_request(version: &str) -> HttpRequest {
        outgoing::backup_request(version)
    }

    /// The request for one event.
    #[must_use]
    pub fn event_request(room_id: &RoomId, event_id: &EventId) -> HttpRequest {
        outgoing::event_request(room_id, event_id)
    }
}
