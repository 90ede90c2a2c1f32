//! The upload of signatures (Matrix specification, "Cross-signing"): as many at once as the homeserver takes, so that one that it
//! cannot do with costs no other.

use herold_store::{
    Snapshot, SnapshotExt as _,
    records::{CounterRecord, NameKey, SequenceKey, SignatureRecord, TrackedUserRecord, UserKey},
};
use serde::Deserialize;

use crate::{Answer, MachineError, Notice, devices, txn::Txn, wire::RawMap};

/// The counter of signatures to be uploaded, and the back-off record of their upload.
pub(crate) const SIGNATURES: &str = "keys/signatures/upload";
/// As many signatures are uploaded at once.
const SIGNATURES_PER_UPLOAD: usize = 50;
/// A longer error code is not passed on.
const MAX_ERRCODE: usize = 255;

/// Takes the answer of `/keys/signatures/upload` for these signatures.
pub(crate) fn handle_signatures(
    txn: &mut Txn<'_, '_>,
    sent: &[(u64, SignatureRecord)],
    answer: Answer<'_>,
) -> Result<(), MachineError> {
    #[derive(Default, Deserialize)]
    struct Body {
        #[serde(default)]
        failures: RawMap,
    }
    if answer.success().is_none() && answer.is_transient() {
        txn.failed(SIGNATURES, answer.retry_after())?;
        return Ok(());
    }
    txn.answered(SIGNATURES)?;
    let accepted = answer.success().is_some();
    set_batch_size(txn, sent.len(), accepted)?;
    if !accepted && sent.len() > 1 {
        // One that it cannot do with must not cost the others: they are tried in smaller lots.
        return Ok(());
    }
    let body: Body =
        answer.success().and_then(|body| serde_json::from_slice(body).ok()).unwrap_or_default();
    for (sequence, record) in sent {
        let key = SequenceKey { sequence: *sequence };
        // After a power loss another signature may stand there.
        if txn.load::<SignatureRecord>(&key)?.as_ref() != Some(record) {
            continue;
        }
        txn.delete::<SignatureRecord>(&key);
        let refused =
            if accepted { failure(&body.failures, record) } else { Some(answer.errcode()) };
        if let Some(errcode) = refused {
            txn.notice(Notice::SignatureRefused {
                user_id: record.user_id.clone(),
                name: record.name.clone(),
                errcode,
            })?;
            continue;
        }
        let user = UserKey { user_id: record.user_id.clone() };
        if let Some(tracked) = txn.load::<TrackedUserRecord>(&user)? {
            devices::mark_outdated(txn, &user, tracked)?;
        }
    }
    Ok(())
}

/// What the homeserver says is wrong with a signature, by the Matrix error code; `None` if nothing is.
fn failure(failures: &RawMap, record: &SignatureRecord) -> Option<String> {
    #[derive(Deserialize)]
    struct Failure {
        errcode: String,
    }
    let of_user = failures.get(record.user_id.as_str())?;
    let unknown = || "M_UNKNOWN".to_owned();
    let Some(of_user) = crate::wire::parse::<RawMap>(of_user) else { return Some(unknown()) };
    let failure = of_user.get(&record.name)?;
    let errcode = crate::wire::parse::<Failure>(failure).map(|failure| failure.errcode);
    Some(errcode.filter(|errcode| errcode.len() <= MAX_ERRCODE).unwrap_or_else(unknown))
}

/// As many signatures are uploaded at once as the homeserver has not refused lately.
pub(crate) fn batch_size(snapshot: &dyn Snapshot) -> Result<usize, MachineError> {
    let size: Option<CounterRecord> = snapshot.load(&batch_size_key())?;
    let size = size.and_then(|size| usize::try_from(size.next).ok());
    Ok(size.unwrap_or(SIGNATURES_PER_UPLOAD).clamp(1, SIGNATURES_PER_UPLOAD))
}

fn batch_size_key() -> NameKey {
    NameKey { name: format!("{SIGNATURES}/size") }
}

/// Halves the next uploads after a refusal, and doubles them after a success.
fn set_batch_size(txn: &mut Txn<'_, '_>, sent: usize, accepted: bool) -> Result<(), MachineError> {
    let key = batch_size_key();
    let known: Option<CounterRecord> = txn.load(&key)?;
    if !accepted && sent > 1 {
        txn.put(&key, &CounterRecord { next: u64::try_from(sent / 2).unwrap_or(1) });
    } else if let Some(known) = known {
        let next = known.next.saturating_mul(2);
        if usize::try_from(next).is_ok_and(|next| next < SIGNATURES_PER_UPLOAD) {
            txn.put(&key, &CounterRecord { next });
        } else {
            txn.delete::<CounterRecord>(&key);
        }
    }
    Ok(())
}
