//! The history that whoever has invited us shares with us: room keys in a bundle, fetched once the invitation is accepted
//! (Matrix specification, "Sharing room keys for past messages"; MSC4268).
//!
//! A bundle is told of by Olm. It counts if it comes from the user who has invited us, from a device that this user has
//! cross-signed; that is found out when it is used, by what is known of devices then. Nothing is downloaded before
//! this device's user has accepted the invitation and the room shows it, and only for a day after that (attack N28).
//! All of it is in the store, so a kill anywhere is an ordinary restart: at worst a bundle is fetched twice.

use std::time::Duration;

use herold_crypto::EncryptedFile;
use herold_store::{
    Snapshot, SnapshotExt as _,
    records::{
        BackoffRecord, BlockedRecord, DeviceKey, HistoryBundleKey, HistoryBundleRecord,
        IdentityRecord, InvitationRecord, Membership, NameKey, OutdatedUserRecord, RoomKey,
        RoomRecord, TrackedUserRecord, UserKey,
    },
};
use herold_trust::{Identity, IdentityState, Policy, Timestamp, is_cross_signed};
use ruma::{OwnedRoomId, OwnedUserId, RoomId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use crate::{
    Answer, DropReason, HttpRequest, MachineError, Method, Notice, Outgoing, RequestId,
    devices::{self, device_of},
    history_import::{self, Import},
    hot::Hot,
    outgoing::{LARGE_DOWNLOAD, is_allowed},
    request::RequestKind,
    rooms::membership_of,
    to_device::{OlmEvent, dropped},
    txn::Txn,
    wire::{EventHead, parse, parse_section},
};

/// A bundle that comes later after the invitation was accepted is not fetched.
const RECENT: Duration = Duration::from_secs(24 * 3600);
/// A bundle that nobody wanted for so long is forgotten.
const KEEP: Duration = Duration::from_secs(30 * 24 * 3600);
/// As many bundles are kept, and as many of one user.
const MAX_BUNDLES: usize = 200;
const MAX_BUNDLES_OF_USER: usize = 20;
/// The largest bundle that is taken, in bytes: some hundred thousand room keys.
pub(crate) const MAX_BUNDLE: usize = 64 << 20;
/// A download that fails for reasons that may pass is tried so often; one that is refused, or brings something else,
/// only a few times.
const MAX_FAILURES: u32 = 20;
const MAX_REFUSALS: u32 = 3;

/// Why shared history was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum HistoryRefusal {
    /// The homeserver does not have the bundle, or not any more.
    Unavailable,
    /// It is larger than what is taken.
    TooLarge,
    /// What the homeserver has given is not what was shared.
    Changed,
    /// It is not of the shape the specification asks for.
    Malformed,
}

impl HistoryRefusal {
    /// The reason's stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::TooLarge => "too_large",
            Self::Changed => "changed",
            Self::Malformed => "malformed",
        }
    }
}

fn name(room_id: &RoomId) -> String {
    format!("history/{room_id}")
}

/// Notes who has invited us, as the state that the invitation shows says.
pub(crate) fn note_invitation(
    txn: &mut Txn<'_, '_>,
    room_id: &RoomId,
    state: &[Box<RawValue>],
) -> Result<(), MachineError> {
    let own = txn.own();
    let inviter = state.iter().rev().find_map(|raw| {
        let event: EventHead = parse_section(raw)?;
        let ours = event.event_type == "m.room.member"
            && event.state_key.as_deref() == Some(own.user_id.as_str());
        let (membership, _) = membership_of(event.content.as_deref().filter(|_| ours))?;
        let inviter = OwnedUserId::try_from(event.sender.as_str()).ok()?;
        (membership == Membership::Invite && inviter != own.user_id).then_some(inviter)
    });
    let key = RoomKey { room_id: room_id.to_owned() };
    let known: Option<InvitationRecord> = txn.load(&key)?;
    match inviter {
        Some(inviter) if known.as_ref().is_none_or(|known| known.inviter != inviter) => {
            txn.put(&key, &InvitationRecord { inviter, accepted_at: None });
        }
        _ => {}
    }
    Ok(())
}

/// The app's user accepts the invitation, and the history that comes with it. Answers whether any may come.
pub(crate) fn accept(
    txn: &mut Txn<'_, '_>,
    policy: &Policy,
    room_id: &RoomId,
) -> Result<bool, MachineError> {
    let key = RoomKey { room_id: room_id.to_owned() };
    let room: Option<RoomRecord> = txn.load(&key)?;
    let invited = room.is_some_and(|room| room.membership == Membership::Invite);
    let invitation: Option<InvitationRecord> = txn.load(&key)?;
    let Some(invitation) = invitation.filter(|_| invited && policy.accept_history) else {
        return Ok(false);
    };
    // What is known of the inviter's devices decides whether the bundle counts.
    let user = UserKey { user_id: invitation.inviter.clone() };
    let tracked: TrackedUserRecord = txn.load(&user)?.unwrap_or_default();
    devices::mark_outdated(txn, &user, tracked)?;
    txn.next_number(devices::GENERATION)?;
    let accepted_at = Some(txn.cx.now);
    txn.put(&key, &InvitationRecord { accepted_at, ..invitation });
    txn.answered(&name(room_id))?;
    txn.require_full();
    Ok(true)
}

/// Our membership of a room is another one.
pub(crate) fn membership_changed(
    txn: &mut Txn<'_, '_>,
    room_id: &RoomId,
    membership: Membership,
) -> Result<(), MachineError> {
    let key = RoomKey { room_id: room_id.to_owned() };
    let Some(invitation) = txn.load::<InvitationRecord>(&key)? else { return Ok(()) };
    match membership {
        // Without having asked for its history: on another device, or because the homeserver says so.
        Membership::Join if invitation.accepted_at.is_none() => {
            txn.delete::<InvitationRecord>(&key);
        }
        Membership::Join | Membership::Invite => {}
        _ => forget(txn, room_id)?,
    }
    Ok(())
}

/// Nothing of the room's history is waited for any more.
pub(crate) fn forget(txn: &mut Txn<'_, '_>, room_id: &RoomId) -> Result<(), MachineError> {
    let key = RoomKey { room_id: room_id.to_owned() };
    if txn.contains::<InvitationRecord>(&key)? {
        txn.delete::<InvitationRecord>(&key);
    }
    for (bundle, _) in txn.list::<HistoryBundleRecord>(&HistoryBundleKey::for_room(room_id))? {
        txn.delete::<HistoryBundleRecord>(&bundle);
    }
    txn.answered(&name(room_id))?;
    Ok(())
}

/// Forgets what nobody has wanted.
pub(crate) fn sweep(txn: &mut Txn<'_, '_>) -> Result<(), MachineError> {
    let now = txn.cx.now;
    for (key, bundle) in txn.list::<HistoryBundleRecord>(&[])? {
        if bundle.received_at.saturating_add(KEEP) < now {
            txn.delete::<HistoryBundleRecord>(&key);
        }
    }
    for (key, invitation) in txn.list::<InvitationRecord>(&[])? {
        if invitation.accepted_at.is_some_and(|at| at.saturating_add(RECENT) < now) {
            forget(txn, &key.room_id)?;
        }
    }
    Ok(())
}

/// Takes an `m.room_key_bundle` whose Olm payload has been checked: notes where the bundle is, no more.
pub(crate) fn handle_bundle(
    txn: &mut Txn<'_, '_>,
    policy: &Policy,
    event: OlmEvent,
) -> Result<(), MachineError> {
    #[derive(Deserialize)]
    struct Content {
        room_id: String,
        file: Value,
    }
    if !policy.accept_history || event.sender == txn.own().user_id {
        return dropped(txn, Some(event.sender), DropReason::Unsolicited);
    }
    if !event.names_device {
        return dropped(txn, Some(event.sender), DropReason::SenderDeviceKeys);
    }
    let content = parse::<Content>(&event.content).and_then(|content| {
        let room_id = OwnedRoomId::try_from(content.room_id).ok()?;
        Some((room_id, EncryptedFile::parse(&content.file).ok()?))
    });
    let Some((room_id, file)) = content else {
        return dropped(txn, Some(event.sender), DropReason::Malformed);
    };
    let key = HistoryBundleKey { room_id, user_id: event.sender, sender_key: event.sender_key };
    make_room(txn, &key)?;
    txn.answered(&name(&key.room_id))?;
    let record = HistoryBundleRecord {
        sender_ed25519: event.sender_ed25519,
        file: file.to_secret(),
        received_at: txn.cx.now,
        older_endpoint: false,
    };
    txn.put(&key, &record);
    Ok(())
}

/// Anybody can send bundles, for any room: no more than some are kept. Those that are waited for stay.
fn make_room(txn: &mut Txn<'_, '_>, new: &HistoryBundleKey) -> Result<(), MachineError> {
    let mut known = txn.list::<HistoryBundleRecord>(&[])?;
    known.retain(|(key, _)| key != new);
    let of_user = |key: &HistoryBundleKey| key.user_id == new.user_id;
    if known.iter().filter(|(key, _)| of_user(key)).count() >= MAX_BUNDLES_OF_USER {
        known.retain(|(key, _)| of_user(key));
    } else if known.len() < MAX_BUNDLES {
        return Ok(());
    }
    let mut oldest = None;
    for (key, bundle) in known {
        let room = RoomKey { room_id: key.room_id.clone() };
        let invitation: Option<InvitationRecord> = txn.load(&room)?;
        let wanted = invitation.is_some_and(|invitation| invitation.inviter == key.user_id);
        let this = (wanted, bundle.received_at, key);
        if oldest.as_ref().is_none_or(|oldest| this < *oldest) {
            oldest = Some(this);
        }
    }
    if let Some((_, _, key)) = oldest {
        txn.delete::<HistoryBundleRecord>(&key);
    }
    Ok(())
}

/// Whether the invitation was accepted, and not too long ago. A time ahead comes from a clock that was wrong.
fn is_wanted(invitation: &InvitationRecord, now: Timestamp) -> bool {
    invitation
        .accepted_at
        .is_some_and(|at| at <= now.saturating_add(RECENT) && now < at.saturating_add(RECENT))
}

/// Whether the bundle's sender is a device that its owner vouches for, as far as is known now.
fn is_trusted(
    load: &dyn Snapshot,
    key: &HistoryBundleKey,
    bundle: &HistoryBundleRecord,
) -> Result<bool, MachineError> {
    let device = device_of(&load, &key.user_id, &key.sender_key, &bundle.sender_ed25519)?;
    let Some(device) = device.filter(|device| !device.dehydrated) else { return Ok(false) };
    let user = UserKey { user_id: key.user_id.clone() };
    let identity = load.load::<IdentityRecord>(&user)?.map(|record| record.identity);
    let violated = identity.as_ref().map(Identity::state).is_some_and(IdentityState::is_violation);
    let place = DeviceKey { user_id: device.user_id.clone(), device_id: device.device_id.clone() };
    let blocked = load.load::<BlockedRecord>(&place)?.is_some();
    Ok(is_cross_signed(&device, identity.as_ref()) && !violated && !blocked)
}

/// The bundle that is to be fetched for a room: the newest that counts.
fn wanted(
    load: &dyn Snapshot,
    room: &RoomKey,
    invitation: &InvitationRecord,
    now: Timestamp,
) -> Result<Option<(HistoryBundleKey, HistoryBundleRecord)>, MachineError> {
    let joined = load
        .load::<RoomRecord>(room)?
        .is_some_and(|room| room.membership == Membership::Join && room.encryption.is_some());
    let user = UserKey { user_id: invitation.inviter.clone() };
    if !joined || !is_wanted(invitation, now) || load.load::<OutdatedUserRecord>(&user)?.is_some() {
        return Ok(None);
    }
    let prefix = HistoryBundleKey::of(&room.room_id, &invitation.inviter);
    let mut best: Option<(HistoryBundleKey, HistoryBundleRecord)> = None;
    for (key, bundle) in load.list::<HistoryBundleRecord>(&prefix, usize::MAX)? {
        let newer = best.as_ref().is_none_or(|(_, best)| best.received_at < bundle.received_at);
        if newer && is_trusted(load, &key, &bundle)? {
            best = Some((key, bundle));
        }
    }
    Ok(best)
}

/// The next download, one at a time.
pub(crate) fn request(
    snapshot: &dyn Snapshot,
    now: Timestamp,
) -> Result<Option<Outgoing>, MachineError> {
    for (room, invitation) in snapshot.list::<InvitationRecord>(&[], usize::MAX)? {
        let name = name(&room.room_id);
        if invitation.accepted_at.is_none() || !is_allowed(snapshot, &name, now)? {
            continue;
        }
        let Some((key, sent)) = wanted(snapshot, &room, &invitation, now)? else { continue };
        let Some((server, media)) = file_of(&sent).as_ref().and_then(|file| {
            let (server, media) = file.url.strip_prefix("mxc://")?.split_once('/')?;
            Some((server.to_owned(), media.to_owned()))
        }) else {
            continue;
        };
        let prefix = if sent.older_endpoint {
            "/_matrix/media/v3/download"
        } else {
            "/_matrix/client/v1/media/download"
        };
        let mut http =
            HttpRequest::new(Method::Get, prefix, &[&server, &media]).timeout(LARGE_DOWNLOAD);
        http.authenticated = !sent.older_endpoint;
        return Ok(Some(Outgoing {
            id: RequestId(name),
            http,
            kind: RequestKind::History { key, sent },
        }));
    }
    Ok(None)
}

/// The description of the bundle. It was checked when it was stored.
fn file_of(bundle: &HistoryBundleRecord) -> Option<EncryptedFile> {
    EncryptedFile::parse(&serde_json::from_str(bundle.file.as_str()).ok()?).ok()
}

/// Takes what came of a download.
pub(crate) fn handle_download(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    key: &HistoryBundleKey,
    sent: &HistoryBundleRecord,
    answer: Answer<'_>,
) -> Result<(), MachineError> {
    let room = RoomKey { room_id: key.room_id.clone() };
    let invitation: Option<InvitationRecord> = txn.load(&room)?;
    // The same has to hold as when it was asked for: the room may have been left, the device removed meanwhile.
    let now = txn.cx.now;
    let still = match invitation {
        Some(invitation) => wanted(txn.snapshot(), &room, &invitation, now)?,
        None => None,
    };
    if still.as_ref().is_none_or(|(place, bundle)| place != key || bundle != sent) {
        return Ok(());
    }
    if answer.is_over_limit() {
        return refuse(txn, key, HistoryRefusal::TooLarge);
    }
    let Some(body) = answer.success() else {
        if answer.is_unrecognised() && !sent.older_endpoint {
            txn.put(key, &HistoryBundleRecord { older_endpoint: true, ..sent.clone() });
            return Ok(());
        }
        let most = if answer.is_transient() { MAX_FAILURES } else { MAX_REFUSALS };
        return fail(txn, key, answer.retry_after(), most, HistoryRefusal::Unavailable);
    };
    if body.len() > MAX_BUNDLE {
        return refuse(txn, key, HistoryRefusal::TooLarge);
    }
    let Some(file) = file_of(sent) else {
        return refuse(txn, key, HistoryRefusal::Malformed);
    };
    let Ok(plain) = herold_crypto::decrypt_attachment(body, &file) else {
        // Another try may bring the right one.
        return fail(txn, key, None, MAX_REFUSALS, HistoryRefusal::Changed);
    };
    match Import::open(key.clone(), sent.clone(), plain) {
        Some(import) => {
            hot.history = Some(import);
            history_import::advance(txn, hot)
        }
        None => refuse(txn, key, HistoryRefusal::Malformed),
    }
}

/// Counts a failure; after so many the bundle is given up.
fn fail(
    txn: &mut Txn<'_, '_>,
    key: &HistoryBundleKey,
    retry_after: Option<u64>,
    most: u32,
    reason: HistoryRefusal,
) -> Result<(), MachineError> {
    let name = name(&key.room_id);
    txn.failed(&name, retry_after)?;
    let failures = txn.load::<BackoffRecord>(&NameKey { name })?.map_or(0, |limit| limit.failures);
    if failures >= most { refuse(txn, key, reason) } else { Ok(()) }
}

/// Gives a bundle up. Another one may still come.
fn refuse(
    txn: &mut Txn<'_, '_>,
    key: &HistoryBundleKey,
    reason: HistoryRefusal,
) -> Result<(), MachineError> {
    txn.delete::<HistoryBundleRecord>(key);
    txn.answered(&name(&key.room_id))?;
    let (room_id, user_id) = (key.room_id.clone(), key.user_id.clone());
    Ok(txn.notice(Notice::HistoryRefused { room_id, user_id, reason })?)
}
