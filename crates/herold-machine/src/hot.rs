//! [`Hot`]: live objects, so that they need not be made again for each message.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use herold_crypto::{
    Ed25519PublicKey, InboundGroupSession, OlmSession, OutboundGroupSession, SessionId,
    ed25519_from_base64,
};
use herold_store::{
    Changed, RecordKey as _, StoreError, Table,
    records::{
        InboundSessionKey, InboundSessionRecord, OlmSessionKey, OlmSessionRecord, Only,
        OutboundSessionRecord, RoomKey, RoomSessionKey,
    },
};
use herold_trust::{Device, parse_sender_device_keys};
use ruma::{OwnedDeviceId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::{
    MachineError,
    history_import::Import,
    txn::{Left, Txn},
    workers::{InTurn, Outcome, Workers},
};

/// As many live inbound sessions are kept in memory.
const INBOUND_CACHE: usize = 1000;
/// A longer description of a device is not taken.
const MAX_DEVICE_TEXT: usize = 65_536;
/// As many live Olm sessions, and as many verified `sender_device_keys`.
const OLM_CACHE: usize = 200;

/// Live objects, kept so that they need not be made again for each message. Dropping them loses
/// nothing.
pub(crate) struct Hot {
    pub(crate) left: Left,
    pub(crate) workers: Arc<dyn Workers>,
    inbound: HashMap<RoomSessionKey, Vec<Claim>>,
    /// The sessions that have something decrypted ahead.
    ahead: Vec<RoomSessionKey>,
    outbound: BTreeMap<OwnedRoomId, Outbound>,
    /// Live Olm sessions, each with the record it is the same as.
    olm: HashMap<OlmSessionKey, (Zeroizing<Vec<u8>>, OlmSession)>,
    /// Ed25519 keys by their text: to find that a text is one costs as much as half a signature.
    ed25519: BTreeMap<String, Ed25519PublicKey>,
    /// What senders have said of their devices, word by word, and was verified.
    sender_devices: BTreeMap<(OwnedUserId, String), Device>,
    /// Counts the live room keys that were made from records.
    restored: u64,
    /// A bundle of room keys that is being taken in.
    pub(crate) history: Option<Import>,
    /// The dehydrated device whose upload this process has asked for.
    pub(crate) uploading: Option<OwnedDeviceId>,
}

/// A live inbound session as one device has claimed it.
pub(crate) struct Claim {
    pub(crate) record: InboundSessionRecord,
    pub(crate) session: InboundGroupSession,
    /// What came of messages that were decrypted ahead, until they are asked for.
    pub(crate) ahead: HashMap<String, Outcome>,
}

impl Claim {
    /// Decrypts a message, or answers what came of that before.
    pub(crate) fn decrypt(&mut self, ciphertext: &str) -> Outcome {
        match self.ahead.remove(ciphertext) {
            Some(outcome) => outcome,
            None => self.session.decrypt(ciphertext),
        }
    }
}

/// A live outbound session, and the index up to which the store has reserved it.
pub(crate) struct Outbound {
    pub(crate) session: OutboundGroupSession,
    pub(crate) session_id: SessionId,
    pub(crate) reserved_index: u32,
}

impl Hot {
    /// Nothing kept yet; arithmetic is done by these workers.
    pub(crate) fn new(workers: Arc<dyn Workers>) -> Self {
        Self {
            left: Left::default(),
            workers,
            inbound: HashMap::new(),
            ahead: Vec::new(),
            outbound: BTreeMap::new(),
            olm: HashMap::new(),
            ed25519: BTreeMap::new(),
            sender_devices: BTreeMap::new(),
            restored: 0,
            history: None,
            uploading: None,
        }
    }

    /// Drops everything that is kept.
    pub(crate) fn clear(&mut self) {
        *self = Self { restored: self.restored, ..Self::new(Arc::clone(&self.workers)) };
    }

    /// Drops what was made from rows that others have changed. What was verified of a text stays: it depends on no row.
    pub(crate) fn forget_changed(&mut self, changed: &Changed) {
        if changed.touches(Table::Account, &Only.to_bytes()) {
            self.left.account = None;
        }
        self.inbound.retain(|key, _| {
            let claims = InboundSessionKey::of(&key.room_id, &key.session_id);
            !changed.touches_prefix(Table::InboundSession, &claims)
        });
        self.outbound.retain(|room_id, _| {
            let key = RoomKey { room_id: room_id.clone() };
            !changed.touches(Table::OutboundSession, &key.to_bytes())
        });
        self.olm.retain(|key, _| !changed.touches(Table::OlmSession, &key.to_bytes()));
    }

    /// How many live room keys were made from records so far.
    pub(crate) fn restored(&self) -> u64 {
        self.restored
    }

    /// The live sessions of a room key, one for each device that has claimed it; none if the key has not come.
    pub(crate) fn inbound(
        &mut self,
        txn: &Txn<'_, '_>,
        key: &RoomSessionKey,
    ) -> Result<&mut [Claim], MachineError> {
        if !self.inbound.contains_key(key) {
            let prefix = InboundSessionKey::of(&key.room_id, &key.session_id);
            let mut claims = Vec::new();
            for (_, record) in txn.list::<InboundSessionRecord>(&prefix)? {
                let session = crate::room_keys::restore(&record)?;
                self.restored = self.restored.saturating_add(1);
                claims.push(Claim { record, session, ahead: HashMap::new() });
            }
            if claims.is_empty() {
                return Ok(&mut []);
            }
            if self.inbound.len() >= INBOUND_CACHE {
                self.inbound.clear();
            }
            self.inbound.insert(key.clone(), claims);
        }
        Ok(self.inbound.get_mut(key).map_or(&mut [], Vec::as_mut_slice))
    }

    /// The live session that [`Hot::inbound`] has last answered for this key, if there is one claim to it.
    pub(crate) fn only_claim(&mut self, key: &RoomSessionKey) -> Option<&mut Claim> {
        match self.inbound.get_mut(key)?.as_mut_slice() {
            [only] => Some(only),
            _ => None,
        }
    }

    /// Notes the sessions that have something decrypted ahead.
    pub(crate) fn note_ahead(&mut self, keys: Vec<RoomSessionKey>) {
        self.ahead.extend(keys);
    }

    /// What was decrypted ahead and not asked for in the same step goes: it is plaintext.
    pub(crate) fn forget_ahead(&mut self) {
        for key in std::mem::take(&mut self.ahead) {
            for claim in self.inbound.get_mut(&key).into_iter().flatten() {
                claim.ahead = HashMap::new();
            }
        }
    }

    pub(crate) fn forget_inbound(&mut self, key: &RoomSessionKey) {
        self.inbound.remove(key);
    }

    /// The live outbound session of `record`. After a restart it begins at the reserved index, which no
    /// message can have used.
    pub(crate) fn outbound(
        &mut self,
        room_id: &RoomId,
        record: &OutboundSessionRecord,
    ) -> Result<&mut OutboundGroupSession, MachineError> {
        let known = self.outbound.get(room_id).is_some_and(|live| {
            live.session_id == record.session_id && live.reserved_index == record.reserved_index
        });
        if !known {
            let session = OutboundGroupSession::from_record(record.pickle.as_slice())
                .map_err(|_| StoreError::Corrupt("an outbound session".to_owned()))?;
            self.restored = self.restored.saturating_add(1);
            self.set_outbound(room_id, record, session);
        }
        let live = self.outbound.get_mut(room_id).ok_or(MachineError::UnknownRoom)?;
        Ok(&mut live.session)
    }

    pub(crate) fn forget_outbound(&mut self, room_id: &RoomId) {
        self.outbound.remove(room_id);
    }

    /// The live outbound session that [`Hot::outbound`] has last looked at.
    pub(crate) fn live_outbound(&mut self, room_id: &RoomId) -> Option<&mut Outbound> {
        self.outbound.get_mut(room_id)
    }

    /// The live Olm session of `record`. Whoever takes it puts it back with [`Hot::keep_olm`], or it is made
    /// anew from the next record.
    pub(crate) fn take_olm(
        &mut self,
        key: &OlmSessionKey,
        record: &OlmSessionRecord,
    ) -> Option<OlmSession> {
        let (pickle, session) = self.olm.remove(key)?;
        (*pickle == record.pickle.as_slice()).then_some(session)
    }

    pub(crate) fn keep_olm(
        &mut self,
        key: &OlmSessionKey,
        record: &OlmSessionRecord,
        session: OlmSession,
    ) {
        if self.olm.len() >= OLM_CACHE {
            self.olm.clear();
        }
        let pickle = Zeroizing::new(record.pickle.as_slice().to_vec());
        self.olm.insert(key.clone(), (pickle, session));
    }

    /// The Ed25519 key in base64, if it is one.
    pub(crate) fn ed25519(&mut self, text: &str) -> Option<Ed25519PublicKey> {
        if let Some(key) = self.ed25519.get(text) {
            return Some(*key);
        }
        let key = ed25519_from_base64(text).ok()?;
        if self.ed25519.len() >= OLM_CACHE {
            self.ed25519.clear();
        }
        self.ed25519.insert(text.to_owned(), key);
        Some(key)
    }

    /// The device that `raw`, a `sender_device_keys` object, describes, if its signature is right and it is
    /// the sender's. The answer depends on nothing but the two, so it is kept.
    pub(crate) fn sender_device(&mut self, sender: &UserId, raw: &RawValue) -> Option<&Device> {
        if raw.get().len() > MAX_DEVICE_TEXT {
            return None;
        }
        let place = (sender.to_owned(), raw.get().to_owned());
        if !self.sender_devices.contains_key(&place) {
            let device = parse_sender_device_keys(sender, &crate::wire::parse(raw)?).ok()?;
            if self.sender_devices.len() >= OLM_CACHE {
                self.sender_devices.clear();
            }
            self.sender_devices.insert(place.clone(), device);
        }
        self.sender_devices.get(&place)
    }

    pub(crate) fn set_outbound(
        &mut self,
        room_id: &RoomId,
        record: &OutboundSessionRecord,
        session: OutboundGroupSession,
    ) {
        let live = Outbound {
            session,
            session_id: record.session_id.clone(),
            reserved_index: record.reserved_index,
        };
        self.outbound.insert(room_id.to_owned(), live);
    }
}

impl Default for Hot {
    fn default() -> Self {
        Self::new(Arc::new(InTurn))
    }
}
