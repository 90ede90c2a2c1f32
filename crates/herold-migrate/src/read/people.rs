//! Other people: whose devices are tracked, which devices and identities are known.

use herold_machine::{AdoptedDevice, AdoptedIdentity, Adoption};
use herold_trust::{
    Device, IdentityError, KeyUsage, ParsedIdentity, Timestamp, parse_identity,
    parse_sender_device_keys,
};
use ruma::{OwnedUserId, UserId};
use serde_json::Value;

use super::{Owners, Reading};
use crate::{
    Kind, Reason,
    values::{
        ForeignDevice, ForeignIdentity, ForeignOtherIdentity, ForeignOwnIdentity,
        ForeignTrackedUser,
    },
};

/// Whom the old client counted as verified.
#[derive(Default)]
pub(super) struct WereVerified {
    pub(super) own: bool,
    pub(super) others: Vec<OwnedUserId>,
}

impl Reading<'_> {
    pub(super) fn devices(&mut self, adoption: &mut Adoption) -> Owners {
        let mut owners = Owners::new();
        let own = (*self.keys.curve25519.as_bytes(), *self.keys.ed25519.as_bytes());
        owners.insert(own, vec![self.user_id.clone()]);
        let query = "SELECT data, user_id, device_id FROM device";
        self.table(Kind::Device, query, |reading, columns| match reading.device(columns) {
            Ok(None) => {}
            Ok(Some(adopted)) => {
                let device = &adopted.device;
                let keys = (*device.keys.curve25519.as_bytes(), *device.keys.ed25519.as_bytes());
                let users = owners.entry(keys).or_default();
                if !users.contains(&device.user_id) {
                    users.push(device.user_id.clone());
                }
                reading.report.take(Kind::Device, 1);
                reading.report.take(Kind::BlockedDevice, u64::from(adopted.blocked));
                adoption.devices.push(adopted);
            }
            Err(reason) => reading.report.leave(Kind::Device, reason),
        });
        owners
    }

    fn device(
        &mut self,
        columns: &crate::source::Columns<'_>,
    ) -> Result<Option<AdoptedDevice>, Reason> {
        let [data, user, name] = columns else { return Err(Reason::Damaged) };
        let foreign: ForeignDevice = self.source.value(data).map_err(|_| Reason::Damaged)?;
        if foreign.deleted {
            return Ok(None);
        }
        let device = checked_device(&foreign.device_keys).ok_or(Reason::Contradiction)?;
        let is_filed = |column: &[u8], text: &str| {
            column == self.source.filed("device", text.as_bytes()).as_slice()
        };
        if !is_filed(user, device.user_id.as_str()) || !is_filed(name, device.device_id.as_str()) {
            return Err(Reason::Contradiction);
        }
        let is_own = device.user_id == self.user_id && device.device_id == self.device_id;
        if is_own && device.keys != self.keys {
            return Err(Reason::Contradiction);
        }
        let trust = foreign.trust_state.as_str().unwrap_or_default();
        if trust == "Verified" && !is_own {
            // A mark in a file; the device has to be verified anew.
            self.report.leave_named(
                Kind::VerifiedDevice,
                Reason::Unproved,
                format!("{} {}", device.user_id, device.device_id),
            );
        }
        Ok(Some(AdoptedDevice {
            blocked: trust == "BlackListed" && !is_own,
            first_seen: Timestamp::from_millis(foreign.first_time_seen_ts),
            device,
        }))
    }

    pub(super) fn identities(&mut self, adoption: &mut Adoption) -> WereVerified {
        let mut were = WereVerified::default();
        let query = "SELECT data, user_id FROM identity";
        self.table(Kind::Identity, query, |reading, columns| {
            match reading.identity(columns, &mut were) {
                Ok(identity) => {
                    reading.report.take(Kind::Identity, 1);
                    adoption.identities.push(identity);
                }
                Err(reason) => reading.report.leave(Kind::Identity, reason),
            }
        });
        were
    }

    fn identity(
        &self,
        columns: &crate::source::Columns<'_>,
        were: &mut WereVerified,
    ) -> Result<AdoptedIdentity, Reason> {
        let [data, user] = columns else { return Err(Reason::Damaged) };
        let foreign: ForeignIdentity = self.source.value(data).map_err(|_| Reason::Damaged)?;
        let name = match &foreign {
            ForeignIdentity::Own(own) => &own.user_id,
            ForeignIdentity::Other(other) => &other.user_id,
        };
        let user_id = OwnedUserId::try_from(name.as_str()).map_err(|_| Reason::Contradiction)?;
        let is_own = matches!(foreign, ForeignIdentity::Own(_));
        if *user != self.source.filed("identity", user_id.as_bytes()).as_slice()
            || is_own != (user_id == self.user_id)
        {
            return Err(Reason::Contradiction);
        }
        match foreign {
            ForeignIdentity::Own(own) => {
                let verified = own.verified == "Verified" || own.verified == true;
                let identity = own_identity(&user_id, &own)?;
                were.own = verified;
                Ok(identity)
            }
            ForeignIdentity::Other(other) => {
                let identity = other_identity(&user_id, &other)?;
                if other.previously_verified {
                    were.others.push(user_id);
                }
                Ok(identity)
            }
        }
    }

    pub(super) fn tracked_users(&mut self, adoption: &mut Adoption) {
        let query = "SELECT data, user_id FROM tracked_user";
        self.table(Kind::TrackedUser, query, |reading, columns| {
            match reading.tracked_user(columns) {
                Ok(user_id) => {
                    reading.report.take(Kind::TrackedUser, 1);
                    adoption.tracked.push(user_id);
                }
                Err(reason) => reading.report.leave(Kind::TrackedUser, reason),
            }
        });
    }

    fn tracked_user(&self, columns: &crate::source::Columns<'_>) -> Result<OwnedUserId, Reason> {
        let [data, user] = columns else { return Err(Reason::Damaged) };
        let foreign: ForeignTrackedUser = self.source.value(data).map_err(|_| Reason::Damaged)?;
        let user_id =
            OwnedUserId::try_from(foreign.user_id.as_str()).map_err(|_| Reason::Contradiction)?;
        // The table's name in the hash has an s more than the table.
        if *user != self.source.filed("tracked_users", user_id.as_bytes()).as_slice() {
            return Err(Reason::Contradiction);
        }
        Ok(user_id)
    }
}

/// A device whose keys are signed by itself.
pub(super) fn checked_device(json: &Value) -> Option<Device> {
    let user_id = OwnedUserId::try_from(json.get("user_id")?.as_str()?).ok()?;
    parse_sender_device_keys(&user_id, json).ok()
}

fn own_identity(user_id: &UserId, own: &ForeignOwnIdentity) -> Result<AdoptedIdentity, Reason> {
    let parsed = checked_identity(parse_identity(
        user_id,
        &own.master_key,
        &own.self_signing_key,
        Some(&own.user_signing_key),
    ))?;
    Ok(AdoptedIdentity { parsed, pinned_master: None, was_verified: false })
}

fn other_identity(
    user_id: &UserId,
    other: &ForeignOtherIdentity,
) -> Result<AdoptedIdentity, Reason> {
    let parsed = checked_identity(parse_identity(
        user_id,
        &other.master_key,
        &other.self_signing_key,
        None,
    ))?;
    // The pinned key is only ever compared: with the one that is in use it may come from the same object.
    let pinned = match &other.pinned_master_key {
        None => None,
        Some(object) => Some(sole_key(object).ok_or(Reason::Contradiction)?),
    };
    Ok(AdoptedIdentity {
        pinned_master: pinned.filter(|pinned| *pinned != parsed.master()),
        was_verified: other.previously_verified,
        parsed,
    })
}

fn checked_identity(
    parsed: Result<ParsedIdentity, IdentityError>,
) -> Result<ParsedIdentity, Reason> {
    parsed.map_err(|_| Reason::Contradiction)
}

/// The one key of a key object.
fn sole_key(object: &Value) -> Option<herold_crypto::Ed25519PublicKey> {
    let keys = object.get("keys")?.as_object()?;
    let is_master = |usage: &Value| usage.as_str() == Some(KeyUsage::Master.as_str());
    if keys.len() != 1 || !object.get("usage")?.as_array()?.iter().any(is_master) {
        return None;
    }
    herold_crypto::ed25519_from_base64(keys.values().next()?.as_str()?).ok()
}
