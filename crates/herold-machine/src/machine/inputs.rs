//! What comes in: sync responses, answers of requests, pages of history, the time.

use herold_store::{
    Snapshot,
    records::{RoomKey, RoomRecord},
};
use ruma::{EventId, OwnedEventId, RoomId};

use crate::{
    Answer, Context, DropReason, Machine, MachineError, Notice, Outgoing, Pending, Step, SyncMode,
    SyncReport, account, ahead, app_to_device, dehydration, devices, history, history_import,
    key_backup, olm, outgoing, queue, request::RequestKind, rooms, signatures, sliding, sync,
    sync::SyncPosition, timeline, timeline::Origin, verification, wire,
};

impl Machine {
    /// Takes a response of `GET /sync`: one step, one transaction, the token included.
    ///
    /// # Errors
    /// [`MachineError::Malformed`] if it has no token; else those of the store.
    pub fn handle_sync(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        body: &[u8],
    ) -> Result<Step<Pending, SyncReport>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let report = sync::handle(&mut txn, &mut self.hot, &self.policy, body)?;
        self.end(txn, report)
    }

    /// Takes a response of simplified sliding sync (MSC4186), the answer of
    /// [`Machine::sliding_sync_request`]: one step, one transaction, the position included. Which of the two
    /// kinds of sync is used is the caller's choice, and may change: each has its own tokens.
    ///
    /// # Errors
    /// [`MachineError::Malformed`] if it has no position; else those of the store.
    pub fn handle_sliding_sync(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        body: &[u8],
    ) -> Result<Step<Pending, SyncReport>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let report = sliding::handle(&mut txn, &mut self.hot, &self.policy, body)?;
        self.end(txn, report)
    }

    /// Sliding sync was answered with `M_UNKNOWN_POS`: the next request starts over. To-device messages are not
    /// lost by that; whatever else may have changed meanwhile is fetched anew before it is relied on.
    ///
    /// # Errors
    /// Those of the store.
    pub fn handle_unknown_pos(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        sliding::handle_unknown_pos(&mut txn)?;
        self.end(txn, ())
    }

    /// Takes what came of a request of [`Machine::requests`]. Answers may come in any order, twice, or
    /// never.
    ///
    /// # Errors
    /// Those of the store.
    pub fn handle_answer(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        request: &Outgoing,
        answer: Answer<'_>,
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        match &request.kind {
            RequestKind::KeysUpload { keys } => account::handle_upload(&mut txn, keys, answer)?,
            RequestKind::KeysQuery { users } => devices::handle_query(&mut txn, users, answer)?,
            RequestKind::KeysClaim { devices } => olm::handle_claim(&mut txn, devices, answer)?,
            RequestKind::ToDevice { sequence, txn_id } => {
                queue::handle_to_device_sent(&mut txn, *sequence, txn_id, answer)?;
            }
            RequestKind::Members { room_id, generation } => {
                outgoing::handle_members(&mut txn, room_id, *generation, answer)?;
            }
            RequestKind::Send { sequence, txn_id } => {
                queue::handle_sent(&mut txn, *sequence, txn_id, answer)?;
            }
            RequestKind::BackupVersion => key_backup::handle_version(&mut txn, answer)?,
            RequestKind::BackupUpload { sent } => {
                key_backup::handle_upload(&mut txn, sent, answer)?;
            }
            RequestKind::History { key, sent } => {
                history::handle_download(&mut txn, &mut self.hot, key, sent, answer)?;
            }
            RequestKind::Dehydration { sent } => {
                dehydration::handle_answer(&mut txn, &mut self.hot, &self.policy, sent, answer)?;
            }
            RequestKind::Signatures { sent } => {
                signatures::handle_signatures(&mut txn, sent, answer)?;
            }
        }
        self.end(txn, ())
    }

    /// As [`Machine::handle_sync`] and [`Machine::handle_sliding_sync`], for a store that others sync too: `asked` is
    /// [`Machine::sync_position`] as it was when the request was made. Replies `None`, and changes nothing, if that is
    /// no longer the position stored: another process was quicker, and what this response brings will come again from
    /// where it is now. A position never goes back, and no gap is passed over.
    ///
    /// # Errors
    /// As [`Machine::handle_sync`].
    pub fn handle_response(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        asked: &SyncPosition,
        body: &[u8],
    ) -> Result<Step<Pending, Option<SyncReport>>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let report = if asked.is_current(snapshot)? {
            Some(match asked.mode() {
                SyncMode::V2 => sync::handle(&mut txn, &mut self.hot, &self.policy, body)?,
                SyncMode::Sliding => sliding::handle(&mut txn, &mut self.hot, &self.policy, body)?,
            })
        } else {
            None
        };
        self.end(txn, report)
    }

    /// As [`Machine::handle_unknown_pos`], for a store that others sync too: changes nothing if the position is no
    /// longer the one that was `asked` from.
    ///
    /// # Errors
    /// Those of the store.
    pub fn handle_unknown_position(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        asked: &SyncPosition,
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        if asked.is_current(snapshot)? {
            sliding::handle_unknown_pos(&mut txn)?;
        }
        self.end(txn, ())
    }

    /// Puts off what another process should not do at the same time: an upload of keys that is made twice may give a
    /// key out twice. To be called before these requests are made, if others share the store.
    ///
    /// # Errors
    /// Those of the store.
    pub fn put_off(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        requests: &[Outgoing],
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        if requests.iter().any(Outgoing::is_for_one) {
            account::put_off(&mut txn)?;
        }
        self.end(txn, ())
    }

    /// Notes that these requests are being made. To be called before they are: a message waits for their
    /// answers from then on, not from when it was queued.
    ///
    /// # Errors
    /// Those of the store.
    pub fn note_asked(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        requests: &[Outgoing],
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        for request in requests {
            match &request.kind {
                RequestKind::KeysClaim { devices } => olm::note_asked(&mut txn, devices)?,
                RequestKind::Dehydration { sent } => {
                    dehydration::upload::note_asked(&mut txn, &mut self.hot, sent)?;
                }
                _ => {}
            }
        }
        self.end(txn, ())
    }

    /// Takes a page of history: the answer of the request of [`Machine::messages_request`]. Replies with
    /// the events' ids, oldest first.
    ///
    /// # Errors
    /// [`MachineError::UnknownRoom`], [`MachineError::Malformed`], or those of the store.
    pub fn handle_messages(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        room_id: &RoomId,
        body: &[u8],
    ) -> Result<Step<Pending, Vec<OwnedEventId>>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let chunk: wire::Chunk = serde_json::from_slice(body)
            .map_err(|_| MachineError::Malformed("a page of history"))?;
        let key = RoomKey { room_id: room_id.to_owned() };
        let mut room: RoomRecord = txn.load(&key)?.ok_or(MachineError::UnknownRoom)?;
        let mut events = Vec::new();
        ahead::decrypt(&txn, &mut self.hot, &[(room_id, chunk.chunk.as_slice())])?;
        for raw in &chunk.chunk {
            if !wire::may_be_of(raw, room_id) {
                let room_id = Some(room_id.to_owned());
                txn.notice(Notice::EventDropped { room_id, reason: DropReason::Malformed })?;
                continue;
            }
            let taken =
                timeline::ingest(&mut txn, &mut self.hot, room_id, &mut room, raw, Origin::Older)?;
            events.extend(taken);
        }
        events.reverse();
        room.prev_batch = if chunk.chunk.is_empty() { None } else { chunk.end };
        txn.put(&key, &room);
        self.end(txn, events)
    }

    /// Takes an event fetched on its own: the answer of the request of [`Machine::event_request`] for `event_id`, or the
    /// event of an answer to `/context`.
    ///
    /// # Errors
    /// [`MachineError::UnknownRoom`]; [`MachineError::Malformed`] if it is no event, another than was asked for, or one
    /// that says it is of another room; those of the store.
    pub fn handle_event(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        room_id: &RoomId,
        event_id: &EventId,
        body: &[u8],
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let raw: Box<serde_json::value::RawValue> =
            serde_json::from_slice(body).map_err(|_| MachineError::Malformed("an event"))?;
        let named: wire::EventIdOnly =
            wire::parse(&raw).ok_or(MachineError::Malformed("an event"))?;
        if named.event_id != event_id.as_str() {
            return Err(MachineError::Malformed("another event than was asked for"));
        }
        if !wire::may_be_of(&raw, room_id) {
            return Err(MachineError::Malformed("an event of another room"));
        }
        let mut room: RoomRecord =
            txn.load(&RoomKey { room_id: room_id.to_owned() })?.ok_or(MachineError::UnknownRoom)?;
        let taken =
            timeline::ingest(&mut txn, &mut self.hot, room_id, &mut room, &raw, Origin::Single)?;
        taken.ok_or(MachineError::Malformed("an event"))?;
        self.end(txn, ())
    }

    /// Takes the answer of the request of [`Machine::keys_changes_request`]: the device lists that
    /// changed in a stretch of time that no sync response covered.
    ///
    /// # Errors
    /// [`MachineError::Malformed`], or those of the store.
    pub fn handle_keys_changes(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        body: &[u8],
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let raw: Box<serde_json::value::RawValue> = serde_json::from_slice(body)
            .map_err(|_| MachineError::Malformed("a list of changed devices"))?;
        devices::handle_device_lists(&mut txn, Some(&raw))?;
        self.end(txn, ())
    }

    /// Takes a room's complete member list: the answer of the request of
    /// [`Machine::members_request`]. `generation` is the room's
    /// [`member_generation`](RoomRecord::member_generation) when the request was made. Replies `false`,
    /// and changes nothing, if somebody has come or gone since: a leave must not be undone by an older
    /// list.
    ///
    /// # Errors
    /// [`MachineError::Malformed`], or those of the store.
    pub fn handle_members(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        room_id: &RoomId,
        generation: u64,
        body: &[u8],
    ) -> Result<Step<Pending, bool>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let members: wire::Chunk =
            serde_json::from_slice(body).map_err(|_| MachineError::Malformed("a member list"))?;
        let key = RoomKey { room_id: room_id.to_owned() };
        let current =
            txn.load::<RoomRecord>(&key)?.is_some_and(|room| room.member_generation == generation);
        if current {
            rooms::handle_members(&mut txn, room_id, &members.chunk)?;
        }
        self.end(txn, current)
    }

    /// Moves the send queue on: looks at recipients, shares room keys, encrypts. To be called after each
    /// committed step and when [`Machine::next_timeout`] has come, until it changes nothing.
    ///
    /// # Errors
    /// Those of the store.
    pub fn advance(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        app_to_device::advance(&mut txn, &self.policy)?;
        queue::advance(&mut txn, &mut self.hot, &self.policy)?;
        verification::advance(&mut txn)?;
        history_import::advance(&mut txn, &mut self.hot)?;
        key_backup::advance(&mut txn)?;
        dehydration::advance(&mut txn, &self.hot, &self.policy)?;
        self.end(txn, ())
    }
}
