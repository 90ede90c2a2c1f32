//! The key that dehydrated devices are encrypted with: one of the user's secrets.

use herold_crypto::{DehydrationKey, SecretString};
use herold_store::{
    Snapshot, SnapshotExt as _, StoreError,
    records::{DehydrationRecord, DehydrationStage, NameKey, Only, SecretRecord},
};
use herold_trust::Timestamp;

use super::upload;
use crate::{MachineError, txn::Txn};

/// The name of the key in secret storage.
pub(crate) const SECRET: &str = "org.matrix.msc3814";

fn secret() -> NameKey {
    NameKey { name: SECRET.to_owned() }
}

fn parse(record: Option<SecretRecord>) -> Result<Option<DehydrationKey>, StoreError> {
    let open = |record: SecretRecord| {
        DehydrationKey::from_secret(&record.secret)
            .map_err(|_| StoreError::Corrupt("the dehydration key".to_owned()))
    };
    record.map(open).transpose()
}

/// Whether the key is here.
pub(super) fn is_here(snapshot: &dyn Snapshot) -> Result<bool, StoreError> {
    Ok(parse(snapshot.load(&secret())?)?.is_some())
}

/// The key, if it is here.
pub(crate) fn load(txn: &Txn<'_, '_>) -> Result<Option<DehydrationKey>, StoreError> {
    parse(txn.load(&secret())?)
}

/// The key; a new one if there is none.
pub(crate) fn make(txn: &mut Txn<'_, '_>) -> Result<SecretString, MachineError> {
    if let Some(key) = load(txn)? {
        return Ok(key.to_secret());
    }
    let made = DehydrationKey::generate(txn.cx.entropy).to_secret();
    txn.put(&secret(), &SecretRecord { secret: made.clone(), since: txn.cx.now });
    // What is made under it must not be lost with it.
    txn.require_full();
    Ok(made)
}

/// Replaces the key, if there is one: what is made from now on is for those alone who are given the new one. A device
/// that this one keeps, whoever has made it, is replaced at once.
pub(crate) fn renew(txn: &mut Txn<'_, '_>) -> Result<(), MachineError> {
    if load(txn)?.is_none() {
        return Ok(());
    }
    let made = DehydrationKey::generate(txn.cx.entropy).to_secret();
    put(txn, made)?;
    if let Some(mut record) = txn.load::<DehydrationRecord>(&Only)?
        && record.enabled
        && matches!(record.stage, DehydrationStage::Idle | DehydrationStage::Check)
        && upload::make(txn, &mut record)?
    {
        txn.put(&Only, &record);
    }
    Ok(())
}

fn put(txn: &mut Txn<'_, '_>, text: SecretString) -> Result<(), MachineError> {
    txn.put(&secret(), &SecretRecord { secret: text, since: txn.cx.now });
    txn.require_full();
    if let Some(mut record) = txn.load::<DehydrationRecord>(&Only)?
        && record.stage != DehydrationStage::Read
    {
        // What was made under another key is replaced.
        if record.stage == DehydrationStage::Upload {
            upload::remake(txn, &mut record)?;
        }
        let at = Timestamp::default();
        txn.put(&Only, &DehydrationRecord { since: at, look_at: at, ..record });
    }
    Ok(())
}

/// Takes the key out of secret storage or from another device. Answers whether it is one. There is no public half that it
/// could be compared with: a wrong one opens nothing.
pub(crate) fn import(txn: &mut Txn<'_, '_>, text: &SecretString) -> Result<bool, MachineError> {
    let Ok(new) = DehydrationKey::from_secret(text) else { return Ok(false) };
    let text = new.to_secret();
    if load(txn)?.is_some_and(|known| known.to_secret() == text) {
        return Ok(true);
    }
    put(txn, text)?;
    Ok(true)
}
