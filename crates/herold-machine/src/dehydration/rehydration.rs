//! Opening the dehydrated device (MSC3814): room keys that others sent while none of the user's devices was there.
//!
//! The homeserver says which device it is and gives out its encrypted keys; neither is believed. It is ours if our key
//! opens it and the verified own identity has signed, as a dehydrated device, one that has the very keys that are inside.
//! From it room keys are taken and nothing else, by the checks that hold for what is sent to this device. Each page is a
//! step: its keys, the account and the place in the list are one transaction. The account never sends and never publishes
//! a key; it is wiped at the end, and a new device takes its place.

use herold_crypto::{
    Account, Curve25519PublicKey, DehydratedAccount, IdentityKeys, OlmMessage, OlmSession,
};
use herold_store::{
    StoreError,
    records::{
        DehydrationRecord, DehydrationStage, DeviceKey, DeviceRecord, HashKey, OlmHashRecord,
        OlmSessionKey, Only, RehydratedSessionRecord, RehydrationOutcome, RehydrationRecord,
        RehydrationRefusal,
    },
};
use herold_trust::Policy;
use ruma::{OwnedDeviceId, OwnedUserId};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use zeroize::Zeroizing;

use crate::{
    Answer, DropReason, HttpRequest, MachineError, Method,
    dehydration::{self, DehydrationRequest, NAME},
    hot::Hot,
    room_keys::{self, Taken},
    to_device::{self, dropped},
    txn::Txn,
    wire::{ToDeviceEvent, parse},
};

/// The largest description of a device, and the largest page of events, that is taken, in bytes.
pub(crate) const MAX_DEVICE: usize = 1 << 20;
pub(crate) const MAX_PAGE: usize = 16 << 20;
/// No more pages are read than this, and no more in a row that have nothing in them.
const MAX_PAGES: u32 = 10_000;
const MAX_EMPTY_PAGES: u32 = 20;
/// No more events are read.
const MAX_EVENTS: u64 = 100_000;
/// A longer token is not one.
const MAX_TOKEN: usize = 4096;
/// A device that is not among the user's devices is looked for so often: the list may be older than it.
const MAX_MISSES: u32 = 3;
/// Answers that make no sense are asked for again so often.
const MAX_FAILURES: u32 = 5;
/// As many sessions of one sender are kept.
const MAX_SESSIONS: usize = 8;

/// The counter of sessions.
const SESSIONS: &str = "rehydrated_sessions";

fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt(what.to_owned())
}

/// What has come of a request.
enum Received<'a> {
    Body(&'a [u8]),
    TooLarge,
    /// Nothing yet: it is made again.
    Later,
    /// An error that stays.
    Refused,
}

/// Sorts an answer, whose body may have so many bytes.
fn receive<'a>(
    txn: &mut Txn<'_, '_>,
    answer: &'a Answer<'_>,
    most: usize,
) -> Result<Received<'a>, MachineError> {
    match answer.success() {
        Some(body) if body.len() > most => Ok(Received::TooLarge),
        Some(body) => Ok(Received::Body(body)),
        None if answer.is_over_limit() => Ok(Received::TooLarge),
        None if answer.is_transient() => {
            txn.failed(NAME, answer.retry_after())?;
            Ok(Received::Later)
        }
        None => Ok(Received::Refused),
    }
}

/// Takes the answer of `GET /dehydrated_device`.
pub(crate) fn handle_found(
    txn: &mut Txn<'_, '_>,
    policy: &Policy,
    mut record: DehydrationRecord,
    answer: Answer<'_>,
) -> Result<(), MachineError> {
    if dehydration::own_list_is_outdated(txn)? {
        return Ok(()); // asked again once it is known who is ours
    }
    let body = match receive(txn, &answer, MAX_DEVICE)? {
        Received::Body(body) => body,
        Received::Later => return Ok(()),
        Received::TooLarge => return refuse(txn, policy, record, RehydrationRefusal::TooLarge),
        Received::Refused => {
            let outcome = match answer.errcode().as_str() {
                "M_NOT_FOUND" => RehydrationOutcome::Absent,
                _ if dehydration::is_unsupported(&answer) => RehydrationOutcome::Unsupported,
                _ => RehydrationOutcome::Refused(RehydrationRefusal::Unavailable),
            };
            return end(txn, policy, record, outcome);
        }
    };
    match open(txn, body)? {
        Ok(reading) => {
            txn.answered(NAME)?;
            txn.put(&Only, &reading);
            (record.stage, record.misses) = (DehydrationStage::Read, 0);
            txn.put(&Only, &record);
            Ok(())
        }
        Err(RehydrationRefusal::UnknownDevice) if record.misses < MAX_MISSES => {
            record.misses += 1;
            txn.put(&Only, &record);
            dehydration::outdate_own_list(txn)
        }
        Err(RehydrationRefusal::Malformed) => malformed(txn, policy, record),
        Err(reason) => refuse(txn, policy, record, reason),
    }
}

/// Opens the device, if it is ours.
pub(crate) fn open(
    txn: &Txn<'_, '_>,
    body: &[u8],
) -> Result<Result<RehydrationRecord, RehydrationRefusal>, MachineError> {
    #[derive(Deserialize)]
    struct Found {
        device_id: OwnedDeviceId,
        device_data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        algorithm: String,
        device_pickle: Option<String>,
        nonce: Option<String>,
    }
    let Ok(Found { device_id, device_data }) = serde_json::from_slice(body) else {
        return Ok(Err(RehydrationRefusal::Malformed));
    };
    if !dehydration::ALGORITHMS.contains(&device_data.algorithm.as_str()) {
        return Ok(Err(RehydrationRefusal::UnsupportedAlgorithm));
    }
    let (Some(ciphertext), Some(nonce)) = (device_data.device_pickle, device_data.nonce) else {
        return Ok(Err(RehydrationRefusal::Malformed));
    };
    let key = dehydration::key::load(txn)?;
    let closed = DehydratedAccount { ciphertext, nonce };
    let Some(account) = key.and_then(|key| Account::rehydrate(&closed, &key).ok()) else {
        return Ok(Err(RehydrationRefusal::WrongKey));
    };
    let own = txn.own();
    let place = DeviceKey { user_id: own.user_id.clone(), device_id: device_id.clone() };
    let Some(DeviceRecord { device, .. }) = txn.load(&place)? else {
        return Ok(Err(RehydrationRefusal::UnknownDevice));
    };
    let keys = account.identity_keys();
    if device.keys != keys
        || device_id.as_str() != keys.curve25519.to_base64()
        || keys.curve25519 == own.keys.curve25519
    {
        return Ok(Err(RehydrationRefusal::KeyMismatch));
    }
    if !device.dehydrated || !dehydration::is_ours(txn, &device)? {
        return Ok(Err(RehydrationRefusal::NotSigned));
    }
    Ok(Ok(RehydrationRecord {
        device_id,
        account: account.to_record(),
        from: None,
        older_endpoint: false,
        pages: 0,
        empty_pages: 0,
    }))
}

/// The request for the next page.
pub(crate) fn request(api: &str, reading: RehydrationRecord) -> (HttpRequest, DehydrationRequest) {
    let RehydrationRecord { device_id, from, older_endpoint, .. } = reading;
    let segments = [NAME, device_id.as_str(), "events"];
    let http = if older_endpoint {
        let body = from.as_ref().map_or_else(|| json!({}), |from| json!({ "next_batch": from }));
        HttpRequest::new(Method::Post, api, &segments).json(body.to_string())
    } else {
        let http = HttpRequest::new(Method::Get, api, &segments);
        from.iter().fold(http, |http, from| http.query("from", from.clone()))
    };
    (http, DehydrationRequest::Page { device_id, from, older_endpoint })
}

/// Takes a page of what was sent to the device.
pub(crate) fn handle_page(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    policy: &Policy,
    mut record: DehydrationRecord,
    sent: &DehydrationRequest,
    answer: Answer<'_>,
) -> Result<(), MachineError> {
    #[derive(Deserialize)]
    struct Page {
        events: Vec<Box<RawValue>>,
        next_batch: Option<String>,
    }
    let mut reading: RehydrationRecord =
        txn.load(&Only)?.ok_or_else(|| corrupt("a dehydrated device that is read"))?;
    let current = DehydrationRequest::Page {
        device_id: reading.device_id.clone(),
        from: reading.from.clone(),
        older_endpoint: reading.older_endpoint,
    };
    if current != *sent {
        return Ok(()); // taken already
    }
    let body = match receive(txn, &answer, MAX_PAGE)? {
        Received::Body(body) => body,
        Received::Later => return Ok(()),
        Received::TooLarge => return refuse(txn, policy, record, RehydrationRefusal::TooLarge),
        Received::Refused if dehydration::is_unsupported(&answer) && !reading.older_endpoint => {
            reading.older_endpoint = true;
            txn.put(&Only, &reading);
            return Ok(());
        }
        Received::Refused => {
            let reason = match answer.errcode().as_str() {
                "M_FORBIDDEN" | "M_NOT_FOUND" => RehydrationRefusal::Gone,
                _ => RehydrationRefusal::Unavailable,
            };
            return refuse(txn, policy, record, reason);
        }
    };
    let Ok(page) = serde_json::from_slice::<Page>(body) else {
        return malformed(txn, policy, record);
    };
    if page.next_batch.as_ref().is_some_and(|token| token.len() > MAX_TOKEN) {
        return malformed(txn, policy, record);
    }
    txn.answered(NAME)?;
    record.misses = 0;
    let account = Account::from_record(reading.account.as_slice())
        .map_err(|_| corrupt("the account of a dehydrated device"))?;
    let mut reader = Reader { keys: account.identity_keys(), account, changed: false };
    for raw in &page.events {
        record.events = record.events.saturating_add(1);
        if reader.take(txn, hot, raw)? {
            record.room_keys = record.room_keys.saturating_add(1);
        }
    }
    reading.pages = reading.pages.saturating_add(1);
    let empty = page.events.is_empty();
    reading.empty_pages = if empty { reading.empty_pages.saturating_add(1) } else { 0 };
    // In the older draft there is always a token, and an empty page is the last one.
    let next = page.next_batch.filter(|_| !(reading.older_endpoint && empty));
    let Some(next) = next else {
        return end(txn, policy, record, RehydrationOutcome::Done);
    };
    if Some(&next) == reading.from.as_ref()
        || reading.pages >= MAX_PAGES
        || reading.empty_pages >= MAX_EMPTY_PAGES
        || record.events >= MAX_EVENTS
    {
        return refuse(txn, policy, record, RehydrationRefusal::Endless);
    }
    reading.from = Some(next);
    if reader.changed {
        reading.account = reader.account.to_record();
    }
    txn.put(&Only, &reading);
    txn.put(&Only, &record);
    Ok(())
}

/// What a session has decrypted, and the session as it is now.
struct Opened {
    key: OlmSessionKey,
    session: RehydratedSessionRecord,
    plaintext: Zeroizing<Vec<u8>>,
}

/// The device that is being read.
struct Reader {
    keys: IdentityKeys,
    account: Account,
    changed: bool,
}

impl Reader {
    /// Takes one event. Answers whether a room key has come that was not known, or not so well.
    fn take(
        &mut self,
        txn: &mut Txn<'_, '_>,
        hot: &mut Hot,
        raw: &RawValue,
    ) -> Result<bool, MachineError> {
        // Nothing that is not encrypted is for a device that only takes room keys.
        let Some(event) = parse::<ToDeviceEvent>(raw) else { return Ok(false) };
        let (Ok(sender), Some(content), "m.room.encrypted") = (
            OwnedUserId::try_from(event.sender.as_str()),
            event.content,
            event.event_type.as_str(),
        ) else {
            return Ok(false);
        };
        let (sender_key, message) = match to_device::open_envelope(&self.keys, &content) {
            Ok(opened) => opened,
            Err(reason) => return refused(txn, sender, reason),
        };
        if sender_key == txn.own().keys.curve25519 {
            return Ok(false); // what this very device has sent it knows
        }
        let hash = HashKey { hash: message.hash().0 };
        if txn.contains::<OlmHashRecord>(&hash)? {
            return Ok(false); // on an earlier page
        }
        let Some(opened) = self.decrypt(txn, &sender_key, &message)? else {
            return refused(txn, sender, DropReason::Undecryptable);
        };
        let Opened { key, mut session, plaintext } = opened;
        let checked =
            to_device::check_payload(txn, hot, &self.keys, sender.clone(), sender_key, &plaintext)?;
        let event = match checked {
            Ok(event) => event,
            Err(reason) => return refused(txn, sender, reason),
        };
        if *session.peer_ed25519.get_or_insert(event.sender_ed25519) != event.sender_ed25519 {
            return refused(txn, sender, DropReason::PayloadMismatch);
        }
        txn.put(&key, &session);
        // Not sooner: what a homeserver has spoilt is good when it comes as it was sent.
        txn.put(&hash, &OlmHashRecord { received_at: txn.cx.now });
        // No secret, no verification, nothing that wants an answer.
        if event.event_type != "m.room_key" {
            return Ok(false);
        }
        Ok(room_keys::handle_room_key(txn, hot, event)? == Taken::New)
    }

    /// Decrypts a message to the device. `None` if no session does it; then nothing has changed.
    fn decrypt(
        &mut self,
        txn: &mut Txn<'_, '_>,
        sender_key: &Curve25519PublicKey,
        message: &OlmMessage,
    ) -> Result<Option<Opened>, MachineError> {
        let mut sessions = txn.list::<RehydratedSessionRecord>(&OlmSessionKey::with(sender_key))?;
        sessions.sort_by_key(|(_, record)| std::cmp::Reverse(record.number));
        for (key, mut record) in sessions.iter().cloned() {
            let mut session = OlmSession::from_record(record.pickle.as_slice())
                .map_err(|_| corrupt("an Olm session of a dehydrated device"))?;
            let ours = session.matches(message);
            if message.is_pre_key() && !ours {
                continue;
            }
            if let Ok(plaintext) = session.decrypt(message) {
                record.pickle = session.to_record();
                txn.put(&key, &record);
                return Ok(Some(Opened { key, session: record, plaintext }));
            }
            if ours {
                return Ok(None);
            }
        }
        if !message.is_pre_key() || message.identity_key().as_ref() != Some(sender_key) {
            return Ok(None);
        }
        let created = self.account.create_inbound_session(*sender_key, message);
        let Ok((session, plaintext)) = created else { return Ok(None) };
        self.changed = true;
        for (key, _) in sessions.iter().skip(MAX_SESSIONS - 1) {
            txn.delete::<RehydratedSessionRecord>(key);
        }
        let key = OlmSessionKey { sender_key: *sender_key, session_id: session.session_id() };
        let number = txn.next_number(SESSIONS)?;
        let record =
            RehydratedSessionRecord { pickle: session.to_record(), peer_ed25519: None, number };
        txn.put(&key, &record);
        Ok(Some(Opened { key, session: record, plaintext }))
    }
}

fn refused(
    txn: &mut Txn<'_, '_>,
    sender: OwnedUserId,
    reason: DropReason,
) -> Result<bool, MachineError> {
    dropped(txn, Some(sender), reason)?;
    Ok(false)
}

/// An answer made no sense: another one may.
fn malformed(
    txn: &mut Txn<'_, '_>,
    policy: &Policy,
    mut record: DehydrationRecord,
) -> Result<(), MachineError> {
    txn.failed(NAME, None)?;
    record.misses += 1;
    if record.misses >= MAX_FAILURES {
        return refuse(txn, policy, record, RehydrationRefusal::Malformed);
    }
    txn.put(&Only, &record);
    Ok(())
}

fn refuse(
    txn: &mut Txn<'_, '_>,
    policy: &Policy,
    record: DehydrationRecord,
    reason: RehydrationRefusal,
) -> Result<(), MachineError> {
    end(txn, policy, record, RehydrationOutcome::Refused(reason))
}

/// It is over: what was opened is wiped. A device that was read is replaced, as this user has them; one that could not be
/// read is replaced only if the app wants one.
fn end(
    txn: &mut Txn<'_, '_>,
    policy: &Policy,
    mut record: DehydrationRecord,
    outcome: RehydrationOutcome,
) -> Result<(), MachineError> {
    if record.stage == DehydrationStage::Read {
        wipe(txn)?;
    }
    txn.answered(NAME)?;
    let done = outcome == RehydrationOutcome::Done;
    // Another time the server may be in a better state.
    let later = matches!(
        outcome,
        RehydrationOutcome::Refused(
            RehydrationRefusal::Unavailable | RehydrationRefusal::Malformed
        )
    );
    (record.stage, record.misses, record.outcome) = (DehydrationStage::Idle, 0, Some(outcome));
    record.enabled &= outcome != RehydrationOutcome::Unsupported;
    let wanted = record.enabled || done && policy.dehydration;
    if later {
        record.look_at = txn.cx.now.saturating_add(dehydration::LOOK_INTERVAL);
    } else if wanted && dehydration::upload::make(txn, &mut record)? {
        record.enabled = true;
    }
    // What cannot be replaced, because the self-signing key is not here, stays: reading it has used nothing up. Of what
    // is replaced the server has nothing any more afterwards.
    txn.require_full();
    txn.put(&Only, &record);
    Ok(())
}

/// Forgets the device that was read, and its sessions.
pub(crate) fn wipe(txn: &mut Txn<'_, '_>) -> Result<(), MachineError> {
    txn.delete::<RehydrationRecord>(&Only);
    for (key, _) in txn.list::<RehydratedSessionRecord>(&[])? {
        txn.delete::<RehydratedSessionRecord>(&key);
    }
    Ok(())
}
