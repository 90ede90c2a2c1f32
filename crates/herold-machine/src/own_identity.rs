//! The user's own cross-signing identity: made, published, taken over from another device, and used to sign
//! (Matrix specification, "Cross-signing").
//!
//! The private keys lie among the user's secrets. Each is used only while it is the private half of the key that
//! is published: a homeserver that publishes another identity makes them useless, and takes none away.

use herold_crypto::{Ed25519PublicKey, SecretString, SigningKey};
use herold_store::{
    Snapshot, SnapshotExt as _, StoreError,
    records::{
        DeviceKey, DeviceRecord, IdentityRecord, NameKey, Only, PendingIdentityRecord,
        SecretRecord, SequenceKey, SignatureRecord, TrackedUserRecord, UserKey,
        VerifiedIdentityRecord,
    },
};
use herold_trust::{
    Anchor, CrossSigningKeys, Device, Identity, KeyUsage, is_cross_signed, own_master_object,
    parse_device_keys, parse_identity,
};
use ruma::UserId;
use serde_json::Value;

use crate::{
    MachineError, dehydration, devices, key_backup, key_requests, signatures::SIGNATURES, txn::Txn,
};

/// The name of a private key in secret storage.
pub(crate) const fn secret_name(usage: KeyUsage) -> &'static str {
    match usage {
        KeyUsage::Master => "m.cross_signing.master",
        KeyUsage::SelfSigning => "m.cross_signing.self_signing",
        KeyUsage::UserSigning => "m.cross_signing.user_signing",
    }
}

/// The three roles.
const USAGES: [KeyUsage; 3] = [KeyUsage::Master, KeyUsage::SelfSigning, KeyUsage::UserSigning];

/// The own identity as it is published.
pub(crate) fn own_identity(txn: &Txn<'_, '_>) -> Result<Option<Identity>, MachineError> {
    let key = UserKey { user_id: txn.own().user_id.clone() };
    Ok(txn.load::<IdentityRecord>(&key)?.map(|record| record.identity))
}

/// The published key of a role.
pub(crate) fn published_key(identity: &Identity, usage: KeyUsage) -> Option<Ed25519PublicKey> {
    match usage {
        KeyUsage::Master => Some(identity.master),
        KeyUsage::SelfSigning => Some(identity.self_signing),
        KeyUsage::UserSigning => identity.user_signing,
    }
}

/// The private key of a role, if it is the private half of the published one.
fn matching(
    record: Option<SecretRecord>,
    identity: &Identity,
    usage: KeyUsage,
) -> Result<Option<SigningKey>, MachineError> {
    let Some(record) = record else { return Ok(None) };
    let key = SigningKey::from_secret(&record.secret)
        .map_err(|_| StoreError::Corrupt("a private key of the own identity".to_owned()))?;
    Ok(Some(key).filter(|key| Some(key.public_key()) == published_key(identity, usage)))
}

fn private_key(
    txn: &Txn<'_, '_>,
    identity: &Identity,
    usage: KeyUsage,
) -> Result<Option<SigningKey>, MachineError> {
    let name = NameKey { name: secret_name(usage).to_owned() };
    matching(txn.load(&name)?, identity, usage)
}

/// Whether the private key with this name in secret storage is here, and belongs to the published one.
pub(crate) fn has(txn: &Txn<'_, '_>, name: &str) -> Result<bool, MachineError> {
    let Some(usage) = USAGES.into_iter().find(|usage| secret_name(*usage) == name) else {
        return Ok(false);
    };
    match own_identity(txn)? {
        Some(identity) => Ok(private_key(txn, &identity, usage)?.is_some()),
        None => Ok(false),
    }
}

/// The private master key.
pub(crate) fn master_key(txn: &Txn<'_, '_>) -> Result<Option<SigningKey>, MachineError> {
    match own_identity(txn)? {
        Some(identity) => private_key(txn, &identity, KeyUsage::Master),
        None => Ok(None),
    }
}

/// The private self-signing key, if the own identity is verified on this device.
pub(crate) fn self_signing_key(txn: &Txn<'_, '_>) -> Result<Option<SigningKey>, MachineError> {
    match own_identity(txn)? {
        Some(identity) if anchor(txn)?.is_some() => {
            private_key(txn, &identity, KeyUsage::SelfSigning)
        }
        _ => Ok(None),
    }
}

/// Whether the private keys of the published identity are here: master, self-signing, user-signing.
pub(crate) fn private_keys(
    snapshot: &dyn Snapshot,
    own: &UserId,
) -> Result<[bool; 3], MachineError> {
    let mut here = [false; 3];
    let user = UserKey { user_id: own.to_owned() };
    let Some(record) = snapshot.load::<IdentityRecord>(&user)? else { return Ok(here) };
    for (usage, here) in USAGES.into_iter().zip(&mut here) {
        let name = NameKey { name: secret_name(usage).to_owned() };
        *here = matching(snapshot.load(&name)?, &record.identity, usage)?.is_some();
    }
    Ok(here)
}

/// The body of `/keys/device_signing/upload` for an identity that the homeserver may not have accepted yet. It is made if
/// there is none: the same one is uploaded until it was accepted, whatever dies in between. `None` if the
/// published identity is this device's to use already, unless it is to be replaced.
pub(crate) fn prepare(
    txn: &mut Txn<'_, '_>,
    replace: bool,
) -> Result<Option<String>, MachineError> {
    let known = own_identity(txn)?.map(|identity| identity.master);
    let begun = match txn.load::<PendingIdentityRecord>(&Only)? {
        // On purpose it takes another one's place, too. Its keys stay the same: the homeserver may have accepted them, and what it
        // shows may be older.
        Some(begun) if replace && is_superseded(known, &begun)? => {
            let begun = PendingIdentityRecord { replaced: known, ..begun };
            txn.put(&Only, &begun);
            txn.require_full();
            Some(begun)
        }
        // Another identity has been made since, on another device: what was begun here must not take its place.
        Some(begun) if is_superseded(known, &begun)? => {
            txn.delete::<PendingIdentityRecord>(&Only);
            None
        }
        begun => begun,
    };
    // Nothing to publish. A replacement that was begun is kept all the same: the homeserver may have accepted it already.
    let takes_a_place = begun.as_ref().is_none_or(|begun| begun.replaced == known);
    if !replace && takes_a_place && has_all(txn)? {
        return Ok(None);
    }
    let pending = match begun {
        Some(pending) => pending,
        None => {
            let keys = CrossSigningKeys::generate(txn.cx.entropy);
            let pending = PendingIdentityRecord {
                master: keys.master.to_record(),
                self_signing: keys.self_signing.to_record(),
                user_signing: keys.user_signing.to_record(),
                replaced: known,
            };
            txn.put(&Only, &pending);
            // What the server has accepted must not be gone.
            txn.require_full();
            pending
        }
    };
    Ok(Some(upload_body(txn, &pending)?.to_string()))
}

/// Whether an identity is known that has come after the pending one.
fn is_superseded(
    known: Option<Ed25519PublicKey>,
    pending: &PendingIdentityRecord,
) -> Result<bool, MachineError> {
    Ok(known.is_some() && known != pending.replaced && !is_pending(known, pending)?)
}

/// Whether `known` is the pending identity.
fn is_pending(
    known: Option<Ed25519PublicKey>,
    pending: &PendingIdentityRecord,
) -> Result<bool, MachineError> {
    Ok(known == Some(pending_keys(pending)?.master.public_key()))
}

/// Whether an identity was begun to be made, and no other one is known.
pub(crate) fn is_prepared(snapshot: &dyn Snapshot, own: &UserId) -> Result<bool, MachineError> {
    let Some(pending) = snapshot.load::<PendingIdentityRecord>(&Only)? else { return Ok(false) };
    let known = snapshot.load::<IdentityRecord>(&UserKey { user_id: own.to_owned() })?;
    let known = known.map(|record| record.identity.master);
    Ok(known.is_none() || is_pending(known, &pending)?)
}

/// Whether the published identity is this device's to use.
fn has_all(txn: &Txn<'_, '_>) -> Result<bool, MachineError> {
    let Some(identity) = own_identity(txn)? else { return Ok(false) };
    for usage in USAGES {
        if private_key(txn, &identity, usage)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The keys of a pending identity.
fn pending_keys(pending: &PendingIdentityRecord) -> Result<CrossSigningKeys, MachineError> {
    let read = |record: &herold_crypto::SecretBytes| {
        SigningKey::from_record(record.as_slice())
            .map_err(|_| StoreError::Corrupt("a pending identity".to_owned()))
    };
    Ok(CrossSigningKeys {
        master: read(&pending.master)?,
        self_signing: read(&pending.self_signing)?,
        user_signing: read(&pending.user_signing)?,
    })
}

/// The three key objects, the master key signed by this device too.
fn upload_body(
    txn: &mut Txn<'_, '_>,
    pending: &PendingIdentityRecord,
) -> Result<Value, MachineError> {
    let own = txn.own();
    let mut body =
        pending_keys(pending)?.upload_body(&own.user_id).map_err(MachineError::crypto)?;
    txn.account()?
        .sign_json(own.user_id.as_str(), own.device_id.as_str(), &mut body["master_key"])
        .map_err(MachineError::crypto)?;
    Ok(body)
}

/// The homeserver has accepted the pending identity: from now on it is the user's own, verified on this device, which
/// is signed by it. Answers whether there was one.
pub(crate) fn published(txn: &mut Txn<'_, '_>) -> Result<bool, MachineError> {
    let Some(pending) = txn.load::<PendingIdentityRecord>(&Only)? else { return Ok(false) };
    let own = txn.own();
    let body = upload_body(txn, &pending)?;
    let parsed = parse_identity(
        &own.user_id,
        &body["master_key"],
        &body["self_signing_key"],
        Some(&body["user_signing_key"]),
    )
    .map_err(MachineError::crypto)?;
    let key = UserKey { user_id: own.user_id.clone() };
    let now = txn.cx.now;
    let verified = VerifiedIdentityRecord { master: parsed.master(), verified_at: now };
    let before: Option<IdentityRecord> = txn.load(&key)?;
    let record = match before.clone() {
        Some(known) => IdentityRecord { identity: known.identity.update(parsed), ..known },
        None => IdentityRecord { identity: Identity::pin(parsed), first_seen: now },
    };
    txn.put(&key, &record);
    devices::tell_identity(txn, before.as_ref().map(|known| &known.identity), &record.identity)?;
    txn.put(&key, &verified);
    let keys = pending_keys(&pending)?;
    for (key, usage) in
        [&keys.master, &keys.self_signing, &keys.user_signing].into_iter().zip(USAGES)
    {
        let name = NameKey { name: secret_name(usage).to_owned() };
        txn.put(&name, &SecretRecord { secret: key.to_secret(), since: now });
    }
    txn.delete::<PendingIdentityRecord>(&Only);
    txn.require_full();
    became_sure(txn)?;
    Ok(true)
}

/// The own identity is verified now, or its keys have come: whom it vouches for is looked at anew, and this device signed.
pub(crate) fn became_sure(txn: &mut Txn<'_, '_>) -> Result<(), MachineError> {
    evaluate_all(txn)?;
    let own = txn.own();
    let tracked = UserKey { user_id: own.user_id.clone() };
    let record = txn.load::<TrackedUserRecord>(&tracked)?.unwrap_or_default();
    devices::mark_outdated(txn, &tracked, record)?;
    key_requests::look_again(txn)?;
    key_backup::ask(txn)?;
    dehydration::look_again(txn)?;
    sign_own_device(txn)
}

/// Signs this device, if it is not signed and the key is here.
pub(crate) fn sign_own_device(txn: &mut Txn<'_, '_>) -> Result<(), MachineError> {
    let Some(identity) = own_identity(txn)? else { return Ok(()) };
    let own = txn.own();
    if anchor(txn)?.is_none() {
        return Ok(());
    }
    let key = DeviceKey { user_id: own.user_id.clone(), device_id: own.device_id.clone() };
    let listed: Option<DeviceRecord> = txn.load(&key)?;
    let signed = listed.is_some_and(|record| is_cross_signed(&record.device, Some(&identity)));
    if signed || waits(txn, &own.user_id, own.device_id.as_str())? {
        return Ok(());
    }
    let Some(private) = private_key(txn, &identity, KeyUsage::SelfSigning)? else { return Ok(()) };
    let json = serde_json::from_str(&own.signed_keys)
        .map_err(|_| StoreError::Corrupt("the device's own signed keys".to_owned()))?;
    let device = parse_device_keys(&own.user_id, &own.device_id, &json)
        .map_err(|_| StoreError::Corrupt("the device's own signed keys".to_owned()))?;
    let object = herold_trust::sign_device(&private, &identity, &device, &own.keys.ed25519)
        .map_err(MachineError::crypto)?;
    put_signature(txn, &own.user_id, own.device_id.as_str(), &object)
}

/// Signs another device of the own user, whose Ed25519 key `verified` is. Answers whether it could.
pub(crate) fn sign_device(
    txn: &mut Txn<'_, '_>,
    device: &Device,
    verified: &Ed25519PublicKey,
) -> Result<bool, MachineError> {
    let Some(identity) = own_identity(txn)? else { return Ok(false) };
    if anchor(txn)?.is_none() {
        return Ok(false);
    }
    let Some(key) = private_key(txn, &identity, KeyUsage::SelfSigning)? else { return Ok(false) };
    let Ok(object) = herold_trust::sign_device(&key, &identity, device, verified) else {
        return Ok(false);
    };
    put_signature(txn, &device.user_id, device.device_id.as_str(), &object)?;
    Ok(true)
}

/// Signs another user's master key, which was verified: `master` is the key that was, and nothing is signed if it is
/// not the published one. Answers whether it could.
pub(crate) fn sign_user(
    txn: &mut Txn<'_, '_>,
    user_id: &UserId,
    master: &Ed25519PublicKey,
) -> Result<bool, MachineError> {
    let Some(identity) = own_identity(txn)? else { return Ok(false) };
    let place = UserKey { user_id: user_id.to_owned() };
    let theirs: Option<IdentityRecord> = txn.load(&place)?;
    let (Some(mut theirs), true) = (theirs, anchor(txn)?.is_some()) else { return Ok(false) };
    let Some(key) = private_key(txn, &identity, KeyUsage::UserSigning)? else { return Ok(false) };
    let Ok(object) = herold_trust::sign_user(&key, &identity, &theirs.identity, master) else {
        return Ok(false);
    };
    put_signature(txn, user_id, &master.to_base64(), &object)?;
    let before = theirs.identity.clone();
    // A homeserver that never shows the signature can keep this identity from being shown as verified. It cannot have
    // another one take its place as that of somebody who never was (attack N34).
    theirs.identity.note_verified(master);
    txn.put(&place, &theirs);
    devices::tell_identity(txn, Some(&before), &theirs.identity)?;
    txn.next_number(devices::GENERATION)?;
    Ok(true)
}

/// The own master key was verified in another way than by having its private half: by comparing it.
pub(crate) fn verified_own(
    txn: &mut Txn<'_, '_>,
    master: &Ed25519PublicKey,
) -> Result<bool, MachineError> {
    let Some(identity) = own_identity(txn)?.filter(|identity| identity.master == *master) else {
        return Ok(false);
    };
    let own = txn.own();
    let key = UserKey { user_id: own.user_id.clone() };
    let now = txn.cx.now;
    txn.put(&key, &VerifiedIdentityRecord { master: *master, verified_at: now });
    txn.require_full();
    // Other devices learn from the device's signature that this one trusts the identity.
    let mut object = own_master_object(&identity, master).map_err(MachineError::crypto)?;
    txn.account()?
        .sign_json(own.user_id.as_str(), own.device_id.as_str(), &mut object)
        .map_err(MachineError::crypto)?;
    put_signature(txn, &own.user_id, &master.to_base64(), &object)?;
    became_sure(txn)?;
    Ok(true)
}

/// Takes a private key of the own identity that came out of secret storage or from another device. Answers whether it
/// is the published key's; anything else changes nothing.
pub(crate) fn import(
    txn: &mut Txn<'_, '_>,
    name: &str,
    secret: &SecretString,
) -> Result<bool, MachineError> {
    let Some(usage) = USAGES.into_iter().find(|usage| secret_name(*usage) == name) else {
        return Ok(false);
    };
    let Some(identity) = own_identity(txn)? else { return Ok(false) };
    let Ok(key) = SigningKey::from_secret(secret) else { return Ok(false) };
    if Some(key.public_key()) != published_key(&identity, usage) {
        return Ok(false);
    }
    let since = txn.cx.now;
    let name = NameKey { name: name.to_owned() };
    txn.put(&name, &SecretRecord { secret: key.to_secret(), since });
    if usage == KeyUsage::Master {
        // Who has the private half needs nobody's word for it.
        let key = UserKey { user_id: txn.own().user_id.clone() };
        let verified = VerifiedIdentityRecord { master: identity.master, verified_at: since };
        txn.put(&key, &verified);
    }
    txn.require_full();
    became_sure(txn)?;
    Ok(true)
}

/// The own user's master key that was verified on this device.
pub(crate) fn verified_master(txn: &Txn<'_, '_>) -> Result<Option<Ed25519PublicKey>, MachineError> {
    let key = UserKey { user_id: txn.own().user_id.clone() };
    Ok(txn.load::<VerifiedIdentityRecord>(&key)?.map(|record| record.master))
}

/// The own identity, if it is verified on this device.
pub(crate) fn anchor(txn: &Txn<'_, '_>) -> Result<Option<Anchor>, MachineError> {
    let verified = verified_master(txn)?;
    Ok(own_identity(txn)?.and_then(|identity| Anchor::new(&identity, verified.as_ref())))
}

/// Looks at all identities anew: the own one has changed, or is verified now.
pub(crate) fn evaluate_all(txn: &mut Txn<'_, '_>) -> Result<(), MachineError> {
    let anchor = anchor(txn)?;
    for (key, mut record) in txn.list::<IdentityRecord>(&[])? {
        let before = record.identity.clone();
        record.identity.evaluate(anchor.as_ref());
        if record.identity != before {
            txn.put(&key, &record);
            devices::tell_identity(txn, Some(&before), &record.identity)?;
        }
    }
    txn.next_number(devices::GENERATION)?;
    Ok(())
}

/// Whether a signature of this key is to be uploaded already.
fn waits(txn: &Txn<'_, '_>, user_id: &UserId, name: &str) -> Result<bool, MachineError> {
    let rows = txn.list::<SignatureRecord>(&[])?;
    Ok(rows.iter().any(|(_, row)| row.user_id == user_id && row.name == name))
}

fn put_signature(
    txn: &mut Txn<'_, '_>,
    user_id: &UserId,
    name: &str,
    object: &Value,
) -> Result<(), MachineError> {
    let sequence = txn.next_number(SIGNATURES)?;
    txn.put(
        &SequenceKey { sequence },
        &SignatureRecord {
            user_id: user_id.to_owned(),
            name: name.to_owned(),
            object: object.to_string(),
        },
    );
    txn.require_full();
    Ok(())
}
