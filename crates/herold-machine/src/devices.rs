//! Device lists: who is tracked, whose list is outdated, and what an answer of `/keys/query` may
//! change (Matrix specification, "Tracking the device list for a user").

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use herold_crypto::{Curve25519PublicKey, Ed25519PublicKey};
use herold_store::records::{
    ClaimRecord, DeviceByKeyKey, DeviceByKeyRecord, DeviceKey, DeviceRecord, IdentityRecord,
    OutdatedUserRecord, TrackedUserRecord, UserKey,
};
use herold_trust::{
    Anchor, Device, DeviceChange, DeviceKeysError, Identity, compare, owns, parse_device_keys,
    parse_identity,
};
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use serde_json::Value;

use crate::{
    Answer, AppEvent, DropReason, MachineError, Notice, key_requests, olm, own_identity,
    txn::Txn,
    wire::{DeviceLists, KeysQueryBody, RawMap, parse_section},
};

/// Counts every change that may alter who is given a room key.
pub(crate) const GENERATION: &str = "device_generation";

/// Numbers every state in which a device list was known to be outdated.
const LIST_GENERATION: &str = "list_generation";

/// The name of the query for a server's users: the request's, and that of its back-off when it failed as
/// a whole.
pub(crate) fn query_name(server: &str) -> String {
    format!("keys/query/{server}")
}

/// A failed user is asked for again after this long at the latest.
const SERVER_FAILURE_RETRY: Duration = Duration::from_secs(15);

/// Starts tracking a user, if that has not been done.
pub(crate) fn track(txn: &mut Txn<'_, '_>, user_id: &UserId) -> Result<(), MachineError> {
    let key = UserKey { user_id: user_id.to_owned() };
    if !txn.contains::<TrackedUserRecord>(&key)? {
        mark_outdated(txn, &key, TrackedUserRecord::default())?;
        txn.next_number(GENERATION)?;
    }
    Ok(())
}

/// Marks a tracked user's list as outdated.
pub(crate) fn mark_outdated(
    txn: &mut Txn<'_, '_>,
    key: &UserKey,
    mut tracked: TrackedUserRecord,
) -> Result<(), MachineError> {
    // One count for all lists, so that a number never comes again: not even when a user who had left is
    // tracked anew, and an answer from before is still under way.
    tracked.generation = txn.next_number(LIST_GENERATION)?.saturating_add(1);
    // A change may be the other server's coming back: ask at once. (What our own server asked to be put
    // off is kept by the name of the query, and stands.)
    tracked.retry_at = None;
    tracked.outdated_since.get_or_insert(txn.cx.now);
    txn.put(key, &tracked);
    txn.put(key, &OutdatedUserRecord);
    Ok(())
}

/// Takes `device_lists` of a sync response.
pub(crate) fn handle_device_lists(
    txn: &mut Txn<'_, '_>,
    raw: Option<&serde_json::value::RawValue>,
) -> Result<(), MachineError> {
    let Some(raw) = raw else { return Ok(()) };
    let lists: DeviceLists = parse_section(raw).unwrap_or_default();
    let users = |raw: Option<Box<serde_json::value::RawValue>>| -> Vec<OwnedUserId> {
        raw.and_then(|raw| parse_section::<Vec<Value>>(&raw))
            .unwrap_or_default()
            .iter()
            .filter_map(|user| OwnedUserId::try_from(user.as_str()?).ok())
            .collect()
    };
    let own = txn.own().user_id.clone();
    for user_id in users(lists.changed) {
        let key = UserKey { user_id };
        if let Some(tracked) = txn.load::<TrackedUserRecord>(&key)? {
            mark_outdated(txn, &key, tracked)?;
            txn.next_number(GENERATION)?;
        }
    }
    for user_id in users(lists.left) {
        if user_id == own {
            continue;
        }
        let key = UserKey { user_id };
        if txn.contains::<TrackedUserRecord>(&key)? {
            txn.delete::<TrackedUserRecord>(&key);
            txn.delete::<OutdatedUserRecord>(&key);
            txn.next_number(GENERATION)?;
        }
    }
    Ok(())
}

/// Takes the answer of `/keys/query` for `asked`: users with the generation of their list when the
/// request was made.
pub(crate) fn handle_query(
    txn: &mut Txn<'_, '_>,
    asked: &BTreeMap<OwnedUserId, u64>,
    answer: Answer<'_>,
) -> Result<(), MachineError> {
    let body = answer.success().and_then(KeysQueryBody::parse);
    let Some(name) = asked.keys().next().map(|user_id| query_name(user_id.server_name().as_str()))
    else {
        return Ok(());
    };
    let Some(body) = body else {
        // Our own server failed: that is no reason to send by a stale list, and nothing would be sent
        // anyway. The query is put off, not its users: they may come and go meanwhile.
        txn.failed(&name, answer.retry_after())?;
        return Ok(());
    };
    txn.answered(&name)?;
    let mut changed = false;
    for (user_id, generation) in asked {
        let key = UserKey { user_id: user_id.clone() };
        let Some(mut tracked) = txn.load::<TrackedUserRecord>(&key)? else { continue };
        if *generation > tracked.generation {
            continue; // asked before a power loss that has undone what it was asked for
        }
        let newer = tracked.answered.is_some_and(|answered| answered > *generation);
        if newer && *generation < tracked.generation {
            continue; // a newer answer has been taken already
        }
        let present = body.device_keys.contains_key(user_id.as_str());
        if !present && body.failures.contains_key(user_id.server_name().as_str()) {
            put_off(txn, user_id)?;
            changed = true;
            continue;
        }
        changed |= update_identity(txn, user_id, &body)?;
        let is_known = tracked.answered.is_some();
        let entries = body.device_keys.get(user_id.as_str()).map(AsRef::as_ref);
        changed |= update_devices(txn, user_id, entries, is_known)?;
        if tracked.failures > 0 {
            // Messages may have gone out meanwhile without devices that were not known.
            crate::queue::note_late_shares(txn);
        }
        tracked.answered = Some(*generation);
        tracked.failures = 0;
        tracked.retry_at = None;
        if tracked.generation == *generation {
            tracked.outdated_since = None;
            txn.delete::<OutdatedUserRecord>(&key);
            changed = true;
        }
        txn.put(&key, &tracked);
    }
    if changed {
        txn.next_number(GENERATION)?;
        if asked.contains_key(&txn.own().user_id) {
            key_requests::look_again(txn)?;
        }
    }
    Ok(())
}

/// Another server did not answer for its user.
fn put_off(txn: &mut Txn<'_, '_>, user_id: &UserId) -> Result<(), MachineError> {
    let key = UserKey { user_id: user_id.to_owned() };
    if let Some(mut tracked) = txn.load::<TrackedUserRecord>(&key)? {
        tracked.failures = tracked.failures.saturating_add(1);
        let soonest = txn.cx.now.saturating_add(SERVER_FAILURE_RETRY);
        let at = txn.cx.retry_at(tracked.failures, None);
        // The first failures are tried again soon; a server stays asked for ever, but seldom.
        tracked.retry_at = Some(if tracked.failures < 5 { at.min(soonest) } else { at });
        txn.put(&key, &tracked);
    }
    Ok(())
}

fn update_identity(
    txn: &mut Txn<'_, '_>,
    user_id: &UserId,
    body: &KeysQueryBody,
) -> Result<bool, MachineError> {
    let value = |map: &RawMap| -> Option<Value> {
        map.get(user_id.as_str()).and_then(|raw| crate::wire::parse(raw))
    };
    let key = UserKey { user_id: user_id.to_owned() };
    let known: Option<IdentityRecord> = txn.load(&key)?;
    let (Some(master), Some(self_signing)) =
        (value(&body.master_keys), value(&body.self_signing_keys))
    else {
        // A server that leaves an identity out takes nothing away from what was pinned.
        return Ok(false);
    };
    let user_signing = value(&body.user_signing_keys);
    if user_signing.is_some() && txn.own().user_id != user_id {
        // Nobody is shown another user's user-signing key (attack N35).
        txn.notice(Notice::IdentityRefused { user_id: user_id.to_owned() })?;
        return Ok(false);
    }
    let parsed = match parse_identity(user_id, &master, &self_signing, user_signing.as_ref()) {
        Ok(parsed) => parsed,
        Err(_) => {
            txn.notice(Notice::IdentityRefused { user_id: user_id.to_owned() })?;
            return Ok(false);
        }
    };
    let is_own = txn.own().user_id == user_id;
    let anchor = own_identity::anchor(txn)?;
    let verified_master = own_identity::verified_master(txn)?;
    let evaluated = |mut identity: Identity| {
        let own = is_own.then(|| Anchor::new(&identity, verified_master.as_ref())).flatten();
        identity.evaluate(if is_own { own.as_ref() } else { anchor.as_ref() });
        identity
    };
    let before = known.as_ref().map(|known| known.identity.clone());
    let record = match known {
        None => {
            IdentityRecord { identity: evaluated(Identity::pin(parsed)), first_seen: txn.cx.now }
        }
        Some(known) => {
            let identity = evaluated(known.identity.update(parsed));
            if identity == known.identity {
                return Ok(false);
            }
            let violated = |identity: &Identity| identity.state().is_violation();
            if violated(&identity) && !violated(&known.identity) {
                txn.notice(Notice::IdentityChanged { user_id: user_id.to_owned() })?;
            }
            IdentityRecord { identity, ..known }
        }
    };
    txn.put(&key, &record);
    if is_own || before.is_some() {
        tell_identity(txn, before.as_ref(), &record.identity)?;
    }
    if is_own && own_identity::anchor(txn)? != anchor {
        // Whom the own identity vouches for has changed with it.
        own_identity::evaluate_all(txn)?;
    }
    Ok(true)
}

/// Tells the app of an identity that is another one, or stands otherwise.
pub(crate) fn tell_identity(
    txn: &mut Txn<'_, '_>,
    before: Option<&Identity>,
    now: &Identity,
) -> Result<(), MachineError> {
    let new_keys = before.is_none_or(|before| before.master != now.master);
    let state = now.state();
    let before = before.map(Identity::state);
    if new_keys || before != Some(state) {
        let user_id = now.user_id.clone();
        txn.emit(AppEvent::Identity { user_id, before, state, new_keys })?;
    }
    Ok(())
}

/// `is_known`: the list was known before, so that the app is told what is new in it.
fn update_devices(
    txn: &mut Txn<'_, '_>,
    user_id: &UserId,
    raw: Option<&serde_json::value::RawValue>,
    is_known: bool,
) -> Result<bool, MachineError> {
    let entries: RawMap = match raw {
        None => RawMap::new(),
        Some(raw) => match parse_section(raw) {
            Some(entries) => entries,
            None => {
                txn.notice(Notice::SectionDropped { section: "device_keys".to_owned() })?;
                return Ok(false);
            }
        },
    };
    let own = txn.own();
    let known: BTreeMap<OwnedDeviceId, DeviceRecord> = txn
        .list::<DeviceRecord>(&DeviceKey::of(user_id))?
        .into_iter()
        .map(|(key, record)| (key.device_id, record))
        .collect();
    let identity: Option<IdentityRecord> = txn.load(&UserKey { user_id: user_id.to_owned() })?;
    let is_key = |device_id: &DeviceId| {
        identity.as_ref().is_some_and(|known| known.identity.has_key_named(device_id.as_str()))
    };
    let mut kept = BTreeSet::new();
    let mut changed = false;
    let mut own_seen = false;
    let (mut added, mut removed) = (Vec::new(), Vec::new());
    for (device_id, raw) in &entries {
        let device_id = OwnedDeviceId::from(device_id.as_str());
        let value: Value = crate::wire::parse(raw).unwrap_or(Value::Null);
        let refused = match parse_device_keys(user_id, &device_id, &value) {
            // A proof about one could be passed off as a proof about the other (attack N04).
            Ok(_) if is_key(&device_id) => Some(DropReason::Malformed),
            Ok(device) => {
                let before = known.get(&device_id);
                if own.user_id == user_id && own.device_id == device_id {
                    own_seen = true;
                    if device.keys != own.keys {
                        txn.notice(Notice::OwnDeviceMismatch)?;
                        kept.insert(device_id.clone()); // the old record stands
                        continue;
                    }
                }
                match compare(before.map(|record| &record.device), &device) {
                    DeviceChange::KeysChanged => Some(DropReason::KeysChanged),
                    DeviceChange::Unchanged => {
                        kept.insert(device_id.clone());
                        None
                    }
                    change @ (DeviceChange::New | DeviceChange::Updated) => {
                        kept.insert(device_id.clone());
                        added.extend((change == DeviceChange::New).then(|| device_id.clone()));
                        put_device(txn, device, before)?;
                        changed = true;
                        None
                    }
                }
            }
            Err(DeviceKeysError::BadSignature(_)) => Some(DropReason::BadSignature),
            Err(_) => Some(DropReason::Malformed),
        };
        if let Some(reason) = refused {
            kept.insert(device_id.clone()); // the old record, if any, stands
            txn.notice(Notice::DeviceRefused { user_id: user_id.to_owned(), device_id, reason })?;
        }
    }
    if own.user_id == user_id
        && !own_seen
        && txn
            .load::<DeviceRecord>(&DeviceKey {
                user_id: own.user_id.clone(),
                device_id: own.device_id.clone(),
            })?
            .is_some()
    {
        // Our own device has gone from the server's list.
        txn.notice(Notice::OwnDeviceMismatch)?;
    }
    for (device_id, record) in &known {
        if !kept.contains(device_id) {
            remove_device(txn, &record.device)?;
            removed.push(device_id.clone());
            changed = true;
        }
    }
    // This very device is no news.
    added.retain(|device_id| own.user_id != user_id || own.device_id != *device_id);
    if is_known && !(added.is_empty() && removed.is_empty()) {
        txn.emit(AppEvent::Devices { user_id: user_id.to_owned(), added, removed })?;
    }
    Ok(changed)
}

fn put_device(
    txn: &mut Txn<'_, '_>,
    device: Device,
    before: Option<&DeviceRecord>,
) -> Result<(), MachineError> {
    index_by_key(txn, &device)?;
    let key = DeviceKey { user_id: device.user_id.clone(), device_id: device.device_id.clone() };
    let first_seen = before.map_or(txn.cx.now, |record| record.first_seen);
    txn.put(&key, &DeviceRecord { device: device.clone(), first_seen });
    olm::unwedge_known(txn, &device)
}

/// Has [`device_of`] find the device.
pub(crate) fn index_by_key(txn: &mut Txn<'_, '_>, device: &Device) -> Result<(), MachineError> {
    let index =
        DeviceByKeyKey { user_id: device.user_id.clone(), curve25519: device.keys.curve25519 };
    let mut by_key: DeviceByKeyRecord = txn.load(&index)?.unwrap_or_default();
    if !by_key.device_ids.contains(&device.device_id) {
        by_key.device_ids.push(device.device_id.clone());
        txn.put(&index, &by_key);
    }
    Ok(())
}

fn remove_device(txn: &mut Txn<'_, '_>, device: &Device) -> Result<(), MachineError> {
    let index =
        DeviceByKeyKey { user_id: device.user_id.clone(), curve25519: device.keys.curve25519 };
    let mut by_key: DeviceByKeyRecord = txn.load(&index)?.unwrap_or_default();
    by_key.device_ids.retain(|device_id| *device_id != device.device_id);
    if by_key.device_ids.is_empty() {
        txn.delete::<DeviceByKeyRecord>(&index);
    } else {
        txn.put(&index, &by_key);
    }
    let key = DeviceKey { user_id: device.user_id.clone(), device_id: device.device_id.clone() };
    txn.delete::<DeviceRecord>(&key);
    txn.delete::<ClaimRecord>(&key);
    // A block stays: else a server that hides a device and shows it again lifts it (attack N43).
    Ok(())
}

/// The device of `user_id` with these two keys. The Curve25519 key alone does not make one: anybody can
/// publish another device's (attack N18).
pub(crate) fn device_of(
    load: &dyn DeviceLookup,
    user_id: &UserId,
    curve25519: &Curve25519PublicKey,
    ed25519: &Ed25519PublicKey,
) -> Result<Option<Device>, MachineError> {
    for device_id in load.ids_by_key(user_id, curve25519)? {
        if let Some(device) = load.device(user_id, &device_id)?
            && owns(&device, user_id, curve25519, ed25519)
        {
            return Ok(Some(device));
        }
    }
    Ok(None)
}

/// Where devices are looked up: in a step under way or in a snapshot.
pub(crate) trait DeviceLookup {
    fn ids_by_key(
        &self,
        user_id: &UserId,
        curve25519: &Curve25519PublicKey,
    ) -> Result<Vec<OwnedDeviceId>, MachineError>;
    fn device(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
    ) -> Result<Option<Device>, MachineError>;
}

impl DeviceLookup for Txn<'_, '_> {
    fn ids_by_key(
        &self,
        user_id: &UserId,
        curve25519: &Curve25519PublicKey,
    ) -> Result<Vec<OwnedDeviceId>, MachineError> {
        let key = DeviceByKeyKey { user_id: user_id.to_owned(), curve25519: *curve25519 };
        Ok(self.load::<DeviceByKeyRecord>(&key)?.unwrap_or_default().device_ids)
    }
    fn device(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
    ) -> Result<Option<Device>, MachineError> {
        let key = DeviceKey { user_id: user_id.to_owned(), device_id: device_id.to_owned() };
        Ok(self.load::<DeviceRecord>(&key)?.map(|record| record.device))
    }
}

impl DeviceLookup for &dyn herold_store::Snapshot {
    fn ids_by_key(
        &self,
        user_id: &UserId,
        curve25519: &Curve25519PublicKey,
    ) -> Result<Vec<OwnedDeviceId>, MachineError> {
        use herold_store::SnapshotExt as _;
        let key = DeviceByKeyKey { user_id: user_id.to_owned(), curve25519: *curve25519 };
        Ok((*self).load::<DeviceByKeyRecord>(&key)?.unwrap_or_default().device_ids)
    }
    fn device(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
    ) -> Result<Option<Device>, MachineError> {
        use herold_store::SnapshotExt as _;
        let key = DeviceKey { user_id: user_id.to_owned(), device_id: device_id.to_owned() };
        Ok((*self).load::<DeviceRecord>(&key)?.map(|record| record.device))
    }
}
