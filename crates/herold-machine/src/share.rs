//! Sharing a room key: whom with, from which index on, and when a new one is made.
//!
//! What a message costs: if nothing about the room's members and devices has changed since the
//! recipients were last looked at, one comparison of two numbers.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use herold_crypto::{
    InboundGroupSession, OutboundGroupSession, SecretBytes, SecretString, SessionId,
};
use herold_store::{
    StoreError,
    records::{
        BackoffRecord, BlockedRecord, ClaimRecord, CounterRecord, DeviceKey, DeviceRecord,
        HistoryVisibility, IdentityRecord, InboundSessionKey, InboundSessionRecord, MemberKey,
        MemberRecord, Membership, NameKey, OutboundSessionRecord, OutboxRecord, OutdatedUserRecord,
        RoomKey, RoomRecord, SessionKey, SessionRoomRecord, ShareKey, ShareRecord, ShareState,
        TrackedUserRecord, UserKey,
    },
};
use herold_trust::{
    Device, Identity, IdentityState, KeySource, MEGOLM, Policy, Timestamp, WithheldCode,
    is_expired, may_receive,
};
use ruma::{OwnedDeviceId, OwnedUserId, RoomId};
use serde_json::{json, value::RawValue};
use zeroize::Zeroizing;

use crate::{
    MachineError,
    devices::{self, GENERATION},
    grace,
    hot::Hot,
    key_backup,
    messages::Messages,
    olm::{self, Channels, MANY, OwnIdentity, SHARE_OF_ALL},
    retired, rooms,
    txn::Txn,
    unseen,
};

/// As many message indices are reserved ahead in the store, so that one fully synchronous commit
/// serves as many messages.
const RESERVE: u32 = 256;
/// A message waits this long at most for keys to be claimed, and for servers that do not answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// The messages of a room wait so long in all for keys to be claimed, until [`RESPITE`] has passed: a member
/// whose devices keep coming, and cannot be reached, must not hold everybody up for ever.
const LONGEST_HOPE: Duration = Duration::from_secs(60);
const RESPITE: Duration = Duration::from_secs(600);
/// No shorter waiting is noted: a note at each look would write a row as often as anybody looks.
const NOTED: Duration = Duration::from_secs(1);

/// Whether the room's next message can be encrypted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// The key has gone to everybody who can be reached.
    Ready,
    /// Not yet: requests are due or under way.
    Waiting,
    /// Never, for this reason.
    Impossible(&'static str),
}

/// Brings the room's session up to date for its next message, which has waited for `waited`.
pub(crate) fn prepare(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    policy: &Policy,
    room_id: &RoomId,
    room: &RoomRecord,
    waited: Duration,
) -> Result<Readiness, MachineError> {
    let Some(settings) = &room.encryption else { return Ok(Readiness::Ready) };
    if settings.algorithm != MEGOLM {
        return Ok(Readiness::Impossible("unsupported_algorithm"));
    }
    if !room.members_complete {
        return Ok(Readiness::Waiting);
    }
    let key = RoomKey { room_id: room_id.to_owned() };
    let now = txn.cx.now;
    let mut session = txn.load::<OutboundSessionRecord>(&key)?;
    if let Some(known) = &session {
        let messages = txn.current_number(&rooms::messages_name(room_id))?;
        if is_expired(settings, known.created_at, now, messages)
            || known.settings.algorithm != settings.algorithm
        {
            rooms::discard_session(txn, room_id)?;
            session = None;
        }
    }
    if let Some(known) = &session
        && known.device_generation == txn.current_number(GENERATION)?
        && known.member_generation == room.member_generation
        && known.retry_at.is_none_or(|at| now < at)
    {
        if grace::is_over(txn, policy, room_id)? {
            return Ok(Readiness::Impossible(grace::UNTRUSTED_DEVICES));
        }
        hot.outbound(room_id, known)?;
        return delivered(txn, known);
    }

    let Some(recipients) = recipients(txn, policy, room_id, room, waited)? else {
        return Ok(Readiness::Waiting);
    };
    grace::note(txn, policy, &recipients.withheld)?;
    if grace::is_over(txn, policy, room_id)? {
        return Ok(Readiness::Impossible(grace::UNTRUSTED_DEVICES));
    }
    if let Some(known) = &session
        && shared_with_others(txn, known, &recipients.entitled)?
    {
        rooms::discard_session(txn, room_id)?;
        session = None;
    }
    let mut session = match session {
        Some(session) => session,
        None => new_session(txn, hot, room_id, room)?,
    };
    let wait = hope(txn, room_id)?;
    let waiting = share(txn, hot, room_id, &mut session, &recipients, wait)?;
    if waiting {
        note_hope(txn, room_id)?;
    } else {
        session.device_generation = txn.current_number(GENERATION)?;
        session.member_generation = room.member_generation;
    }
    txn.put_changed(&key, &session)?;
    if waiting { Ok(Readiness::Waiting) } else { delivered(txn, &session) }
}

/// Gives the room's session to devices that had been left out and can be reached now, however old the
/// session is: it is for the messages it has served for. Answers whether that is done.
pub(crate) fn share_late(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    policy: &Policy,
    room_id: &RoomId,
    room: &RoomRecord,
    mut session: OutboundSessionRecord,
) -> Result<bool, MachineError> {
    let Some(recipients) = recipients(txn, policy, room_id, room, PATIENCE)? else {
        return Ok(false);
    };
    share(txn, hot, room_id, &mut session, &recipients, Wait::NoMessage)?;
    txn.put_changed(&RoomKey { room_id: room_id.to_owned() }, &session)?;
    Ok(true)
}

/// Ready once no request with this session's key is left in the outbox.
fn delivered(
    txn: &Txn<'_, '_>,
    session: &OutboundSessionRecord,
) -> Result<Readiness, MachineError> {
    let pending = txn
        .list::<OutboxRecord>(&[])?
        .iter()
        .any(|(_, row)| row.sessions.contains(&session.session_id));
    Ok(if pending { Readiness::Waiting } else { Readiness::Ready })
}

/// What a share waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// For keys being claimed, if they come in time.
    ForClaims,
    /// For nothing any more: the message goes out without whom it has not reached.
    ForNothing,
    /// There is no message: it is for those that have gone out. Who has not missed any is not told so.
    NoMessage,
}

/// The name of what is noted of a room's waiting for claims: for how many milliseconds it did, and when last.
fn hope_name(room_id: &RoomId) -> NameKey {
    NameKey { name: format!("hope/{room_id}") }
}

/// When the room's messages last waited for claims, and for how many milliseconds since it was given a respite.
fn hoped(txn: &Txn<'_, '_>, room_id: &RoomId) -> Result<Option<(Timestamp, u64)>, MachineError> {
    let name = hope_name(room_id);
    let now = txn.cx.now;
    let last = txn.load::<BackoffRecord>(&name)?.map(|record| record.retry_at);
    let last = last.filter(|last| *last <= now && now.saturating_since(*last) < RESPITE);
    Ok(match last {
        Some(last) => Some((last, txn.current_number(&name.name)?)),
        None => None,
    })
}

/// Whether the room's messages may wait for claims.
fn hope(txn: &Txn<'_, '_>, room_id: &RoomId) -> Result<Wait, MachineError> {
    let spent = hoped(txn, room_id)?.map_or(0, |(_, spent)| u128::from(spent));
    Ok(if spent < LONGEST_HOPE.as_millis() { Wait::ForClaims } else { Wait::ForNothing })
}

/// Notes that the room's next message waits for claims. It is looked at again within [`PATIENCE`], unless the
/// app is asleep.
fn note_hope(txn: &mut Txn<'_, '_>, room_id: &RoomId) -> Result<(), MachineError> {
    let now = txn.cx.now;
    let mut spent = 0;
    if let Some((last, before)) = hoped(txn, room_id)? {
        let more = now.saturating_since(last);
        if more < NOTED {
            return Ok(());
        }
        let more = Some(more).filter(|more| *more <= 2 * PATIENCE);
        let more = more.unwrap_or_default().as_millis();
        spent = before.saturating_add(u64::try_from(more).unwrap_or(u64::MAX));
    }
    let name = hope_name(room_id);
    txn.put(&name, &CounterRecord { next: spent });
    txn.put(&name, &BackoffRecord { failures: 0, retry_at: now });
    Ok(())
}

/// The devices of a room's members, sorted by whether they may have the key.
pub(crate) struct Recipients {
    pub(crate) entitled: BTreeMap<(OwnedUserId, OwnedDeviceId), Device>,
    withheld: Vec<(Device, WithheldCode)>,
    /// Users whose servers do not say what devices they have now.
    unseen: Vec<OwnedUserId>,
}

/// The room's devices. `None` while a list is outdated that can be had.
pub(crate) fn recipients(
    txn: &mut Txn<'_, '_>,
    policy: &Policy,
    room_id: &RoomId,
    room: &RoomRecord,
    waited: Duration,
) -> Result<Option<Recipients>, MachineError> {
    let own = txn.own();
    let users: Vec<OwnedUserId> = txn
        .list::<MemberRecord>(&MemberKey::of(room_id))?
        .into_iter()
        .filter(|(_, member)| match member.membership {
            Membership::Join => true,
            Membership::Invite => room.history_visibility != HistoryVisibility::Joined,
            _ => false,
        })
        .map(|(key, _)| key.user_id)
        .collect();
    let known = Known::of(txn, users.len())?;
    let outdated: HashSet<OwnedUserId> =
        txn.list::<OutdatedUserRecord>(&[])?.into_iter().map(|(key, _)| key.user_id).collect();
    let mut stale = false;
    let mut unseen = Vec::new();
    for user_id in &users {
        let key = UserKey { user_id: user_id.clone() };
        if !known.is_tracked(txn, &key)? {
            devices::track(txn, user_id)?;
            stale = true;
        } else if outdated.contains(user_id) {
            let failing =
                txn.load::<TrackedUserRecord>(&key)?.is_some_and(|tracked| tracked.failures > 0);
            // A server that does not answer holds nobody up for long; its users' known devices get
            // the key, the others when it is back.
            if failing && waited >= PATIENCE {
                unseen.push(user_id.clone());
            } else {
                stale = true;
            }
        }
    }
    if stale {
        return Ok(None);
    }
    let mut recipients = Recipients { entitled: BTreeMap::new(), withheld: Vec::new(), unseen };
    let mut lists = Lists::of(txn, users.len(), &known)?;
    let any_blocked = !txn.list::<BlockedRecord>(&[])?.is_empty();
    for user_id in users {
        let (identity, devices) = lists.take(txn, &user_id)?;
        // Who was verified and shows another identity is sent nothing, whatever the policy, until verified again or
        // let go (attack N03).
        if user_id != own.user_id
            && identity.as_ref().map(Identity::state) == Some(IdentityState::VerificationViolation)
        {
            return Ok(None);
        }
        for device in devices {
            if device.device_id == own.device_id && user_id == own.user_id {
                continue;
            }
            if device.keys.curve25519 == own.keys.curve25519 {
                continue; // somebody has published our key as theirs (attack N18)
            }
            let key = DeviceKey { user_id: user_id.clone(), device_id: device.device_id.clone() };
            let blocked = any_blocked && txn.contains::<BlockedRecord>(&key)?;
            match may_receive(policy, &device, blocked, identity.as_ref()) {
                Ok(()) => {
                    recipients.entitled.insert((key.user_id, key.device_id), device);
                }
                Err(code) => recipients.withheld.push((device, code)),
            }
        }
    }
    Ok(Some(recipients))
}

/// As many devices a user has, about.
const DEVICES_EACH: usize = 4;

/// The users whose lists are tracked, if they are not many more than those asked for.
struct Known(Option<HashSet<OwnedUserId>>);

impl Known {
    /// For so many users.
    fn of(txn: &Txn<'_, '_>, users: usize) -> Result<Self, StoreError> {
        if users < MANY {
            return Ok(Self(None));
        }
        let rows = txn.whole::<TrackedUserRecord>(users.saturating_mul(SHARE_OF_ALL))?;
        Ok(Self(rows.map(|rows| rows.into_iter().map(|(key, _)| key.user_id).collect())))
    }

    fn is_tracked(&self, txn: &Txn<'_, '_>, key: &UserKey) -> Result<bool, StoreError> {
        match &self.0 {
            Some(known) => Ok(known.contains(&key.user_id)),
            None => txn.contains::<TrackedUserRecord>(key),
        }
    }
}

/// Users' identities and devices, read at once if there are many.
struct Lists {
    identities: Option<HashMap<OwnedUserId, Identity>>,
    devices: Option<HashMap<OwnedUserId, Vec<Device>>>,
}

impl Lists {
    /// For so many users, who are most of those known or not.
    fn of(txn: &Txn<'_, '_>, users: usize, known: &Known) -> Result<Self, StoreError> {
        if known.0.is_none() {
            return Ok(Self { identities: None, devices: None });
        }
        let limit = users.saturating_mul(SHARE_OF_ALL);
        let identities = txn.whole::<IdentityRecord>(limit)?.map(|rows| {
            rows.into_iter().map(|(key, record)| (key.user_id, record.identity)).collect()
        });
        let limit = limit.saturating_mul(DEVICES_EACH);
        let devices = txn.whole::<DeviceRecord>(limit)?.map(|rows| {
            let mut devices: HashMap<OwnedUserId, Vec<Device>> = HashMap::new();
            for (key, record) in rows {
                devices.entry(key.user_id).or_default().push(record.device);
            }
            devices
        });
        Ok(Self { identities, devices })
    }

    fn take(
        &mut self,
        txn: &Txn<'_, '_>,
        user_id: &OwnedUserId,
    ) -> Result<(Option<Identity>, Vec<Device>), StoreError> {
        let identity = match &mut self.identities {
            Some(identities) => identities.remove(user_id),
            None => txn
                .load::<IdentityRecord>(&UserKey { user_id: user_id.clone() })?
                .map(|record| record.identity),
        };
        let devices = match &mut self.devices {
            Some(devices) => devices.remove(user_id).unwrap_or_default(),
            None => txn
                .list::<DeviceRecord>(&DeviceKey::of(user_id))?
                .into_iter()
                .map(|(_, record)| record.device)
                .collect(),
        };
        Ok((identity, devices))
    }
}

/// Every session that `device` was given and that is still kept is to be given to it again, from the same index on. Answers
/// whether there is one.
pub(crate) fn forget_shares(txn: &mut Txn<'_, '_>, device: &Device) -> Result<bool, MachineError> {
    let mut any = false;
    for (key, mut session) in txn.list::<OutboundSessionRecord>(&[])? {
        let share_key = ShareKey {
            session_id: session.session_id.clone(),
            user_id: device.user_id.clone(),
            device_id: device.device_id.clone(),
        };
        let Some(share) = txn.load::<ShareRecord>(&share_key)? else { continue };
        if share.state == ShareState::Shared && share.curve25519 == device.keys.curve25519 {
            txn.put(&share_key, &ShareRecord { state: ShareState::Failed, ..share });
            session.retry_at = Some(txn.cx.now);
            txn.put(&key, &session);
            any = true;
        }
    }
    Ok(any | retired::forget_shares(txn, device)?)
}

/// Whether the session has been given to a device that is no longer entitled. A share that failed may
/// have arrived all the same.
fn shared_with_others(
    txn: &Txn<'_, '_>,
    session: &OutboundSessionRecord,
    entitled: &BTreeMap<(OwnedUserId, OwnedDeviceId), Device>,
) -> Result<bool, MachineError> {
    Ok(txn.list::<ShareRecord>(&ShareKey::of(&session.session_id))?.into_iter().any(
        |(key, share)| {
            !matches!(share.state, ShareState::Withheld(_))
                && entitled
                    .get(&(key.user_id, key.device_id))
                    .is_none_or(|device| device.keys.curve25519 != share.curve25519)
        },
    ))
}

/// Whether what is said under this visibility may be read by those who come later (MSC4268).
pub(crate) fn is_shareable(visibility: HistoryVisibility) -> bool {
    matches!(visibility, HistoryVisibility::Shared | HistoryVisibility::WorldReadable)
}

/// Makes the room's next session, with its first indices reserved, and our own copy to read by.
fn new_session(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    room_id: &RoomId,
    room: &RoomRecord,
) -> Result<OutboundSessionRecord, MachineError> {
    let live = OutboundGroupSession::new();
    let session_id = live.session_id();
    let own = txn.own();
    let inbound = InboundGroupSession::from_session_key(live.session_key().as_str())
        .map_err(MachineError::crypto)?;
    let inbound_key = InboundSessionKey {
        room_id: room_id.to_owned(),
        session_id: session_id.clone(),
        sender_key: own.keys.curve25519,
    };
    txn.put(
        &inbound_key,
        &InboundSessionRecord {
            pickle: inbound.to_record(),
            sender_key: own.keys.curve25519,
            sender_ed25519: Some(own.keys.ed25519),
            sender: Some(own.user_id.clone()),
            source: KeySource::Olm,
            first_known_index: inbound.first_known_index(),
            shared_history: is_shareable(room.history_visibility),
            received_at: txn.cx.now,
            forwarders: Vec::new(),
            shared_by: None,
        },
    );
    key_backup::note(txn, &inbound_key)?;
    txn.put(
        &SessionKey { session_id: session_id.clone() },
        &SessionRoomRecord { room_id: room_id.to_owned() },
    );
    let settings = room
        .encryption
        .clone()
        .ok_or(MachineError::Malformed("a session for a room without encryption"))?;
    let record = OutboundSessionRecord {
        session_id: session_id.clone(),
        pickle: live.to_record_ahead(RESERVE).map_err(MachineError::crypto)?,
        reserved_index: live.message_index().saturating_add(RESERVE),
        initial: live.to_record(),
        created_at: txn.cx.now,
        settings,
        device_generation: 0,
        member_generation: 0,
        retry_at: None,
        unseen: Vec::new(),
    };
    let key = RoomKey { room_id: room_id.to_owned() };
    txn.put(&key, &record);
    txn.require_full();
    hot.set_outbound(room_id, &record, live);
    Ok(record)
}

/// Gives the session to every entitled device that does not have it. Answers whether the message should
/// wait for claims still under way.
fn share(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    room_id: &RoomId,
    session: &mut OutboundSessionRecord,
    recipients: &Recipients,
    wait: Wait,
) -> Result<bool, MachineError> {
    let known: BTreeMap<_, _> = txn
        .list::<ShareRecord>(&ShareKey::of(&session.session_id))?
        .into_iter()
        .map(|(key, share)| ((key.user_id, key.device_id), share))
        .collect();
    let live_index = hot.outbound(room_id, session)?.message_index();
    if live_index >= session.reserved_index {
        // A ratchet that was just loaded. Whoever is given the key is given it from here on, so every message from now
        // on must be from here on too, also those of another process that was further behind.
        reserve(hot, room_id, session)?;
        txn.put(&RoomKey { room_id: room_id.to_owned() }, session);
        txn.require_full();
    }
    let mut keys =
        SessionKeys::new(txn, room_id, session.session_id.clone(), session.initial.clone())?;
    let mut own: Option<OwnIdentity> = None;
    let given = known.values().filter(|share| share.state == ShareState::Shared).count();
    let mut channels = Channels::of(txn, recipients.entitled.len().saturating_sub(given))?;
    let mut messages = Messages::default();
    let mut refusals = Messages::default();
    let mut waiting = false;
    let mut retry_at: Option<Timestamp> = None;
    for (place, device) in &recipients.entitled {
        let before = known.get(place).filter(|share| share.curve25519 == device.keys.curve25519);
        if before.is_some_and(|share| share.state == ShareState::Shared) {
            continue;
        }
        // What was sent while the device was not to have it stays out of its reach.
        let before = before.filter(|share| was_only_missed(&share.state));
        let index = before.map_or(live_index, |share| share.index);
        let share = |state| ShareRecord { curve25519: device.keys.curve25519, index, state };
        let share_key = ShareKey {
            session_id: session.session_id.clone(),
            user_id: device.user_id.clone(),
            device_id: device.device_id.clone(),
        };
        let own = own.get_or_insert_with(|| OwnIdentity::new(txn));
        match channels.take(txn, &device.keys)? {
            Some(channel) => {
                // Making the key's text costs a signature: only for a device that can be sent it.
                let content = keys.content_at(index)?;
                let encrypted =
                    olm::encrypt_through(txn, own, channel, device, "m.room_key", content)?;
                messages.add_share(device, encrypted, share_key.session_id.clone());
                txn.put(&share_key, &share(ShareState::Shared));
            }
            None => {
                olm::want_claim(txn, device)?;
                let claim_key = DeviceKey {
                    user_id: device.user_id.clone(),
                    device_id: device.device_id.clone(),
                };
                let claim: Option<ClaimRecord> = txn.load(&claim_key)?;
                if wait == Wait::ForClaims
                    && claim.as_ref().is_some_and(|claim| is_hopeful(claim, txn.cx.now))
                {
                    waiting = true;
                    continue;
                }
                // The message goes without this device; it gets the key from this index on later.
                let code = WithheldCode::NoOlm;
                if before.is_none() && wait != Wait::NoMessage {
                    txn.put(&share_key, &share(ShareState::Withheld(code.as_str().to_owned())));
                    refusals.add(device, withheld_content(txn, room_id, session, code)?);
                }
                let again = claim.map(|claim| claim.retry_at);
                retry_at = [retry_at, again].into_iter().flatten().min();
            }
        }
    }
    for (device, code) in &recipients.withheld {
        let place = (device.user_id.clone(), device.device_id.clone());
        if known.get(&place).is_some_and(|share| !was_only_missed(&share.state)) {
            continue; // told once
        }
        let share_key = ShareKey {
            session_id: session.session_id.clone(),
            user_id: device.user_id.clone(),
            device_id: device.device_id.clone(),
        };
        txn.put(
            &share_key,
            &ShareRecord {
                curve25519: device.keys.curve25519,
                index: live_index,
                state: ShareState::Withheld(code.as_str().to_owned()),
            },
        );
        refusals.add(device, withheld_content(txn, room_id, session, *code)?);
    }
    messages.enqueue(txn, "m.room.encrypted")?;
    refusals.enqueue(txn, "m.room_key.withheld")?;
    if !waiting && wait != Wait::NoMessage {
        unseen::note(session, &recipients.unseen, live_index);
    }
    session.retry_at = if waiting {
        // Whoever is waited for now may have been left out before: without a time it would look as if all were done.
        Some(session.retry_at.map_or(txn.cx.now, |at| at.min(txn.cx.now)))
    } else {
        retry_at
    };
    Ok(waiting)
}

/// Whether a claim may yet be answered in time: nothing was said against it, and it has not been asked for
/// long, or is to be asked for now.
fn is_hopeful(claim: &ClaimRecord, now: Timestamp) -> bool {
    let in_time = |since: Timestamp| since <= now && now < since.saturating_add(PATIENCE);
    let is_due = claim.retry_at <= now && claim.asked_at.is_none_or(|last| last < claim.retry_at);
    claim.failures == 0 && (claim.asked_since.is_none_or(in_time) || is_due)
}

/// Whether a device was entitled to the key all along and could not be given it: it may have it later from
/// where it missed on.
pub(crate) fn was_only_missed(state: &ShareState) -> bool {
    match state {
        ShareState::Failed => true,
        ShareState::Withheld(code) => code == WithheldCode::NoOlm.as_str(),
        ShareState::Shared => false,
    }
}

/// The content of `m.room_key.withheld`.
fn withheld_content(
    txn: &mut Txn<'_, '_>,
    room_id: &RoomId,
    session: &OutboundSessionRecord,
    code: WithheldCode,
) -> Result<String, MachineError> {
    let sender_key = txn.own().keys.curve25519.to_base64();
    let mut content = json!({
        "algorithm": MEGOLM,
        "sender_key": sender_key,
        "code": code.as_str(),
        "reason": code.reason(),
    });
    if code != WithheldCode::NoOlm
        && let Some(object) = content.as_object_mut()
    {
        object.insert("room_id".to_owned(), json!(room_id));
        object.insert("session_id".to_owned(), json!(session.session_id.as_str()));
    }
    Ok(content.to_string())
}

/// The `m.room_key` contents of one session, made once for each index needed.
pub(crate) struct SessionKeys<'a> {
    room_id: &'a RoomId,
    session_id: SessionId,
    initial: SecretBytes,
    /// The room's history was open to later members when the session was made.
    shared_history: bool,
    contents: BTreeMap<u32, Zeroizing<String>>,
}

impl<'a> SessionKeys<'a> {
    /// Those of the session that was `initial` when it was made.
    pub(crate) fn new(
        txn: &Txn<'_, '_>,
        room_id: &'a RoomId,
        session_id: SessionId,
        initial: SecretBytes,
    ) -> Result<Self, MachineError> {
        let own = InboundSessionKey {
            room_id: room_id.to_owned(),
            session_id: session_id.clone(),
            sender_key: txn.own().keys.curve25519,
        };
        let own: Option<InboundSessionRecord> = txn.load(&own)?;
        let shared_history = own.is_some_and(|own| own.shared_history);
        Ok(Self { room_id, session_id, initial, shared_history, contents: BTreeMap::new() })
    }

    /// The content for a device that is to read from `index` on. Secret.
    pub(crate) fn content_at(&mut self, index: u32) -> Result<&str, MachineError> {
        if !self.contents.contains_key(&index) {
            let key = session_key_at(&self.initial, index)?;
            let content = json!({
                "algorithm": MEGOLM,
                "room_id": self.room_id,
                "session_id": self.session_id.as_str(),
                "session_key": key.as_str(),
                "shared_history": self.shared_history,
                // Others know no other name yet.
                "org.matrix.msc3061.shared_history": self.shared_history,
            });
            self.contents.insert(index, Zeroizing::new(content.to_string()));
        }
        Ok(self.contents.get(&index).map_or("", |content| content.as_str()))
    }
}

/// The key from `index` on of the session that was `initial` when it was made.
fn session_key_at(initial: &SecretBytes, index: u32) -> Result<SecretString, MachineError> {
    let corrupt = |_| StoreError::Corrupt("an outbound session".to_owned());
    let initial = OutboundGroupSession::from_record(initial.as_slice()).map_err(corrupt)?;
    let ahead = index.saturating_sub(initial.message_index());
    if ahead == 0 {
        return Ok(initial.session_key());
    }
    let advanced = initial.to_record_ahead(ahead).map_err(MachineError::crypto)?;
    Ok(OutboundGroupSession::from_record(advanced.as_slice()).map_err(corrupt)?.session_key())
}

/// Reserves the live session's next indices in its record.
fn reserve(
    hot: &mut Hot,
    room_id: &RoomId,
    record: &mut OutboundSessionRecord,
) -> Result<(), MachineError> {
    let missing = || MachineError::Malformed("no session to encrypt with");
    let live = hot.live_outbound(room_id).ok_or_else(missing)?;
    record.pickle = live.session.to_record_ahead(RESERVE).map_err(MachineError::crypto)?;
    record.reserved_index = live.session.message_index().saturating_add(RESERVE);
    live.reserved_index = record.reserved_index;
    Ok(())
}

/// Encrypts a room event with the room's session, which [`prepare`] has found ready. Answers the content
/// of the `m.room.encrypted` event.
///
/// The used index is below the stored one, so a restart can never use it again.
pub(crate) fn encrypt(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    room_id: &RoomId,
    event_type: &str,
    content: &str,
) -> Result<String, MachineError> {
    let missing = || MachineError::Malformed("no session to encrypt with");
    let own = txn.own();
    // `prepare` has compared it with the stored record.
    let mut live = hot.live_outbound(room_id).ok_or_else(missing)?;
    if live.session.message_index() >= live.reserved_index {
        let key = RoomKey { room_id: room_id.to_owned() };
        let mut record: OutboundSessionRecord = txn.load(&key)?.ok_or_else(missing)?;
        reserve(hot, room_id, &mut record)?;
        txn.put(&key, &record);
        txn.require_full();
        live = hot.live_outbound(room_id).ok_or_else(missing)?;
    }
    #[derive(serde::Deserialize)]
    struct Relation<'a> {
        #[serde(rename = "m.relates_to", borrow)]
        relates_to: Option<&'a RawValue>,
    }
    let Relation { relates_to } = serde_json::from_str(content)
        .map_err(|_| MachineError::Malformed("the content is not JSON"))?;
    let plaintext = Zeroizing::new(format!(
        r#"{{"type":{},"content":{content},"room_id":{}}}"#,
        json!(event_type),
        json!(room_id),
    ));
    let ciphertext = live.session.encrypt(plaintext.as_bytes());
    txn.next_number(&rooms::messages_name(room_id))?;
    // Written by hand: the text is long, and nothing in it needs escaping but what is quoted here.
    let relation =
        relates_to.map_or_else(String::new, |relation| format!(r#","m.relates_to":{relation}"#));
    // `sender_key` and `device_id` are deprecated, but older clients still ask for them.
    Ok(format!(
        r#"{{"algorithm":"{MEGOLM}","ciphertext":"{ciphertext}","session_id":"{}","sender_key":"{}","device_id":{}{relation}}}"#,
        live.session_id,
        own.keys.curve25519.to_base64(),
        json!(own.device_id),
    ))
}
