//! The send queue: room events that go out in their order, each once, whatever happens.
//!
//! An item is stored before anything of it leaves. It is encrypted once, in the step that queues it if
//! nothing stands in its way; from then on it goes out with the same transaction id and the same bytes
//! until the server has accepted it.

use std::collections::{BTreeMap, BTreeSet};

use herold_crypto::SessionId;
use herold_store::{
    StoreError,
    records::{
        CounterRecord, Membership, NameKey, OutboundSessionRecord, OutboxBodyRecord, OutboxRecord,
        QueueRecord, QueueState, RoomKey, RoomRecord, SequenceKey, ShareKey, ShareRecord,
        ShareState,
    },
};
use herold_trust::Policy;
use ruma::{
    OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedTransactionId, OwnedUserId, RoomId,
    TransactionId,
};
use serde_json::{Value, value::RawValue};

use crate::{
    Answer, AppEvent, MachineError, Notice, app_to_device,
    hot::Hot,
    key_requests,
    messages::{Message, new_txn_id, put_request},
    retired,
    share::{self, Readiness},
    txn::Txn,
    unseen, verification,
};

/// After as many faults of the server over one to-device request, it is cut in two.
const FAILURES_BEFORE_SPLIT: u32 = 5;

/// Queues an event. The same transaction id again names the same item.
pub(crate) fn enqueue(
    txn: &mut Txn<'_, '_>,
    room_id: &RoomId,
    event_type: &str,
    content: &Value,
    txn_id: Option<OwnedTransactionId>,
) -> Result<OwnedTransactionId, MachineError> {
    let room: RoomRecord =
        txn.load(&RoomKey { room_id: room_id.to_owned() })?.ok_or(MachineError::UnknownRoom)?;
    if room.membership != Membership::Join {
        return Err(MachineError::NotJoined);
    }
    if !content.is_object() {
        return Err(MachineError::Malformed("an event's content must be an object"));
    }
    if event_type.is_empty() || event_type.len() > 255 || event_type == "m.room.encrypted" {
        return Err(MachineError::Malformed("not an event type that can be sent"));
    }
    if room.encryption.as_ref().is_some_and(|settings| settings.algorithm != herold_trust::MEGOLM) {
        return Err(MachineError::UnsupportedAlgorithm);
    }
    let txn_id = match txn_id {
        Some(txn_id) => {
            let known = txn.list::<QueueRecord>(&[])?;
            if known.iter().any(|(_, row)| row.txn_id == txn_id && row.room_id == room_id) {
                return Ok(txn_id);
            }
            txn_id
        }
        None => new_txn_id(txn),
    };
    let sequence = txn.next_number("queue")?;
    txn.put(
        &SequenceKey { sequence },
        &QueueRecord {
            room_id: room_id.to_owned(),
            txn_id: txn_id.clone(),
            event_type: event_type.to_owned(),
            content: content.to_string(),
            state: QueueState::Queued,
            queued_at: txn.cx.now,
            waiting_since: None,
            failures: 0,
            retry_at: None,
        },
    );
    Ok(txn_id)
}

/// Each room's first item that is not marked as failed.
pub(crate) fn heads(rows: Vec<(SequenceKey, QueueRecord)>) -> Vec<(SequenceKey, QueueRecord)> {
    let mut rooms: BTreeSet<OwnedRoomId> = BTreeSet::new();
    rows.into_iter()
        .filter(|(_, row)| !matches!(row.state, QueueState::Failed { .. }))
        .filter(|(_, row)| rooms.insert(row.room_id.clone()))
        .collect()
}

/// Set when a device that had been left out can be reached again.
pub(crate) const LATE_SHARES: &str = "late_shares";

/// A device that had been left out of a share can be reached again: the next [`advance`] gives it the
/// keys of what it missed.
pub(crate) fn note_late_shares(txn: &mut Txn<'_, '_>) {
    txn.put(&NameKey { name: LATE_SHARES.to_owned() }, &CounterRecord { next: 1 });
}

/// Moves everything on as far as it goes without an answer from outside: what late devices are owed, the room
/// keys to be asked for, and each room's first item.
pub(crate) fn advance(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    policy: &Policy,
) -> Result<(), MachineError> {
    if txn.current_number(LATE_SHARES)? > 0 {
        let mut done = retired::serve(txn, policy)?;
        for (key, mut session) in txn.list::<OutboundSessionRecord>(&[])? {
            if unseen::resolve(txn, &session.session_id, &mut session.unseen)? {
                session.retry_at = Some(txn.cx.now);
                txn.put(&key, &session);
            }
            let room: Option<RoomRecord> = txn.load(&key)?;
            if let Some(room) = room.filter(|_| session.retry_at.is_some()) {
                done &= share::share_late(txn, hot, policy, &key.room_id, &room, session)?;
            }
        }
        if done {
            txn.delete::<CounterRecord>(&NameKey { name: LATE_SHARES.to_owned() });
        }
    }
    key_requests::ask(txn)?;
    for (key, row) in heads(txn.list::<QueueRecord>(&[])?) {
        advance_head(txn, hot, policy, &key, row)?;
    }
    Ok(())
}

/// As [`advance`], for one room.
pub(crate) fn advance_room(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    policy: &Policy,
    room_id: &RoomId,
) -> Result<(), MachineError> {
    for (key, row) in heads(txn.list::<QueueRecord>(&[])?) {
        if row.room_id == room_id {
            advance_head(txn, hot, policy, &key, row)?;
        }
    }
    Ok(())
}

/// Moves a room's first item on as far as it goes.
fn advance_head(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    policy: &Policy,
    key: &SequenceKey,
    mut row: QueueRecord,
) -> Result<(), MachineError> {
    match &row.state {
        QueueState::Queued => {}
        // Made ready in the clear, and not accepted before encryption was switched on.
        QueueState::Ready { event_type, .. }
            if event_type != "m.room.encrypted"
                && txn
                    .load::<RoomRecord>(&RoomKey { room_id: row.room_id.clone() })?
                    .is_some_and(|room| room.encryption.is_some()) =>
        {
            row.state = QueueState::Queued;
            txn.put(key, &row);
        }
        _ => return Ok(()),
    }
    match move_on(txn, hot, policy, key, row.clone()) {
        // One room's trouble must not hold up the others.
        Err(MachineError::Crypto(_) | MachineError::Malformed(_)) => {
            fail(txn, key, row, "CANNOT_ENCRYPT")
        }
        done => done,
    }
}

/// Moves one item on.
fn move_on(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    policy: &Policy,
    key: &SequenceKey,
    mut row: QueueRecord,
) -> Result<(), MachineError> {
    let room: Option<RoomRecord> = txn.load(&RoomKey { room_id: row.room_id.clone() })?;
    let Some(room) = room.filter(|room| room.membership == Membership::Join) else {
        return fail(txn, key, row, "NOT_JOINED");
    };
    let now = txn.cx.now;
    let waited = row.waiting_since.map(|since| now.saturating_since(since)).unwrap_or_default();
    match share::prepare(txn, hot, policy, &row.room_id, &room, waited)? {
        Readiness::Ready => {
            let (event_type, content) = if room.encryption.is_some() {
                let content =
                    share::encrypt(txn, hot, &row.room_id, &row.event_type, &row.content)?;
                ("m.room.encrypted".to_owned(), content)
            } else {
                (row.event_type.clone(), row.content.clone())
            };
            row.state = QueueState::Ready { event_type, content };
            row.waiting_since = None;
            txn.put(key, &row);
        }
        Readiness::Waiting if row.waiting_since.is_none() => {
            row.waiting_since = Some(now);
            txn.put(key, &row);
        }
        Readiness::Waiting => {}
        Readiness::Impossible(reason) => fail(txn, key, row, reason)?,
    }
    Ok(())
}

fn fail(
    txn: &mut Txn<'_, '_>,
    key: &SequenceKey,
    mut row: QueueRecord,
    errcode: &str,
) -> Result<(), MachineError> {
    row.state = QueueState::Failed { errcode: errcode.to_owned() };
    txn.put(key, &row);
    txn.emit(AppEvent::SendFailed {
        room_id: row.room_id,
        txn_id: row.txn_id,
        errcode: errcode.to_owned(),
    })?;
    Ok(())
}

/// Takes the answer of `PUT /rooms/{}/send/...`.
pub(crate) fn handle_sent(
    txn: &mut Txn<'_, '_>,
    sequence: u64,
    txn_id: &TransactionId,
    answer: Answer<'_>,
) -> Result<(), MachineError> {
    #[derive(serde::Deserialize)]
    struct Sent {
        event_id: OwnedEventId,
    }
    let key = SequenceKey { sequence };
    let row = txn.load::<QueueRecord>(&key)?.filter(|row| row.txn_id == txn_id);
    let Some(mut row) = row else { return Ok(()) };
    if let Some(sent) = answer.success().and_then(|body| serde_json::from_slice::<Sent>(body).ok())
    {
        txn.delete::<QueueRecord>(&key);
        verification::note_sent(txn, &row.txn_id, &sent.event_id)?;
        txn.emit(AppEvent::Sent {
            room_id: row.room_id,
            txn_id: row.txn_id,
            event_id: sent.event_id,
        })?;
        return Ok(());
    }
    if answer.is_transient() {
        row.failures = row.failures.saturating_add(1);
        row.retry_at = Some(txn.cx.retry_at(row.failures, answer.retry_after()));
        txn.put(&key, &row);
        return Ok(());
    }
    fail(txn, &key, row, &answer.errcode())
}

/// Takes the answer of `PUT /sendToDevice/...`.
pub(crate) fn handle_to_device_sent(
    txn: &mut Txn<'_, '_>,
    sequence: u64,
    txn_id: &TransactionId,
    answer: Answer<'_>,
) -> Result<(), MachineError> {
    let key = SequenceKey { sequence };
    let row = txn.load::<OutboxRecord>(&key)?.filter(|row| row.txn_id == txn_id);
    let Some(mut row) = row else { return Ok(()) };
    if answer.success().is_some() {
        forget_request(txn, &key);
        return app_to_device::handle_answered(txn, sequence, None);
    }
    let transient = answer.is_transient() && !answer.is_too_large();
    // A server that refuses the request, or keeps failing over it, may mean one message of it: the
    // others must not go without because of that one.
    let in_halves = !transient
        || (row.failures >= FAILURES_BEFORE_SPLIT
            && matches!(answer, Answer::Response { status: 500.., .. }));
    if in_halves && split(txn, &key, &row)? {
        forget_request(txn, &key);
        return Ok(());
    }
    if transient {
        row.failures = row.failures.saturating_add(1);
        row.retry_at = Some(txn.cx.retry_at(row.failures, answer.retry_after()));
        txn.put(&key, &row);
        return Ok(());
    }
    for share in &body_of(txn, &key)?.shares {
        let share_key = ShareKey {
            session_id: share.session_id.clone(),
            user_id: share.user_id.clone(),
            device_id: share.device_id.clone(),
        };
        if let Some(mut record) = txn.load::<ShareRecord>(&share_key)? {
            record.state = ShareState::Failed;
            txn.put(&share_key, &record);
            retired::owe(txn, &share.session_id)?;
        }
    }
    forget_request(txn, &key);
    txn.notice(Notice::ToDeviceRefused { errcode: answer.errcode() })?;
    app_to_device::handle_answered(txn, sequence, Some(&answer.errcode()))
}

fn forget_request(txn: &mut Txn<'_, '_>, key: &SequenceKey) {
    txn.delete::<OutboxRecord>(key);
    txn.delete::<OutboxBodyRecord>(key);
}

fn corrupt() -> StoreError {
    StoreError::Corrupt("an outbox row".to_owned())
}

fn body_of(txn: &Txn<'_, '_>, key: &SequenceKey) -> Result<OutboxBodyRecord, StoreError> {
    txn.load(key)?.ok_or_else(corrupt)
}

/// Cuts a request in two; `false` if it holds a single message.
fn split(
    txn: &mut Txn<'_, '_>,
    whole: &SequenceKey,
    row: &OutboxRecord,
) -> Result<bool, MachineError> {
    #[derive(serde::Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        messages: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, &'a RawValue>>,
    }
    let record = body_of(txn, whole)?;
    let Body { messages } = serde_json::from_str(&record.body).map_err(|_| corrupt())?;
    let sessions: BTreeMap<_, &SessionId> = record
        .shares
        .iter()
        .map(|share| ((&share.user_id, &share.device_id), &share.session_id))
        .collect();
    let mut messages: Vec<Message> = messages
        .iter()
        .flat_map(|(user_id, devices)| devices.iter().map(move |device| (user_id, device)))
        .map(|(user_id, (device_id, content))| Message {
            user_id: user_id.clone(),
            device_id: device_id.clone(),
            content: content.get().to_owned(),
            session: sessions.get(&(user_id, device_id)).map(|session| (*session).clone()),
        })
        .collect();
    if messages.len() < 2 {
        return Ok(false);
    }
    let half = messages.len().div_ceil(2);
    for half in messages.chunks_mut(half) {
        let sequence = put_request(txn, &row.event_type, half)?;
        app_to_device::handle_split(txn, whole.sequence, sequence, half)?;
    }
    Ok(true)
}

/// Removes a queued event that has not been sent. An encrypted one may already be on its way.
pub(crate) fn cancel(txn: &mut Txn<'_, '_>, txn_id: &TransactionId) -> Result<bool, MachineError> {
    let row = txn.list::<QueueRecord>(&[])?.into_iter().find(|(_, row)| row.txn_id == txn_id);
    let Some((key, row)) = row else { return Ok(false) };
    if matches!(row.state, QueueState::Ready { .. }) {
        return Ok(false);
    }
    txn.delete::<QueueRecord>(&key);
    Ok(true)
}

/// Tries an event again that was refused.
pub(crate) fn retry(txn: &mut Txn<'_, '_>, txn_id: &TransactionId) -> Result<bool, MachineError> {
    let row = txn.list::<QueueRecord>(&[])?.into_iter().find(|(_, row)| row.txn_id == txn_id);
    let Some((key, mut row)) = row else { return Ok(false) };
    if !matches!(row.state, QueueState::Failed { .. }) {
        return Ok(false);
    }
    row.state = QueueState::Queued;
    row.failures = 0;
    row.retry_at = None;
    txn.put(&key, &row);
    Ok(true)
}
