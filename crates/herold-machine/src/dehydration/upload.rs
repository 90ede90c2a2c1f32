//! Making a dehydrated device and uploading it.

use herold_crypto::Account;
use herold_store::records::{DehydratedUploadRecord, DehydrationRecord, DehydrationStage, Only};
use ruma::OwnedDeviceId;
use serde_json::json;

use super::{
    ALGORITHMS, DehydrationRequest, LOOK_INTERVAL, NAME, end_work, give_up, is_unsupported, key,
    outdate_own_list,
};
use crate::{
    Answer, MachineError,
    account::{self, SignedKeys},
    hot::Hot,
    own_identity,
    txn::Txn,
};

/// The device's name in lists. It is the one that other clients give it.
const DISPLAY_NAME: &str = "Dehydrated device";
/// An upload that is refused is tried so often.
const MAX_REFUSALS: u32 = 5;

/// Makes a new device that is to be uploaded. Answers `false`, and changes nothing, if a key for it is missing. Its private
/// keys are in the request, encrypted, and are forgotten here.
pub(super) fn make(
    txn: &mut Txn<'_, '_>,
    record: &mut DehydrationRecord,
) -> Result<bool, MachineError> {
    let (Some(key), Some(signing)) = (key::load(txn)?, own_identity::self_signing_key(txn)?) else {
        return Ok(false);
    };
    let mut made = Account::new();
    made.generate_one_time_keys(made.max_one_time_keys());
    made.generate_fallback_key();
    let own = txn.own();
    let keys = made.identity_keys();
    let device_id = OwnedDeviceId::from(keys.curve25519.to_base64());
    let mut object = account::device_keys(&own.user_id, &device_id, keys);
    object["dehydrated"] = json!(true);
    made.sign_json(own.user_id.as_str(), device_id.as_str(), &mut object)
        .map_err(MachineError::crypto)?;
    signing.sign_json(own.user_id.as_str(), &mut object).map_err(MachineError::crypto)?;
    let SignedKeys { one_time, fallback } = account::signed_keys(&own.user_id, &device_id, &made)?;
    let closed = made.dehydrate(&key).map_err(MachineError::crypto)?;
    let body = json!({
        "device_id": device_id,
        "device_data": {
            "algorithm": ALGORITHMS[0],
            "device_pickle": closed.ciphertext,
            "nonce": closed.nonce,
        },
        "initial_device_display_name": DISPLAY_NAME,
        "device_keys": object,
        "one_time_keys": one_time,
        "fallback_keys": fallback,
    });
    txn.put(&Only, &DehydratedUploadRecord { device_id, body: body.to_string(), asked: false });
    record.stage = DehydrationStage::Upload;
    Ok(true)
}

/// Makes another device in place of one that may have been uploaded: keys of it may have been claimed, and are not to be
/// offered again. Without the keys for it there is none to be uploaded any more.
pub(super) fn remake(
    txn: &mut Txn<'_, '_>,
    record: &mut DehydrationRecord,
) -> Result<(), MachineError> {
    if !make(txn, record)? {
        end_work(txn, record.stage)?;
        record.stage = DehydrationStage::Idle;
    }
    Ok(())
}

/// The upload is being made.
pub(crate) fn note_asked(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    sent: &DehydrationRequest,
) -> Result<(), MachineError> {
    let DehydrationRequest::Upload { device_id } = sent else { return Ok(()) };
    hot.uploading = Some(device_id.clone());
    match txn.load::<DehydratedUploadRecord>(&Only)? {
        Some(upload) if upload.device_id == *device_id => {
            txn.require_full();
            Ok(txn.put_changed(&Only, &DehydratedUploadRecord { asked: true, ..upload })?)
        }
        _ => Ok(()),
    }
}

pub(super) fn handle_answer(
    txn: &mut Txn<'_, '_>,
    mut record: DehydrationRecord,
    device_id: &OwnedDeviceId,
    answer: Answer<'_>,
) -> Result<(), MachineError> {
    let pending: Option<DehydratedUploadRecord> = txn.load(&Only)?;
    if pending.is_none_or(|pending| pending.device_id != *device_id) {
        return Ok(());
    }
    if answer.success().is_some() {
        txn.answered(NAME)?;
        txn.delete::<DehydratedUploadRecord>(&Only);
        let now = txn.cx.now;
        (record.device_id, record.since, record.misses) = (Some(device_id.clone()), now, 0);
        (record.stage, record.look_at) =
            (DehydrationStage::Idle, now.saturating_add(LOOK_INTERVAL));
        txn.put(&Only, &record);
        return outdate_own_list(txn);
    }
    record.misses += u32::from(!answer.is_transient());
    txn.failed(NAME, answer.retry_after())?;
    if is_unsupported(&answer) || record.misses >= MAX_REFUSALS {
        return give_up(txn, record, &answer.errcode());
    }
    // The server may have it all the same.
    remake(txn, &mut record)?;
    txn.put(&Only, &record);
    Ok(())
}
