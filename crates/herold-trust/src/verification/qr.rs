//! What a QR code says, compared with what is known.

use herold_crypto::QrKeys;

use super::CancelCode;
use super::party::{PartyKeys, VerifiedKey};

/// The keys to show: our view of both sides. `None` if a key that the code must name is not known.
pub(super) fn keys_to_show(ours: &PartyKeys, theirs: &PartyKeys) -> Option<QrKeys> {
    if ours.user_id != theirs.user_id {
        return Some(QrKeys::OtherUser { own_master: ours.master?, their_master: theirs.master? });
    }
    match ours.master {
        Some(master) => Some(QrKeys::TrustsMaster { master, their_device: theirs.device_key }),
        None => {
            Some(QrKeys::DistrustsMaster { own_device: ours.device_key, master: theirs.master? })
        }
    }
}

/// What is verified for whoever *showed* these keys, once its user has confirmed the scan.
pub(super) fn verified_by_showing(keys: &QrKeys, theirs: &PartyKeys) -> Option<VerifiedKey> {
    match keys {
        QrKeys::TrustsMaster { .. } => Some(theirs.verified_device()),
        QrKeys::OtherUser { .. } | QrKeys::DistrustsMaster { .. } => theirs.verified_master(),
    }
}

/// What is verified for whoever *scanned* these keys.
pub(super) fn verified_by_scanning(
    keys: &QrKeys,
    ours: &PartyKeys,
    theirs: &PartyKeys,
) -> Result<VerifiedKey, CancelCode> {
    let same_user = ours.user_id == theirs.user_id;
    let (right, verified) = match keys {
        QrKeys::OtherUser { own_master, their_master } if !same_user => (
            theirs.master == Some(*own_master) && ours.master == Some(*their_master),
            theirs.verified_master(),
        ),
        QrKeys::TrustsMaster { master, their_device } if same_user => (
            theirs.master == Some(*master) && ours.device_key == *their_device,
            theirs.verified_master(),
        ),
        QrKeys::DistrustsMaster { own_device, master } if same_user => (
            theirs.device_key == *own_device && ours.master == Some(*master),
            Some(theirs.verified_device()),
        ),
        _ => return Err(CancelCode::UserMismatch),
    };
    verified.filter(|_| right).ok_or(CancelCode::KeyMismatch)
}
