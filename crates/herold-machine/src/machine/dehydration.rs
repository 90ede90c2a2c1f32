//! Commands about the dehydrated device.

use herold_crypto::SecretString;
use herold_store::Snapshot;

use crate::{Context, DehydrationStatus, Machine, MachineError, Pending, Step, dehydration};

impl Machine {
    /// How things stand with the dehydrated device.
    ///
    /// # Errors
    /// Those of the store.
    pub fn dehydration(&self, snapshot: &dyn Snapshot) -> Result<DehydrationStatus, MachineError> {
        dehydration::status(snapshot)
    }

    /// The key that dehydrated devices are encrypted with (secret `org.matrix.msc3814`); a new one is made if there is none.
    /// It has to be in secret storage before [`Machine::start_dehydration`]: without it nobody opens what is made.
    ///
    /// # Errors
    /// Those of the store.
    pub fn make_dehydration_key(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
    ) -> Result<Step<Pending, SecretString>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let key = dehydration::key::make(&mut txn)?;
        self.end(txn, key)
    }

    /// Replaces that key by a new one, if there is one: for a user who replaces everything. A device that is on the
    /// homeserver is then replaced, too.
    ///
    /// # Errors
    /// Those of the store.
    pub fn renew_dehydration_key(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        dehydration::key::renew(&mut txn)?;
        self.end(txn, ())
    }

    /// Takes that key out of secret storage, in place of the one that is here. Replies whether it is one: anything else
    /// changes nothing.
    ///
    /// # Errors
    /// Those of the store.
    pub fn import_dehydration_key(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        secret: &SecretString,
    ) -> Result<Step<Pending, bool>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let taken = dehydration::key::import(&mut txn, secret)?;
        self.end(txn, taken)
    }

    /// The user is to have a dehydrated device from now on. What was sent to the one that is there is read first; then one is
    /// made in its place, signed by the self-signing key, and replaced once a week. [`Machine::dehydration`] says how far
    /// it is. Replies whether one is read first: not if this device keeps one already.
    ///
    /// # Errors
    /// [`MachineError::PolicyDenied`]; [`MachineError::NoDehydrationKey`]; [`MachineError::NotVerified`] if the own
    /// identity is not verified on this device, or its self-signing key is not here; those of the store.
    pub fn start_dehydration(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
    ) -> Result<Step<Pending, bool>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let reads = dehydration::start(&mut txn, &self.policy)?;
        self.end(txn, reads)
    }

    /// Reads what was sent to the user's dehydrated device, if there is one and it is ours, and takes the room keys. Whoever
    /// has one that was read goes on having one: a new one takes its place, and this device keeps it. A device that is
    /// refused stays where it is.
    ///
    /// # Errors
    /// [`MachineError::PolicyDenied`]; [`MachineError::NoDehydrationKey`]; [`MachineError::NotVerified`] if the own
    /// identity is not verified on this device; those of the store.
    pub fn rehydrate(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        dehydration::rehydrate(&mut txn, &self.policy)?;
        self.end(txn, ())
    }

    /// The user is to have no dehydrated device: whichever is there is removed, with what was sent to it. The key stays.
    ///
    /// # Errors
    /// Those of the store.
    pub fn stop_dehydration(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        dehydration::stop(&mut txn)?;
        self.end(txn, ())
    }
}
