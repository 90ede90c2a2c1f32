//! [`Found`]: everything in the source that reads and checks, ready to be written.

mod channels;
mod own;
mod people;
mod rooms;

use std::collections::BTreeMap;

use herold_crypto::{Account, IdentityKeys};
use herold_machine::Adoption;
use herold_store::records::{
    InboundSessionKey, InboundSessionRecord, OlmSessionKey, OlmSessionRecord,
};
use herold_trust::{KeyUsage, Timestamp};
use ruma::{OwnedDeviceId, OwnedUserId};

use crate::{Kind, MigrateError, Reason, Report, Source, values::ForeignAccount};

/// What was found in a store, checked.
///
/// Secrecy: `Debug` shows ids, counts and public keys only.
#[derive(Debug)]
pub struct Found {
    /// Until it is written.
    pub(crate) adoption: Option<Adoption>,
    pub(crate) channels: Vec<(OlmSessionKey, OlmSessionRecord)>,
    pub(crate) room_keys: Vec<FoundRoomKey>,
    pub(crate) report: Report,
    /// The old client counted the own identity as verified.
    pub(crate) own_was_verified: bool,
    /// Users that the old client remembered as verified.
    pub(crate) users_were_verified: Vec<OwnedUserId>,
    /// The private keys that were found.
    pub(crate) secrets: Vec<KeyUsage>,
    /// Room keys go on to the same backup.
    pub(crate) backup_in_use: bool,
}

/// A room key.
#[derive(Debug)]
pub(crate) struct FoundRoomKey {
    pub(crate) key: InboundSessionKey,
    pub(crate) record: InboundSessionRecord,
    pub(crate) backed_up: bool,
}

/// Whose device has these two keys, as far as that is proved: by the device's own signature.
pub(crate) type Owners = BTreeMap<([u8; 32], [u8; 32]), Vec<OwnedUserId>>;

/// What every part needs to know.
pub(crate) struct Reading<'a> {
    source: &'a Source,
    user_id: OwnedUserId,
    device_id: OwnedDeviceId,
    keys: IdentityKeys,
    now: Timestamp,
    report: Report,
}

impl Source {
    /// Reads everything and checks it. What is damaged is left out, and the report says so.
    ///
    /// # Errors
    /// [`MigrateError::NoAccount`] and [`MigrateError::Account`]: without the account nothing is of use.
    pub fn read(&self, now: Timestamp) -> Result<Found, MigrateError> {
        let foreign: ForeignAccount = self
            .named("account")
            .map_err(|_| MigrateError::Account("it is damaged"))?
            .ok_or(MigrateError::NoAccount)?;
        if foreign.dehydrated {
            return Err(MigrateError::Account("it is a dehydrated device's"));
        }
        let user_id = OwnedUserId::try_from(foreign.user_id.as_str())
            .map_err(|_| MigrateError::Account("its user id is none"))?;
        let device_id = OwnedDeviceId::from(foreign.device_id.as_str());
        if device_id.as_str().is_empty() {
            return Err(MigrateError::Account("its device id is none"));
        }
        let account = foreign
            .pickle
            .restore()
            .map_err(|_| MigrateError::Account("its keys contradict each other"))?;
        let keys = account.identity_keys();
        let report = Report {
            user_id: user_id.clone(),
            device_id: device_id.clone(),
            ed25519: keys.ed25519.to_base64(),
            curve25519: keys.curve25519.to_base64(),
            source_encrypted: self.is_encrypted(),
            taken: BTreeMap::new(),
            left: Vec::new(),
        };
        let mut reading = Reading { source: self, user_id, device_id, keys, now, report };
        reading.report.take(Kind::Account, 1);
        let mut adoption = reading.adoption(account);
        adoption.created_at = Timestamp::from_millis(foreign.creation_local_time);
        adoption.device_keys_published = foreign.shared;
        adoption.server_one_time_keys = Some(foreign.uploaded_signed_key_count);
        adoption.fallback_created_at =
            foreign.fallback_key_creation_timestamp.map(Timestamp::from_millis);
        Ok(reading.all(adoption))
    }
}

impl Reading<'_> {
    fn adoption(&self, account: Account) -> Adoption {
        Adoption {
            user_id: self.user_id.clone(),
            device_id: self.device_id.clone(),
            account,
            created_at: self.now,
            device_keys_published: false,
            server_one_time_keys: None,
            fallback_created_at: None,
            tracked: Vec::new(),
            devices: Vec::new(),
            identities: Vec::new(),
            secrets: Vec::new(),
            pending: None,
            backup: None,
            rooms: Vec::new(),
        }
    }

    fn all(mut self, mut adoption: Adoption) -> Found {
        let owners = self.devices(&mut adoption);
        let identities = self.identities(&mut adoption);
        self.tracked_users(&mut adoption);
        self.private_identity(&mut adoption);
        self.backup(&mut adoption);
        let channels = self.channels();
        let room_keys = self.room_keys(&owners);
        self.encrypted_rooms(&mut adoption, &room_keys);
        self.the_rest();
        Found {
            adoption: Some(adoption),
            channels,
            room_keys,
            report: self.report,
            own_was_verified: identities.own,
            users_were_verified: identities.others,
            secrets: Vec::new(),
            backup_in_use: false,
        }
    }

    /// Reads a table row by row; what cannot be read is reported.
    fn table(
        &mut self,
        kind: Kind,
        query: &str,
        mut visit: impl FnMut(&mut Self, &crate::source::Columns<'_>),
    ) {
        let source = self.source;
        if source.rows(query, |columns| visit(self, columns)).is_err() {
            self.report.leave(kind, Reason::Unreadable);
        }
    }

    /// What is not taken whatever it says.
    fn the_rest(&mut self) {
        for (table, kind, reason) in [
            ("outbound_group_session", Kind::OutboundRoomKey, Reason::MadeAnew),
            ("olm_hash", Kind::OlmHash, Reason::NoCounterpart),
            ("key_requests", Kind::KeyRequest, Reason::MadeAnew),
            ("direct_withheld_info", Kind::Withheld, Reason::NoCounterpart),
            ("secrets_inbox", Kind::WaitingSecret, Reason::MadeAnew),
            ("secrets", Kind::WaitingSecret, Reason::MadeAnew),
            ("received_room_key_bundle", Kind::KeyBundle, Reason::NoCounterpart),
            ("rooms_pending_key_bundle", Kind::KeyBundle, Reason::NoCounterpart),
        ] {
            let count = self.source.count(table);
            self.report.leave_many(kind, reason, count);
        }
        if !matches!(self.source.named::<serde_json::Value>("next_batch_token"), Ok(None)) {
            self.report.leave(Kind::SyncToken, Reason::MadeAnew);
        }
        let key = self.source.named::<herold_crypto::SecretBytes>("dehydrated_device_pickle_key");
        if !matches!(key, Ok(None)) {
            self.report.leave(Kind::DehydratedDeviceKey, Reason::NoCounterpart);
        }
    }
}
