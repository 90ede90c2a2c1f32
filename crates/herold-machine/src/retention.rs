//! Forgetting on purpose: room keys and events after a time, rooms that were left, Olm sessions that nobody uses.
//!
//! Nothing here happens by itself. A host says what its deployment wants forgotten, may look first at what that would be
//! ([`Machine::preview_retention`](crate::Machine::preview_retention)), and has it done in steps of bounded size. What a
//! backup is still to be given stays until it has it.

use std::time::Duration;

use herold_crypto::InboundGroupSession;
use herold_store::{
    Record, Snapshot, SnapshotExt as _, StoreError,
    records::{
        BackoffRecord, BackupDueRecord, CounterRecord, Decryption, EventKey, EventRecord,
        InboundSessionKey, InboundSessionRecord, KeyRequestRecord, MegolmIndexKey,
        MegolmIndexRecord, MemberKey, MemberRecord, Membership, NameKey, OlmSessionKey,
        OlmSessionRecord, OutboundSessionRecord, QueueRecord, RetiredSessionRecord, RoomKey,
        RoomRecord, RoomSessionKey, SessionKey, SessionRoomRecord, ShareKey, ShareRecord,
        TimelineKey, TimelineRecord, WaitingKey, WaitingRecord, WithheldRecord,
    },
};
use herold_trust::{Lifetimes, Policy, Timestamp};
use ruma::{OwnedRoomId, RoomId};

use crate::{MachineError, history, hot::Hot, room_keys, txn::Txn};

/// As many rows are looked at in one step.
const ROWS: usize = 1000;

/// What is to be forgotten: by default what the policy says. The policy's [`Policy::lifetimes`] hold beside these,
/// and the shorter counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// In this room alone; in all if there is none. Olm sessions belong to no room.
    pub room_id: Option<OwnedRoomId>,
    /// For how long things are kept.
    pub lifetimes: Lifetimes,
}

/// How much was forgotten, or would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Room keys.
    pub room_keys: u64,
    /// Room keys moved on behind what they have decrypted.
    pub ratcheted: u64,
    /// Room keys that would have gone, and stay until the backup has them.
    pub kept_for_backup: u64,
    /// Events.
    pub events: u64,
    /// Olm sessions.
    pub olm_sessions: u64,
}

impl Forgotten {
    /// Adds what another step has forgotten.
    pub fn add(&mut self, other: &Self) {
        self.room_keys += other.room_keys;
        self.ratcheted += other.ratcheted;
        self.kept_for_backup += other.kept_for_backup;
        self.events += other.events;
        self.olm_sessions += other.olm_sessions;
    }
}

/// How far forgetting has come: where the next step begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionCursor {
    stage: Stage,
    /// The last row looked at.
    after: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    RoomKeys,
    Events,
    OlmSessions,
}

/// One thing to be done.
enum Act {
    Forget(InboundSessionKey),
    MoveOn(InboundSessionKey, Box<InboundSessionRecord>),
    ForgetEvent(EventKey, Box<EventRecord>),
    ForgetOlm(OlmSessionKey),
}

/// What one step does.
#[derive(Default)]
pub(crate) struct Plan {
    acts: Vec<Act>,
    pub(crate) forgotten: Forgotten,
    pub(crate) next: Option<RetentionCursor>,
}

/// Looks at the next rows.
pub(crate) fn plan(
    snapshot: &dyn Snapshot,
    now: Timestamp,
    policy: &Policy,
    retention: &Retention,
    cursor: Option<&RetentionCursor>,
) -> Result<Plan, MachineError> {
    let mut plan = Plan::default();
    let lifetimes = retention.lifetimes.shortest(policy.lifetimes);
    let stage = cursor.map_or(Stage::RoomKeys, |cursor| cursor.stage);
    let after = cursor.and_then(|cursor| cursor.after.as_deref());
    let prefix = retention.room_id.as_deref().map(EventKey::of).unwrap_or_default();
    let (last, following) = match stage {
        Stage::RoomKeys => {
            let wanted = lifetimes.room_keys.is_some() || lifetimes.ratchet_forward.is_some();
            let rows = rows::<InboundSessionRecord>(snapshot, &prefix, after, wanted)?;
            let last = rows.1;
            for (key, record) in rows.0 {
                look_at_key(snapshot, now, lifetimes, key, record, &mut plan)?;
            }
            (last, Some(Stage::Events))
        }
        Stage::Events => {
            let rows = rows::<EventRecord>(snapshot, &prefix, after, lifetimes.events.is_some())?;
            let last = rows.1;
            for (key, record) in rows.0 {
                let sent_at = Timestamp::from_millis(record.origin_server_ts);
                if is_older(now, sent_at, lifetimes.events) {
                    plan.forgotten.events += 1;
                    plan.acts.push(Act::ForgetEvent(key, Box::new(record)));
                }
            }
            (last, Some(Stage::OlmSessions))
        }
        Stage::OlmSessions => {
            let wanted = lifetimes.olm_sessions.is_some() && retention.room_id.is_none();
            let rows = rows::<OlmSessionRecord>(snapshot, &[], after, wanted)?;
            let last = rows.1;
            for (key, record) in rows.0 {
                look_at_olm(snapshot, now, lifetimes, key, &record, &mut plan)?;
            }
            (last, None)
        }
    };
    plan.next = match (last, following) {
        (Some(last), _) => Some(RetentionCursor { stage, after: Some(last) }),
        (None, Some(stage)) => Some(RetentionCursor { stage, after: None }),
        (None, None) => None,
    };
    Ok(plan)
}

type Rows<R> = (Vec<(<R as Record>::Key, R)>, Option<Vec<u8>>);

/// The next rows of a table, and the last one's key if there may be more.
fn rows<R: Record>(
    snapshot: &dyn Snapshot,
    prefix: &[u8],
    after: Option<&[u8]>,
    wanted: bool,
) -> Result<Rows<R>, StoreError> {
    use herold_store::RecordKey as _;
    if !wanted {
        return Ok((Vec::new(), None));
    }
    let bad_key = |_| StoreError::Corrupt(format!("a key of table {}", R::TABLE.name()));
    let after = after.map(R::Key::from_bytes).transpose().map_err(bad_key)?;
    let rows = snapshot.list_after::<R>(prefix, after.as_ref(), ROWS)?;
    let last = rows.last().filter(|_| rows.len() == ROWS).map(|(key, _)| key.to_bytes());
    Ok((rows, last))
}

fn is_older(now: Timestamp, then: Timestamp, age: Option<Duration>) -> bool {
    age.is_some_and(|age| then.saturating_add(age) < now)
}

fn look_at_key(
    snapshot: &dyn Snapshot,
    now: Timestamp,
    lifetimes: Lifetimes,
    key: InboundSessionKey,
    record: InboundSessionRecord,
    plan: &mut Plan,
) -> Result<(), MachineError> {
    let outbound: Option<OutboundSessionRecord> =
        snapshot.load(&RoomKey { room_id: key.room_id.clone() })?;
    if outbound.is_some_and(|outbound| outbound.session_id == key.session_id) {
        return Ok(()); // in use
    }
    if is_older(now, record.received_at, lifetimes.room_keys) {
        if snapshot.contains::<BackupDueRecord>(&key)? {
            plan.forgotten.kept_for_backup += 1;
        } else {
            plan.forgotten.room_keys += 1;
            plan.acts.push(Act::Forget(key));
        }
        return Ok(());
    }
    if !is_older(now, record.received_at, lifetimes.ratchet_forward) {
        return Ok(());
    }
    let used = snapshot.list_back::<MegolmIndexRecord>(
        &MegolmIndexKey::of(&key.room_id, &key.session_id),
        None,
        1,
    )?;
    let next = used.first().and_then(|(key, _)| u32::try_from(key.index).ok()?.checked_add(1));
    let Some(next) = next.filter(|next| *next > record.first_known_index) else { return Ok(()) };
    let waiting = WaitingKey::for_session(&key.room_id, &key.session_id);
    if !snapshot.list::<WaitingRecord>(&waiting, 1)?.is_empty() {
        return Ok(());
    }
    if snapshot.contains::<BackupDueRecord>(&key)? {
        plan.forgotten.kept_for_backup += 1;
        return Ok(());
    }
    let Some(moved) = room_keys::restore(&record)?.export_at(next) else { return Ok(()) };
    let moved = InboundGroupSession::import(moved.as_str()).map_err(MachineError::crypto)?;
    plan.forgotten.ratcheted += 1;
    let moved =
        InboundSessionRecord { pickle: moved.to_record(), first_known_index: next, ..record };
    plan.acts.push(Act::MoveOn(key, Box::new(moved)));
    Ok(())
}

fn look_at_olm(
    snapshot: &dyn Snapshot,
    now: Timestamp,
    lifetimes: Lifetimes,
    key: OlmSessionKey,
    record: &OlmSessionRecord,
    plan: &mut Plan,
) -> Result<(), MachineError> {
    if !is_older(now, record.last_received_at, lifetimes.olm_sessions) {
        return Ok(());
    }
    let others =
        snapshot.list::<OlmSessionRecord>(&OlmSessionKey::with(&key.sender_key), usize::MAX)?;
    let is_newest = others
        .iter()
        .filter(|(_, other)| other.peer_ed25519 == record.peer_ed25519)
        .all(|(other_key, other)| {
            (other.last_received_at, &other_key.session_id)
                <= (record.last_received_at, &key.session_id)
        });
    if !is_newest {
        plan.forgotten.olm_sessions += 1;
        plan.acts.push(Act::ForgetOlm(key));
    }
    Ok(())
}

/// Does what was planned.
pub(crate) fn carry_out(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    plan: Plan,
) -> Result<(Forgotten, Option<RetentionCursor>), MachineError> {
    if !plan.acts.is_empty() {
        // What is to be gone is gone for good.
        txn.require_full();
    }
    for act in plan.acts {
        match act {
            Act::Forget(key) => {
                hot.forget_inbound(&of_room(&key));
                txn.delete::<InboundSessionRecord>(&key);
            }
            Act::MoveOn(key, record) => {
                hot.forget_inbound(&of_room(&key));
                txn.put(&key, &*record);
            }
            Act::ForgetEvent(key, event) => forget_event(txn, &key, &event)?,
            Act::ForgetOlm(key) => txn.delete::<OlmSessionRecord>(&key),
        }
    }
    Ok((plan.forgotten, plan.next))
}

fn of_room(key: &InboundSessionKey) -> RoomSessionKey {
    RoomSessionKey { room_id: key.room_id.clone(), session_id: key.session_id.clone() }
}

fn forget_event(
    txn: &mut Txn<'_, '_>,
    key: &EventKey,
    event: &EventRecord,
) -> Result<(), MachineError> {
    txn.delete::<EventRecord>(key);
    if let Some(order) = event.order {
        txn.delete::<TimelineRecord>(&TimelineKey { room_id: key.room_id.clone(), order });
    }
    if let Decryption::Undecryptable { session_id: Some(session_id), .. } = &event.decryption {
        let waiting = WaitingKey::for_session(&key.room_id, session_id);
        for (waiting, _) in txn.list::<WaitingRecord>(&waiting)? {
            if waiting.event_id == key.event_id {
                txn.delete::<WaitingRecord>(&waiting);
            }
        }
    }
    Ok(())
}

/// Forgets everything about a room that was left: its keys, its events, its members, and that there was one.
pub(crate) fn forget_room(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    room_id: &RoomId,
) -> Result<Forgotten, MachineError> {
    let key = RoomKey { room_id: room_id.to_owned() };
    let room: RoomRecord = txn.load(&key)?.ok_or(MachineError::UnknownRoom)?;
    if matches!(room.membership, Membership::Join | Membership::Invite | Membership::Knock) {
        return Err(MachineError::NotLeft);
    }
    let mut forgotten = Forgotten::default();
    let prefix = EventKey::of(room_id);
    if let Some(outbound) = txn.load::<OutboundSessionRecord>(&key)? {
        delete_all::<ShareRecord>(txn, &ShareKey::of(&outbound.session_id))?;
    }
    for (retired, _) in txn.list::<RetiredSessionRecord>(&RoomSessionKey::of(room_id))? {
        delete_all::<ShareRecord>(txn, &ShareKey::of(&retired.session_id))?;
    }
    for (key, _) in txn.list::<InboundSessionRecord>(&prefix)? {
        hot.forget_inbound(&of_room(&key));
        let by_session = SessionKey { session_id: key.session_id.clone() };
        let filed = txn.load::<SessionRoomRecord>(&by_session)?;
        if filed.is_some_and(|filed| filed.room_id == room_id) {
            txn.delete::<SessionRoomRecord>(&by_session);
        }
        txn.delete::<InboundSessionRecord>(&key);
        forgotten.room_keys += 1;
    }
    forgotten.events = delete_all::<EventRecord>(txn, &prefix)?;
    delete_all::<TimelineRecord>(txn, &prefix)?;
    delete_all::<WaitingRecord>(txn, &prefix)?;
    delete_all::<MegolmIndexRecord>(txn, &prefix)?;
    delete_all::<MemberRecord>(txn, &MemberKey::of(room_id))?;
    delete_all::<RetiredSessionRecord>(txn, &prefix)?;
    delete_all::<WithheldRecord>(txn, &prefix)?;
    delete_all::<KeyRequestRecord>(txn, &prefix)?;
    delete_all::<BackupDueRecord>(txn, &prefix)?;
    for (key, row) in txn.list::<QueueRecord>(&[])? {
        if row.room_id == room_id {
            txn.delete::<QueueRecord>(&key);
        }
    }
    history::forget(txn, room_id)?;
    hot.forget_outbound(room_id);
    txn.delete::<OutboundSessionRecord>(&key);
    let names_it = |key: &NameKey| key.name.ends_with(&format!("/{room_id}"));
    for (key, _) in txn.list::<CounterRecord>(&[])? {
        if names_it(&key) {
            txn.delete::<CounterRecord>(&key);
        }
    }
    for (key, _) in txn.list::<BackoffRecord>(&[])? {
        if names_it(&key) {
            txn.delete::<BackoffRecord>(&key);
        }
    }
    txn.delete::<RoomRecord>(&key);
    txn.require_full();
    Ok(forgotten)
}

/// Deletes all rows with a prefix; how many there were.
fn delete_all<R: Record>(txn: &mut Txn<'_, '_>, prefix: &[u8]) -> Result<u64, MachineError> {
    let rows = txn.list::<R>(prefix)?;
    for (key, _) in &rows {
        txn.delete::<R>(key);
    }
    Ok(rows.len() as u64)
}
