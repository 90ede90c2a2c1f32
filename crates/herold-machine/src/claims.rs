//! Who claims a Megolm session, whom an event under it may be attributed to, and how many claims are kept.
//!
//! Every member of a room has the room key and can send it on as its own. So what was received is kept for
//! each claimant, and an event is decrypted with the claim of its own sender only: who comes first with
//! somebody else's key gains nothing by it, and takes nothing away (attacks N13 and N24).

use std::collections::BTreeSet;

use herold_crypto::SessionId;
use herold_store::records::{
    EventKey, EventRecord, InboundSessionKey, InboundSessionRecord, MegolmIndexKey,
    MegolmIndexRecord, MemberKey, MemberRecord, Membership, WaitingKey, WaitingRecord,
};
use herold_trust::KeySource;
use ruma::{OwnedUserId, RoomId, UserId};

use crate::{
    MachineError,
    devices::{DeviceLookup, device_of},
    room_keys::restore,
    txn::{Row, Txn},
    wire::{EventHead, MegolmContent, parse},
};

/// As many claims to one session are kept.
const MAX_CLAIMS: usize = 8;
/// As many of them may be of one user's devices.
const MAX_CLAIMS_OF_USER: usize = 2;
/// As many events are looked at for who has sent them.
const MAX_EVENTS: usize = 2000;
/// As many ciphertexts are tried at once, of each sender where there are several.
const MAX_TRIES: usize = 50;

/// How well a claim fits an event's sender; the first is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    /// It came by Olm from a device in the sender's list.
    KnownDevice,
    /// It came by Olm in the sender's name, from a device that is not in the list, or not yet.
    UnknownDevice,
    /// It was passed on, and names a device in the sender's list.
    NamesDevice,
    /// It was passed on, and nobody else has proved a claim.
    Unproved,
}

/// The claims that an event of `sender` may be decrypted with, best first, by their place in `claims`.
pub(crate) fn fitting(
    load: &dyn DeviceLookup,
    claims: &[&InboundSessionRecord],
    sender: &UserId,
) -> Result<Vec<usize>, MachineError> {
    let proved = |claim: &InboundSessionRecord| claim.source == KeySource::Olm;
    let mine = |claim: &InboundSessionRecord| claim.sender.as_deref() == Some(sender);
    if let [only] = claims
        && (!proved(only) || mine(only))
    {
        return Ok(vec![0]); // no need to look devices up
    }
    let any_proved = claims.iter().any(|claim| proved(claim));
    let mut fitting = Vec::new();
    for (place, claim) in claims.iter().enumerate() {
        if proved(claim) && !mine(claim) {
            continue;
        }
        let fit = match (proved(claim), is_backed(load, sender, claim)?) {
            (true, true) => Fit::KnownDevice,
            (true, false) => Fit::UnknownDevice,
            (false, true) => Fit::NamesDevice,
            (false, false) if any_proved => continue,
            (false, false) => Fit::Unproved,
        };
        fitting.push((fit, claim.received_at, place));
    }
    fitting.sort_unstable();
    Ok(fitting.into_iter().map(|(_, _, place)| place).collect())
}

/// Whether the claim's two keys are those of a device of `user_id`.
fn is_backed(
    load: &dyn DeviceLookup,
    user_id: &UserId,
    claim: &InboundSessionRecord,
) -> Result<bool, MachineError> {
    Ok(match &claim.sender_ed25519 {
        Some(ed25519) => device_of(load, user_id, &claim.sender_key, ed25519)?.is_some(),
        None => false,
    })
}

/// How much a claim is worth keeping: what it rests on, and whether it is a known device's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Worth(Ground, bool);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ground {
    /// Somebody says so.
    None,
    /// A member of the room says so.
    Member,
    /// Its user has sent an event that names the session. Anybody can.
    Event,
    /// Its user has sent an event that the session has made, or it was asked for.
    Message,
    /// It is our own session.
    Own,
}

/// Makes room for one more claim to a session beside those that are `known`. `false` if there is none for `new`.
///
/// A claim that a message has been sent for is never given up for one without: so the owner's stays. Among
/// those for which none has come yet the oldest goes: so the owner's gets in, however many came before.
pub(crate) fn make_room(
    txn: &mut Txn<'_, '_>,
    key: &InboundSessionKey,
    new: &InboundSessionRecord,
    mut known: Vec<Row<InboundSessionRecord>>,
) -> Result<bool, MachineError> {
    let of_user =
        |claim: &InboundSessionRecord| claim.sender.is_some() && claim.sender == new.sender;
    if known.iter().filter(|(_, claim)| of_user(claim)).count() >= MAX_CLAIMS_OF_USER {
        known.retain(|(_, claim)| of_user(claim));
    } else if known.len() < MAX_CLAIMS {
        return Ok(true);
    }
    let events = Events::load(txn, &key.room_id, &key.session_id)?;
    let mut least = None;
    for (place, claim) in &known {
        let worth = worth(txn, &key.room_id, &events, claim)?;
        let this = (worth, claim.received_at, place.clone());
        if least.as_ref().is_none_or(|least| this < *least) {
            least = Some(this);
        }
    }
    let Some((least, _, place)) = least else { return Ok(false) };
    let new = worth(txn, &key.room_id, &events, new)?;
    if new < least || (new == least && least.0 >= Ground::Message) {
        return Ok(false);
    }
    txn.delete::<InboundSessionRecord>(&place);
    Ok(true)
}

/// The claim to pass on to another device: the one worth most, and of several the one that knows most.
pub(crate) fn best(
    txn: &Txn<'_, '_>,
    room_id: &RoomId,
    session_id: &SessionId,
) -> Result<Option<(InboundSessionKey, InboundSessionRecord)>, MachineError> {
    let mut known =
        txn.list::<InboundSessionRecord>(&InboundSessionKey::of(room_id, session_id))?;
    known.retain(|(_, claim)| claim.sender_ed25519.is_some());
    if known.len() <= 1 {
        return Ok(known.pop());
    }
    let events = Events::load(txn, room_id, session_id)?;
    let mut best = None;
    for (key, claim) in known {
        let worth = worth(txn, room_id, &events, &claim)?;
        let rank = (worth, std::cmp::Reverse((claim.first_known_index, claim.received_at)));
        if best.as_ref().is_none_or(|(best, _)| rank > *best) {
            best = Some((rank, (key, claim)));
        }
    }
    Ok(best.map(|(_, found)| found))
}

fn worth(
    txn: &Txn<'_, '_>,
    room_id: &RoomId,
    events: &Events,
    claim: &InboundSessionRecord,
) -> Result<Worth, MachineError> {
    let Some(sender) = &claim.sender else {
        // Whoever knows a backup's public key can write into it.
        let asked_for = claim.source == KeySource::Forwarded;
        return Ok(Worth(if asked_for { Ground::Message } else { Ground::Member }, false));
    };
    let backed = is_backed(txn, sender, claim)?;
    let member = MemberKey { room_id: room_id.to_owned(), user_id: sender.clone() };
    let ground = if claim.sender_key == txn.own().keys.curve25519 {
        Ground::Own
    } else if events.has_message(sender, claim)? {
        Ground::Message
    } else if events.waiting.iter().any(|(_, event)| event.sender == *sender) {
        Ground::Event
    } else if txn
        .load::<MemberRecord>(&member)?
        .is_some_and(|member| matches!(member.membership, Membership::Join | Membership::Invite))
    {
        Ground::Member
    } else {
        Ground::None
    };
    Ok(Worth(ground, backed))
}

/// The events that name a session, the first of either kind.
struct Events {
    /// Those that wait.
    waiting: Vec<(WaitingKey, EventRecord)>,
    /// The senders of those that were decrypted.
    decrypted: BTreeSet<OwnedUserId>,
}

impl Events {
    fn load(
        txn: &Txn<'_, '_>,
        room_id: &RoomId,
        session_id: &SessionId,
    ) -> Result<Self, MachineError> {
        let load =
            |event_id| txn.load::<EventRecord>(&EventKey { room_id: room_id.to_owned(), event_id });
        let mut waiting = Vec::new();
        let keys = txn.list::<WaitingRecord>(&WaitingKey::for_session(room_id, session_id))?;
        for (key, _) in keys.into_iter().take(MAX_EVENTS) {
            waiting.extend(load(key.event_id.clone())?.map(|event| (key, event)));
        }
        let mut decrypted = BTreeSet::new();
        let used = txn.list::<MegolmIndexRecord>(&MegolmIndexKey::of(room_id, session_id))?;
        for (_, record) in used.into_iter().take(MAX_EVENTS) {
            decrypted.extend(load(record.event_id)?.map(|event| event.sender));
        }
        Ok(Self { waiting, decrypted })
    }

    /// Whether the user has sent an event that the session has made, and was the first to. Only the session's
    /// owner can make one; others can send it again.
    fn has_message(
        &self,
        sender: &UserId,
        claim: &InboundSessionRecord,
    ) -> Result<bool, MachineError> {
        if self.decrypted.contains(sender) {
            return Ok(true);
        }
        let mut own = self.waiting.iter().filter(|(_, event)| event.sender == *sender).peekable();
        if own.peek().is_none() {
            return Ok(false);
        }
        let mut session = restore(claim)?;
        for (key, event) in own.take(MAX_TRIES) {
            let Some(text) = ciphertext(event) else { continue };
            if session.decrypt(&text).is_err() {
                continue;
            }
            let is_copy = self.waiting.iter().any(|(other, earlier)| {
                other.index == key.index
                    && is_before(earlier, event)
                    && ciphertext(earlier).is_some_and(|earlier| is_same(&earlier, &text))
            });
            if !is_copy {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether one event stands before another in the room, as far as is known.
fn is_before(one: &EventRecord, other: &EventRecord) -> bool {
    match (one.order, other.order) {
        (Some(one), Some(other)) => one < other,
        // It stood in the timeline before a gap.
        (None, Some(_)) => true,
        (_, None) => false,
    }
}

fn ciphertext(event: &EventRecord) -> Option<String> {
    let head: EventHead = serde_json::from_str(&event.raw).ok()?;
    parse::<MegolmContent>(&head.content?)?.ciphertext
}

fn is_same(one: &str, other: &str) -> bool {
    one.trim_end_matches('=') == other.trim_end_matches('=')
}

/// The ciphertexts that other users' events have which name the same message index, came before, and wait for
/// their own senders' keys. If one of them is genuine, it is the original, and this event's is a copy of it,
/// sent by a member who has the key too. The likeliest come first, so that a crowd of others does not hide them.
pub(crate) fn earlier_ciphertexts(
    txn: &Txn<'_, '_>,
    key: &EventKey,
    event: &EventRecord,
    session_id: &SessionId,
    index: u64,
    text: &str,
) -> Result<Vec<String>, MachineError> {
    if txn.is_empty::<WaitingRecord>()? {
        return Ok(Vec::new());
    }
    let waiting = WaitingKey::at_index(&key.room_id, session_id, index);
    let (mut same, mut different) = (Vec::new(), Vec::new());
    for (other, _) in txn.list::<WaitingRecord>(&waiting)? {
        let other = EventKey { room_id: other.room_id, event_id: other.event_id };
        let Some(other) = txn.load::<EventRecord>(&other)? else { continue };
        if other.sender == event.sender || !is_before(&other, event) {
            continue;
        }
        match ciphertext(&other) {
            // One is enough.
            Some(other) if is_same(&other, text) => {
                same.push(other);
                break;
            }
            Some(other) if different.len() < MAX_TRIES => different.push(other),
            _ => {}
        }
    }
    same.append(&mut different);
    Ok(same)
}
