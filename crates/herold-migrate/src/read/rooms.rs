//! Room keys, and which rooms are encrypted.

use std::collections::{BTreeMap, BTreeSet};

use herold_crypto::{curve25519_from_base64, ed25519_from_base64};
use herold_machine::Adoption;
use herold_store::records::{InboundSessionKey, InboundSessionRecord};
use herold_trust::{KeySource, MEGOLM};
use ruma::{OwnedRoomId, OwnedUserId};
use serde_json::{Value, json};

use super::{FoundRoomKey, Owners, Reading, people::checked_device};
use crate::{
    Kind, Reason,
    values::{ForeignRoomKey, ForeignRoomSettings, SenderData},
};

impl Reading<'_> {
    pub(super) fn room_keys(&mut self, owners: &Owners) -> Vec<FoundRoomKey> {
        let mut room_keys = Vec::new();
        let query = "SELECT data, session_id, room_id, backed_up FROM inbound_group_session";
        self.table(Kind::RoomKey, query, |reading, columns| {
            match reading.room_key(columns, owners) {
                Ok(found) => {
                    reading.report.take(Kind::RoomKey, 1);
                    reading.report.take(Kind::RoomKeyBackedUp, u64::from(found.backed_up));
                    match found.record.sender {
                        Some(_) => reading.report.take(Kind::RoomKeySender, 1),
                        None => reading.report.leave(Kind::RoomKeySender, Reason::NotAuthentic),
                    }
                    room_keys.push(found);
                }
                Err(reason) => reading.report.leave(Kind::RoomKey, reason),
            }
        });
        room_keys
    }

    fn room_key(
        &self,
        columns: &crate::source::Columns<'_>,
        owners: &Owners,
    ) -> Result<FoundRoomKey, Reason> {
        let [data, id, room, backed_up] = columns else { return Err(Reason::Damaged) };
        let foreign: ForeignRoomKey = self.source.value(data).map_err(|_| Reason::Damaged)?;
        if foreign.algorithm.as_deref().is_some_and(|algorithm| algorithm != MEGOLM) {
            return Err(Reason::Unsupported);
        }
        let ForeignRoomKey { pickle, sender_key, signing_key, sender_data, room_id, .. } = foreign;
        let room_id = OwnedRoomId::try_from(room_id).map_err(|_| Reason::Contradiction)?;
        let sender_key = curve25519_from_base64(&sender_key).map_err(|_| Reason::Contradiction)?;
        let sender_ed25519 =
            signing_key.get("ed25519").and_then(|key| ed25519_from_base64(key).ok());
        let session = pickle.restore().map_err(|_| Reason::Contradiction)?;
        let session_id = session.session_id();
        let filed = |text: &[u8]| self.source.filed("inbound_group_session", text);
        if *id != filed(session_id.as_str().as_bytes()).as_slice()
            || *room != filed(room_id.as_bytes()).as_slice()
        {
            return Err(Reason::Contradiction);
        }
        let sender = if foreign.imported { None } else { sender_ed25519 }.and_then(|ed25519| {
            let keys = (*sender_key.as_bytes(), *ed25519.as_bytes());
            prove_sender(sender_data.as_ref(), keys, owners)
        });
        let record = InboundSessionRecord {
            shared_by: None,
            pickle: session.to_record(),
            sender_key,
            sender_ed25519,
            // How a key came that was not sent by its owner is not written down: of all the ways that prove nothing this
            // is the plainest.
            source: if sender.is_some() { KeySource::Olm } else { KeySource::Imported },
            sender,
            first_known_index: session.first_known_index(),
            shared_history: foreign.shared_history,
            received_at: self.now,
            forwarders: Vec::new(),
        };
        let key = InboundSessionKey { room_id, session_id, sender_key };
        Ok(FoundRoomKey { key, record, backed_up: !backed_up.is_empty() })
    }

    /// Rooms with settings. Their ids are hashed in an encrypted store, and found again by way of the room keys.
    pub(super) fn encrypted_rooms(&mut self, adoption: &mut Adoption, room_keys: &[FoundRoomKey]) {
        let known: BTreeSet<&OwnedRoomId> =
            room_keys.iter().map(|found| &found.key.room_id).collect();
        let source = self.source;
        let by_place: BTreeMap<Vec<u8>, &OwnedRoomId> = known
            .iter()
            .map(|room_id| (source.filed("room_settings", room_id.as_bytes()), *room_id))
            .collect();
        let mut rooms: BTreeMap<OwnedRoomId, Value> = BTreeMap::new();
        let query = "SELECT data, room_id FROM room_settings";
        self.table(Kind::EncryptedRoom, query, |reading, columns| {
            let [data, place] = columns else { return };
            let Ok(settings) = source.value::<ForeignRoomSettings>(data) else {
                return reading.report.leave(Kind::EncryptedRoom, Reason::Damaged);
            };
            let plain = || {
                let text = std::str::from_utf8(place).ok().filter(|_| !source.is_encrypted())?;
                OwnedRoomId::try_from(text).ok()
            };
            match by_place.get(*place).map(|room_id| (*room_id).clone()).or_else(plain) {
                Some(room_id) => {
                    rooms.insert(room_id, content(&settings));
                }
                None => reading.report.leave(Kind::EncryptedRoom, Reason::Unreadable),
            }
        });
        // A room that has a room key is encrypted, whatever a server will say.
        for room_id in known {
            rooms.entry(room_id.clone()).or_insert_with(|| json!({ "algorithm": MEGOLM }));
        }
        self.report.take(Kind::EncryptedRoom, rooms.len() as u64);
        adoption.rooms = rooms.into_iter().collect();
    }
}

/// Whose channel a room key came by: the user whom the old client found, if a device of that user has both keys and has
/// signed them.
fn prove_sender(
    data: Option<&SenderData>,
    keys: ([u8; 32], [u8; 32]),
    owners: &Owners,
) -> Option<OwnedUserId> {
    match data? {
        SenderData::UnknownDevice {} => None,
        SenderData::DeviceInfo { device_keys } => {
            let device = checked_device(device_keys)?;
            let its_keys = (*device.keys.curve25519.as_bytes(), *device.keys.ed25519.as_bytes());
            (its_keys == keys).then_some(device.user_id)
        }
        SenderData::VerificationViolation(known)
        | SenderData::SenderUnverified(known)
        | SenderData::SenderVerified(known)
        | SenderData::SenderKnown(known) => {
            let user_id = OwnedUserId::try_from(known.user_id.as_str()).ok()?;
            owners.get(&keys).is_some_and(|users| users.contains(&user_id)).then_some(user_id)
        }
    }
}

/// The settings as a room's state says them.
fn content(settings: &ForeignRoomSettings) -> Value {
    let mut content = json!({ "algorithm": settings.algorithm });
    if let Some(period) = settings.session_rotation_period {
        content["rotation_period_ms"] =
            u64::try_from(period.as_millis()).unwrap_or(u64::MAX).into();
    }
    if let Some(messages) = settings.session_rotation_period_messages {
        content["rotation_period_msgs"] = messages.into();
    }
    content
}
