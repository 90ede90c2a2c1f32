//! An app's own events to devices, encrypted with Olm: calls, and whatever else an app has to tell a device.
//!
//! An event is stored before anything of it leaves. For each device it is encrypted once, as soon as there is a
//! session; from then on it is in the outbox. The policy that decides who gets room keys decides here too. When
//! every device is settled the app is told what became of each ([`AppEvent::ToDeviceSent`]).

use std::time::Duration;

use herold_store::records::{
    BlockedRecord, ClaimRecord, DeviceKey, DeviceRecord, IdentityRecord, OutdatedUserRecord,
    SequenceKey, ToDeviceProgress, ToDeviceQueueRecord, ToDeviceState, TrackedUserRecord, UserKey,
};
use herold_trust::{Device, Identity, IdentityState, Policy, WithheldCode, may_receive};
use ruma::{OwnedDeviceId, OwnedTransactionId, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    AppEvent, MachineError, devices, history_share,
    messages::{MESSAGES_PER_REQUEST, Message, Messages, new_txn_id},
    olm::{self, OwnIdentity},
    share::PATIENCE,
    txn::Txn,
};

/// The largest content in bytes: encrypted it stays under the 64 KiB of an event.
const MAX_CONTENT: usize = 40_960;
/// So many recipients are taken at once.
const MAX_RECIPIENTS: usize = 1000;
/// Whatever it waits for, an event is settled after this long: it is of no use any more.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Event types that the machine, or verification, sends itself, and beginnings of such: an app that could send
/// them could undo what the machine warrants.
const RESERVED: [&str; 10] = [
    "m.room.encrypted",
    "m.room_key",
    "m.forwarded_room_key",
    "m.secret.",
    "m.dummy",
    "m.key.verification.",
    "m.no_olm",
    "io.element.msc4268.",
    "org.matrix.msc3061.",
    "org.matrix.room_key",
];

/// Whom an app's own event is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToDeviceRecipient {
    /// All devices of a user, but this one.
    User(OwnedUserId),
    /// One device.
    Device(OwnedUserId, OwnedDeviceId),
}

/// What became of an app's own event for one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToDeviceOutcome {
    /// The device's owner.
    pub user_id: OwnedUserId,
    /// The device.
    pub device_id: OwnedDeviceId,
    /// What became of it.
    pub result: ToDeviceResult,
}

/// See [`ToDeviceOutcome`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ToDeviceResult {
    /// The server has accepted it.
    Sent,
    /// The policy, or a block, withholds it; the code is one of `m.room_key.withheld`. The device is not told.
    Withheld(String),
    /// No Olm session could be made in time.
    NoOlm,
    /// The user has no such device.
    UnknownDevice,
    /// The server refused it for good, with this Matrix error code.
    Refused(String),
}

impl ToDeviceResult {
    /// The result's stable name.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Withheld(_) => "withheld",
            Self::NoOlm => "no_olm",
            Self::UnknownDevice => "unknown_device",
            Self::Refused(_) => "refused",
        }
    }
}

/// Queues an event. The same id again, while it is queued, names the same item.
pub(crate) fn enqueue(
    txn: &mut Txn<'_, '_>,
    recipients: &[ToDeviceRecipient],
    event_type: &str,
    content: &Value,
    txn_id: Option<OwnedTransactionId>,
) -> Result<OwnedTransactionId, MachineError> {
    if !content.is_object() {
        return Err(MachineError::Malformed("an event's content must be an object"));
    }
    if event_type.is_empty() || event_type.len() > 255 {
        return Err(MachineError::Malformed("not an event type that can be sent"));
    }
    if RESERVED.iter().any(|reserved| event_type.starts_with(reserved)) {
        return Err(MachineError::ReservedType);
    }
    let content = content.to_string();
    if content.len() > MAX_CONTENT || recipients.len() > MAX_RECIPIENTS {
        return Err(MachineError::TooLarge);
    }
    if recipients.is_empty() {
        return Err(MachineError::Malformed("a recipient is needed"));
    }
    let txn_id = match txn_id {
        Some(txn_id) => {
            let known = txn.list::<ToDeviceQueueRecord>(&[])?;
            if known.iter().any(|(_, row)| row.txn_id == txn_id) {
                return Ok(txn_id);
            }
            txn_id
        }
        None => new_txn_id(txn),
    };
    let recipients = recipients
        .iter()
        .map(|recipient| match recipient {
            ToDeviceRecipient::User(user) => (user.clone(), None),
            ToDeviceRecipient::Device(user, device) => (user.clone(), Some(device.clone())),
        })
        .collect();
    put(txn, recipients, event_type, content, Some(txn_id))
}

/// Queues an event, whatever its type.
pub(crate) fn put(
    txn: &mut Txn<'_, '_>,
    recipients: Vec<(OwnedUserId, Option<OwnedDeviceId>)>,
    event_type: &str,
    content: String,
    txn_id: Option<OwnedTransactionId>,
) -> Result<OwnedTransactionId, MachineError> {
    let txn_id = match txn_id {
        Some(txn_id) => txn_id,
        None => new_txn_id(txn),
    };
    let sequence = txn.next_number("to_device_queue")?;
    txn.put(
        &SequenceKey { sequence },
        &ToDeviceQueueRecord {
            txn_id: txn_id.clone(),
            event_type: event_type.to_owned(),
            content,
            recipients,
            devices: Vec::new(),
            queued_at: txn.cx.now,
        },
    );
    Ok(txn_id)
}

/// Moves each event on as far as it goes without an answer from outside, in their order.
pub(crate) fn advance(txn: &mut Txn<'_, '_>, policy: &Policy) -> Result<(), MachineError> {
    for (key, row) in txn.list::<ToDeviceQueueRecord>(&[])? {
        advance_item(txn, policy, &key, row)?;
    }
    Ok(())
}

fn advance_item(
    txn: &mut Txn<'_, '_>,
    policy: &Policy,
    key: &SequenceKey,
    mut row: ToDeviceQueueRecord,
) -> Result<(), MachineError> {
    let before = (row.recipients.len(), row.devices.clone(), row.queued_at);
    // A time ahead comes from a clock that was wrong.
    row.queued_at = row.queued_at.min(txn.cx.now);
    let waited = txn.cx.now.saturating_since(row.queued_at);
    for (user_id, device_id) in std::mem::take(&mut row.recipients) {
        if is_stale(txn, &user_id, waited)? {
            row.recipients.push((user_id, device_id));
            continue;
        }
        for (device_id, state) in look_up(txn, &user_id, device_id)? {
            let known =
                |known: &ToDeviceProgress| known.user_id == user_id && known.device_id == device_id;
            if !row.devices.iter().any(known) {
                let user_id = user_id.clone();
                row.devices.push(ToDeviceProgress { user_id, device_id, state });
            }
        }
    }
    let mut own: Option<OwnIdentity> = None;
    let mut messages = Messages::default();
    let mut encrypted_for = Vec::new();
    for (place, progress) in row.devices.iter_mut().enumerate() {
        if progress.state != ToDeviceState::Waiting {
            continue;
        }
        let device_key =
            DeviceKey { user_id: progress.user_id.clone(), device_id: progress.device_id.clone() };
        let Some(DeviceRecord { device, .. }) = txn.load(&device_key)? else {
            progress.state = ToDeviceState::UnknownDevice;
            continue;
        };
        if let Err(code) = judge(txn, policy, &row.event_type, &device_key, &device)? {
            progress.state = ToDeviceState::Withheld(code);
            continue;
        }
        let own = own.get_or_insert_with(|| OwnIdentity::new(txn));
        match olm::encrypt(txn, own, &device, &row.event_type, &row.content)? {
            Some(encrypted) => {
                messages.add(&device, encrypted);
                encrypted_for.push(place);
            }
            None => {
                olm::want_claim(txn, &device)?;
                let failures =
                    txn.load::<ClaimRecord>(&device_key)?.map_or(0, |claim| claim.failures);
                // A claim that nobody has answered says nothing of the device: it may work yet.
                if (failures > 0 && waited >= PATIENCE) || waited >= LONGEST_WAIT {
                    progress.state = ToDeviceState::NoOlm;
                }
            }
        }
    }
    let requests = messages.enqueue(txn, "m.room.encrypted")?;
    for (places, sequence) in encrypted_for.chunks(MESSAGES_PER_REQUEST).zip(requests) {
        for place in places {
            if let Some(progress) = row.devices.get_mut(*place) {
                progress.state = ToDeviceState::InOutbox(sequence);
            }
        }
    }
    if settle(txn, key, &row)? {
        return Ok(());
    }
    if before != (row.recipients.len(), row.devices.clone(), row.queued_at) {
        txn.put(key, &row);
    }
    Ok(())
}

/// Whether a user's list must be waited for.
fn is_stale(
    txn: &mut Txn<'_, '_>,
    user_id: &UserId,
    waited: Duration,
) -> Result<bool, MachineError> {
    devices::track(txn, user_id)?;
    let key = UserKey { user_id: user_id.to_owned() };
    if !txn.contains::<OutdatedUserRecord>(&key)? {
        return Ok(false);
    }
    let failing = txn.load::<TrackedUserRecord>(&key)?.is_some_and(|tracked| tracked.failures > 0);
    Ok(!(failing && waited >= PATIENCE) && waited < LONGEST_WAIT)
}

/// The devices a recipient stands for, as the user's list has them.
fn look_up(
    txn: &Txn<'_, '_>,
    user_id: &UserId,
    device_id: Option<OwnedDeviceId>,
) -> Result<Vec<(OwnedDeviceId, ToDeviceState)>, MachineError> {
    let own = txn.own();
    // Somebody may have published our key as theirs (attack N18).
    let is_other = |device: &Device| device.keys.curve25519 != own.keys.curve25519;
    if let Some(device_id) = device_id {
        let key = DeviceKey { user_id: user_id.to_owned(), device_id: device_id.clone() };
        let found = txn.load::<DeviceRecord>(&key)?.filter(|record| is_other(&record.device));
        let state = found.map_or(ToDeviceState::UnknownDevice, |_| ToDeviceState::Waiting);
        return Ok(vec![(device_id, state)]);
    }
    let all = txn.list::<DeviceRecord>(&DeviceKey::of(user_id))?;
    // Nobody is there to take anything but room keys from a dehydrated device.
    let is_meant = |device: &Device| is_other(device) && !device.dehydrated;
    let others = all.into_iter().filter(|(_, record)| is_meant(&record.device));
    Ok(others.map(|(key, _)| (key.device_id, ToDeviceState::Waiting)).collect())
}

/// The rule for room keys, in the words of a withheld code.
fn judge(
    txn: &Txn<'_, '_>,
    policy: &Policy,
    event_type: &str,
    key: &DeviceKey,
    device: &Device,
) -> Result<Result<(), String>, MachineError> {
    let blocked = txn.contains::<BlockedRecord>(key)?;
    let identity = txn
        .load::<IdentityRecord>(&UserKey { user_id: key.user_id.clone() })?
        .map(|record| record.identity);
    // As for rooms: whoever was verified and shows another identity is sent nothing, whatever the policy (attack N03).
    if key.user_id != txn.own().user_id
        && identity.as_ref().map(Identity::state) == Some(IdentityState::VerificationViolation)
    {
        return Ok(Err(WithheldCode::Unverified.as_str().to_owned()));
    }
    if event_type == history_share::BUNDLE && !history_share::may_be_told(device, identity.as_ref())
    {
        return Ok(Err(WithheldCode::Unverified.as_str().to_owned()));
    }
    let verdict = may_receive(policy, device, blocked, identity.as_ref());
    Ok(verdict.map_err(|code| code.as_str().to_owned()))
}

/// Tells the app, and forgets the event, if every device is settled.
fn settle(
    txn: &mut Txn<'_, '_>,
    key: &SequenceKey,
    row: &ToDeviceQueueRecord,
) -> Result<bool, MachineError> {
    if !row.recipients.is_empty() {
        return Ok(false);
    }
    let mut outcomes = Vec::with_capacity(row.devices.len());
    for progress in &row.devices {
        let result = match &progress.state {
            ToDeviceState::Waiting | ToDeviceState::InOutbox(_) => return Ok(false),
            ToDeviceState::Sent => ToDeviceResult::Sent,
            ToDeviceState::Withheld(code) => ToDeviceResult::Withheld(code.clone()),
            ToDeviceState::NoOlm => ToDeviceResult::NoOlm,
            ToDeviceState::UnknownDevice => ToDeviceResult::UnknownDevice,
            ToDeviceState::Refused(errcode) => ToDeviceResult::Refused(errcode.clone()),
        };
        outcomes.push(ToDeviceOutcome {
            user_id: progress.user_id.clone(),
            device_id: progress.device_id.clone(),
            result,
        });
    }
    txn.delete::<ToDeviceQueueRecord>(key);
    if row.event_type == history_share::BUNDLE {
        history_share::settled(txn, row)?;
        return Ok(true);
    }
    txn.emit(AppEvent::ToDeviceSent { txn_id: row.txn_id.clone(), outcomes })?;
    Ok(true)
}

/// The outbox request `sequence` is done with: accepted, or refused with an error code.
pub(crate) fn handle_answered(
    txn: &mut Txn<'_, '_>,
    sequence: u64,
    refused: Option<&str>,
) -> Result<(), MachineError> {
    let state = match refused {
        None => ToDeviceState::Sent,
        Some(errcode) => ToDeviceState::Refused(errcode.to_owned()),
    };
    change(txn, sequence, |_, _| Some(state.clone()))
}

/// A part of the outbox request `sequence`, that for these devices, goes on as request `part`.
pub(crate) fn handle_split(
    txn: &mut Txn<'_, '_>,
    sequence: u64,
    part: u64,
    messages: &[Message],
) -> Result<(), MachineError> {
    change(txn, sequence, |user, device| {
        let inside = messages.iter().any(|message| {
            message.user_id.as_str() == user && message.device_id.as_str() == device
        });
        inside.then_some(ToDeviceState::InOutbox(part))
    })
}

/// Changes the state of devices whose message is in the outbox under `sequence`.
fn change(
    txn: &mut Txn<'_, '_>,
    sequence: u64,
    to: impl Fn(&str, &str) -> Option<ToDeviceState>,
) -> Result<(), MachineError> {
    for (key, mut row) in txn.list::<ToDeviceQueueRecord>(&[])? {
        let mut changed = false;
        for progress in &mut row.devices {
            if progress.state == ToDeviceState::InOutbox(sequence)
                && let Some(state) = to(progress.user_id.as_str(), progress.device_id.as_str())
            {
                progress.state = state;
                changed = true;
            }
        }
        if changed && !settle(txn, &key, &row)? {
            txn.put(&key, &row);
        }
    }
    Ok(())
}

/// When to look again at the events that wait.
pub(crate) fn timeouts(
    snapshot: &dyn herold_store::Snapshot,
) -> Result<Vec<herold_trust::Timestamp>, MachineError> {
    use herold_store::SnapshotExt as _;
    let rows = snapshot.list::<ToDeviceQueueRecord>(&[], usize::MAX)?;
    let ends = |(_, row): &(SequenceKey, ToDeviceQueueRecord)| {
        [PATIENCE, LONGEST_WAIT].map(|span| row.queued_at.saturating_add(span))
    };
    Ok(rows.iter().flat_map(ends).collect())
}
