//! Setting recovery up, replacing it, and giving it another key.
//!
//! The new key is in the store before the homeserver hears of it, with what the step began from: what is found half made is
//! gone on with. It is made the default key only when everything is under it, and what is under the old keys goes only
//! after that.

use std::{sync::Arc, time::Duration};

use herold_crypto::{Ed25519PublicKey, SecretString, ed25519_from_base64};
use herold_machine::{HttpRequest, Method};
use herold_store::{
    StoreError,
    records::{RecoveryChange, RecoveryRecord, RecoveryStage, StorageKeyRecord},
};
use serde_json::{Value, json};

use super::{
    Recovery, RecoverySecret, backup_version,
    state::{EnableStep, Running, Showing},
};
use crate::{
    Authentication, ClientError,
    account_data::{self, AccountData},
    authenticate, dehydration,
    homeserver::Retry,
    key_backup,
    secret_storage::{SecretStorage, remove_keys},
    session::Session,
};

/// How long the own device list is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the app wants.
pub(super) struct Order {
    pub(super) change: RecoveryChange,
    pub(super) authentication: Authentication,
    pub(super) passphrase: Option<SecretString>,
}

/// Makes, or replaces, all of it.
pub(super) async fn set_up(session: &Arc<Session>, order: Order) -> Result<Recovery, ClientError> {
    let _turn = session.recovery.turn.lock().await;
    let change = order.change;
    let showing = Showing::new(session, Running::Enabling(change, EnableStep::Identity));
    own_list(session).await?;
    let mut record = begin(session, change, order.passphrase.as_ref(), Vec::new()).await?;
    if let Err(error) = make_identity(session, &mut record, &order.authentication).await {
        // Nothing has been made, and nobody can have the key: as if it had not been begun.
        if is_refusal(&error) && record.stage == RecoveryStage::Begun && record.from.is_empty() {
            session.step(|machine, snapshot, cx| machine.note_recovery(snapshot, cx, None))?;
        }
        return Err(error);
    }
    showing.set(Running::Enabling(change, EnableStep::Backup));
    let version = make_backup(session, &record).await?;
    showing.set(Running::Enabling(change, EnableStep::Storage));
    let (recovery_key, left_behind) = store(session, &mut record).await?;
    Ok(Recovery { recovery_key, backup_version: Some(version), left_behind })
}

/// Puts everything under a new key.
pub(super) async fn change_key(
    session: &Arc<Session>,
    current: &SecretString,
    passphrase: Option<SecretString>,
) -> Result<Recovery, ClientError> {
    let _turn = session.recovery.turn.lock().await;
    let change = RecoveryChange::ChangeKey;
    let showing = Showing::new(session, Running::Enabling(change, EnableStep::Opening));
    let begun = session.read(|machine, snapshot| machine.recovery_begun(snapshot))?;
    // The old key may open nothing any more; what is needed of it was kept.
    let is_past =
        begun.is_some_and(|begun| begun.change == change && begun.stage != RecoveryStage::Begun);
    let mut from = Vec::new();
    if !is_past {
        let data = AccountData::fetch(session).await?;
        from.push(SecretStorage::open(&data, current).await?.to_record());
    }
    let mut record = begin(session, change, passphrase.as_ref(), from).await?;
    showing.set(Running::Enabling(change, EnableStep::Storage));
    let (recovery_key, left_behind) = store(session, &mut record).await?;
    let status = session.read(|machine, snapshot| machine.backup_status(snapshot))?;
    Ok(Recovery { recovery_key, backup_version: status.version, left_behind })
}

/// Waits until the own devices and the own identity are known as they are now.
pub(super) async fn own_list(session: &Arc<Session>) -> Result<(), ClientError> {
    let user = session.user_id.clone();
    session.step(|machine, snapshot, cx| machine.refresh_devices(snapshot, cx, &user))?;
    let fresh = |session: &Session| {
        let known = session.read(|machine, snapshot| machine.devices(snapshot, &user))?;
        Ok(Some(()).filter(|()| !known.outdated))
    };
    session.wait_until(PATIENCE, fresh).await
}

/// The own master key as it is published, and whether all private keys are here.
fn identity(session: &Session) -> Result<(Option<Ed25519PublicKey>, bool), ClientError> {
    let user = &session.user_id;
    let known = session.read(|machine, snapshot| machine.devices(snapshot, user))?;
    let here = session.read(|machine, snapshot| machine.identity_keys_here(snapshot))?;
    Ok((known.identity.map(|identity| identity.master), here == [true; 3]))
}

/// What was begun, to be gone on with, or a new beginning with a new key.
async fn begin(
    session: &Arc<Session>,
    change: RecoveryChange,
    passphrase: Option<&SecretString>,
    mut from: Vec<StorageKeyRecord>,
) -> Result<RecoveryRecord, ClientError> {
    let begun = session.read(|machine, snapshot| machine.recovery_begun(snapshot))?;
    let mut replaced = None;
    if let Some(begun) = begun {
        let is_done = begun.stage == RecoveryStage::Made;
        // The user may have lost the key that a change has to begin with.
        let goes_on = begun.change == change
            || begun.change == RecoveryChange::ChangeKey
                && change == RecoveryChange::Enable
                && !is_done;
        if !goes_on && !is_done && change != RecoveryChange::Reset {
            return Err(ClientError::RecoveryInterrupted(begun.change));
        }
        let storage = SecretStorage::from_record(&begun.key)?;
        if goes_on && storage.is_of(&description(&begun)?, passphrase).await? {
            let record = RecoveryRecord { change, ..begun };
            note(session, &record)?;
            return Ok(record);
        }
        // Another passphrase, or something else: what is under the key that was begun with is not lost with it.
        from.extend(begun.from.iter().cloned());
        from.extend((begun.stage != RecoveryStage::Begun).then(|| begun.key.clone()));
        replaced = (begun.change == change && !is_done).then_some(begun);
    }
    let (storage, description) = SecretStorage::generate(passphrase).await?;
    let mut record = RecoveryRecord {
        change,
        stage: RecoveryStage::Begun,
        key: storage.to_record(),
        description: description.to_string(),
        from,
        replaced_key: None,
        replaced_backup: None,
        made_master: None,
    };
    if let Some(begun) = replaced {
        record.replaced_key = begun.replaced_key;
        record.replaced_backup = begun.replaced_backup;
        record.made_master = begun.made_master;
    } else {
        let data = AccountData::fetch(session).await?;
        record.replaced_key = data.default_key().map(str::to_owned);
        if change == RecoveryChange::Reset {
            let body = backup_version(session).await?;
            record.replaced_backup = body.and_then(|body| version_of(&body));
        }
    }
    note(session, &record)?;
    Ok(record)
}

fn note(session: &Session, record: &RecoveryRecord) -> Result<(), ClientError> {
    session.step(|machine, snapshot, cx| machine.note_recovery(snapshot, cx, Some(record)))
}

fn description(record: &RecoveryRecord) -> Result<Value, ClientError> {
    serde_json::from_str(&record.description)
        .map_err(|_| StoreError::Corrupt("a key's description".to_owned()).into())
}

/// The homeserver, or the state of things, does not allow it: nothing has come of it.
fn is_refusal(error: &ClientError) -> bool {
    match error {
        ClientError::Matrix { status, .. } => (400..500).contains(status) && *status != 429,
        ClientError::AuthenticationNeeded(_) | ClientError::IdentityExists => true,
        _ => false,
    }
}

async fn make_identity(
    session: &Arc<Session>,
    record: &mut RecoveryRecord,
    authentication: &Authentication,
) -> Result<(), ClientError> {
    let (master, here) = identity(session)?;
    // A homeserver may show one of the user's older identities, whose keys are here still: that is not what was asked for.
    let is_made = here && master.is_some() && master == record.made_master;
    let replace = record.change == RecoveryChange::Reset && !is_made;
    let begun = session.read(|machine, snapshot| machine.identity_is_prepared(snapshot))?;
    if master.is_some() && !here && !replace && !begun {
        return Err(ClientError::IdentityExists);
    }
    let body =
        session.step(|machine, snapshot, cx| machine.prepare_identity(snapshot, cx, replace))?;
    let Some(body) = body else { return Ok(()) };
    let body: Value = serde_json::from_str(&body)
        .map_err(|_| ClientError::Internal("the identity's keys are no JSON"))?;
    if replace {
        record.made_master = master_of(&body);
        note(session, record)?;
    }
    let request = |auth: Option<Value>| {
        let mut body = body.clone();
        if let (Some(auth), Some(object)) = (auth, body.as_object_mut()) {
            object.insert("auth".to_owned(), auth);
        }
        let segments = ["device_signing", "upload"];
        HttpRequest::new(Method::Post, "/_matrix/client/v3/keys", &segments).json(body.to_string())
    };
    authenticate::call(session, authentication, request).await?;
    session.step(|machine, snapshot, cx| machine.identity_published(snapshot, cx))?;
    // The own device's signature goes by itself; who is told that all is done should find it there.
    own_list(session).await?;
    // Another device may have replaced it meanwhile: these keys are nothing to put into the secret storage.
    if identity(session)?.1 { Ok(()) } else { Err(ClientError::IdentityExists) }
}

/// The master key of an identity's upload.
fn master_of(body: &Value) -> Option<Ed25519PublicKey> {
    let keys = body.get("master_key")?.get("keys")?.as_object()?;
    ed25519_from_base64(keys.values().next()?.as_str()?).ok()
}

/// Makes a key backup unless there is one in use whose key is here.
async fn make_backup(
    session: &Arc<Session>,
    record: &RecoveryRecord,
) -> Result<String, ClientError> {
    let is_old = |version: &str| record.replaced_backup.as_deref() == Some(version);
    // What the homeserver has may be ours: looked at just now, or made before something died.
    let there = backup_version(session).await?;
    let there = there.and_then(|body| Some((version_of(&body)?, body)));
    let there = there.filter(|(version, _)| !is_old(version));
    let status = session.read(|machine, snapshot| machine.backup_status(snapshot))?;
    // The one in use may have been replaced without this device having heard of it.
    if let (true, true, Some(version)) = (status.enabled, status.has_key, status.version)
        && there.as_ref().is_some_and(|(there, _)| *there == version)
    {
        return Ok(version);
    }
    let secret = session.read(|machine, snapshot| machine.secret(snapshot, key_backup::SECRET))?;
    if let (Some((version, body)), Some(secret)) = (&there, secret)
        && session
            .step(|machine, snapshot, cx| machine.import_backup_key(snapshot, cx, &secret, body))?
    {
        return Ok(version.clone());
    }
    let wanted = session.step(|machine, snapshot, cx| machine.prepare_backup(snapshot, cx))?;
    let version = match there {
        Some((version, body)) if public_key(&body) == public_key(wanted.as_bytes()) => version,
        _ => create_backup(session, wanted).await?,
    };
    session.step(|machine, snapshot, cx| machine.backup_created(snapshot, cx, &version))?;
    Ok(version)
}

async fn create_backup(session: &Session, body: String) -> Result<String, ClientError> {
    let request = HttpRequest::new(Method::Post, "/_matrix/client/v3/room_keys", &["version"]);
    // A second version is no harm: whoever knows the first knows its key.
    let body = session.call(request.json(body), Retry::Always).await?;
    version_of(&body).ok_or(ClientError::BadResponse("a new key backup without a version"))
}

fn version_of(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Created {
        version: String,
    }
    serde_json::from_slice::<Created>(body).ok().map(|created| created.version)
}

/// The public key in a backup's description.
fn public_key(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    Some(body.get("auth_data")?.get("public_key")?.as_str()?.to_owned())
}

/// Puts every secret under the new key, makes it the default one, and takes away what is under the old ones. Answers the recovery
/// key, and what could not be put under it.
async fn store(
    session: &Arc<Session>,
    record: &mut RecoveryRecord,
) -> Result<(SecretString, Vec<String>), ClientError> {
    let to = SecretStorage::from_record(&record.key)?;
    let from = record.from.iter().map(SecretStorage::from_record).collect::<Result<Vec<_>, _>>()?;
    let is_new = record.change != RecoveryChange::ChangeKey;
    account_data::describe_key(session, to.key_id(), &description(record)?).await?;
    if is_new {
        for secret in RecoverySecret::ALL {
            let value =
                session.read(|machine, snapshot| machine.secret(snapshot, secret.name()))?;
            let value = value.ok_or(ClientError::Internal("a secret that was made is gone"))?;
            to.add(session, secret.name(), &value).await?;
        }
        let renew = record.change == RecoveryChange::Reset && record.stage == RecoveryStage::Begun;
        dehydration::keep_key(session, &to, renew).await?;
    }
    carry_over(session, &to, &from).await?;
    // From here on it may be the only key that opens anything.
    if record.stage == RecoveryStage::Begun {
        record.stage = RecoveryStage::Published;
        note(session, record)?;
    }
    account_data::make_default(session, to.key_id()).await?;
    // Another client may have written something meanwhile, under the key that was the default one.
    carry_over(session, &to, &from).await?;
    let left = tidy(session, record, &to).await?;
    if record.stage != RecoveryStage::Made {
        record.stage = RecoveryStage::Made;
        note(session, record)?;
    }
    Ok((to.recovery_key(), left))
}

/// Puts what is under one of the old keys under the new one, whatever it is.
async fn carry_over(
    session: &Session,
    to: &SecretStorage,
    from: &[SecretStorage],
) -> Result<(), ClientError> {
    if from.is_empty() {
        return Ok(());
    }
    let data = AccountData::fetch(session).await?;
    for (name, secret) in under_old_keys_only(&data, to, from) {
        to.add(session, &name, &secret).await?;
    }
    Ok(())
}

/// What opens with one of the old keys and is not under the new one.
fn under_old_keys_only(
    data: &AccountData,
    to: &SecretStorage,
    from: &[SecretStorage],
) -> Vec<(String, SecretString)> {
    let outside = data.secrets().filter(|(_, by_key)| !by_key.contains_key(to.key_id()));
    outside
        .filter_map(|(name, _)| {
            let secret = from.iter().find_map(|key| key.read(data, name).ok().flatten())?;
            Some((name.to_owned(), secret))
        })
        .collect()
}

/// Takes away what is under the old keys and under the new one too, and then the old keys that nothing is under any more. Of what
/// this device has made anew, everything else goes: it may be an older one. Answers what is under an old key still and not under
/// the new one: nothing opens it.
async fn tidy(
    session: &Session,
    record: &RecoveryRecord,
    to: &SecretStorage,
) -> Result<Vec<String>, ClientError> {
    let is_old = |key_id: &str| {
        record.replaced_key.as_deref() == Some(key_id)
            || record.from.iter().any(|key| key.key_id == key_id)
    };
    let is_known = |key_id: &str| record.from.iter().any(|key| key.key_id == key_id);
    let is_new = |name: &str| {
        record.change != RecoveryChange::ChangeKey
            && RecoverySecret::ALL.iter().any(|secret| secret.name() == name)
    };
    let data = AccountData::fetch(session).await?;
    let names: Vec<String> = data.secrets().map(|(name, _)| name.to_owned()).collect();
    for name in names {
        let goes = |key_id: &str| is_new(&name) || is_known(key_id);
        remove_keys(session, &name, to.key_id(), goes).await?;
    }
    let data = AccountData::fetch(session).await?;
    for key_id in unused(&data).into_iter().filter(|id| id != to.key_id() && is_old(id)) {
        account_data::describe_key(session, &key_id, &json!({})).await?;
    }
    let left = data.secrets().filter(|(_, by_key)| {
        !by_key.contains_key(to.key_id()) && by_key.keys().any(|key_id| is_old(key_id))
    });
    Ok(left.map(|(name, _)| name.to_owned()).collect())
}

/// The keys that nothing is under.
fn unused(data: &AccountData) -> Vec<String> {
    let in_use = |key_id: &str| data.secrets().any(|(_, by_key)| by_key.contains_key(key_id));
    data.key_ids().into_iter().filter(|key_id| !in_use(key_id)).map(str::to_owned).collect()
}
