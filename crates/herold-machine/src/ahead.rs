//! Decrypting ahead: the messages of a response are decrypted together, several at a time, before they are taken in one
//! after the other.
//!
//! Nothing is decided here. What came of a message is put with the session it belongs to, and is used when the message's
//! turn comes, as if it had been decrypted then: every check is made in its place.

use std::collections::HashMap;

use herold_crypto::SessionId;
use herold_store::records::RoomSessionKey;
use ruma::RoomId;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    MachineError,
    hot::Hot,
    timeline::MAX_SESSION_ID,
    txn::Txn,
    workers::{Run, collect, deal},
};

/// Decrypts the messages of these rooms' timelines, as far as their keys are known and only one device claims them.
pub(crate) fn decrypt(
    txn: &Txn<'_, '_>,
    hot: &mut Hot,
    timelines: &[(&RoomId, &[Box<RawValue>])],
) -> Result<(), MachineError> {
    let least = hot.workers.least();
    let events: usize = timelines.iter().map(|(_, events)| events.len()).sum();
    if events < least {
        return Ok(());
    }
    let width = hot.workers.width();
    if width < 2 {
        return Ok(());
    }
    let mut keys: Vec<RoomSessionKey> = Vec::new();
    let mut runs: Vec<Run> = Vec::new();
    for (room_id, events) in timelines {
        // The room's sessions that are looked at, and their runs.
        let mut known: HashMap<&str, Option<usize>> = HashMap::new();
        for raw in *events {
            let Some((session_id, ciphertext)) = message(raw) else { continue };
            let run = match known.get(session_id) {
                Some(run) => *run,
                None => {
                    let key = RoomSessionKey {
                        room_id: (*room_id).to_owned(),
                        session_id: SessionId::new(session_id.to_owned()),
                    };
                    hot.inbound(txn, &key)?;
                    let run = hot.only_claim(&key).map(|claim| {
                        let session = claim.session.clone();
                        runs.push(Run { number: runs.len(), session, messages: Vec::new() });
                        keys.push(key);
                        runs.len() - 1
                    });
                    known.insert(session_id, run);
                    run
                }
            };
            if let Some(run) = run.and_then(|run| runs.get_mut(run)) {
                run.messages.push((ciphertext.to_owned(), None));
            }
        }
    }
    if runs.iter().map(|run| run.messages.len()).sum::<usize>() < least {
        return Ok(());
    }
    let mut pieces = deal(runs, width);
    hot.workers.clone().run(&mut pieces);
    for Run { number, session, messages } in collect(pieces) {
        let Some(claim) = keys.get(number).and_then(|key| hot.only_claim(key)) else { continue };
        // The last part of a run comes last, and its ratchet is the furthest.
        claim.session = session;
        for (ciphertext, outcome) in messages {
            if let Some(outcome) = outcome {
                claim.ahead.insert(ciphertext, outcome);
            }
        }
    }
    hot.note_ahead(keys);
    Ok(())
}

/// The session and the ciphertext that a room event names. Less is asked of it than when its turn comes: what is not found
/// here is decrypted then.
fn message(raw: &RawValue) -> Option<(&str, &str)> {
    #[derive(Deserialize)]
    struct Event<'a> {
        #[serde(rename = "type")]
        event_type: &'a str,
        #[serde(borrow)]
        content: Content<'a>,
    }
    #[derive(Deserialize)]
    struct Content<'a> {
        session_id: &'a str,
        ciphertext: &'a str,
    }
    let Event { event_type, content } = serde_json::from_str(raw.get()).ok()?;
    let message = event_type == "m.room.encrypted" && content.session_id.len() <= MAX_SESSION_ID;
    message.then_some((content.session_id, content.ciphertext))
}
