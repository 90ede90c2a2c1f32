//! The account's keys on the server: published, counted, replenished, rotated
//! (Matrix specification, "One-time and fallback keys").

use std::{collections::BTreeSet, time::Duration};

use herold_crypto::{Account, Curve25519PublicKey, IdentityKeys};
use herold_store::{
    StoreError,
    records::{
        AccountRecord, BackoffRecord, KeyUploadRecord, NameKey, Only, TrackedUserRecord, UserKey,
    },
};
use herold_trust::{MEGOLM, OLM, Timestamp};
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use serde_json::{Map, Value, json};

use crate::{
    Answer, MachineError, Notice,
    txn::Txn,
    wire::{KeysUploadBody, RawMap},
};

/// The previous fallback key still works for this long after the server has accepted a new one. A sender may
/// have claimed it and been switched off before it sent; a private key that could read a first message gives
/// away no more than the room keys of that week, which are stored beside it.
pub(crate) const KEEP_PREVIOUS_FALLBACK: Duration = Duration::from_secs(7 * 24 * 3600);
/// Whatever the server says, one-time keys are not uploaded more often than this.
const UPLOAD_INTERVAL: Duration = Duration::from_secs(2);
/// How many one-time keys the server should have: half of the most the crypto core publishes at once.
const ONE_TIME_KEYS: u64 = 50;
/// An upload is left to the process that makes it for so long.
const UPLOAD_TIME: Duration = Duration::from_secs(10);
/// The back-off record of uploads.
pub(crate) const UPLOAD: &str = "keys/upload";

/// Makes the account of a new device, its one-time keys and its fallback key.
pub(crate) fn make(
    user_id: OwnedUserId,
    device_id: OwnedDeviceId,
    now: Timestamp,
) -> Result<AccountRecord, MachineError> {
    let mut account = Account::new();
    account.generate_one_time_keys(account.max_one_time_keys());
    account.generate_fallback_key();
    let keys = account.identity_keys();
    let signed_keys = signed_device_keys(&user_id, &device_id, keys, &account)?.to_string();
    let pickle = account.to_record();
    Ok(AccountRecord { user_id, device_id, keys, signed_keys, pickle, created_at: now })
}

/// Stores a new account: all its keys are still to be published, and our own devices are tracked.
pub(crate) fn store(txn: &mut Txn<'_, '_>, record: &AccountRecord) -> Result<(), MachineError> {
    txn.put(
        &Only,
        &KeyUploadRecord {
            unpublished_keys: true,
            fallback_created_at: Some(record.created_at),
            ..KeyUploadRecord::default()
        },
    );
    txn.put(&Only, record);
    txn.require_full();
    let key = UserKey { user_id: record.user_id.clone() };
    crate::devices::mark_outdated(txn, &key, TrackedUserRecord::default())
}

/// The device's keys, signed by the device.
pub(crate) fn signed_device_keys(
    user_id: &UserId,
    device_id: &DeviceId,
    keys: IdentityKeys,
    account: &Account,
) -> Result<Value, MachineError> {
    let mut object = device_keys(user_id, device_id, keys);
    account
        .sign_json(user_id.as_str(), device_id.as_str(), &mut object)
        .map_err(MachineError::crypto)?;
    Ok(object)
}

/// The device's keys, not signed yet.
pub(crate) fn device_keys(user_id: &UserId, device_id: &DeviceId, keys: IdentityKeys) -> Value {
    json!({
        "user_id": user_id,
        "device_id": device_id,
        "algorithms": [OLM, MEGOLM],
        "keys": {
            format!("curve25519:{device_id}"): keys.curve25519.to_base64(),
            format!("ed25519:{device_id}"): keys.ed25519.to_base64(),
        },
    })
}

/// Keys to be published, signed, by their ids on the wire.
pub(crate) struct SignedKeys {
    pub(crate) one_time: Map<String, Value>,
    pub(crate) fallback: Map<String, Value>,
}

/// The one-time keys and the fallback key that are not published, signed by the device, by their ids on the wire.
pub(crate) fn signed_keys(
    user_id: &UserId,
    device_id: &DeviceId,
    account: &Account,
) -> Result<SignedKeys, MachineError> {
    let sign = |public: &Curve25519PublicKey, fallback: bool| {
        let mut key = json!({ "key": public.to_base64() });
        if fallback && let Some(object) = key.as_object_mut() {
            object.insert("fallback".to_owned(), Value::Bool(true));
        }
        account
            .sign_json(user_id.as_str(), device_id.as_str(), &mut key)
            .map_err(MachineError::crypto)?;
        Ok::<_, MachineError>(key)
    };
    let (mut one_time, mut fallback) = (Map::new(), Map::new());
    for (id, public) in account.unpublished_one_time_keys() {
        one_time.insert(format!("signed_curve25519:{id}"), sign(&public, false)?);
    }
    if let Some((id, public)) = account.unpublished_fallback_key() {
        // The core numbers one-time and fallback keys apart; on the wire their ids must not meet.
        fallback.insert(format!("signed_curve25519:F{id}"), sign(&public, true)?);
    }
    Ok(SignedKeys { one_time, fallback })
}

/// The body of `/keys/upload`: the same keys under the same ids until the server has accepted them.
pub(crate) fn upload_body(
    record: &AccountRecord,
    account: &Account,
    uploads: &KeyUploadRecord,
) -> Result<String, MachineError> {
    let mut body = Map::new();
    if !uploads.device_keys_published {
        let keys = serde_json::from_str(&record.signed_keys)
            .map_err(|_| StoreError::Corrupt("the device's own signed keys".to_owned()))?;
        body.insert("device_keys".to_owned(), keys);
    }
    let SignedKeys { one_time, fallback } =
        signed_keys(&record.user_id, &record.device_id, account)?;
    if !one_time.is_empty() {
        body.insert("one_time_keys".to_owned(), Value::Object(one_time));
    }
    if !fallback.is_empty() {
        body.insert("fallback_keys".to_owned(), Value::Object(fallback));
    }
    Ok(Value::Object(body).to_string())
}

/// Which keys an upload had in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SentKeys {
    one_time: BTreeSet<String>,
    fallback: Option<String>,
}

impl SentKeys {
    /// All that are not published.
    pub(crate) fn of(account: &Account) -> Self {
        Self {
            one_time: account.unpublished_one_time_keys().into_iter().map(|(id, _)| id).collect(),
            fallback: account.unpublished_fallback_key().map(|(id, _)| id),
        }
    }

    /// Whether nothing else is unpublished now.
    fn are_all_of(&self, account: &Account) -> bool {
        let now = Self::of(account);
        now.one_time.is_subset(&self.one_time)
            && (now.fallback.is_none() || now.fallback == self.fallback)
    }
}

/// Puts an upload off that is being made, so that no other process makes it too.
pub(crate) fn put_off(txn: &mut Txn<'_, '_>) -> Result<(), MachineError> {
    let key = NameKey { name: UPLOAD.to_owned() };
    let known: BackoffRecord = txn.load(&key)?.unwrap_or_default();
    let retry_at = txn.cx.now.saturating_add(UPLOAD_TIME);
    txn.put(&key, &BackoffRecord { retry_at, ..known });
    Ok(())
}

/// Takes the answer of `/keys/upload` for the keys `sent`.
pub(crate) fn handle_upload(
    txn: &mut Txn<'_, '_>,
    sent: &SentKeys,
    answer: Answer<'_>,
) -> Result<(), MachineError> {
    let says_something = answer.success().is_some() || !answer.is_transient();
    if says_something && !sent.are_all_of(txn.account()?) {
        // Another process has had its answer already, and there are newer keys, which this says nothing of.
        return Ok(txn.answered(UPLOAD)?);
    }
    let mut uploads: KeyUploadRecord = txn.load(&Only)?.unwrap_or_default();
    if let Some(body) = answer.success() {
        // The first one has none before it.
        if uploads.device_keys_published && txn.account()?.unpublished_fallback_key().is_some() {
            uploads.forget_previous_fallback_at =
                Some(txn.cx.now.saturating_add(KEEP_PREVIOUS_FALLBACK));
        }
        txn.change_account()?.mark_keys_as_published();
        uploads.device_keys_published = true;
        uploads.unpublished_keys = false;
        uploads.uploaded_at = Some(txn.cx.now);
        if let Ok(body) = serde_json::from_slice::<KeysUploadBody>(body)
            && let Some(count) = count_of(body.one_time_key_counts.get("signed_curve25519"))
        {
            uploads.server_one_time_keys = Some(count);
        }
        txn.answered(UPLOAD)?;
        txn.put(&Only, &uploads);
        return replenish(txn);
    }
    if !answer.is_transient() {
        // The server holds other keys under these ids: they can never be accepted. They are not
        // published, so nobody can have used them; new ones get new ids.
        let account = txn.change_account()?;
        let had_fallback = account.unpublished_fallback_key().is_some();
        account.mark_keys_as_published();
        account.generate_one_time_keys(account.max_one_time_keys());
        if had_fallback {
            account.generate_fallback_key();
        }
        uploads.unpublished_keys = true;
        txn.put(&Only, &uploads);
        txn.notice(Notice::OneTimeKeyClash)?;
    }
    txn.failed(UPLOAD, answer.retry_after())?;
    Ok(())
}

/// Takes what a sync response says of our keys.
pub(crate) fn handle_counts(
    txn: &mut Txn<'_, '_>,
    counts: Option<&serde_json::value::RawValue>,
    fallback_types: Option<&serde_json::value::RawValue>,
) -> Result<(), MachineError> {
    let before: KeyUploadRecord = txn.load(&Only)?.unwrap_or_default();
    let mut uploads = before.clone();
    if let Some(counts) = counts.and_then(crate::wire::parse_section::<RawMap>) {
        // An algorithm that is not listed has no keys; a count that is none says nothing.
        let count = match counts.get("signed_curve25519") {
            None => Some(0),
            Some(raw) => count_of(serde_json::from_str::<Value>(raw.get()).ok().as_ref()),
        };
        uploads.server_one_time_keys = count.or(uploads.server_one_time_keys);
    }
    if let Some(types) = fallback_types.and_then(crate::wire::parse_section::<Vec<Value>>) {
        uploads.fallback_used = !types.iter().any(|kind| kind == "signed_curve25519");
    }
    if uploads != before {
        txn.put(&Only, &uploads);
    }
    replenish(txn)
}

/// Makes new keys where the server has too few. Keys not yet accepted come first: until then no others
/// are made, so the number of private keys stays bounded.
fn replenish(txn: &mut Txn<'_, '_>) -> Result<(), MachineError> {
    let before: KeyUploadRecord = txn.load(&Only)?.unwrap_or_default();
    let mut uploads = before.clone();
    let now = txn.cx.now;
    if let Some(at) = uploads.forget_previous_fallback_at {
        if at <= now {
            txn.change_account()?.forget_previous_fallback_key();
            uploads.forget_previous_fallback_at = None;
        } else {
            // A time further ahead comes from a clock that was wrong.
            uploads.forget_previous_fallback_at =
                Some(at.min(now.saturating_add(KEEP_PREVIOUS_FALLBACK)));
        }
    }
    if uploads.device_keys_published && !uploads.unpublished_keys {
        let is_spaced = |at: Timestamp| now < at || at.saturating_add(UPLOAD_INTERVAL) <= now;
        let maximum = ONE_TIME_KEYS;
        let have = uploads.server_one_time_keys.unwrap_or(0);
        if have < maximum && uploads.uploaded_at.is_none_or(is_spaced) {
            let missing = usize::try_from(maximum - have).unwrap_or(0);
            txn.change_account()?.generate_one_time_keys(missing);
            uploads.unpublished_keys = true;
        }
        // There is room for one previous key. While that still has to work, the next one stays, used or not.
        if uploads.fallback_used && uploads.forget_previous_fallback_at.is_none() {
            txn.change_account()?.generate_fallback_key();
            uploads.unpublished_keys = true;
            uploads.fallback_used = false;
            uploads.fallback_created_at = Some(now);
        }
    }
    if uploads != before {
        txn.put(&Only, &uploads);
    }
    Ok(())
}

/// A count the server may have meant: a whole number, not negative. Anything else says nothing.
fn count_of(value: Option<&Value>) -> Option<u64> {
    value.and_then(Value::as_u64)
}
