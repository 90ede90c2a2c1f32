//! Sharing a room's history with a user who is about to be invited: which room keys, in which form, with which devices
//! (Matrix specification, "Sharing room keys for past messages"; MSC4268).
//!
//! Only on the app's own command: an invitation that the homeserver shows has nobody's history shared. Only keys
//! whose makers have said that later members may have them. Only with devices that the user has cross-signed, whatever the
//! policy allows for what is said from now on: a bundle is all of a room's past (attack N28).

use herold_crypto::{Curve25519PublicKey, EncryptedFile, SecretBytes};
use herold_store::{
    Snapshot, SnapshotExt as _, StoreError,
    records::{
        InboundSessionKey, InboundSessionRecord, Membership, RoomKey, RoomRecord, RoomSessionKey,
        ToDeviceQueueRecord, ToDeviceState, TrackedUserRecord, UserKey,
    },
};
use herold_trust::{
    Device, Identity, IdentityState, KeySource, MEGOLM, Policy, WithheldCode, is_cross_signed,
};
use ruma::{OwnedRoomId, OwnedTransactionId, OwnedUserId, RoomId, UserId};
use serde::Serialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{
    MachineError, Notice, app_to_device, devices, key_backup, share::is_shareable, txn::Txn,
};

/// The type of the event that tells a device of a bundle.
pub(crate) const BUNDLE: &str = "m.room_key_bundle";

/// A bundle of a room's keys in the making: see [`crate::Machine::collect_history`]. Secret.
pub struct HistoryBundle {
    room_id: OwnedRoomId,
    /// Whether the room's history is open to later members now. If not, nothing is collected.
    open: bool,
    /// The text so far, an unclosed list of room keys. Secret.
    text: Zeroizing<Vec<u8>>,
    keys: usize,
    withheld: Vec<Value>,
    /// The claims to the session last read: there may be more.
    claims: Vec<(InboundSessionKey, InboundSessionRecord)>,
    after: Option<InboundSessionKey>,
    done: bool,
}

impl std::fmt::Debug for HistoryBundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HistoryBundle").field("keys", &self.keys).finish_non_exhaustive()
    }
}

/// A room key in a bundle.
#[derive(Serialize)]
struct Entry<'a> {
    algorithm: &'a str,
    room_id: &'a RoomId,
    sender_claimed_keys: Value,
    sender_key: String,
    session_id: &'a str,
    session_key: &'a str,
}

impl HistoryBundle {
    /// An empty one.
    #[must_use]
    pub fn new(room_id: OwnedRoomId) -> Self {
        Self {
            room_id,
            open: true,
            text: Zeroizing::new(br#"{"room_keys":["#.to_vec()),
            keys: 0,
            withheld: Vec::new(),
            claims: Vec::new(),
            after: None,
            done: false,
        }
    }

    /// How many room keys there are in it.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.keys
    }

    /// The bundle, to be encrypted as an attachment. Secret.
    #[must_use]
    pub fn into_text(mut self) -> SecretBytes {
        let end = format!(r#"],"withheld":{}}}"#, Value::Array(self.withheld));
        append(&mut self.text, end.as_bytes());
        SecretBytes::new(std::mem::take(&mut self.text))
    }

    /// Reads the next `limit` rows. Answers whether that was all.
    pub(crate) fn collect(
        &mut self,
        snapshot: &dyn Snapshot,
        limit: usize,
    ) -> Result<bool, MachineError> {
        let room: Option<RoomRecord> = snapshot.load(&RoomKey { room_id: self.room_id.clone() })?;
        self.open = room.is_some_and(|room| is_shareable(room.history_visibility));
        if self.done || !self.open {
            self.done = true;
            return Ok(true);
        }
        let prefix = RoomSessionKey::of(&self.room_id);
        let rows =
            snapshot.list_after::<InboundSessionRecord>(&prefix, self.after.as_ref(), limit)?;
        self.done = rows.len() < limit;
        for (key, record) in rows {
            if self.claims.first().is_some_and(|(first, _)| first.session_id != key.session_id) {
                self.add_session()?;
            }
            self.after = Some(key.clone());
            self.claims.push((key, record));
        }
        if self.done {
            self.add_session()?;
        }
        Ok(self.done)
    }

    /// Adds the session whose claims have all been read.
    fn add_session(&mut self) -> Result<(), MachineError> {
        let claims = std::mem::take(&mut self.claims);
        // Whoever has a key can send it on as its own, and say of it what it likes.
        let shareable = claims.iter().all(|(_, claim)| claim.shared_history);
        let best = claims.into_iter().min_by_key(|(_, claim)| {
            (claim.source != KeySource::Olm, claim.first_known_index, claim.received_at)
        });
        let Some((key, claim)) = best else { return Ok(()) };
        if !shareable {
            self.withhold(key.session_id.as_str(), &claim.sender_key);
            return Ok(());
        }
        let Some(data) = key_backup::session_data(&claim)? else { return Ok(()) };
        let entry = Entry {
            algorithm: MEGOLM,
            room_id: &self.room_id,
            sender_claimed_keys: match data.claimed_ed25519 {
                Some(ed25519) => json!({ "ed25519": ed25519.to_base64() }),
                None => json!({}),
            },
            sender_key: data.sender_key.to_base64(),
            session_id: key.session_id.as_str(),
            session_key: data.session_key.as_str(),
        };
        let mut text = Zeroizing::new(Vec::with_capacity(2048));
        serde_json::to_writer(&mut *text, &entry)
            .map_err(|_| StoreError::Corrupt("a room key".to_owned()))?;
        if self.keys > 0 {
            append(&mut self.text, b",");
        }
        append(&mut self.text, &text);
        self.keys += 1;
        Ok(())
    }

    fn withhold(&mut self, session_id: &str, sender_key: &Curve25519PublicKey) {
        let code = WithheldCode::HistoryNotShared;
        self.withheld.push(json!({
            "algorithm": MEGOLM,
            "code": code.as_str(),
            "reason": code.reason(),
            "room_id": self.room_id,
            "sender_key": sender_key.to_base64(),
            "session_id": session_id,
        }));
    }
}

/// Appends to a secret text. A buffer that grew by itself would leave a copy behind.
fn append(text: &mut Zeroizing<Vec<u8>>, more: &[u8]) {
    let needed = text.len().saturating_add(more.len());
    if needed > text.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity(needed.saturating_mul(2)));
        larger.extend_from_slice(text);
        *text = larger;
    }
    text.extend_from_slice(more);
}

/// Has a user's devices told of a bundle that was uploaded. Answers the id under which it is queued.
pub(crate) fn share(
    txn: &mut Txn<'_, '_>,
    policy: &Policy,
    room_id: &RoomId,
    user_id: &UserId,
    file: &EncryptedFile,
) -> Result<OwnedTransactionId, MachineError> {
    if !policy.share_history {
        return Err(MachineError::PolicyDenied);
    }
    let room: RoomRecord =
        txn.load(&RoomKey { room_id: room_id.to_owned() })?.ok_or(MachineError::UnknownRoom)?;
    if room.membership != Membership::Join {
        return Err(MachineError::NotJoined);
    }
    if room.encryption.is_none() || !is_shareable(room.history_visibility) {
        return Err(MachineError::PolicyDenied);
    }
    if user_id == txn.own().user_id {
        return Err(MachineError::Malformed("a user cannot be invited by oneself"));
    }
    // Of somebody with whom no room is shared no changes are told.
    let user = UserKey { user_id: user_id.to_owned() };
    let tracked: TrackedUserRecord = txn.load(&user)?.unwrap_or_default();
    devices::mark_outdated(txn, &user, tracked)?;
    txn.next_number(devices::GENERATION)?;
    let content = json!({ "room_id": room_id, "file": file.to_json() });
    app_to_device::put(txn, vec![(user_id.to_owned(), None)], BUNDLE, content.to_string(), None)
}

/// Whether a device may be told of a bundle, as far as the rule for room keys does not say.
pub(crate) fn may_be_told(device: &Device, identity: Option<&Identity>) -> bool {
    let violated = identity.map(Identity::state).is_some_and(IdentityState::is_violation);
    is_cross_signed(device, identity) && !violated
}

/// All devices of the user are settled: tells the app.
pub(crate) fn settled(
    txn: &mut Txn<'_, '_>,
    row: &ToDeviceQueueRecord,
) -> Result<(), MachineError> {
    #[derive(serde::Deserialize)]
    struct Content {
        room_id: OwnedRoomId,
    }
    let content: Content = serde_json::from_str(&row.content)
        .map_err(|_| StoreError::Corrupt("a bundle that is shared".to_owned()))?;
    let devices = row.devices.iter().filter(|device| device.state == ToDeviceState::Sent).count();
    let user_id: Option<OwnedUserId> = row.devices.first().map(|device| device.user_id.clone());
    let Some(user_id) = user_id else { return Ok(()) };
    Ok(txn.notice(Notice::HistoryShared { room_id: content.room_id, user_id, devices })?)
}

/// Whether the user's devices are still to be told of a bundle that was shared under this id.
pub(crate) fn is_under_way(
    snapshot: &dyn Snapshot,
    txn_id: &OwnedTransactionId,
) -> Result<bool, MachineError> {
    let rows = snapshot.list::<ToDeviceQueueRecord>(&[], usize::MAX)?;
    Ok(rows.iter().any(|(_, row)| row.txn_id == *txn_id))
}
