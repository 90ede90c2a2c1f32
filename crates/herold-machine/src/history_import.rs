//! Taking the room keys out of a bundle, some at a time, so that no step is a long one.
//!
//! What is left of an import is in memory only. If it is lost, the record of the bundle is still there: it is fetched
//! again, and the keys that are known already say nothing new.

use herold_crypto::{ExportedSession, SecretBytes, SessionId};
use herold_store::records::{
    HistoryBundleKey, HistoryBundleRecord, InboundSessionKey, InboundSessionRecord, RoomSessionKey,
    WithheldRecord,
};
use herold_trust::{KeySource, WithheldCode};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{
    Imported, MachineError, Notice, RestoredKey, history,
    hot::Hot,
    room_keys::{self, Taken},
    txn::Txn,
    wire::{WithheldContent, parse},
};

/// As many room keys are taken in one step.
const CHUNK: usize = 500;
/// As many notes of what is not shared are taken from one bundle.
const MAX_NOTES: usize = 200;
/// A bundle with more entries is not one of room keys: its largest size leaves no room for so many.
const MAX_ENTRIES: usize = 200_000;

/// An import under way.
pub(crate) struct Import {
    key: HistoryBundleKey,
    /// The bundle as it was when it was asked for.
    bundle: HistoryBundleRecord,
    /// The bundle's text. Secret.
    plain: SecretBytes,
    /// Where in it the room keys are, those to be taken next last.
    keys: Vec<std::ops::Range<usize>>,
    notes: Vec<std::ops::Range<usize>>,
    sum: Imported,
}

impl Import {
    /// Finds the room keys in a bundle's text. `None` if it is no bundle.
    pub(crate) fn open(
        key: HistoryBundleKey,
        bundle: HistoryBundleRecord,
        plain: Vec<u8>,
    ) -> Option<Self> {
        #[derive(Deserialize)]
        struct Bundle {
            room_keys: Entries,
            #[serde(default)]
            withheld: Entries,
        }
        let plain = SecretBytes::new(plain);
        let start = plain.as_slice().as_ptr() as usize;
        let found: Bundle = serde_json::from_slice(plain.as_slice()).ok()?;
        // Each is a part of the text it was parsed from.
        let place = |(at, length): (usize, usize)| {
            let at = at.saturating_sub(start);
            at..at.saturating_add(length)
        };
        let keys = found.room_keys.0.into_iter().rev().map(place).collect();
        let notes = found.withheld.0.into_iter().take(MAX_NOTES).map(place).collect();
        Some(Self { key, bundle, plain, keys, notes, sum: Imported::default() })
    }
}

/// The addresses and lengths of a list's entries, which are looked at one by one later.
#[derive(Default)]
struct Entries(Vec<(usize, usize)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Entries, A::Error> {
        let mut entries = Vec::new();
        while let Some(raw) = list.next_element::<&RawValue>()? {
            if entries.len() >= MAX_ENTRIES {
                return Err(A::Error::custom("too many entries"));
            }
            entries.push((raw.get().as_ptr() as usize, raw.get().len()));
        }
        Ok(Entries(entries))
    }
}

/// Takes the next room keys of the import under way, if there is one.
pub(crate) fn advance(txn: &mut Txn<'_, '_>, hot: &mut Hot) -> Result<(), MachineError> {
    let Some(mut import) = hot.history.take() else { return Ok(()) };
    // The room was left, or a newer bundle has taken its place.
    if txn.load::<HistoryBundleRecord>(&import.key)?.as_ref() != Some(&import.bundle) {
        return Ok(());
    }
    for _ in 0..CHUNK {
        let Some(place) = import.keys.pop() else { break };
        let raw = import.plain.as_slice().get(place).unwrap_or_default();
        import.sum.count(take(txn, hot, &import.key, raw)?);
    }
    if !import.keys.is_empty() {
        hot.history = Some(import);
        // A step that changes nothing would be taken for the last.
        txn.next_number("history")?;
        return Ok(());
    }
    for place in &import.notes {
        note(txn, &import.key, import.plain.as_slice().get(place.clone()).unwrap_or_default())?;
    }
    history::forget(txn, &import.key.room_id)?;
    let HistoryBundleKey { room_id, user_id, .. } = import.key;
    let Imported { new, known, refused } = import.sum;
    Ok(txn.notice(Notice::HistoryReceived { room_id, user_id, new, known, refused })?)
}

/// Takes one room key. Only the inviter vouches for what it claims.
fn take(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    bundle: &HistoryBundleKey,
    raw: &[u8],
) -> Result<Taken, MachineError> {
    let Ok(shared) = ExportedSession::parse(raw) else { return Ok(Taken::Refused) };
    if shared.room_id != bundle.room_id.as_str() {
        return Ok(Taken::Refused);
    }
    let opened = RestoredKey::open(bundle.room_id.clone(), shared.session_id, &shared.data);
    let Ok(restored) = opened else { return Ok(Taken::Refused) };
    let (key, record) = restored.into_record(KeySource::SharedHistory, txn.cx.now);
    let prefix = InboundSessionKey::of(&key.room_id, &key.session_id);
    let proved_others = |(_, known): &(_, InboundSessionRecord)| {
        known.source == KeySource::Olm && known.sender_key != key.sender_key
    };
    if txn.list::<InboundSessionRecord>(&prefix)?.iter().any(proved_others) {
        return Ok(Taken::Refused); // its owner's key is here
    }
    let record = InboundSessionRecord {
        shared_history: true,
        forwarders: vec![bundle.sender_key],
        shared_by: Some(bundle.user_id.clone()),
        ..record
    };
    room_keys::take(txn, hot, &key, record)
}

/// Takes a note that a room key is not shared with those who come later.
fn note(txn: &mut Txn<'_, '_>, bundle: &HistoryBundleKey, raw: &[u8]) -> Result<(), MachineError> {
    let content = serde_json::from_slice::<Box<RawValue>>(raw).ok();
    let Some(content) = content.and_then(|raw| parse::<WithheldContent>(&raw)) else {
        return Ok(());
    };
    let (Some(room_id), Some(session_id)) = (content.room_id, content.session_id) else {
        return Ok(());
    };
    let ours = room_id == bundle.room_id.as_str() && session_id.len() <= room_keys::MAX_TEXT;
    if !ours || !is_not_shared(&content.code) {
        return Ok(());
    }
    let key =
        RoomSessionKey { room_id: bundle.room_id.clone(), session_id: SessionId::new(session_id) };
    let prefix = InboundSessionKey::of(&key.room_id, &key.session_id);
    if txn.contains::<WithheldRecord>(&key)?
        || !txn.list::<InboundSessionRecord>(&prefix)?.is_empty()
    {
        return Ok(());
    }
    room_keys::forget_oldest_withheld(txn)?;
    let note = WithheldRecord {
        code: WithheldCode::HistoryNotShared.as_str().to_owned(),
        sender: bundle.user_id.clone(),
        received_at: txn.cx.now,
    };
    txn.put(&key, &note);
    Ok(())
}

/// Whether a withheld code says that a key is not for those who come later; also under its name from before it was
/// specified.
pub(crate) fn is_not_shared(code: &str) -> bool {
    code == WithheldCode::HistoryNotShared.as_str()
        || code == "io.element.msc4268.history_not_shared"
}
