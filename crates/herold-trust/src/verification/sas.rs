//! The strings and MACs of one short-authentication exchange.

use herold_crypto::{SasSecret, curve25519_from_base64};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::message::{Channel, SAS, lists, object, text};
use super::party::{PartyKeys, VerifiedKey};
use super::{CancelCode, ShortAuthString};
use crate::Emoji;

const KEY_AGREEMENT: &str = "curve25519-hkdf-sha256";
const HASH: &str = "sha256";
const MAC_METHOD: &str = "hkdf-hmac-sha256.v2";

/// One exchange, from the `start` on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Exchange {
    /// The content of the start message, as sent or received: the commitment covers it.
    pub(super) start: Value,
    pub(super) we_started: bool,
    /// The other side's commitment, if we started.
    pub(super) commitment: Option<String>,
    pub(super) emoji: bool,
    pub(super) decimals: bool,
    /// The other side's public key in base64, once it is known and good.
    pub(super) their_key: Option<String>,
}

/// The members of a `start` that offers all we know.
pub(super) fn start_content(from_device: &str) -> Map<String, Value> {
    object([
        ("from_device", from_device.into()),
        ("method", SAS.into()),
        ("key_agreement_protocols", json!([KEY_AGREEMENT])),
        ("hashes", json!([HASH])),
        ("message_authentication_codes", json!([MAC_METHOD])),
        ("short_authentication_string", json!(["decimal", "emoji"])),
    ])
}

impl Exchange {
    /// An exchange that we began.
    pub(super) fn sent(start: Value) -> Self {
        Self {
            start,
            we_started: true,
            commitment: None,
            emoji: false,
            decimals: false,
            their_key: None,
        }
    }

    /// An exchange that the other side began.
    pub(super) fn received(start: &Value) -> Result<Self, CancelCode> {
        for (field, ours) in [
            ("key_agreement_protocols", KEY_AGREEMENT),
            ("hashes", HASH),
            ("message_authentication_codes", MAC_METHOD),
        ] {
            if !start.get(field).is_some_and(Value::is_array) {
                return Err(CancelCode::InvalidMessage);
            }
            if !lists(start, field, ours) {
                return Err(CancelCode::UnknownMethod);
            }
        }
        let (emoji, decimals) = strings(start)?;
        Ok(Self {
            start: start.clone(),
            we_started: false,
            commitment: None,
            emoji,
            decimals,
            their_key: None,
        })
    }

    /// The members of our answer to their start.
    pub(super) fn accept_content(&self, commitment: &str) -> Map<String, Value> {
        let strings: Vec<&str> = [(self.decimals, "decimal"), (self.emoji, "emoji")]
            .into_iter()
            .filter_map(|(has, name)| has.then_some(name))
            .collect();
        object([
            ("method", SAS.into()),
            ("key_agreement_protocol", KEY_AGREEMENT.into()),
            ("hash", HASH.into()),
            ("message_authentication_code", MAC_METHOD.into()),
            ("short_authentication_string", json!(strings)),
            ("commitment", commitment.into()),
        ])
    }

    /// Takes their answer to our start.
    pub(super) fn take_accept(&mut self, accept: &Value) -> Result<(), CancelCode> {
        for (field, ours) in [
            ("key_agreement_protocol", KEY_AGREEMENT),
            ("hash", HASH),
            ("message_authentication_code", MAC_METHOD),
        ] {
            match text(accept, field) {
                None => return Err(CancelCode::InvalidMessage),
                Some(theirs) if theirs != ours => return Err(CancelCode::UnknownMethod),
                Some(_) => {}
            }
        }
        (self.emoji, self.decimals) = strings(accept)?;
        let commitment = text(accept, "commitment").filter(|text| !text.is_empty());
        self.commitment = Some(commitment.ok_or(CancelCode::InvalidMessage)?.to_owned());
        Ok(())
    }

    /// The bytes to compare, as emoji and numbers.
    pub(super) fn short_string(
        &self,
        secret: &SasSecret,
        channel: &Channel,
        ours: (&PartyKeys, &str),
        theirs: (&PartyKeys, &str),
    ) -> ShortAuthString {
        let (first, second) = if self.we_started { (ours, theirs) } else { (theirs, ours) };
        let side = |(party, key): (&PartyKeys, &str)| {
            format!("{}|{}|{}", party.user_id, party.device_id, key)
        };
        let (first, second) = (side(first), side(second));
        let info = format!("MATRIX_KEY_VERIFICATION_SAS|{first}|{second}|{}", channel.flow_id());
        let bytes = secret.bytes(&info);
        ShortAuthString {
            emoji: self.emoji.then(|| bytes.emoji_indices().map(Emoji::of_bits)),
            decimals: self.decimals.then(|| bytes.decimals()),
        }
    }
}

fn strings(content: &Value) -> Result<(bool, bool), CancelCode> {
    const FIELD: &str = "short_authentication_string";
    if !content.get(FIELD).is_some_and(Value::is_array) {
        return Err(CancelCode::InvalidMessage);
    }
    match (lists(content, FIELD, "emoji"), lists(content, FIELD, "decimal")) {
        (false, false) => Err(CancelCode::UnknownMethod),
        both => Ok(both),
    }
}

/// A public key from a `key` message, in the one spelling it has.
pub(super) fn public_key(content: &Value) -> Result<String, CancelCode> {
    let text = text(content, "key").ok_or(CancelCode::InvalidMessage)?;
    let key = curve25519_from_base64(text).map_err(|_| CancelCode::InvalidMessage)?;
    Ok(key.to_base64())
}

fn mac_info(channel: &Channel, sender: &PartyKeys, receiver: &PartyKeys, key_id: &str) -> String {
    format!(
        "MATRIX_KEY_VERIFICATION_MAC{}{}{}{}{}{key_id}",
        sender.user_id,
        sender.device_id,
        receiver.user_id,
        receiver.device_id,
        channel.flow_id(),
    )
}

/// The MACs over our keys.
pub(super) fn mac_content(
    secret: &SasSecret,
    channel: &Channel,
    ours: &PartyKeys,
    theirs: &PartyKeys,
) -> Map<String, Value> {
    let mac = |input: &str, id: &str| secret.mac(input, &mac_info(channel, ours, theirs, id));
    let mut macs = Map::new();
    let device = (ours.device_id.to_string(), ours.device_key);
    let master = ours.master.map(|key| (key.to_base64(), key));
    for (name, key) in [Some(device), master].into_iter().flatten() {
        let id = format!("ed25519:{name}");
        macs.insert(id.clone(), mac(&key.to_base64(), &id).into());
    }
    let keys = mac(&key_list(&macs), "KEY_IDS");
    object([("mac", Value::Object(macs)), ("keys", keys.into())])
}

/// Checks their MACs against their keys as we know them. Ids that are not theirs are ignored, but
/// must be in the list that is itself authenticated.
pub(super) fn check_macs(
    secret: &SasSecret,
    channel: &Channel,
    ours: &PartyKeys,
    theirs: &PartyKeys,
    content: &Value,
) -> Result<Vec<VerifiedKey>, CancelCode> {
    let good = |input: &str, id: &str, mac: &str| {
        secret.is_authentic(input, &mac_info(channel, theirs, ours, id), mac)
    };
    let macs = content.get("mac").and_then(Value::as_object).ok_or(CancelCode::InvalidMessage)?;
    let keys = text(content, "keys").ok_or(CancelCode::InvalidMessage)?;
    if !good(&key_list(macs), "KEY_IDS", keys) {
        return Err(CancelCode::KeyMismatch);
    }
    let covers = |name: &str, key: &str| {
        let id = format!("ed25519:{name}");
        match macs.get(&id).map(Value::as_str) {
            None => Ok(false),
            Some(None) => Err(CancelCode::InvalidMessage),
            Some(Some(mac)) if good(key, &id, mac) => Ok(true),
            Some(Some(_)) => Err(CancelCode::KeyMismatch),
        }
    };
    let device = covers(theirs.device_id.as_str(), &theirs.device_key.to_base64())?;
    let master = match theirs.master.map(|key| key.to_base64()) {
        Some(key) => covers(&key, &key)?,
        None => false,
    };
    // Between users the master key stands for all of a user's devices, and nothing less will do; where there is none, as
    // between own devices, the device itself is what was compared.
    let same_user = ours.user_id == theirs.user_id;
    let needs_device = same_user || theirs.master.is_none();
    if !(if needs_device { device } else { master }) {
        return Err(CancelCode::KeyMismatch);
    }
    let mut verified = Vec::new();
    if needs_device {
        verified.push(theirs.verified_device());
    }
    if master {
        verified.extend(theirs.verified_master());
    }
    Ok(verified)
}

/// The key ids, sorted, with commas. Sorted here: another crate of the build may make the map keep
/// the order of insertion.
fn key_list(macs: &Map<String, Value>) -> String {
    let mut ids: Vec<&str> = macs.keys().map(String::as_str).collect();
    ids.sort_unstable();
    ids.join(",")
}
