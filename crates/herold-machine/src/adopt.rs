//! Taking over an account that another client has made: the device goes on as the same device.
//!
//! What was found beside the keys is treated as what it is, a claim. Lists of devices count as outdated, since nobody
//! knows what has changed since. Nobody is verified because it was written down somewhere: the own identity is if its
//! private master key is here, or if this device's own signature is on it, and other users are if that identity vouches
//! for them. What only ever makes the client stricter (a block, a pinned key, the memory of having been verified, a
//! room's encryption) is taken as it is.

use herold_crypto::{
    Account, BackupDecryptionKey, Ed25519PublicKey, SecretString, SigningKey, verify_json,
};
use herold_store::{
    Snapshot, SnapshotExt as _,
    records::{
        AccountRecord, BackupRecord, BlockedRecord, DeviceKey, DeviceRecord, IdentityRecord,
        KeyUploadRecord, LoginRecord, Membership, NameKey, Only, PendingIdentityRecord,
        PolicyRecord, RoomKey, SecretRecord, TrackedUserRecord, UserKey, VerifiedIdentityRecord,
    },
};
use herold_trust::{
    CrossSigningKeys, Device, Identity, KeyUsage, ParsedIdentity, Policy, Timestamp,
    parse_encryption,
};
use ruma::{OwnedDeviceId, OwnedRoomId, OwnedUserId};
use serde_json::Value;

use crate::{
    Context, Machine, MachineError, Pending, Step, account, devices, key_backup, own_identity,
    rooms,
    txn::{Left, Own, Txn},
};

/// An account of another client, as far as it was found and reads.
#[derive(Debug)]
pub struct Adoption {
    /// The account's user.
    pub user_id: OwnedUserId,
    /// The device.
    pub device_id: OwnedDeviceId,
    /// The keys of the device. Secret.
    pub account: Account,
    /// When it was made.
    pub created_at: Timestamp,
    /// The server has the device's keys.
    pub device_keys_published: bool,
    /// How many one-time keys the server had at last.
    pub server_one_time_keys: Option<u64>,
    /// When the fallback key was made.
    pub fallback_created_at: Option<Timestamp>,
    /// Users whose devices are tracked.
    pub tracked: Vec<OwnedUserId>,
    /// Devices, each as checked.
    pub devices: Vec<AdoptedDevice>,
    /// Identities, each as checked.
    pub identities: Vec<AdoptedIdentity>,
    /// Private keys of the own identity. Secret.
    pub secrets: Vec<(KeyUsage, SecretString)>,
    /// An own identity that was made and that the server may not have yet. Secret.
    pub pending: Option<CrossSigningKeys>,
    /// The private key of the backup, and the version it is of, in the homeserver's words. Secret.
    pub backup: Option<(BackupDecryptionKey, Option<String>)>,
    /// Rooms that are encrypted, with the content of their `m.room.encryption` event.
    pub rooms: Vec<(OwnedRoomId, Value)>,
}

/// A device that another client knew.
#[derive(Clone, Debug)]
pub struct AdoptedDevice {
    /// The device.
    pub device: Device,
    /// When it was first seen.
    pub first_seen: Timestamp,
    /// It is to be given no room keys.
    pub blocked: bool,
}

/// An identity that another client knew.
#[derive(Clone, Debug)]
pub struct AdoptedIdentity {
    /// The identity.
    pub parsed: ParsedIdentity,
    /// The master key that was pinned, if it is another one.
    pub pinned_master: Option<Ed25519PublicKey>,
    /// It was verified once.
    pub was_verified: bool,
}

/// What became of an [`Adoption`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// The own identity is proved to be the user's.
    pub own_identity_verified: bool,
    /// Users that the own identity vouches for.
    pub verified_users: Vec<OwnedUserId>,
    /// Private keys that fit the published identity.
    pub secrets: Vec<KeyUsage>,
    /// Room keys that are not in the backup are to be noted as due: it is in use.
    pub backup_enabled: bool,
}

impl Machine {
    /// Makes the account of a device that another client has used, in a store that has none. That client must never be
    /// started again: two that share an Olm session lose it, and the messages in it.
    ///
    /// Olm sessions and room keys are rows of their own, which may be in the store before.
    ///
    /// # Errors
    /// [`MachineError::AccountExists`] if there is an account; those of the store.
    pub fn adopt(
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        policy: Policy,
        login: &LoginRecord,
        adoption: Adoption,
    ) -> Result<Step<Pending, Adopted>, MachineError> {
        if snapshot.contains::<AccountRecord>(&Only)? {
            return Err(MachineError::AccountExists);
        }
        let now = cx.now;
        let record = account_record(&adoption, now)?;
        let uploads = upload_record(&adoption, now);
        let own = Own::new((&record).into());
        let mut txn = Txn::new(snapshot, cx, own, Left::default());
        txn.put(&Only, &record);
        txn.put(&Only, &uploads);
        txn.put(&Only, login);
        for (room_id, content) in &adoption.rooms {
            let mut room = rooms::new_room(Membership::Leave);
            room.encryption = Some(parse_encryption(content, &policy));
            txn.put(&RoomKey { room_id: room_id.clone() }, &room);
        }
        txn.put(&Only, &PolicyRecord { policy });
        track(&mut txn, &adoption.tracked)?;
        for device in adoption.devices {
            put_device(&mut txn, device)?;
        }
        for identity in adoption.identities {
            put_identity(&mut txn, identity);
        }
        let mut adopted =
            Adopted { secrets: put_secrets(&mut txn, adoption.secrets)?, ..Adopted::default() };
        let published = own_identity::own_identity(&txn)?;
        let is_superseded = |pending: &CrossSigningKeys| {
            published.as_ref().is_some_and(|known| known.master != pending.master.public_key())
        };
        if let Some(pending) = &adoption.pending
            && !is_superseded(pending)
        {
            txn.put(
                &Only,
                &PendingIdentityRecord {
                    master: pending.master.to_record(),
                    self_signing: pending.self_signing.to_record(),
                    user_signing: pending.user_signing.to_record(),
                    replaced: None,
                },
            );
        }
        if let Some((key, version)) = adoption.backup {
            adopted.backup_enabled = put_backup(&mut txn, &key, version)?;
        }
        if let Some(master) = proved_master(&mut txn)? {
            let user = UserKey { user_id: txn.own().user_id.clone() };
            txn.put(&user, &VerifiedIdentityRecord { master, verified_at: now });
            adopted.own_identity_verified = true;
            own_identity::became_sure(&mut txn)?;
        }
        let own = txn.own();
        for (key, record) in txn.list::<IdentityRecord>(&[])? {
            if record.identity.verified && key.user_id != own.user_id {
                adopted.verified_users.push(key.user_id);
            }
        }
        txn.next_number(devices::GENERATION)?;
        txn.require_full();
        Ok(txn.finish(adopted)?.0)
    }
}

fn account_record(adoption: &Adoption, now: Timestamp) -> Result<AccountRecord, MachineError> {
    let Adoption { user_id, device_id, account, .. } = adoption;
    let keys = account.identity_keys();
    // Signatures are deterministic: these are the bytes that were published.
    let signed_keys = account::signed_device_keys(user_id, device_id, keys, account)?.to_string();
    Ok(AccountRecord {
        user_id: user_id.clone(),
        device_id: device_id.clone(),
        keys,
        signed_keys,
        pickle: account.to_record(),
        created_at: adoption.created_at.min(now),
    })
}

fn upload_record(adoption: &Adoption, now: Timestamp) -> KeyUploadRecord {
    let account = &adoption.account;
    let unpublished = !account.unpublished_one_time_keys().is_empty()
        || account.unpublished_fallback_key().is_some();
    KeyUploadRecord {
        device_keys_published: adoption.device_keys_published,
        server_one_time_keys: adoption.server_one_time_keys,
        unpublished_keys: unpublished,
        fallback_created_at: adoption.fallback_created_at.map(|at| at.min(now)),
        // When it was replaced nobody has written down.
        forget_previous_fallback_at: Some(now.saturating_add(account::KEEP_PREVIOUS_FALLBACK)),
        ..KeyUploadRecord::default()
    }
}

fn track(txn: &mut Txn<'_, '_>, users: &[OwnedUserId]) -> Result<(), MachineError> {
    let own = txn.own();
    for user_id in std::iter::once(&own.user_id).chain(users) {
        let key = UserKey { user_id: user_id.clone() };
        if !txn.contains::<TrackedUserRecord>(&key)? {
            devices::mark_outdated(txn, &key, TrackedUserRecord::default())?;
        }
    }
    Ok(())
}

fn put_device(txn: &mut Txn<'_, '_>, adopted: AdoptedDevice) -> Result<(), MachineError> {
    let AdoptedDevice { device, first_seen, blocked } = adopted;
    let now = txn.cx.now;
    let own = txn.own();
    let is_own = device.user_id == own.user_id && device.device_id == own.device_id;
    if is_own && device.keys != own.keys {
        return Ok(());
    }
    devices::index_by_key(txn, &device)?;
    let key = DeviceKey { user_id: device.user_id.clone(), device_id: device.device_id.clone() };
    txn.put(&key, &DeviceRecord { device, first_seen: first_seen.min(now) });
    if blocked && !is_own {
        txn.put(&key, &BlockedRecord { since: now });
    }
    Ok(())
}

fn put_identity(txn: &mut Txn<'_, '_>, adopted: AdoptedIdentity) {
    let mut identity = Identity::pin(adopted.parsed);
    if let Some(pinned) = adopted.pinned_master {
        identity.pinned_master = pinned;
    }
    identity.was_verified = adopted.was_verified;
    let key = UserKey { user_id: identity.user_id.clone() };
    let first_seen = txn.cx.now;
    txn.put(&key, &IdentityRecord { identity, first_seen });
}

/// Keeps the private keys that are those of the published identity.
fn put_secrets(
    txn: &mut Txn<'_, '_>,
    secrets: Vec<(KeyUsage, SecretString)>,
) -> Result<Vec<KeyUsage>, MachineError> {
    let mut kept = Vec::new();
    let Some(identity) = own_identity::own_identity(txn)? else { return Ok(kept) };
    for (usage, secret) in secrets {
        let fits = SigningKey::from_secret(&secret).is_ok_and(|key| {
            Some(key.public_key()) == own_identity::published_key(&identity, usage)
        });
        if fits {
            let name = NameKey { name: own_identity::secret_name(usage).to_owned() };
            txn.put(&name, &SecretRecord { secret, since: txn.cx.now });
            kept.push(usage);
        }
    }
    Ok(kept)
}

/// Keeps the backup's private key, and goes on with that backup if its version is known. Whether it is.
fn put_backup(
    txn: &mut Txn<'_, '_>,
    key: &BackupDecryptionKey,
    version: Option<String>,
) -> Result<bool, MachineError> {
    let name = NameKey { name: key_backup::SECRET.to_owned() };
    txn.put(&name, &SecretRecord { secret: key.to_secret(), since: txn.cx.now });
    match version {
        Some(version) => {
            let public_key = key.public_key().to_base64();
            txn.put(&Only, &BackupRecord::Enabled { version, public_key });
            Ok(true)
        }
        None => {
            key_backup::ask(txn)?;
            Ok(false)
        }
    }
}

/// The own master key, if this device can prove that it was verified here: by its private half, or by its own
/// signature, which it makes only then.
fn proved_master(txn: &mut Txn<'_, '_>) -> Result<Option<Ed25519PublicKey>, MachineError> {
    let Some(identity) = own_identity::own_identity(txn)? else { return Ok(None) };
    if own_identity::master_key(txn)?.is_some() {
        return Ok(Some(identity.master));
    }
    let own = txn.own();
    let Some(object) = identity.key_json(KeyUsage::Master) else { return Ok(None) };
    let key_id = format!("ed25519:{}", own.device_id);
    let signed = verify_json(&own.keys.ed25519, own.user_id.as_str(), &key_id, &object).is_ok();
    Ok(signed.then_some(identity.master))
}
