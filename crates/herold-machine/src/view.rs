//! A stored event as an app may show it: who sent it, how far that can be believed, or why it cannot be
//! shown. Worked out anew each time, so that what is learned later counts at once.

use herold_crypto::IdentityKeys;
use herold_store::{
    Snapshot, SnapshotExt,
    records::{
        Decryption, EventKey, EventRecord, IdentityRecord, RoomSessionKey, UserKey, WithheldRecord,
    },
};
use herold_trust::{KeySource, Policy, Shield, ShieldReason, may_show, shield};

use crate::{
    ClearBody, MachineError, RoomEvent, Utd,
    devices::device_of,
    history_import::is_not_shared,
    timeline::{self, REDACTION},
};

pub(crate) fn room_event(
    snapshot: &dyn Snapshot,
    policy: &Policy,
    own: IdentityKeys,
    key: EventKey,
    record: EventRecord,
) -> Result<RoomEvent, MachineError> {
    #[derive(serde::Deserialize)]
    struct Parts {
        #[serde(default)]
        state_key: Option<String>,
        #[serde(default)]
        content: Option<Box<serde_json::value::RawValue>>,
    }
    let parts = serde_json::from_str::<Parts>(&record.raw)
        .unwrap_or(Parts { state_key: None, content: None });
    let mut event = RoomEvent {
        room_id: key.room_id.clone(),
        event_id: key.event_id,
        sender: record.sender,
        origin_server_ts: record.origin_server_ts,
        encrypted: !matches!(record.decryption, Decryption::Clear),
        body: Err(Utd::BadCiphertext),
        session_id: None,
        sender_device: None,
        shield: Shield::None,
        shared_by: None,
        state_key: parts.state_key,
        redacts: None,
    };
    match record.decryption {
        Decryption::Clear => {
            let content = parts.content.map_or_else(|| "{}".to_owned(), |raw| raw.get().to_owned());
            if record.event_type == REDACTION {
                event.redacts = timeline::redacts(&record.raw);
            }
            let clear_message = record.in_encrypted_room
                && (event.state_key.is_none() || is_message(&record.event_type))
                && record.event_type != REDACTION;
            if clear_message {
                event.shield = Shield::Red(ShieldReason::SentInClear);
            }
            event.body = if clear_message && policy.refuse_clear_in_encrypted_rooms {
                Err(Utd::SenderUntrusted)
            } else {
                Ok(ClearBody { event_type: record.event_type, content })
            };
        }
        Decryption::Undecryptable { reason, session_id } => {
            let mut reason = Utd::parse(&reason);
            if let (Utd::MissingKey | Utd::NotMemberThen, Some(session_id)) = (&reason, &session_id)
            {
                let withheld =
                    RoomSessionKey { room_id: key.room_id, session_id: session_id.clone() };
                // Only the sender can say so: anybody can write such a note. One from a bundle came by Olm.
                if let Some(withheld) =
                    snapshot.load::<WithheldRecord>(&withheld)?.filter(|withheld| {
                        withheld.sender == event.sender || is_not_shared(&withheld.code)
                    })
                {
                    reason = Utd::Withheld(withheld.code);
                }
            }
            if reason == Utd::SenderUntrusted {
                event.shield = Shield::Red(ShieldReason::MismatchedSender);
            }
            event.session_id = session_id;
            event.body = Err(reason);
        }
        Decryption::Decrypted { event_type, content, session_id } => {
            let owner = timeline::owner(snapshot, &key.room_id, &session_id, &event.sender)?;
            let identity = snapshot
                .load::<IdentityRecord>(&UserKey { user_id: event.sender.clone() })?
                .map(|record| record.identity);
            let mut body = Ok(ClearBody { event_type, content });
            match owner {
                // The key has been deleted since; what it said then can no longer be checked.
                None => {
                    event.shield = Shield::Grey(ShieldReason::AuthenticityNotGuaranteed);
                    if may_show(policy, &event.shield, identity.is_some()).is_err() {
                        body = Err(Utd::SenderUntrusted);
                    }
                }
                Some(owner) => {
                    let ours = owner.sender_key == own.curve25519
                        && owner.sender_ed25519 == Some(own.ed25519)
                        && owner.source == KeySource::Olm;
                    let device = match owner.sender_ed25519 {
                        Some(ed25519) => {
                            device_of(&snapshot, &event.sender, &owner.sender_key, &ed25519)?
                        }
                        None => None,
                    };
                    if !ours {
                        event.shield = shield(owner.source, device.as_ref(), identity.as_ref());
                        if may_show(policy, &event.shield, identity.is_some()).is_err() {
                            body = Err(Utd::SenderUntrusted);
                        }
                    }
                    event.shared_by = owner.shared_by;
                    // Who passes a key on can name any device with it.
                    if owner.source == KeySource::Olm {
                        event.sender_device = device.map(|device| device.device_id);
                    }
                }
            }
            event.session_id = Some(session_id);
            event.body = body;
        }
    }
    Ok(event)
}

/// Whether events of this type are messages whatever else they look like: a state key does not hide that
/// one was sent in clear (attack N30).
fn is_message(event_type: &str) -> bool {
    const TYPES: [&str; 5] =
        ["m.room.message", "m.room.encrypted", "m.reaction", "m.sticker", "m.location"];
    const PREFIXES: [&str; 4] = ["m.poll.", "org.matrix.msc3381.poll.", "m.call.", "m.key."];
    TYPES.contains(&event_type) || PREFIXES.iter().any(|prefix| event_type.starts_with(prefix))
}
