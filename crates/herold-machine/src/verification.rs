//! Verifications: the flows of the trust crate, tied to the store, to devices' lists and to what is sent
//! (Matrix specification, "Key verification framework").
//!
//! A flow is stored with each message it takes or gives, in one transaction: after a kill it goes on where it was.
//! What may be signed is what the flow ends with, by value, and nothing else.

use std::{collections::BTreeMap, time::Duration};

use herold_store::{
    Snapshot, SnapshotExt as _, StoreError,
    records::{
        BackoffRecord, DeviceKey, DeviceRecord, IdentityRecord, NameKey, OutdatedUserRecord,
        ParkedRecord, SequenceKey, TrackedUserRecord, UserKey, VerificationKey, VerificationRecord,
        VerificationRequestRecord, VerifiedDeviceRecord,
    },
};
use herold_trust::{
    Channel, CurrentKeys, Device, Methods, PartyKeys, Timestamp, Verification, VerificationMessage,
    VerificationState, VerificationTarget, VerifiedKey, from_device, parse_device_keys,
    unknown_transaction,
};
use ruma::{
    DeviceId, EventId, OwnedDeviceId, OwnedTransactionId, OwnedUserId, RoomId, TransactionId,
    UserId,
};
use serde_json::{Value, value::RawValue};

use crate::{AppEvent, MachineError, messages::put_clear, own_identity, queue, secrets, txn::Txn};

/// Every event type of verifications begins so.
pub(crate) const PREFIX: &str = "m.key.verification.";
const REQUEST: &str = "m.key.verification.request";
const START: &str = "m.key.verification.start";
/// The counter of parked messages.
const PARKED: &str = "verification/parked";
/// As many flows with others may be under way; more are not begun by them.
const MAX_FLOWS: usize = 50;
/// As many flows may one user's devices begin in [`RECENT`], and as many that are over are kept.
const MAX_FLOWS_OF_USER: usize = 20;
const RECENT: Duration = Duration::from_secs(10 * 60);
/// As many messages of unknown flows are answered in [`REFUSALS_WINDOW`].
const MAX_REFUSALS: u32 = 10;
const REFUSALS_WINDOW: Duration = Duration::from_secs(60);
/// Their count.
const REFUSALS: &str = "verification/refusals";
/// As many messages wait for their device to be known.
const MAX_PARKED: usize = 50;
/// A message that has waited longer is not looked at.
const PARKED_FOR: Duration = Duration::from_secs(10 * 60);
/// What became of a flow can be asked for this long.
const KEEP: Duration = Duration::from_secs(24 * 3600);

/// A verification, as an app shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerificationView {
    /// Its id.
    pub flow_id: String,
    /// The other user; the own one for own devices.
    pub user_id: OwnedUserId,
    /// The other device, once there is one.
    pub device_id: Option<OwnedDeviceId>,
    /// It goes through a room.
    pub in_room: bool,
    /// This side has asked.
    pub asked_by_us: bool,
    /// Where it stands.
    pub state: VerificationState,
    /// What both sides can do.
    pub methods: Methods,
}

fn corrupt() -> StoreError {
    StoreError::Corrupt("a verification".to_owned())
}

fn view(key: &VerificationKey, flow: &Verification) -> VerificationView {
    VerificationView {
        flow_id: key.flow_id.clone(),
        user_id: key.user_id.clone(),
        device_id: flow.their_device().map(ToOwned::to_owned),
        in_room: matches!(flow.channel(), Channel::Room { .. }),
        asked_by_us: flow.is_asked_by_us(),
        state: flow.state(),
        methods: flow.methods(),
    }
}

/// All verifications that are known.
pub(crate) fn all(snapshot: &dyn Snapshot) -> Result<Vec<VerificationView>, MachineError> {
    let mut views = Vec::new();
    for (key, record) in snapshot.list::<VerificationRecord>(&[], usize::MAX)? {
        let flow = Verification::from_record(record.flow.as_slice()).map_err(|_| corrupt())?;
        views.push(view(&key, &flow));
    }
    Ok(views)
}

/// One verification.
pub(crate) fn one(
    snapshot: &dyn Snapshot,
    user_id: &UserId,
    flow_id: &str,
) -> Result<Option<VerificationView>, MachineError> {
    let key = VerificationKey { flow_id: flow_id.to_owned(), user_id: user_id.to_owned() };
    let Some(record) = snapshot.load::<VerificationRecord>(&key)? else { return Ok(None) };
    let flow = Verification::from_record(record.flow.as_slice()).map_err(|_| corrupt())?;
    Ok(Some(view(&key, &flow)))
}

/// When a flow has to be looked at next.
pub(crate) fn next_timeout(snapshot: &dyn Snapshot) -> Result<Option<Timestamp>, MachineError> {
    let rows = snapshot.list::<VerificationRecord>(&[], usize::MAX)?;
    Ok(rows.into_iter().map(|(_, record)| record.due).min())
}

fn key_of(flow: &Verification) -> VerificationKey {
    VerificationKey {
        flow_id: flow.channel().flow_id().to_owned(),
        user_id: flow.their_user().to_owned(),
    }
}

fn load(
    txn: &Txn<'_, '_>,
    user_id: &UserId,
    flow_id: &str,
) -> Result<Option<Verification>, MachineError> {
    let key = VerificationKey { flow_id: flow_id.to_owned(), user_id: user_id.to_owned() };
    let Some(record) = txn.load::<VerificationRecord>(&key)? else { return Ok(None) };
    Ok(Some(Verification::from_record(record.flow.as_slice()).map_err(|_| corrupt())?))
}

/// As [`own_keys`], for what the app's user begins.
fn sound_own_keys(txn: &Txn<'_, '_>) -> Result<PartyKeys, MachineError> {
    own_keys(txn)?.ok_or(MachineError::Malformed("a device id that is a cross-signing key"))
}

/// This side's keys: the own device, and the own identity if this device is sure of it. `None` while the own user has
/// a device that is named like a cross-signing key (attack N04): then nothing can be verified.
fn own_keys(txn: &Txn<'_, '_>) -> Result<Option<PartyKeys>, MachineError> {
    let own = txn.own();
    let json: Value = serde_json::from_str(&own.signed_keys).map_err(|_| corrupt())?;
    let device = parse_device_keys(&own.user_id, &own.device_id, &json).map_err(|_| corrupt())?;
    let identity = match own_identity::anchor(txn)? {
        Some(_) => txn.load::<IdentityRecord>(&UserKey { user_id: own.user_id.clone() })?,
        None => None,
    };
    let ids = device_ids(txn, &own.user_id)?;
    Ok(PartyKeys::ours(
        &device,
        identity.as_ref().map(|record| &record.identity),
        ids.iter().map(AsRef::as_ref),
    )
    .ok())
}

fn device_ids(txn: &Txn<'_, '_>, user_id: &UserId) -> Result<Vec<OwnedDeviceId>, MachineError> {
    let devices = txn.list::<DeviceRecord>(&DeviceKey::of(user_id))?;
    Ok(devices.into_iter().map(|(key, _)| key.device_id).collect())
}

/// A device's keys as they are known now. `None` if it is not known, or not to be verified.
fn their_keys(
    txn: &Txn<'_, '_>,
    user_id: &UserId,
    device_id: Option<&DeviceId>,
) -> Result<Option<PartyKeys>, MachineError> {
    let Some(device_id) = device_id else { return Ok(None) };
    let key = DeviceKey { user_id: user_id.to_owned(), device_id: device_id.to_owned() };
    let Some(record) = txn.load::<DeviceRecord>(&key)? else { return Ok(None) };
    let identity = txn
        .load::<IdentityRecord>(&UserKey { user_id: user_id.to_owned() })?
        .map(|record| record.identity);
    let ids = device_ids(txn, user_id)?;
    let ids = ids.iter().map(AsRef::as_ref);
    Ok(PartyKeys::theirs(&record.device, identity.as_ref(), ids).ok())
}

/// Stores a flow after a step, sends what it gave, and does what follows from its end. `before` is where it stood.
fn settle(
    txn: &mut Txn<'_, '_>,
    flow: &Verification,
    before: Option<&VerificationState>,
    messages: Vec<VerificationMessage>,
) -> Result<(), MachineError> {
    let key = key_of(flow);
    let state = flow.state();
    let due = flow.next_timeout().unwrap_or(txn.cx.now.saturating_add(KEEP));
    txn.put(&key, &VerificationRecord { flow: flow.to_record(), due });
    txn.require_full();
    for message in messages {
        send(txn, message)?;
    }
    if before == Some(&state) {
        return Ok(());
    }
    if let VerificationState::Done { verified } = &state {
        for key in verified {
            sign(txn, key)?;
        }
        if key.user_id == txn.own().user_id {
            secrets::ask(txn)?;
        }
    }
    txn.emit(AppEvent::Verification { user_id: key.user_id, flow_id: key.flow_id })?;
    Ok(())
}

fn sign(txn: &mut Txn<'_, '_>, verified: &VerifiedKey) -> Result<(), MachineError> {
    match verified {
        VerifiedKey::Device { user_id, device_id, key } => {
            let device = DeviceKey { user_id: user_id.clone(), device_id: device_id.clone() };
            let Some(record) = txn.load::<DeviceRecord>(&device)? else { return Ok(()) };
            if *user_id == txn.own().user_id {
                own_identity::sign_device(txn, &record.device, key)?;
            } else if record.device.keys.ed25519 == *key {
                let since = txn.cx.now;
                txn.put(&device, &VerifiedDeviceRecord { ed25519: *key, since });
            }
        }
        VerifiedKey::Master { user_id, key } if *user_id == txn.own().user_id => {
            own_identity::verified_own(txn, key)?;
        }
        VerifiedKey::Master { user_id, key } => {
            own_identity::sign_user(txn, user_id, key)?;
        }
    }
    Ok(())
}

fn send(txn: &mut Txn<'_, '_>, message: VerificationMessage) -> Result<(), MachineError> {
    match message.target {
        VerificationTarget::Devices(user_id, devices) => {
            put_clear(txn, message.event_type, &user_id, &devices, &message.content)
        }
        VerificationTarget::Room(room_id) => {
            match queue::enqueue(txn, &room_id, message.event_type, &message.content, None) {
                // Whoever has left the room cannot be told.
                // Neither can anybody in a room whose encryption is not known, and what others send there must not
                // be the end of a sync.
                Ok(_)
                | Err(
                    MachineError::NotJoined
                    | MachineError::UnknownRoom
                    | MachineError::UnsupportedAlgorithm,
                ) => Ok(()),
                Err(error) => Err(error),
            }
        }
    }
}

/// Asks devices of a user: these, or all that are known.
pub(crate) fn request(
    txn: &mut Txn<'_, '_>,
    user_id: &UserId,
    devices: Option<Vec<OwnedDeviceId>>,
    methods: Methods,
) -> Result<String, MachineError> {
    let own = txn.own();
    let mut devices = match devices {
        Some(devices) => devices,
        None => {
            // Nobody is there to compare anything on a dehydrated device.
            let all = txn.list::<DeviceRecord>(&DeviceKey::of(user_id))?;
            let live = all.into_iter().filter(|(_, record)| !record.device.dehydrated);
            live.map(|(key, _)| key.device_id).collect()
        }
    };
    devices.retain(|id| *user_id != own.user_id || *id != own.device_id);
    if devices.is_empty() {
        return Err(MachineError::UnknownDevice);
    }
    let ours = sound_own_keys(txn)?;
    let flow_id = txn.cx.random_hex(16);
    let now = txn.cx.now;
    let (flow, messages) = Verification::request_devices(
        ours,
        user_id.to_owned(),
        devices,
        flow_id.clone(),
        methods,
        now,
        txn.cx.entropy,
    );
    settle(txn, &flow, None, messages)?;
    Ok(flow_id)
}

/// Asks a user in a room: the request goes through the send queue under this transaction id, and its event id becomes the
/// flow's.
pub(crate) fn request_in_room(
    txn: &mut Txn<'_, '_>,
    room_id: &RoomId,
    user_id: &UserId,
    txn_id: Option<OwnedTransactionId>,
) -> Result<OwnedTransactionId, MachineError> {
    let ours = sound_own_keys(txn)?;
    let body = format!("{} would like to verify you, which your app cannot do.", ours.user_id());
    let content = Verification::room_request(&ours, user_id, Methods::ALL, &body);
    let txn_id = queue::enqueue(txn, room_id, "m.room.message", &content, txn_id)?;
    let name = NameKey { name: txn_id.to_string() };
    let record =
        VerificationRequestRecord { room_id: room_id.to_owned(), user_id: user_id.to_owned() };
    txn.put(&name, &record);
    Ok(txn_id)
}

/// An event of the send queue has its id: if it asked for a verification, that begins.
pub(crate) fn note_sent(
    txn: &mut Txn<'_, '_>,
    txn_id: &TransactionId,
    event_id: &EventId,
) -> Result<(), MachineError> {
    let name = NameKey { name: txn_id.to_string() };
    let Some(request) = txn.load::<VerificationRequestRecord>(&name)? else { return Ok(()) };
    txn.delete::<VerificationRequestRecord>(&name);
    if load(txn, &request.user_id, event_id.as_str())?.is_some() {
        return Ok(());
    }
    let Some(ours) = own_keys(txn)? else { return Ok(()) };
    let now = txn.cx.now;
    let flow = Verification::request_in_room(
        ours,
        request.user_id,
        &request.room_id,
        event_id,
        Methods::ALL,
        now,
        txn.cx.entropy,
    );
    settle(txn, &flow, None, Vec::new())
}

/// What the app's user decides about a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerificationAction {
    /// Takes part in the other side's request, with these methods.
    Accept(Methods),
    /// Begins with short authentication strings.
    StartSas,
    /// The strings match, or the other device shows success.
    Confirm,
    /// They differ, or it does not.
    Mismatch,
    /// Does not want to.
    Cancel,
}

/// Does what the app's user has decided. Answers whether there is such a flow.
pub(crate) fn act(
    txn: &mut Txn<'_, '_>,
    user_id: &UserId,
    flow_id: &str,
    action: VerificationAction,
) -> Result<bool, MachineError> {
    let Some(mut flow) = load(txn, user_id, flow_id)? else { return Ok(false) };
    let before = flow.state();
    let Some(ours) = own_keys(txn)? else {
        let messages = flow.cancel();
        settle(txn, &flow, Some(&before), messages)?;
        return Ok(true);
    };
    let theirs = their_keys(txn, user_id, flow.their_device())?;
    let keys = CurrentKeys { ours: &ours, theirs: theirs.as_ref() };
    let now = txn.cx.now;
    let messages = match action {
        VerificationAction::Accept(methods) => flow.accept(methods, keys, now),
        VerificationAction::StartSas => flow.start_sas(keys, now),
        VerificationAction::Confirm => flow.confirm(keys, now),
        VerificationAction::Mismatch => flow.mismatch(),
        VerificationAction::Cancel => flow.cancel(),
    };
    settle(txn, &flow, Some(&before), messages)?;
    Ok(true)
}

/// The code to show; `None` if there is no such flow, or none can be shown now.
pub(crate) fn show_qr(
    txn: &mut Txn<'_, '_>,
    user_id: &UserId,
    flow_id: &str,
) -> Result<Option<herold_crypto::SecretBytes>, MachineError> {
    let Some(mut flow) = load(txn, user_id, flow_id)? else { return Ok(None) };
    let before = flow.state();
    let code = flow.show_qr(txn.cx.entropy).map(|code| code.to_bytes());
    settle(txn, &flow, Some(&before), Vec::new())?;
    Ok(code)
}

/// Takes the other side's code. Answers whether it was one of this flow.
pub(crate) fn scan_qr(
    txn: &mut Txn<'_, '_>,
    user_id: &UserId,
    flow_id: &str,
    code: &[u8],
) -> Result<bool, MachineError> {
    let Some(mut flow) = load(txn, user_id, flow_id)? else { return Ok(false) };
    let before = flow.state();
    let ours = sound_own_keys(txn)?;
    let theirs = their_keys(txn, user_id, flow.their_device())?;
    let keys = CurrentKeys { ours: &ours, theirs: theirs.as_ref() };
    let now = txn.cx.now;
    match flow.scan_qr(code, keys, now) {
        Ok(messages) => {
            settle(txn, &flow, Some(&before), messages)?;
            Ok(true)
        }
        Err(_) => Ok(false),
    }
}

/// Takes a to-device message of a verification, in the clear or not. It says who it is from; what counts are the keys that
/// the two sides compare.
pub(crate) fn handle_to_device(
    txn: &mut Txn<'_, '_>,
    sender: &UserId,
    sender_device: Option<&DeviceId>,
    event_type: &str,
    content: &str,
) -> Result<(), MachineError> {
    let Ok(value) = serde_json::from_str::<Value>(content) else { return Ok(()) };
    let flow_id = value.get("transaction_id").and_then(Value::as_str).unwrap_or_default();
    if flow_id.is_empty() || flow_id.len() > 255 {
        return Ok(());
    }
    if let Some(flow) = load(txn, sender, flow_id)? {
        if !matches!(flow.channel(), Channel::ToDevice { .. }) {
            return Ok(());
        }
        return feed(txn, flow, sender, sender_device, event_type, &value);
    }
    let own = txn.own();
    let from = from_device(&value).or(sender_device);
    if event_type != REQUEST && event_type != START {
        let Some(device) = from else { return Ok(()) };
        if let Some(cancel) = unknown_transaction(event_type, flow_id, sender, device)
            && may_refuse(txn)?
        {
            send(txn, cancel)?;
        }
        return Ok(());
    }
    if *sender == *own.user_id && from == Some(&own.device_id) {
        return Ok(());
    }
    let theirs = their_keys(txn, sender, from)?;
    if theirs.is_none() && is_awaited(txn, sender)? {
        return park(txn, sender, sender_device, event_type, content);
    }
    let Some(ours) = own_keys(txn)? else { return Ok(()) };
    let keys = CurrentKeys { ours: &ours, theirs: theirs.as_ref() };
    let now = txn.cx.now;
    let begun = if event_type == REQUEST {
        Verification::receive_request(&value, sender, keys, now, txn.cx.entropy)
    } else {
        Verification::receive_start(&value, sender, keys, now, txn.cx.entropy)
    };
    match begun {
        Ok(flow) => begin(txn, flow),
        Err(_) => Ok(()),
    }
}

/// Whether one more message of an unknown flow may be answered: each answer is a request of its own, and stands before
/// others' room keys.
fn may_refuse(txn: &mut Txn<'_, '_>) -> Result<bool, MachineError> {
    let name = NameKey { name: REFUSALS.to_owned() };
    let now = txn.cx.now;
    let window: Option<BackoffRecord> = txn.load(&name)?;
    let end = now.saturating_add(REFUSALS_WINDOW);
    let window = window.filter(|window| now < window.retry_at && window.retry_at <= end);
    let window = window.unwrap_or(BackoffRecord { failures: 0, retry_at: end });
    if window.failures >= MAX_REFUSALS {
        return Ok(false);
    }
    txn.put(&name, &BackoffRecord { failures: window.failures + 1, ..window });
    Ok(true)
}

/// A flow that somebody else has begun. What one user's devices begin takes no room away from others, and leaves a bounded
/// number of flows behind.
fn begin(txn: &mut Txn<'_, '_>, mut flow: Verification) -> Result<(), MachineError> {
    let is_own = *flow.their_user() == *txn.own().user_id;
    let recent = txn.cx.now.saturating_add(KEEP.saturating_sub(RECENT));
    let (mut active, mut of_user) = (0, 0);
    let mut over = Vec::new();
    let mut twice = Vec::new();
    for (key, record) in txn.list::<VerificationRecord>(&[])? {
        let other = Verification::from_record(record.flow.as_slice()).map_err(|_| corrupt())?;
        let same_user = key.user_id == *flow.their_user();
        let is_over = other.state().is_over();
        if !is_over && key.user_id != txn.own().user_id {
            active += 1;
        }
        if same_user && !other.is_asked_by_us() && (!is_over || record.due > recent) {
            of_user += 1;
        }
        if same_user && is_over {
            over.push((record.due, key));
        } else if same_user && other.their_device() == flow.their_device() {
            twice.push(other);
        }
    }
    if of_user >= MAX_FLOWS_OF_USER || (!is_own && active >= MAX_FLOWS) {
        return Ok(());
    }
    over.sort_unstable();
    let excess = over.len().saturating_sub(MAX_FLOWS_OF_USER);
    for (_, key) in over.into_iter().take(excess) {
        txn.delete::<VerificationRecord>(&key);
    }
    // A device that begins twice at once ends both (as the specification asks).
    let crowded = !twice.is_empty();
    for mut other in twice {
        let before = other.state();
        let messages = other.cancel();
        settle(txn, &other, Some(&before), messages)?;
    }
    let messages = if crowded { flow.cancel() } else { Vec::new() };
    settle(txn, &flow, None, messages)
}

/// Gives a flow a message.
fn feed(
    txn: &mut Txn<'_, '_>,
    mut flow: Verification,
    sender: &UserId,
    sender_device: Option<&DeviceId>,
    event_type: &str,
    content: &Value,
) -> Result<(), MachineError> {
    let before = flow.state();
    if before.is_over() {
        return Ok(());
    }
    let Some(ours) = own_keys(txn)? else {
        let messages = flow.cancel();
        return settle(txn, &flow, Some(&before), messages);
    };
    let user_id = flow.their_user().to_owned();
    let device = flow.their_device().or(from_device(content)).map(ToOwned::to_owned);
    let theirs = their_keys(txn, &user_id, device.as_deref())?;
    let keys = CurrentKeys { ours: &ours, theirs: theirs.as_ref() };
    let now = txn.cx.now;
    let unchanged = flow.clone();
    let messages = flow.handle(event_type, content, sender, sender_device, keys, now);
    if flow == unchanged && messages.is_empty() {
        return Ok(());
    }
    settle(txn, &flow, Some(&before), messages)
}

/// Takes a room event, if it belongs to a verification. `content` has its relation.
pub(crate) fn handle_room_event(
    txn: &mut Txn<'_, '_>,
    room_id: &RoomId,
    event_id: &EventId,
    sender: &UserId,
    origin_server_ts: u64,
    event_type: &str,
    content: &str,
) -> Result<(), MachineError> {
    let is_request = event_type == "m.room.message" && content.contains(REQUEST);
    if !is_request && !event_type.starts_with(PREFIX) {
        return Ok(());
    }
    let Ok(content) = serde_json::from_str::<Value>(content) else { return Ok(()) };
    if !is_request {
        let relation = content.get("m.relates_to").and_then(|relation| relation.get("event_id"));
        let Some(flow_id) = relation.and_then(Value::as_str) else { return Ok(()) };
        for (key, record) in txn.list::<VerificationRecord>(&VerificationKey::of(flow_id))? {
            let flow = Verification::from_record(record.flow.as_slice()).map_err(|_| corrupt())?;
            let here = matches!(flow.channel(), Channel::Room { room_id: of, .. } if of == room_id);
            if here && (*sender == *key.user_id || *sender == *txn.own().user_id) {
                feed(txn, flow, sender, None, event_type, &content)?;
            }
        }
        return Ok(());
    }
    let own = txn.own();
    if *sender == *own.user_id || load(txn, sender, event_id.as_str())?.is_some() {
        return Ok(());
    }
    let Some(ours) = own_keys(txn)? else { return Ok(()) };
    let theirs = their_keys(txn, sender, from_device(&content))?;
    let keys = CurrentKeys { ours: &ours, theirs: theirs.as_ref() };
    let made = Timestamp::from_millis(origin_server_ts);
    let now = txn.cx.now;
    let begun = Verification::receive_room_request(
        &content,
        sender,
        room_id,
        event_id,
        made,
        keys,
        now,
        txn.cx.entropy,
    );
    match begun {
        Ok(flow) => begin(txn, flow),
        Err(_) => Ok(()),
    }
}

/// Whether the user's devices are about to be known better.
fn is_awaited(txn: &Txn<'_, '_>, user_id: &UserId) -> Result<bool, MachineError> {
    let key = UserKey { user_id: user_id.to_owned() };
    Ok(txn.contains::<TrackedUserRecord>(&key)? && txn.contains::<OutdatedUserRecord>(&key)?)
}

pub(crate) fn park(
    txn: &mut Txn<'_, '_>,
    sender: &UserId,
    sender_device: Option<&DeviceId>,
    event_type: &str,
    content: &str,
) -> Result<(), MachineError> {
    if content.len() > 10_000 {
        return Ok(());
    }
    let parked = txn.list::<ParkedRecord>(&[])?;
    if parked.len() >= MAX_PARKED {
        // The oldest goes of whoever has most: a flood drives out nobody but itself.
        let mut counts: BTreeMap<&UserId, usize> = BTreeMap::new();
        for (_, record) in &parked {
            *counts.entry(&record.sender).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count).map(|(user, _)| user);
        let oldest = parked.iter().find(|(_, record)| Some(&*record.sender) == most);
        if let Some((key, _)) = oldest {
            txn.delete::<ParkedRecord>(key);
        }
    }
    let sequence = txn.next_number(PARKED)?;
    let record = ParkedRecord {
        sender: sender.to_owned(),
        sender_device: sender_device.map(ToOwned::to_owned),
        event_type: event_type.to_owned(),
        content: content.to_owned(),
        received_at: txn.cx.now,
    };
    txn.put(&SequenceKey { sequence }, &record);
    Ok(())
}

/// Takes what has waited for a device list, and ends what has taken too long.
pub(crate) fn advance(txn: &mut Txn<'_, '_>) -> Result<(), MachineError> {
    let now = txn.cx.now;
    for (key, record) in txn.list::<ParkedRecord>(&[])? {
        let too_old = record.received_at.saturating_add(PARKED_FOR) < now;
        let is_secret_request = record.event_type == secrets::REQUEST;
        let waits = if is_secret_request {
            !secrets::is_ready(txn, &record.content)?
        } else {
            is_awaited(txn, &record.sender)?
        };
        if !too_old && waits {
            continue;
        }
        txn.delete::<ParkedRecord>(&key);
        if is_secret_request && !too_old {
            if let Ok(content) = RawValue::from_string(record.content) {
                secrets::handle_request(txn, &record.sender, &content)?;
            }
        } else if !too_old {
            let device = record.sender_device.as_deref();
            handle_to_device(txn, &record.sender, device, &record.event_type, &record.content)?;
        }
    }
    for (key, record) in txn.list::<VerificationRecord>(&[])? {
        if now < record.due {
            continue;
        }
        let mut flow = Verification::from_record(record.flow.as_slice()).map_err(|_| corrupt())?;
        let before = flow.state();
        if before.is_over() {
            txn.delete::<VerificationRecord>(&key);
            continue;
        }
        let messages = flow.handle_timeout(now);
        settle(txn, &flow, Some(&before), messages)?;
    }
    Ok(())
}

/// A device of the own user whose keys were verified, if it is still what it was.
pub(crate) fn own_device(
    txn: &Txn<'_, '_>,
    device_id: &DeviceId,
) -> Result<Option<Device>, MachineError> {
    let key = DeviceKey { user_id: txn.own().user_id.clone(), device_id: device_id.to_owned() };
    Ok(txn.load::<DeviceRecord>(&key)?.map(|record| record.device))
}
