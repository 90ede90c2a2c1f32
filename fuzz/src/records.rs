//! Rows by the name of their table: read them as their type, and write them again.

use herold_machine::AppEventRecord;
use herold_store::{Record, RecordKey, Snapshot, StoreError, Table, records as r};

/// Reads a key and a record as their types, and gives them as they would be written.
fn read<R: Record>(key: &[u8], value: &[u8]) -> Result<(Vec<u8>, Vec<u8>), StoreError> {
    let key = R::Key::from_bytes(key).map_err(|_| StoreError::Corrupt("a key".to_owned()))?;
    Ok((key.to_bytes(), R::decode(value)?.encode()))
}

/// Reads a row of `table` as its type, and gives it as it would be written.
///
/// # Errors
/// It cannot be read.
pub fn decode(table: Table, key: &[u8], value: &[u8]) -> Result<(Vec<u8>, Vec<u8>), StoreError> {
    let read = match table {
        Table::Account => read::<r::AccountRecord>,
        Table::KeyUpload => read::<r::KeyUploadRecord>,
        Table::Login => read::<r::LoginRecord>,
        Table::Sync => read::<r::SyncRecord>,
        Table::Policy => read::<r::PolicyRecord>,
        Table::Counter => read::<r::CounterRecord>,
        Table::OlmSession => read::<r::OlmSessionRecord>,
        Table::OlmHash => read::<r::OlmHashRecord>,
        Table::InboundSession => read::<r::InboundSessionRecord>,
        Table::OutboundSession => read::<r::OutboundSessionRecord>,
        Table::RetiredSession => read::<r::RetiredSessionRecord>,
        Table::Share => read::<r::ShareRecord>,
        Table::Device => read::<r::DeviceRecord>,
        Table::DeviceByKey => read::<r::DeviceByKeyRecord>,
        Table::Blocked => read::<r::BlockedRecord>,
        Table::Identity => read::<r::IdentityRecord>,
        Table::VerifiedIdentity => read::<r::VerifiedIdentityRecord>,
        Table::TrackedUser => read::<r::TrackedUserRecord>,
        Table::OutdatedUser => read::<r::OutdatedUserRecord>,
        Table::Claim => read::<r::ClaimRecord>,
        Table::Room => read::<r::RoomRecord>,
        Table::Member => read::<r::MemberRecord>,
        Table::Event => read::<r::EventRecord>,
        Table::Timeline => read::<r::TimelineRecord>,
        Table::Waiting => read::<r::WaitingRecord>,
        Table::MegolmIndex => read::<r::MegolmIndexRecord>,
        Table::SessionRoom => read::<r::SessionRoomRecord>,
        Table::Withheld => read::<r::WithheldRecord>,
        Table::KeyRequest => read::<r::KeyRequestRecord>,
        Table::KeyAnswers => read::<r::KeyAnswersRecord>,
        Table::Outbox => read::<r::OutboxRecord>,
        Table::OutboxBody => read::<r::OutboxBodyRecord>,
        Table::Queue => read::<r::QueueRecord>,
        Table::AppEvent => read::<AppEventRecord>,
        Table::Backoff => read::<r::BackoffRecord>,
        Table::SlidingSync => read::<r::SlidingSyncRecord>,
        Table::ToDeviceQueue => read::<r::ToDeviceQueueRecord>,
        Table::UntrustedDevice => read::<r::UntrustedDeviceRecord>,
        Table::Secret => read::<r::SecretRecord>,
        Table::PendingIdentity => read::<r::PendingIdentityRecord>,
        Table::Recovery => read::<r::RecoveryRecord>,
        Table::Signature => read::<r::SignatureRecord>,
        Table::Backup => read::<r::BackupRecord>,
        Table::BackupDue => read::<r::BackupDueRecord>,
        Table::BackupBatch => read::<r::BackupBatchRecord>,
        Table::Verification => read::<r::VerificationRecord>,
        Table::VerificationRequest => read::<r::VerificationRequestRecord>,
        Table::Parked => read::<r::ParkedRecord>,
        Table::SecretRequest => read::<r::SecretRequestRecord>,
        Table::VerifiedDevice => read::<r::VerifiedDeviceRecord>,
        Table::Invitation => read::<r::InvitationRecord>,
        Table::HistoryBundle => read::<r::HistoryBundleRecord>,
        Table::Dehydration => read::<r::DehydrationRecord>,
        Table::Rehydration => read::<r::RehydrationRecord>,
        Table::RehydratedSession => read::<r::RehydratedSessionRecord>,
        Table::DehydratedUpload => read::<r::DehydratedUploadRecord>,
        // A new table: its record belongs into this list.
        _ => return Err(StoreError::Corrupt(format!("no record is known for {}", table.name()))),
    };
    read(key, value)
}

/// A row: its table, its key, its value.
pub type Row = (Table, Vec<u8>, Vec<u8>);

/// Every row of a store.
///
/// # Panics
/// The store cannot be read.
#[must_use]
pub fn rows(snapshot: &dyn Snapshot) -> Vec<Row> {
    let mut rows = Vec::new();
    for table in Table::ALL {
        snapshot
            .scan(*table, &[], None, &mut |key, value| {
                rows.push((*table, key.to_vec(), value.to_vec()));
                std::ops::ControlFlow::Continue(())
            })
            .expect("the store can be read");
    }
    rows
}
