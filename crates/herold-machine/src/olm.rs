//! Olm channels: encrypting to a device, decrypting from one, claiming keys
//! (Matrix specification, `m.olm.v1.curve25519-aes-sha2`).

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use herold_crypto::{
    Curve25519PublicKey, Ed25519PublicKey, IdentityKeys, OlmMessage, OlmSession,
    curve25519_from_base64, verify_json,
};
use herold_store::{
    StoreError,
    records::{
        BackoffRecord, ClaimRecord, DeviceKey, DeviceRecord, NameKey, OlmSessionKey,
        OlmSessionRecord, TrackedUserRecord, UserKey,
    },
};
use herold_trust::{Device, OLM, Timestamp};
use ruma::{OwnedDeviceId, OwnedUserId, UserId};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{
    Answer, MachineError, Notice,
    devices::GENERATION,
    hot::Hot,
    messages::push_quoted,
    share::PATIENCE,
    txn::{Row, Txn},
    wire::{KeysClaimBody, RawMap},
};

/// A wedged session is replaced once in this time at most.
const UNWEDGE_INTERVAL: Duration = Duration::from_secs(3600);
/// The back-off record of claims that failed as a whole.
const CLAIM: &str = "keys/claim";
/// As many sessions are kept with a device; the least used go.
const MAX_SESSIONS: usize = 8;

/// Sessions with unknown devices that do not work are noted under names that begin so...
const WEDGED: &str = "wedged/";
/// ...and no more of them than this, the newest: a server can make such messages up.
const MAX_WEDGED: usize = 64;

/// What every Olm payload and message of this device says of itself, made once a step.
pub(crate) struct OwnIdentity {
    /// Between the content and the recipient.
    sender: String,
    /// From the recipient's key to the end.
    rest: String,
    curve25519: String,
}

impl OwnIdentity {
    pub(crate) fn new(txn: &Txn<'_, '_>) -> Self {
        let own = txn.own();
        Self {
            sender: format!(r#","sender":{},"recipient":"#, json!(own.user_id)),
            rest: format!(
                r#"}},"keys":{},"sender_device_keys":{}}}"#,
                json!({ "ed25519": own.keys.ed25519.to_base64() }),
                own.signed_keys,
            ),
            curve25519: own.keys.curve25519.to_base64(),
        }
    }

    /// The payload for `device`: the one place that lays out the checked fields.
    fn payload(&self, device: &Device, event_type: &str, content: &str) -> Zeroizing<String> {
        const AROUND: usize = 128;
        let mut payload = Zeroizing::new(String::with_capacity(
            // What has to be escaped is up to six times as long. A buffer that grew would leave a copy of the
            // secret behind.
            content.len()
                + 6 * (event_type.len() + device.user_id.as_str().len())
                + self.sender.len()
                + self.rest.len()
                + AROUND,
        ));
        payload.push_str(r#"{"type":"#);
        push_quoted(&mut payload, event_type);
        payload.push_str(r#","content":"#);
        payload.push_str(content);
        payload.push_str(&self.sender);
        push_quoted(&mut payload, device.user_id.as_str());
        payload.push_str(r#","recipient_keys":{"ed25519":"#);
        push_quoted(&mut payload, &device.keys.ed25519.to_base64());
        payload.push_str(&self.rest);
        payload
    }
}

/// The session to write to a device with.
pub(crate) struct Channel {
    key: OlmSessionKey,
    record: OlmSessionRecord,
}

/// The session last heard from with the device that has these keys.
pub(crate) fn channel(
    txn: &Txn<'_, '_>,
    keys: &IdentityKeys,
) -> Result<Option<Channel>, MachineError> {
    Ok(best(sessions_with(txn, keys)?))
}

/// From so many users or devices on, their rows are read by one scan, if the table has not many others.
pub(crate) const MANY: usize = 64;
/// A table with so many times as many rows as are asked for is worth a scan.
pub(crate) const SHARE_OF_ALL: usize = 4;

/// The sessions with many devices at hand.
pub(crate) struct Channels(Option<HashMap<[u8; 32], Vec<Row<OlmSessionRecord>>>>);

impl Channels {
    /// For so many devices.
    pub(crate) fn of(txn: &Txn<'_, '_>, devices: usize) -> Result<Self, MachineError> {
        if devices < MANY {
            return Ok(Self(None));
        }
        let Some(rows) = txn.whole::<OlmSessionRecord>(devices.saturating_mul(SHARE_OF_ALL))?
        else {
            return Ok(Self(None));
        };
        let mut sessions: HashMap<_, Vec<_>> = HashMap::with_capacity(rows.len());
        for (key, record) in rows {
            sessions.entry(*key.sender_key.as_bytes()).or_default().push((key, record));
        }
        Ok(Self(Some(sessions)))
    }

    /// As [`channel`].
    pub(crate) fn take(
        &mut self,
        txn: &Txn<'_, '_>,
        keys: &IdentityKeys,
    ) -> Result<Option<Channel>, MachineError> {
        let Some(sessions) = &mut self.0 else { return channel(txn, keys) };
        let Some(known) = sessions.get_mut(keys.curve25519.as_bytes()) else { return Ok(None) };
        let (fitting, others): (Vec<_>, Vec<_>) = std::mem::take(known)
            .into_iter()
            .partition(|(_, record)| record.peer_ed25519 == Some(keys.ed25519));
        *known = others;
        match best(fitting.into_iter()) {
            // A second device with the same keys: the session has moved on.
            None => channel(txn, keys),
            found => Ok(found),
        }
    }
}

fn best(sessions: impl Iterator<Item = Row<OlmSessionRecord>>) -> Option<Channel> {
    sessions
        .max_by(|(a_key, a), (b_key, b)| {
            (a.last_received_at, &a_key.session_id).cmp(&(b.last_received_at, &b_key.session_id))
        })
        .map(|(key, record)| Channel { key, record })
}

/// Encrypts an event to a device over the session last heard from; answers the content of the
/// `m.room.encrypted` event as JSON text. `None` if there is no session.
/// The advanced ratchet is in the step, fully synchronous, before the message can leave.
pub(crate) fn encrypt(
    txn: &mut Txn<'_, '_>,
    own: &OwnIdentity,
    device: &Device,
    event_type: &str,
    content: &str,
) -> Result<Option<String>, MachineError> {
    match channel(txn, &device.keys)? {
        Some(channel) => encrypt_through(txn, own, channel, device, event_type, content).map(Some),
        None => Ok(None),
    }
}

/// As [`encrypt`], over this session.
pub(crate) fn encrypt_through(
    txn: &mut Txn<'_, '_>,
    own: &OwnIdentity,
    channel: Channel,
    device: &Device,
    event_type: &str,
    content: &str,
) -> Result<String, MachineError> {
    let Channel { key, mut record } = channel;
    let mut session = restore(&record)?;
    let payload = own.payload(device, event_type, content);
    let message = session.encrypt(payload.as_bytes()).map_err(MachineError::crypto)?;
    record.pickle = session.to_record();
    txn.put(&key, &record);
    txn.require_full();
    // Written by hand: the text is long, and nothing in it needs escaping.
    Ok(format!(
        r#"{{"algorithm":"{OLM}","ciphertext":{{"{}":{{"body":"{}","type":{}}}}},"sender_key":"{}"}}"#,
        device.keys.curve25519.to_base64(),
        message.body(),
        message.message_type(),
        own.curve25519,
    ))
}

/// Whether there is a session with the device that has these keys.
pub(crate) fn has_session(txn: &Txn<'_, '_>, keys: &IdentityKeys) -> Result<bool, MachineError> {
    Ok(sessions_with(txn, keys)?.next().is_some())
}

/// The sessions whose other end has both of these keys (attack N18).
fn sessions_with(
    txn: &Txn<'_, '_>,
    keys: &IdentityKeys,
) -> Result<impl Iterator<Item = Row<OlmSessionRecord>>, MachineError> {
    let peer = Some(keys.ed25519);
    let sessions = txn.list::<OlmSessionRecord>(&OlmSessionKey::with(&keys.curve25519))?;
    Ok(sessions.into_iter().filter(move |(_, record)| record.peer_ed25519 == peer))
}

fn restore(record: &OlmSessionRecord) -> Result<OlmSession, StoreError> {
    OlmSession::from_record(record.pickle.as_slice())
        .map_err(|_| StoreError::Corrupt("an Olm session".to_owned()))
}

/// What a session has decrypted, and the session as it is now.
pub(crate) struct Decrypted {
    key: OlmSessionKey,
    record: OlmSessionRecord,
    pub(crate) plaintext: Zeroizing<Vec<u8>>,
}

/// Decrypts an Olm message from the device that has `sender_key`, and names the session that did it.
/// `None` if no session does it; then nothing has changed.
pub(crate) fn decrypt(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    sender_key: &Curve25519PublicKey,
    message: &OlmMessage,
) -> Result<Option<Decrypted>, MachineError> {
    let mut sessions = txn.list::<OlmSessionRecord>(&OlmSessionKey::with(sender_key))?;
    sessions.sort_by_key(|(_, record)| std::cmp::Reverse(record.last_received_at));
    let now = last_of_all(txn, &sessions);
    for (key, mut record) in sessions {
        let mut session = match hot.take_olm(&key, &record) {
            Some(session) => session,
            None => restore(&record)?,
        };
        let ours = session.matches(message);
        if message.is_pre_key() && !ours {
            continue;
        }
        if let Ok(plaintext) = session.decrypt(message) {
            record.pickle = session.to_record();
            record.last_received_at = now;
            txn.put(&key, &record);
            hot.keep_olm(&key, &record, session);
            return Ok(Some(Decrypted { key, record, plaintext }));
        }
        if ours {
            return Ok(None); // its very own session could not: no other can
        }
    }
    if !message.is_pre_key() || message.identity_key().as_ref() != Some(sender_key) {
        return Ok(None);
    }
    // On failure the account is as it was: a bad pre-key message burns no key.
    let created = txn.account()?.create_inbound_session(*sender_key, message);
    let Ok((session, plaintext)) = created else { return Ok(None) };
    txn.change_account()?;
    let (key, record) = store_session(txn, *sender_key, None, &session)?;
    hot.keep_olm(&key, &record, session);
    Ok(Some(Decrypted { key, record, plaintext }))
}

/// Notes the Ed25519 key that a checked message claimed. `false` if the session is another device's.
pub(crate) fn confirm_peer(
    txn: &mut Txn<'_, '_>,
    decrypted: Decrypted,
    ed25519: &Ed25519PublicKey,
) -> Result<bool, MachineError> {
    let Decrypted { key, mut record, .. } = decrypted;
    match record.peer_ed25519 {
        Some(known) => Ok(known == *ed25519),
        None => {
            make_room_for_session(txn, &key.sender_key, Some(*ed25519))?;
            record.peer_ed25519 = Some(*ed25519);
            txn.put(&key, &record);
            Ok(true)
        }
    }
}

/// The time now, but after everything these sessions have received: neither a clock that was set back nor
/// two events in one instant may make an older session pass for the one last heard from.
fn last_of_all(txn: &Txn<'_, '_>, sessions: &[(OlmSessionKey, OlmSessionRecord)]) -> Timestamp {
    let newest = sessions.iter().map(|(_, record)| record.last_received_at).max();
    newest.map_or(txn.cx.now, |newest| {
        txn.cx.now.max(newest.saturating_add(Duration::from_millis(1)))
    })
}

/// Lets the least used sessions with a device go, so that there is room for one more. Each device has its
/// own: who borrows a Curve25519 key must not push its owner's sessions out (attack N18).
fn make_room_for_session(
    txn: &mut Txn<'_, '_>,
    sender_key: &Curve25519PublicKey,
    peer_ed25519: Option<Ed25519PublicKey>,
) -> Result<(), MachineError> {
    let mut known = txn.list::<OlmSessionRecord>(&OlmSessionKey::with(sender_key))?;
    known.retain(|(_, record)| record.peer_ed25519 == peer_ed25519);
    known.sort_by_key(|(_, record)| std::cmp::Reverse(record.last_received_at));
    for (key, _) in known.iter().skip(MAX_SESSIONS - 1) {
        txn.delete::<OlmSessionRecord>(key);
    }
    Ok(())
}

fn store_session(
    txn: &mut Txn<'_, '_>,
    sender_key: Curve25519PublicKey,
    peer_ed25519: Option<Ed25519PublicKey>,
    session: &OlmSession,
) -> Result<(OlmSessionKey, OlmSessionRecord), MachineError> {
    make_room_for_session(txn, &sender_key, peer_ed25519)?;
    let known = txn.list::<OlmSessionRecord>(&OlmSessionKey::with(&sender_key))?;
    let key = OlmSessionKey { sender_key, session_id: session.session_id() };
    let record = OlmSessionRecord {
        pickle: session.to_record(),
        peer_ed25519,
        created_at: txn.cx.now,
        last_received_at: last_of_all(txn, &known),
    };
    txn.put(&key, &record);
    txn.require_full();
    Ok((key, record))
}

/// Wants a one-time key of the device claimed, unless that is under way or put off.
pub(crate) fn want_claim(txn: &mut Txn<'_, '_>, device: &Device) -> Result<(), MachineError> {
    let key = DeviceKey { user_id: device.user_id.clone(), device_id: device.device_id.clone() };
    if !txn.contains::<ClaimRecord>(&key)? {
        txn.put(&key, &ClaimRecord { retry_at: txn.cx.now, ..ClaimRecord::default() });
    }
    Ok(())
}

/// Notes that the keys of `devices` are being asked for.
pub(crate) fn note_asked(
    txn: &mut Txn<'_, '_>,
    devices: &[(OwnedUserId, OwnedDeviceId)],
) -> Result<(), MachineError> {
    for (user_id, device_id) in devices {
        let key = DeviceKey { user_id: user_id.clone(), device_id: device_id.clone() };
        let Some(claim) = txn.load::<ClaimRecord>(&key)? else { continue };
        let now = txn.cx.now;
        // After a pause, be it that the app was asleep, messages wait anew.
        let goes_on = claim.asked_at.is_some_and(|last| now.saturating_since(last) < PATIENCE);
        let since = claim.asked_since.filter(|since| goes_on && *since <= now);
        let asked_since = Some(since.unwrap_or(now));
        txn.put(&key, &ClaimRecord { asked_at: Some(now), asked_since, ..claim });
    }
    Ok(())
}

/// Whether something that may happen once in [`UNWEDGE_INTERVAL`] has just happened. A limit further
/// ahead than that comes from a clock that was wrong.
fn is_limited(txn: &Txn<'_, '_>, name: &NameKey) -> Result<bool, MachineError> {
    let now = txn.cx.now;
    Ok(txn.load::<BackoffRecord>(name)?.is_some_and(|limit| {
        now < limit.retry_at && limit.retry_at <= now.saturating_add(UNWEDGE_INTERVAL)
    }))
}

/// A device has replaced its session with us, so it could not read what went through the one before: it
/// gets the room keys again that it should have, once an hour at most.
pub(crate) fn share_again(txn: &mut Txn<'_, '_>, device: &Device) -> Result<(), MachineError> {
    let name = NameKey { name: format!("share_again/{}", device.keys.curve25519.to_base64()) };
    if is_limited(txn, &name)? || !crate::share::forget_shares(txn, device)? {
        return Ok(());
    }
    let retry_at = txn.cx.now.saturating_add(UNWEDGE_INTERVAL);
    txn.put(&name, &BackoffRecord { failures: 0, retry_at });
    txn.next_number(GENERATION)?;
    crate::queue::note_late_shares(txn);
    Ok(())
}

/// The note that a session with a device that is not known yet does not work.
fn wedged_name(user_id: &UserId, sender_key: &Curve25519PublicKey) -> NameKey {
    NameKey { name: format!("{WEDGED}{user_id}/{}", sender_key.to_base64()) }
}

/// A message of this device could not be decrypted: replaces the session, once an hour at most, by
/// claiming a new key and sending `m.dummy` through the new session. If the device is not known yet, it is
/// done when it is.
pub(crate) fn unwedge(
    txn: &mut Txn<'_, '_>,
    user_id: &UserId,
    sender_key: &Curve25519PublicKey,
) -> Result<(), MachineError> {
    use crate::devices::DeviceLookup as _;
    let name = NameKey { name: format!("unwedge/{}", sender_key.to_base64()) };
    let now = txn.cx.now;
    if is_limited(txn, &name)? {
        return Ok(());
    }
    let device_ids = txn.ids_by_key(user_id, sender_key)?;
    if device_ids.is_empty()
        && txn.contains::<TrackedUserRecord>(&UserKey { user_id: user_id.to_owned() })?
    {
        let mut notes = txn.list::<BackoffRecord>(&[])?;
        notes.retain(|(name, _)| name.name.starts_with(WEDGED));
        if notes.len() >= MAX_WEDGED
            && let Some((oldest, _)) = notes.iter().min_by_key(|(_, note)| note.retry_at)
        {
            txn.delete::<BackoffRecord>(oldest);
        }
        let note = BackoffRecord { failures: 0, retry_at: now };
        txn.put(&wedged_name(user_id, sender_key), &note);
    }
    for device_id in device_ids {
        if let Some(device) = txn.device(user_id, &device_id)? {
            let key = DeviceKey { user_id: device.user_id, device_id: device.device_id };
            let claim = txn
                .load::<ClaimRecord>(&key)?
                .unwrap_or(ClaimRecord { retry_at: now, ..ClaimRecord::default() });
            txn.put(&key, &ClaimRecord { unwedge: true, ..claim });
            let retry_at = now.saturating_add(UNWEDGE_INTERVAL);
            txn.put(&name, &BackoffRecord { failures: 0, retry_at });
        }
    }
    Ok(())
}

/// A device has become known: if what it had sent could not be decrypted, its session is replaced now.
pub(crate) fn unwedge_known(txn: &mut Txn<'_, '_>, device: &Device) -> Result<(), MachineError> {
    let name = wedged_name(&device.user_id, &device.keys.curve25519);
    if txn.contains::<BackoffRecord>(&name)? {
        txn.delete::<BackoffRecord>(&name);
        unwedge(txn, &device.user_id, &device.keys.curve25519)?;
    }
    Ok(())
}

/// Takes the answer of `/keys/claim` for `devices`.
pub(crate) fn handle_claim(
    txn: &mut Txn<'_, '_>,
    devices: &[(OwnedUserId, OwnedDeviceId)],
    answer: Answer<'_>,
) -> Result<(), MachineError> {
    let body = answer.success().and_then(|body| serde_json::from_slice::<KeysClaimBody>(body).ok());
    let answered = body.is_some();
    let failed_until = if answered {
        txn.answered(CLAIM)?;
        None
    } else {
        Some(txn.failed(CLAIM, answer.retry_after())?)
    };
    let keys: BTreeMap<String, RawMap> = body
        .unwrap_or_default()
        .one_time_keys
        .iter()
        .filter_map(|(user, raw)| Some((user.clone(), crate::wire::parse_section(raw)?)))
        .collect();
    let mut dummies = Vec::new();
    for (user_id, device_id) in devices {
        let key = DeviceKey { user_id: user_id.clone(), device_id: device_id.clone() };
        let Some(claim) = txn.load::<ClaimRecord>(&key)? else { continue };
        let Some(DeviceRecord { device, .. }) = txn.load(&key)? else {
            txn.delete::<ClaimRecord>(&key);
            continue;
        };
        let claimed =
            keys.get(user_id.as_str()).and_then(|devices| devices.get(device_id.as_str()));
        let session = match claimed.map(|raw| one_time_key(&device, raw)) {
            Some(Ok(one_time_key)) => {
                txn.account()?.create_outbound_session(device.keys.curve25519, one_time_key).ok()
            }
            Some(Err(Refused)) | None => None,
        };
        match session {
            Some(session) => {
                store_session(txn, device.keys.curve25519, Some(device.keys.ed25519), &session)?;
                txn.delete::<ClaimRecord>(&key);
                // A message may have gone without the device, be it after a failure or while this answer
                // took its time.
                crate::queue::note_late_shares(txn);
                crate::key_answers::serve(txn, &device)?;
                if claim.unwedge {
                    dummies.push(device);
                }
            }
            None => {
                if claimed.is_some() {
                    txn.notice(Notice::OneTimeKeyRefused {
                        user_id: user_id.clone(),
                        device_id: device_id.clone(),
                    })?;
                }
                // A request that failed as a whole says nothing of the device: its message waits on.
                let failures = claim.failures.saturating_add(u32::from(answered));
                let retry_at = match failed_until {
                    Some(at) => at,
                    None => txn.cx.retry_at(failures + 2, None),
                };
                txn.put(&key, &ClaimRecord { failures, retry_at, ..claim });
            }
        }
        txn.next_number(GENERATION)?;
    }
    if !dummies.is_empty() {
        let own = OwnIdentity::new(txn);
        let mut messages = crate::messages::Messages::default();
        for device in &dummies {
            if let Some(content) = encrypt(txn, &own, device, "m.dummy", "{}")? {
                messages.add(device, content);
            }
        }
        messages.enqueue(txn, "m.room.encrypted")?;
    }
    Ok(())
}

/// A claimed key that cannot be believed.
struct Refused;

/// The one-time key in one device's entry of a claim answer: signed by the very device (attack N20).
fn one_time_key(
    device: &Device,
    raw: &serde_json::value::RawValue,
) -> Result<Curve25519PublicKey, Refused> {
    let entry: BTreeMap<String, Value> = crate::wire::parse(raw).ok_or(Refused)?;
    let (_, object) =
        entry.iter().find(|(id, _)| id.starts_with("signed_curve25519:")).ok_or(Refused)?;
    let key_id = format!("ed25519:{}", device.device_id);
    verify_json(&device.keys.ed25519, device.user_id.as_str(), &key_id, object)
        .map_err(|_| Refused)?;
    let key = object.get("key").and_then(Value::as_str).ok_or(Refused)?;
    curve25519_from_base64(key).map_err(|_| Refused)
}
