//! Room keys out of a backup, a key file or a bundle: checked to be keys, of whomever they are.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use herold_crypto::{
    BackupDecryptionKey, Ed25519PublicKey, EncryptedSessionData, ExportedSession, SecretBytes,
    SessionData, SessionDataError, SessionId,
};
use herold_store::{
    RecordKey as _,
    records::{InboundSessionKey, InboundSessionRecord},
};
use herold_trust::{KeySource, Timestamp};
use ruma::{OwnedRoomId, RoomId};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    MachineError,
    hot::Hot,
    room_keys::{self, Taken},
    txn::Txn,
};

/// What a restore has brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Room keys that are known now and were not, or not so well.
    pub new: usize,
    /// Room keys that say nothing new.
    pub known: usize,
    /// Entries that are damaged, not for this key, or contradict what is known.
    pub refused: usize,
}

impl Imported {
    /// How many entries were looked at.
    #[must_use]
    pub fn total(&self) -> usize {
        self.new + self.known + self.refused
    }

    pub(crate) fn count(&mut self, taken: Taken) {
        match taken {
            Taken::New => self.new += 1,
            Taken::Known => self.known += 1,
            Taken::Refused => self.refused += 1,
        }
    }
}

impl std::ops::AddAssign for Imported {
    fn add_assign(&mut self, other: Self) {
        self.new += other.new;
        self.known += other.known;
        self.refused += other.refused;
    }
}

/// A room key out of a backup, a key file or a bundle. It has the id it was filed under; nothing vouches for what else it
/// claims.
///
/// Secrecy: `Debug` does not show the key, and it is wiped when dropped.
#[derive(Debug)]
pub struct RestoredKey {
    key: InboundSessionKey,
    pickle: SecretBytes,
    first_known_index: u32,
    claimed_ed25519: Option<Ed25519PublicKey>,
    shared_history: bool,
}

impl RestoredKey {
    /// Opens a key that was filed under this room and session. Arithmetic only, and most of what taking a key costs: to be done
    /// wherever there is a processor.
    ///
    /// # Errors
    /// [`SessionDataError`]: it is no session key, or another session's.
    pub fn open(
        room_id: OwnedRoomId,
        session_id: SessionId,
        data: &SessionData,
    ) -> Result<Self, SessionDataError> {
        let session = data.open(&session_id)?;
        Ok(Self {
            pickle: session.to_record(),
            first_known_index: session.first_known_index(),
            key: InboundSessionKey { room_id, session_id, sender_key: data.sender_key },
            claimed_ed25519: data.claimed_ed25519,
            shared_history: data.shared_history,
        })
    }

    /// As [`RestoredKey::open`], of a key file's entry. `None` if it is none.
    #[must_use]
    pub fn from_export(entry: ExportedSession) -> Option<Self> {
        let room_id = OwnedRoomId::try_from(entry.room_id).ok()?;
        Self::open(room_id, entry.session_id, &entry.data).ok()
    }

    /// Puts keys in the order in which stores keep them.
    pub fn sort(keys: &mut [Self]) {
        keys.sort_by_cached_key(|restored| restored.key.to_bytes());
    }

    /// The room it was filed under.
    #[must_use]
    pub fn room_id(&self) -> &RoomId {
        &self.key.room_id
    }

    /// The session's id.
    #[must_use]
    pub fn session_id(&self) -> &SessionId {
        &self.key.session_id
    }

    /// Where it is kept, and what is kept. Nobody is believed to have sent it.
    pub(crate) fn into_record(
        self,
        source: KeySource,
        received_at: Timestamp,
    ) -> (InboundSessionKey, InboundSessionRecord) {
        let record = InboundSessionRecord {
            pickle: self.pickle,
            sender_key: self.key.sender_key,
            sender_ed25519: self.claimed_ed25519,
            sender: None,
            source,
            first_known_index: self.first_known_index,
            shared_history: self.shared_history,
            received_at,
            forwarders: Vec::new(),
            shared_by: None,
        };
        (self.key, record)
    }
}

/// Takes room keys that came out of a backup or a file.
pub(crate) fn import(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    keys: Vec<RestoredKey>,
    source: KeySource,
) -> Result<Imported, MachineError> {
    let prefix = |key: &InboundSessionKey| InboundSessionKey::of(&key.room_id, &key.session_id);
    let mut imported = Imported::default();
    // In order, they lie together, and mostly where nothing is: one look instead of one for each.
    if let (Some(first), Some(last)) = (keys.first(), keys.last()) {
        txn.look_ahead::<InboundSessionRecord>(&prefix(&first.key), &prefix(&last.key))?;
    }
    for restored in keys {
        let (key, record) = restored.into_record(source, txn.cx.now);
        imported.count(room_keys::take(txn, hot, &key, record)?);
    }
    Ok(imported)
}

/// One entry of a downloaded backup.
#[derive(Clone, Debug)]
pub struct BackupEntry<'a> {
    room_id: Arc<OwnedRoomId>,
    session_id: Cow<'a, str>,
    raw: &'a RawValue,
}

impl BackupEntry<'_> {
    /// Decrypts and opens it (`KeyBackupData`). `None` if it is damaged, or not for this key.
    #[must_use]
    pub fn open(&self, key: &BackupDecryptionKey) -> Option<RestoredKey> {
        #[derive(Deserialize)]
        struct Entry<'a> {
            #[serde(borrow)]
            session_data: EncryptedSessionData<'a>,
        }
        let entry: Entry<'_> = serde_json::from_str(self.raw.get()).ok()?;
        let data = key.decrypt(&entry.session_data).ok()?;
        let session_id = SessionId::new(self.session_id.clone().into_owned());
        RestoredKey::open((*self.room_id).clone(), session_id, &data).ok()
    }
}

/// The entries of a download (`GET /room_keys/keys`), and how many rooms cannot be read.
///
/// # Errors
/// [`MachineError::Malformed`] if it is no download at all.
pub fn backup_entries(body: &[u8]) -> Result<(Vec<BackupEntry<'_>>, usize), MachineError> {
    #[derive(Deserialize)]
    struct Rooms<'a> {
        #[serde(borrow)]
        rooms: BTreeMap<Cow<'a, str>, &'a RawValue>,
    }
    let body: Rooms<'_> = serde_json::from_slice(body)
        .map_err(|_| MachineError::Malformed("the contents of a key backup"))?;
    let (mut entries, mut refused) = (Vec::new(), 0);
    for (room_id, raw) in body.rooms {
        let room = OwnedRoomId::try_from(room_id.as_ref()).ok();
        match room.and_then(|room_id| room_entries(&room_id, raw.get().as_bytes()).ok()) {
            Some(found) => entries.extend(found),
            None => refused += 1,
        }
    }
    Ok((entries, refused))
}

/// The entries of one room's download (`GET /room_keys/keys/{roomId}`).
///
/// # Errors
/// [`MachineError::Malformed`] if it is none.
pub fn room_entries<'a>(
    room_id: &RoomId,
    body: &'a [u8],
) -> Result<Vec<BackupEntry<'a>>, MachineError> {
    #[derive(Deserialize)]
    struct Sessions<'a> {
        #[serde(borrow)]
        sessions: BTreeMap<Cow<'a, str>, &'a RawValue>,
    }
    let body: Sessions<'_> = serde_json::from_slice(body)
        .map_err(|_| MachineError::Malformed("the contents of a key backup"))?;
    let room_id = Arc::new(room_id.to_owned());
    let entry = |(session_id, raw)| BackupEntry { room_id: room_id.clone(), session_id, raw };
    Ok(body.sessions.into_iter().map(entry).collect())
}
