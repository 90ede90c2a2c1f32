//! The key backup on the homeserver: which one is trusted, what is uploaded to it, and what is taken from it
//! (Matrix specification, "Server-side key backups").
//!
//! Nothing is uploaded to a backup that is neither signed by the verified own identity nor the one whose private key is
//! here (attack N09). Whoever knows the public key can write into a backup, so what comes out of it proves nothing
//! of who made it, and never takes the place of what came by Olm (attack N10).

use std::collections::BTreeMap;

use herold_crypto::{
    BACKUP_ALGORITHM, BackupDecryptionKey, BackupPublicKey, ExportedSession, SecretString,
    SessionData, SigningKey, verify_json,
};
use herold_store::{
    RecordKey as _, Snapshot, SnapshotExt as _, StoreError,
    records::{
        BackupBatchRecord, BackupDueRecord, BackupRecord, InboundSessionKey, InboundSessionRecord,
        NameKey, Only, SecretRecord,
    },
};
use herold_trust::KeySource;
use ruma::DeviceId;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Answer, MachineError, Notice, own_identity, room_keys, secrets, txn::Txn};

/// The name of the private key in secret storage.
pub(crate) const SECRET: &str = "m.megolm_backup.v1";
/// The private key of a backup that the homeserver may not have yet.
const PENDING: &str = "m.megolm_backup.v1/pending";
/// Private keys that own devices have sent and that nothing was compared with yet: this, and the device's id.
const OFFERED: &str = "m.megolm_backup.v1/offered/";
/// The requests, and their back-off records.
pub(crate) const VERSION: &str = "room_keys/version";
pub(crate) const UPLOAD: &str = "room_keys/keys";
/// As many keys are uploaded at once.
const KEYS_PER_UPLOAD: usize = 100;

/// How things stand with the backup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackupStatus {
    /// The homeserver has said whether it has one.
    pub known: bool,
    /// The version on the homeserver, as far as known.
    pub version: Option<String>,
    /// Room keys are uploaded to it.
    pub enabled: bool,
    /// It is signed by the verified own identity, or its private key is here.
    pub trusted: bool,
    /// The private key of it is here: it can be restored from.
    pub has_key: bool,
    /// As many room keys are still to be uploaded.
    pub pending: usize,
}

/// `GET /room_keys/version`.
#[derive(Deserialize)]
struct Version {
    version: String,
    algorithm: String,
    auth_data: Value,
}

fn name(name: &str) -> NameKey {
    NameKey { name: name.to_owned() }
}

/// The private key that is here, whatever backup it is of.
fn private_key(record: Option<SecretRecord>) -> Result<Option<BackupDecryptionKey>, StoreError> {
    record
        .map(|record| {
            BackupDecryptionKey::from_secret(&record.secret)
                .map_err(|_| StoreError::Corrupt("the backup's private key".to_owned()))
        })
        .transpose()
}

/// The state.
pub(crate) fn status(snapshot: &dyn Snapshot) -> Result<BackupStatus, MachineError> {
    let key = private_key(snapshot.load(&name(SECRET))?)?;
    let pending = snapshot.list::<BackupDueRecord>(&[], usize::MAX)?.len();
    let under_way = snapshot.load::<BackupBatchRecord>(&Only)?.map_or(0, |batch| batch.keys.len());
    Ok(match snapshot.load::<BackupRecord>(&Only)? {
        None | Some(BackupRecord::Unknown) => BackupStatus::default(),
        Some(BackupRecord::Absent) => BackupStatus { known: true, ..BackupStatus::default() },
        Some(BackupRecord::Untrusted { version }) => {
            BackupStatus { known: true, version: Some(version), ..BackupStatus::default() }
        }
        Some(BackupRecord::Enabled { version, public_key }) => BackupStatus {
            known: true,
            version: Some(version),
            enabled: true,
            trusted: true,
            has_key: key.is_some_and(|key| key.public_key().to_base64() == public_key),
            pending: pending + under_way,
        },
    })
}

/// The private key of the backup in use, to restore with.
pub(crate) fn decryption_key(
    snapshot: &dyn Snapshot,
) -> Result<Option<(String, BackupDecryptionKey)>, MachineError> {
    let Some(BackupRecord::Enabled { version, public_key }) = snapshot.load(&Only)? else {
        return Ok(None);
    };
    let key = private_key(snapshot.load(&name(SECRET))?)?;
    Ok(key.filter(|key| key.public_key().to_base64() == public_key).map(|key| (version, key)))
}

/// The homeserver is to be asked for its backup: there may be one to trust now.
pub(crate) fn ask(txn: &mut Txn<'_, '_>) -> Result<(), MachineError> {
    if !matches!(txn.load::<BackupRecord>(&Only)?, Some(BackupRecord::Enabled { .. })) {
        txn.put(&Only, &BackupRecord::Unknown);
    }
    Ok(())
}

/// The homeserver's backup is to be looked at again, whatever is known.
pub(crate) fn look_again(txn: &mut Txn<'_, '_>) -> Result<(), MachineError> {
    stop(txn)?;
    txn.put(&Only, &BackupRecord::Unknown);
    Ok(())
}

/// Takes the answer of `GET /room_keys/version`.
pub(crate) fn handle_version(
    txn: &mut Txn<'_, '_>,
    answer: Answer<'_>,
) -> Result<(), MachineError> {
    if txn.load::<BackupRecord>(&Only)? != Some(BackupRecord::Unknown) {
        return Ok(()); // settled meanwhile
    }
    let Some(body) = answer.success() else {
        if answer.is_transient() {
            txn.failed(VERSION, answer.retry_after())?;
        } else {
            txn.answered(VERSION)?;
            txn.put(&Only, &BackupRecord::Absent);
            settle_offers(txn, None)?;
        }
        return Ok(());
    };
    txn.answered(VERSION)?;
    let found = serde_json::from_slice::<Version>(body);
    settle_offers(txn, found.as_ref().ok())?;
    let Ok(found) = found else {
        txn.put(&Only, &BackupRecord::Absent);
        return Ok(txn.notice(Notice::BackupRefused)?);
    };
    match trusted_key(txn, &found)? {
        Some(key) => enable(txn, found.version, &key),
        None => {
            txn.put(&Only, &BackupRecord::Untrusted { version: found.version });
            Ok(txn.notice(Notice::BackupRefused)?)
        }
    }
}

/// The public key of a backup, if it can be used at all.
fn public_key(found: &Version) -> Option<BackupPublicKey> {
    let text = found.auth_data.get("public_key").and_then(Value::as_str).unwrap_or_default();
    let usable = found.algorithm == BACKUP_ALGORITHM;
    BackupPublicKey::from_base64(text).ok().filter(|_| usable)
}

/// The public key of a backup that is trusted.
fn trusted_key(
    txn: &Txn<'_, '_>,
    found: &Version,
) -> Result<Option<BackupPublicKey>, MachineError> {
    let Some(public) = public_key(found) else { return Ok(None) };
    if let Some(own) = private_key(txn.load(&name(SECRET))?)?
        && own.public_key() == public
    {
        return Ok(Some(public));
    }
    // A device's signature is not enough: who has been one of our devices for a day could have made it.
    let own = txn.own();
    let signed = own_identity::verified_master(txn)?.is_some_and(|master| {
        let key_id = format!("ed25519:{}", master.to_base64());
        verify_json(&master, own.user_id.as_str(), &key_id, &found.auth_data).is_ok()
    });
    let current = own_identity::anchor(txn)?.is_some();
    Ok(Some(public).filter(|_| signed && current))
}

/// Room keys go to this backup from now on; each that is here is uploaded.
fn enable(
    txn: &mut Txn<'_, '_>,
    version: String,
    key: &BackupPublicKey,
) -> Result<(), MachineError> {
    let record = BackupRecord::Enabled { version: version.clone(), public_key: key.to_base64() };
    txn.put(&Only, &record);
    txn.delete::<BackupBatchRecord>(&Only);
    for (key, _) in txn.list::<InboundSessionRecord>(&[])? {
        txn.put(&key, &BackupDueRecord);
    }
    txn.require_full();
    Ok(txn.notice(Notice::BackupEnabled { version })?)
}

/// Nothing is uploaded any more.
fn stop(txn: &mut Txn<'_, '_>) -> Result<(), MachineError> {
    if txn.contains::<BackupBatchRecord>(&Only)? {
        txn.delete::<BackupBatchRecord>(&Only);
    }
    for (key, _) in txn.list::<BackupDueRecord>(&[])? {
        txn.delete::<BackupDueRecord>(&key);
    }
    Ok(())
}

/// Begins to make a backup: the body of `POST /room_keys/version`, with the same key until it is there. Signed by the own
/// identity, which has to be here.
pub(crate) fn prepare(txn: &mut Txn<'_, '_>) -> Result<String, MachineError> {
    let pending = match private_key(txn.load(&name(PENDING))?)? {
        Some(key) => key,
        None => {
            let key = BackupDecryptionKey::generate(txn.cx.entropy);
            let since = txn.cx.now;
            txn.put(&name(PENDING), &SecretRecord { secret: key.to_secret(), since });
            txn.require_full();
            key
        }
    };
    let own = txn.own();
    let mut auth_data = json!({ "public_key": pending.public_key().to_base64() });
    let master: SigningKey = own_identity::master_key(txn)?.ok_or(MachineError::UnknownIdentity)?;
    master.sign_json(own.user_id.as_str(), &mut auth_data).map_err(MachineError::crypto)?;
    txn.account()?
        .sign_json(own.user_id.as_str(), own.device_id.as_str(), &mut auth_data)
        .map_err(MachineError::crypto)?;
    Ok(json!({ "algorithm": BACKUP_ALGORITHM, "auth_data": auth_data }).to_string())
}

/// The homeserver has accepted what [`prepare`] gave, as this version. Answers whether there was something.
pub(crate) fn created(txn: &mut Txn<'_, '_>, version: String) -> Result<bool, MachineError> {
    let Some(record) = txn.load::<SecretRecord>(&name(PENDING))? else { return Ok(false) };
    let Some(key) = private_key(Some(record.clone()))? else { return Ok(false) };
    txn.put(&name(SECRET), &record);
    txn.delete::<SecretRecord>(&name(PENDING));
    txn.answered(UPLOAD)?;
    enable(txn, version, &key.public_key())?;
    Ok(true)
}

/// Takes the backup's private key from secret storage or from another device. It is kept if it is that of the backup on
/// the homeserver, whose public key `auth_data` names. Answers whether it is.
pub(crate) fn import_key(
    txn: &mut Txn<'_, '_>,
    secret: &SecretString,
    version: &[u8],
) -> Result<bool, MachineError> {
    let Ok(found) = serde_json::from_slice::<Version>(version) else { return Ok(false) };
    let Ok(key) = BackupDecryptionKey::from_secret(secret) else { return Ok(false) };
    if public_key(&found) != Some(key.public_key()) {
        return Ok(false);
    }
    // It is this one that the user wants: no need to wait for what another was refused for.
    txn.answered(UPLOAD)?;
    let since = txn.cx.now;
    txn.put(&name(SECRET), &SecretRecord { secret: key.to_secret(), since });
    txn.require_full();
    enable(txn, found.version, &key.public_key())?;
    Ok(true)
}

/// Whether the private key of the backup in use is here.
pub(crate) fn has_key(txn: &Txn<'_, '_>) -> Result<bool, MachineError> {
    let Some(BackupRecord::Enabled { public_key, .. }) = txn.load(&Only)? else { return Ok(false) };
    let key = private_key(txn.load(&name(SECRET))?)?;
    Ok(key.is_some_and(|key| key.public_key().to_base64() == public_key))
}

/// A private key has come from a verified device of our own, which was asked for it. It is taken if it is that of the
/// backup in use; if none is known yet, that is asked for, and the key waits beside what is known. `None` while that is
/// not decided.
pub(crate) fn offer(
    txn: &mut Txn<'_, '_>,
    device_id: &DeviceId,
    secret: &SecretString,
) -> Result<Option<bool>, MachineError> {
    let Ok(key) = BackupDecryptionKey::from_secret(secret) else { return Ok(Some(false)) };
    let record = SecretRecord { secret: key.to_secret(), since: txn.cx.now };
    if let Some(BackupRecord::Enabled { public_key, .. }) = txn.load(&Only)? {
        let fits = key.public_key().to_base64() == public_key;
        if fits {
            txn.put(&name(SECRET), &record);
            txn.require_full();
        }
        return Ok(Some(fits));
    }
    txn.put(&name(&format!("{OFFERED}{device_id}")), &record);
    txn.require_full();
    ask(txn)?;
    Ok(None)
}

/// Compares the keys that wait with the backup that was found: the one that fits is kept, the others go (attack N08).
fn settle_offers(txn: &mut Txn<'_, '_>, found: Option<&Version>) -> Result<(), MachineError> {
    let public = found.and_then(public_key);
    for (place, record) in txn.list::<SecretRecord>(&[])? {
        if !place.name.starts_with(OFFERED) {
            continue;
        }
        txn.delete::<SecretRecord>(&place);
        let offered = private_key(Some(record.clone()))?.map(|key| key.public_key());
        if offered.is_some() && offered == public {
            txn.put(&name(SECRET), &record);
            txn.require_full();
            secrets::has_come(txn, SECRET)?;
        }
    }
    Ok(())
}

/// A room key has come that the backup does not have, or not so well.
pub(crate) fn note(txn: &mut Txn<'_, '_>, key: &InboundSessionKey) -> Result<(), MachineError> {
    if matches!(txn.load::<BackupRecord>(&Only)?, Some(BackupRecord::Enabled { .. })) {
        txn.put(key, &BackupDueRecord);
    }
    Ok(())
}

/// Makes the next upload, unless one is under way.
pub(crate) fn advance(txn: &mut Txn<'_, '_>) -> Result<(), MachineError> {
    let Some(BackupRecord::Enabled { version, public_key }) = txn.load(&Only)? else {
        return Ok(());
    };
    if txn.contains::<BackupBatchRecord>(&Only)? {
        return Ok(());
    }
    let due = txn.list_first::<BackupDueRecord>(KEYS_PER_UPLOAD)?;
    if due.is_empty() {
        return Ok(());
    }
    let keys = due.into_iter().map(|(key, _)| key).collect();
    make_batch(txn, version, &public_key, keys)
}

/// Makes an upload of these keys.
fn make_batch(
    txn: &mut Txn<'_, '_>,
    version: String,
    public_key: &str,
    due: Vec<InboundSessionKey>,
) -> Result<(), MachineError> {
    let public = BackupPublicKey::from_base64(public_key)
        .map_err(|_| StoreError::Corrupt("the backup's public key".to_owned()))?;
    let mut rooms: BTreeMap<String, BTreeMap<String, Value>> = BTreeMap::new();
    let mut keys = Vec::new();
    for key in due {
        keys.push(key.to_bytes());
        txn.delete::<BackupDueRecord>(&key);
        // Of several claims to one session the one that came by Olm first is worth keeping.
        let claims = txn
            .list::<InboundSessionRecord>(&InboundSessionKey::of(&key.room_id, &key.session_id))?;
        let best = claims.into_iter().min_by_key(|(_, record)| {
            (record.source != KeySource::Olm, record.first_known_index, record.received_at)
        });
        let Some((_, record)) = best else { continue };
        let Some(entry) = entry(txn, &public, &record)? else { continue };
        rooms
            .entry(key.room_id.to_string())
            .or_default()
            .insert(key.session_id.as_str().to_owned(), entry);
    }
    let rooms: BTreeMap<String, Value> =
        rooms.into_iter().map(|(room, sessions)| (room, json!({ "sessions": sessions }))).collect();
    let body = json!({ "rooms": rooms }).to_string();
    txn.put(&Only, &BackupBatchRecord { version, keys, body });
    Ok(())
}

/// Room keys as they are for a key file: a page of them, after `after`, and where the next page begins.
pub(crate) fn export(
    snapshot: &dyn Snapshot,
    after: Option<&InboundSessionKey>,
    limit: usize,
) -> Result<(Vec<ExportedSession>, Option<InboundSessionKey>), MachineError> {
    let rows = snapshot.list_after::<InboundSessionRecord>(&[], after, limit)?;
    let mut exported = Vec::new();
    let mut last = None;
    for (key, record) in rows {
        exported.extend(session_data(&record)?.map(|data| ExportedSession {
            room_id: key.room_id.to_string(),
            session_id: key.session_id.clone(),
            data,
        }));
        last = Some(key);
    }
    Ok((exported, last))
}

/// A room key as it leaves: from its first index on, with what is claimed of it.
pub(crate) fn session_data(
    record: &InboundSessionRecord,
) -> Result<Option<SessionData>, MachineError> {
    let mut session = room_keys::restore(record)?;
    Ok(session.export_at(record.first_known_index).map(|session_key| SessionData {
        sender_key: record.sender_key,
        claimed_ed25519: record.sender_ed25519,
        forwarding_chain: record.forwarders.iter().map(|key| key.to_base64()).collect(),
        session_key,
        shared_history: record.shared_history,
    }))
}

/// One entry of an upload.
fn entry(
    txn: &mut Txn<'_, '_>,
    public: &BackupPublicKey,
    record: &InboundSessionRecord,
) -> Result<Option<Value>, MachineError> {
    let Some(data) = session_data(record)? else { return Ok(None) };
    Ok(Some(json!({
        "first_message_index": record.first_known_index,
        "forwarded_count": record.forwarders.len(),
        "is_verified": record.source == KeySource::Olm,
        "session_data": public.encrypt(&data, txn.cx.entropy),
    })))
}

/// Takes the answer of an upload.
pub(crate) fn handle_upload(
    txn: &mut Txn<'_, '_>,
    sent: &BackupBatchRecord,
    answer: Answer<'_>,
) -> Result<(), MachineError> {
    if txn.load::<BackupBatchRecord>(&Only)?.as_ref() != Some(sent) {
        return Ok(()); // another backup is in use by now
    }
    if answer.success().is_some() {
        txn.answered(UPLOAD)?;
        txn.delete::<BackupBatchRecord>(&Only);
        return advance(txn);
    }
    if answer.is_transient() {
        txn.failed(UPLOAD, answer.retry_after())?;
        return Ok(());
    }
    if answer.is_too_large() && sent.keys.len() > 1 {
        return halve(txn, sent);
    }
    // Another version is in use, or none: nothing more goes anywhere until it is known what to trust. All keys are
    // uploaded to whatever comes next, and not at once: a homeserver that refuses everything and goes on to name the
    // same backup must not keep this device busy for ever.
    txn.failed(UPLOAD, answer.retry_after())?;
    look_again(txn)?;
    Ok(txn.notice(Notice::BackupStopped { errcode: answer.errcode() })?)
}

/// Makes a smaller upload of one that the homeserver finds too large.
fn halve(txn: &mut Txn<'_, '_>, sent: &BackupBatchRecord) -> Result<(), MachineError> {
    let Some(BackupRecord::Enabled { version, public_key }) = txn.load(&Only)? else {
        return Ok(());
    };
    let mut keys = Vec::with_capacity(sent.keys.len());
    for key in &sent.keys {
        let key = InboundSessionKey::from_bytes(key)
            .map_err(|_| StoreError::Corrupt("an upload to the backup".to_owned()))?;
        keys.push(key);
    }
    for key in keys.split_off(keys.len().div_ceil(2)) {
        txn.put(&key, &BackupDueRecord);
    }
    make_batch(txn, version, &public_key, keys)
}
