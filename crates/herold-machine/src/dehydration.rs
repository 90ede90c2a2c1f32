//! The user's dehydrated device (MSC3814): a mailbox on the homeserver, to which others send room keys while none of the
//! user's devices is there to take them.
//!
//! Its private keys lie on the homeserver, under a key that is one of the user's secrets. This device makes it, signs it
//! with the self-signing key, and replaces it once a week, so that its one-time keys do not run out and what is sent to it
//! does not pile up. How one is opened is in [`rehydration`]. All of it is a state in the store, and requests
//! that follow from it: a kill anywhere is an ordinary restart.

pub(crate) mod key;
pub(crate) mod rehydration;
pub(crate) mod upload;

use std::time::Duration;

use herold_store::{
    Snapshot, SnapshotExt as _, StoreError,
    records::{
        AccountRecord, DehydratedUploadRecord, DehydrationRecord, DehydrationStage, DeviceKey,
        DeviceRecord, Only, OutdatedUserRecord, RehydrationOutcome, RehydrationRecord,
        RehydrationRefusal, TrackedUserRecord, UserKey,
    },
};
use herold_trust::{Policy, Timestamp};
use ruma::OwnedDeviceId;

use crate::{
    Answer, HttpRequest, MachineError, Method, Notice, Outgoing, RequestId, devices, hot::Hot,
    key_requests, outgoing::is_allowed, own_identity, request::RequestKind, txn::Txn,
};

/// The way in which the device's keys are encrypted, as it is called now and as it will be.
const ALGORITHMS: [&str; 2] = ["org.matrix.msc3814.v2", "m.dehydration.v2"];
/// The requests, and their back-off record.
const NAME: &str = "dehydrated_device";
const API: &str = "/_matrix/client/unstable/org.matrix.msc3814.v1";
/// It is replaced after this long.
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
/// It is looked after this often.
const LOOK_INTERVAL: Duration = Duration::from_secs(3600);
/// After so many looks without it somebody has removed it on purpose. Between two uploads it may be away for a moment.
const MAX_MISSES: u32 = 2;
/// What the app is told if the device of another own device is under another key: in place of an error code.
const WRONG_KEY: &str = "WRONG_DEHYDRATION_KEY";

/// How things stand with the dehydrated device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DehydrationStatus {
    /// There is to be one, and this device keeps it fresh.
    pub enabled: bool,
    /// The key that it is encrypted with is here.
    pub has_key: bool,
    /// The one on the homeserver, as far as known.
    pub device_id: Option<OwnedDeviceId>,
    /// When it was made, or first seen here.
    pub since: Option<Timestamp>,
    /// Something is under way: one is looked for, read, uploaded or removed.
    pub busy: bool,
    /// So many to-device events were read from the last one that was opened.
    pub events: u64,
    /// So many room keys have come out of it.
    pub room_keys: u64,
    /// What became of the last one that was to be opened; none while that is under way.
    pub outcome: Option<RehydrationOutcome>,
}

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DehydrationRequest {
    Look,
    /// A page of what was sent to the device, from where.
    Page {
        device_id: OwnedDeviceId,
        from: Option<String>,
        older_endpoint: bool,
    },
    Upload {
        device_id: OwnedDeviceId,
    },
    Delete,
}

impl DehydrationRequest {
    pub(crate) fn is_upload(&self) -> bool {
        matches!(self, Self::Upload { .. })
    }
}

/// The state.
pub(crate) fn status(snapshot: &dyn Snapshot) -> Result<DehydrationStatus, MachineError> {
    let has_key = key::is_here(snapshot)?;
    let Some(record) = snapshot.load::<DehydrationRecord>(&Only)? else {
        return Ok(DehydrationStatus { has_key, ..DehydrationStatus::default() });
    };
    Ok(DehydrationStatus {
        enabled: record.enabled,
        has_key,
        since: record.device_id.is_some().then_some(record.since),
        device_id: record.device_id,
        busy: record.stage != DehydrationStage::Idle,
        events: record.events,
        room_keys: record.room_keys,
        outcome: record.outcome,
    })
}

/// The app wants a dehydrated device. What was sent to the one that is there is read first, unless this device keeps one
/// already. Answers whether it is.
pub(crate) fn start(txn: &mut Txn<'_, '_>, policy: &Policy) -> Result<bool, MachineError> {
    may_begin(txn, policy)?;
    if own_identity::self_signing_key(txn)?.is_none() {
        return Err(MachineError::NotVerified);
    }
    let mut record: DehydrationRecord = txn.load(&Only)?.unwrap_or_default();
    record.enabled = true;
    let is_kept = record.stage == DehydrationStage::Idle && record.device_id.is_some();
    if is_kept || !is_to_look(record.stage) {
        record.look_at = Timestamp::default();
        txn.put_changed(&Only, &record)?;
        return Ok(matches!(record.stage, DehydrationStage::Look | DehydrationStage::Read));
    }
    look(txn, record)?;
    Ok(true)
}

/// Opens the dehydrated device that the homeserver has, if it is ours.
pub(crate) fn rehydrate(txn: &mut Txn<'_, '_>, policy: &Policy) -> Result<(), MachineError> {
    may_begin(txn, policy)?;
    let record: DehydrationRecord = txn.load(&Only)?.unwrap_or_default();
    if matches!(record.stage, DehydrationStage::Look | DehydrationStage::Read) {
        return Ok(()); // it goes on
    }
    look(txn, record)
}

/// Whether what is under way gives way to a look at what is there.
fn is_to_look(stage: DehydrationStage) -> bool {
    matches!(stage, DehydrationStage::Idle | DehydrationStage::Delete)
}

fn may_begin(txn: &Txn<'_, '_>, policy: &Policy) -> Result<(), MachineError> {
    if !policy.dehydration {
        return Err(MachineError::PolicyDenied);
    }
    if key::load(txn)?.is_none() {
        return Err(MachineError::NoDehydrationKey);
    }
    // Whether a device is ours is what the verified identity says.
    own_identity::anchor(txn)?.map(drop).ok_or(MachineError::NotVerified)
}

fn look(txn: &mut Txn<'_, '_>, mut record: DehydrationRecord) -> Result<(), MachineError> {
    if record.stage == DehydrationStage::Upload {
        txn.delete::<DehydratedUploadRecord>(&Only);
    }
    record.stage = DehydrationStage::Look;
    (record.misses, record.events, record.room_keys, record.outcome) = (0, 0, 0, None);
    txn.put(&Only, &record);
    txn.answered(NAME)?;
    outdate_own_list(txn)
}

/// Whether the own devices are being asked for: what is ours is not known before.
fn own_list_is_outdated(txn: &Txn<'_, '_>) -> Result<bool, StoreError> {
    txn.contains::<OutdatedUserRecord>(&UserKey { user_id: txn.own().user_id.clone() })
}

/// The own devices are asked for anew before they are relied on.
fn outdate_own_list(txn: &mut Txn<'_, '_>) -> Result<(), MachineError> {
    let user = UserKey { user_id: txn.own().user_id.clone() };
    let tracked: TrackedUserRecord = txn.load(&user)?.unwrap_or_default();
    devices::mark_outdated(txn, &user, tracked)
}

/// The app wants no dehydrated device: whichever there is goes.
pub(crate) fn stop(txn: &mut Txn<'_, '_>) -> Result<(), MachineError> {
    let record: DehydrationRecord = txn.load(&Only)?.unwrap_or_default();
    end_work(txn, record.stage)?;
    txn.answered(NAME)?;
    let record = DehydrationRecord { enabled: false, stage: DehydrationStage::Delete, ..record };
    Ok(txn.put_changed(&Only, &record)?)
}

/// Wipes what is under way.
fn end_work(txn: &mut Txn<'_, '_>, stage: DehydrationStage) -> Result<(), MachineError> {
    match stage {
        DehydrationStage::Read => rehydration::wipe(txn),
        DehydrationStage::Upload => {
            txn.delete::<DehydratedUploadRecord>(&Only);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The own identity is another one, or the private keys have come: the device may have to be signed anew.
pub(crate) fn look_again(txn: &mut Txn<'_, '_>) -> Result<(), MachineError> {
    if let Some(record) = txn.load::<DehydrationRecord>(&Only)?.filter(|record| record.enabled) {
        txn.put_changed(&Only, &DehydrationRecord { look_at: Timestamp::default(), ..record })?;
    }
    Ok(())
}

/// Looks after the device: replaces it in time, and takes notice if somebody else has replaced or removed it.
pub(crate) fn advance(
    txn: &mut Txn<'_, '_>,
    hot: &Hot,
    policy: &Policy,
) -> Result<(), MachineError> {
    let Some(mut record) = txn.load::<DehydrationRecord>(&Only)? else { return Ok(()) };
    let idle = record.stage == DehydrationStage::Idle;
    if !policy.dehydration && (record.enabled || !idle && record.stage != DehydrationStage::Delete)
    {
        return stop(txn);
    }
    // It may have been accepted before this process began: the same keys are not offered twice.
    if record.stage == DehydrationStage::Upload
        && let Some(upload) = txn.load::<DehydratedUploadRecord>(&Only)?
        && upload.asked
        && hot.uploading.as_ref() != Some(&upload.device_id)
    {
        upload::remake(txn, &mut record)?;
        txn.put(&Only, &record);
        return Ok(());
    }
    let now = txn.cx.now;
    let latest = now.saturating_add(LOOK_INTERVAL);
    // A time further ahead comes from a clock that was wrong.
    if !idle || !record.enabled || now < record.look_at && record.look_at <= latest {
        return Ok(());
    }
    if own_list_is_outdated(txn)? {
        return Ok(()); // looked at once it is known
    }
    let own = txn.own();
    record.look_at = latest;
    let mut listed = false;
    let mut ours = false;
    let mut other = None;
    for (key, row) in txn.list::<DeviceRecord>(&DeviceKey::of(&own.user_id))? {
        let is_it = record.device_id.as_ref() == Some(&key.device_id);
        listed |= is_it;
        if row.device.dehydrated && is_ours(txn, &row.device)? {
            ours |= is_it;
            other = if is_it { other } else { Some(()) };
        }
    }
    let is_fresh = record.since <= now && now < record.since.saturating_add(WEEK);
    match other {
        _ if ours => {
            record.misses = 0;
            if !is_fresh {
                upload::make(txn, &mut record)?;
            }
        }
        Some(_) => {
            // Another of our devices keeps it, too: under the key that is here, if all is well.
            (record.stage, record.misses) = (DehydrationStage::Check, 0);
        }
        None if listed || record.device_id.is_none() => {
            // It is signed by an identity that is ours no more, or was never made.
            upload::make(txn, &mut record)?;
        }
        None => {
            record.misses = record.misses.saturating_add(1);
            if record.misses >= MAX_MISSES {
                return give_up(txn, record, "M_NOT_FOUND");
            }
            outdate_own_list(txn)?;
        }
    }
    txn.put(&Only, &record);
    Ok(())
}

/// Whether a device is what the verified identity of this user has signed.
fn is_ours(txn: &Txn<'_, '_>, device: &herold_trust::Device) -> Result<bool, MachineError> {
    let identity = own_identity::own_identity(txn)?;
    let master = own_identity::verified_master(txn)?;
    Ok(herold_trust::is_verified(device, identity.as_ref(), master.as_ref())
        && !key_requests::is_blocked(txn, device)?)
}

/// The request that is due.
pub(crate) fn request(
    snapshot: &dyn Snapshot,
    now: Timestamp,
) -> Result<Option<Outgoing>, MachineError> {
    let Some(record) = snapshot.load::<DehydrationRecord>(&Only)? else { return Ok(None) };
    if record.stage == DehydrationStage::Idle || !is_allowed(snapshot, NAME, now)? {
        return Ok(None);
    }
    let corrupt = || StoreError::Corrupt("a dehydrated device under way".to_owned());
    let endpoint = |method| HttpRequest::new(method, API, &[NAME]);
    let (http, sent) = match record.stage {
        DehydrationStage::Idle => return Ok(None),
        DehydrationStage::Look | DehydrationStage::Check => {
            let own: AccountRecord = snapshot.load(&Only)?.ok_or(MachineError::NoAccount)?;
            // Who is ours is known first.
            if snapshot.load::<OutdatedUserRecord>(&UserKey { user_id: own.user_id })?.is_some() {
                return Ok(None);
            }
            (endpoint(Method::Get), DehydrationRequest::Look)
        }
        DehydrationStage::Read => {
            let reading: RehydrationRecord = snapshot.load(&Only)?.ok_or_else(corrupt)?;
            rehydration::request(API, reading)
        }
        DehydrationStage::Upload => {
            let upload: DehydratedUploadRecord = snapshot.load(&Only)?.ok_or_else(corrupt)?;
            let sent = DehydrationRequest::Upload { device_id: upload.device_id };
            (endpoint(Method::Put).json(upload.body), sent)
        }
        DehydrationStage::Delete => (endpoint(Method::Delete), DehydrationRequest::Delete),
    };
    Ok(Some(Outgoing {
        id: RequestId(NAME.to_owned()),
        http,
        kind: RequestKind::Dehydration { sent },
    }))
}

/// When the device is to be looked after next.
pub(crate) fn next_timeout(snapshot: &dyn Snapshot) -> Result<Option<Timestamp>, MachineError> {
    let record: Option<DehydrationRecord> = snapshot.load(&Only)?;
    let record = record.filter(|record| record.enabled && record.stage == DehydrationStage::Idle);
    Ok(record.map(|record| record.look_at))
}

/// Takes the answer of a request.
pub(crate) fn handle_answer(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    policy: &Policy,
    sent: &DehydrationRequest,
    answer: Answer<'_>,
) -> Result<(), MachineError> {
    let Some(record) = txn.load::<DehydrationRecord>(&Only)? else { return Ok(()) };
    match (sent, record.stage) {
        (DehydrationRequest::Look, DehydrationStage::Look) => {
            rehydration::handle_found(txn, policy, record, answer)
        }
        (DehydrationRequest::Look, DehydrationStage::Check) => handle_checked(txn, record, answer),
        (DehydrationRequest::Page { .. }, DehydrationStage::Read) => {
            rehydration::handle_page(txn, hot, policy, record, sent, answer)
        }
        (DehydrationRequest::Upload { device_id }, DehydrationStage::Upload) => {
            upload::handle_answer(txn, record, device_id, answer)
        }
        (DehydrationRequest::Delete, DehydrationStage::Delete) => {
            handle_deleted(txn, record, answer)
        }
        _ => Ok(()), // something else is under way by now
    }
}

/// Whether the server does not know of dehydrated devices at all.
fn is_unsupported(answer: &Answer<'_>) -> bool {
    matches!(answer, Answer::Response { status: 404 | 405, .. })
        && answer.errcode() != "M_NOT_FOUND"
}

/// Takes the device that another of our devices has made: it is kept if the key that is here opens it. Else nobody would
/// open what this device makes, or this device not what the other one makes: the app is told.
fn handle_checked(
    txn: &mut Txn<'_, '_>,
    mut record: DehydrationRecord,
    answer: Answer<'_>,
) -> Result<(), MachineError> {
    if own_list_is_outdated(txn)? {
        return Ok(()); // asked again once it is known who is ours
    }
    record.stage = DehydrationStage::Idle;
    let found = answer.success().filter(|body| body.len() <= rehydration::MAX_DEVICE);
    let Some(body) = found else {
        // Whatever it is, it is looked at again.
        txn.failed(NAME, answer.retry_after())?;
        txn.put(&Only, &record);
        return Ok(());
    };
    match rehydration::open(txn, body)? {
        Ok(opened) => {
            txn.answered(NAME)?;
            (record.device_id, record.since) = (Some(opened.device_id), txn.cx.now);
        }
        Err(RehydrationRefusal::WrongKey) => return give_up(txn, record, WRONG_KEY),
        Err(_) => {
            txn.failed(NAME, None)?;
            outdate_own_list(txn)?;
        }
    }
    txn.put(&Only, &record);
    Ok(())
}

fn handle_deleted(
    txn: &mut Txn<'_, '_>,
    record: DehydrationRecord,
    answer: Answer<'_>,
) -> Result<(), MachineError> {
    let is_gone =
        answer.success().is_some() || answer.errcode() == "M_NOT_FOUND" || is_unsupported(&answer);
    if !is_gone {
        txn.failed(NAME, answer.retry_after())?;
        return Ok(());
    }
    txn.answered(NAME)?;
    let stage = DehydrationStage::Idle;
    txn.put(&Only, &DehydrationRecord { device_id: None, stage, ..record });
    outdate_own_list(txn)
}

/// There is to be no such device any more: the server has none, or takes none.
fn give_up(
    txn: &mut Txn<'_, '_>,
    record: DehydrationRecord,
    errcode: &str,
) -> Result<(), MachineError> {
    end_work(txn, record.stage)?;
    txn.answered(NAME)?;
    let stage = DehydrationStage::Idle;
    txn.put(&Only, &DehydrationRecord { enabled: false, device_id: None, stage, ..record });
    Ok(txn.notice(Notice::DehydrationStopped { errcode: errcode.to_owned() })?)
}
