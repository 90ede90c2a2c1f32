//! Commands about the user's own identity.

use herold_crypto::SecretString;
use herold_store::{
    Snapshot,
    records::{IdentityRecord, UserKey},
};
use herold_trust::Identity;
use ruma::UserId;

use crate::{Context, Machine, MachineError, Pending, Step, devices, own_identity};

impl Machine {
    /// Begins to make a cross-signing identity: replies with the body of `/keys/device_signing/upload`, always the same
    /// one until [`Machine::identity_published`]. The private keys are in the store before anybody else has the
    /// public ones. Replies `None` if the published identity is this device's to use already and is not to be
    /// replaced.
    ///
    /// # Errors
    /// [`MachineError::Crypto`], or those of the store.
    pub fn prepare_identity(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        replace: bool,
    ) -> Result<Step<Pending, Option<String>>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let body = own_identity::prepare(&mut txn, replace)?;
        self.end(txn, body)
    }

    /// The homeserver has accepted what [`Machine::prepare_identity`] gave: that is the own identity now, verified on this
    /// device, which is signed with it. Replies `false` if nothing was prepared.
    ///
    /// # Errors
    /// [`MachineError::Crypto`], or those of the store.
    pub fn identity_published(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
    ) -> Result<Step<Pending, bool>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let published = own_identity::published(&mut txn)?;
        self.end(txn, published)
    }

    /// Takes a private key of the own identity under its name in secret storage. Replies whether it is the private half of
    /// the published key; anything else changes nothing (attacks N08 and N11). The master key's makes the
    /// identity verified on this device, which is signed as soon as the self-signing key is there too.
    ///
    /// # Errors
    /// Those of the store.
    pub fn import_identity_key(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        name: &str,
        secret: &SecretString,
    ) -> Result<Step<Pending, bool>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let taken = own_identity::import(&mut txn, name, secret)?;
        self.end(txn, taken)
    }

    /// The app's user does not insist on a verification that another master key has broken: the current one is pinned, as
    /// one that nobody has verified.
    ///
    /// # Errors
    /// [`MachineError::UnknownIdentity`], or those of the store.
    pub fn withdraw_verification(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        user_id: &UserId,
    ) -> Result<Step<Pending>, MachineError> {
        self.change_identity(snapshot, cx, user_id, Identity::withdraw_verification)
    }

    pub(super) fn change_identity(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        user_id: &UserId,
        change: impl FnOnce(&mut Identity),
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let key = UserKey { user_id: user_id.to_owned() };
        let mut record: IdentityRecord = txn.load(&key)?.ok_or(MachineError::UnknownIdentity)?;
        let before = record.identity.clone();
        change(&mut record.identity);
        if record.identity != before {
            txn.put(&key, &record);
            devices::tell_identity(&mut txn, Some(&before), &record.identity)?;
            txn.next_number(devices::GENERATION)?;
            txn.require_full();
        }
        self.end(txn, ())
    }
}
