//! Cross-signing keys and the signatures that clients upload. The model checks their shape and
//! their names, never their cryptography.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::HomeServer;
use super::http::{Answer, ApiError, Call};
use super::model::Requester;

/// Merges signatures of one signer into a signed object; one of an odd shape stays as it is.
pub(super) fn add_signatures(
    signed: &mut Value,
    signer: &str,
    signatures: &BTreeMap<String, Value>,
) {
    let object = |value: &mut Value, key: &str| -> Option<Map<String, Value>> {
        let entry = value.as_object_mut()?.entry(key).or_insert_with(|| json!({}));
        entry.as_object().cloned()
    };
    let Some(all) = object(signed, "signatures") else { return };
    let mut all = Value::Object(all);
    let Some(mut by_signer) = object(&mut all, signer) else { return };
    by_signer.extend(signatures.clone());
    all[signer] = Value::Object(by_signer);
    signed["signatures"] = all;
}

/// The object as it was signed.
fn signed_part(value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(map) = value.as_object_mut() {
        map.remove("signatures");
        map.remove("unsigned");
    }
    value
}

/// The public key (without its algorithm) of a cross-signing key.
fn public_key(key: &Value) -> Option<&str> {
    let id = key.get("keys")?.as_object()?.keys().next()?;
    id.split_once(':').map(|(_, name)| name)
}

fn check_key(key: &Value, user: &str, usage: &str) -> Result<(), ApiError> {
    let usages = key.get("usage").and_then(Value::as_array);
    let named = key.get("user_id").and_then(Value::as_str) == Some(user);
    let used = usages.is_some_and(|usages| usages.iter().any(|known| known == usage));
    if named && used && public_key(key).is_some() {
        Ok(())
    } else {
        Err(ApiError::invalid(&format!("Invalid {usage} key")))
    }
}

impl HomeServer {
    /// A cross-signing key as one user sees it: with the signatures of that user only, beside
    /// those that were uploaded with the key.
    pub(super) fn cross_signing_key(
        &self,
        user_id: &str,
        usage: &str,
        viewer: &str,
    ) -> Option<Value> {
        let user = self.users.get(user_id)?;
        if let Some(key) = user.cross_signing_override.get(usage) {
            return (!key.is_null()).then(|| key.clone());
        }
        let mut key = user.cross_signing.get(usage)?.clone();
        let target = (user_id.to_owned(), public_key(&key)?.to_owned());
        if let Some(signatures) =
            self.users.get(viewer).and_then(|viewer| viewer.signatures.get(&target))
        {
            add_signatures(&mut key, viewer, signatures);
        }
        Some(key)
    }

    /// The first upload needs no password, the same keys again change nothing, other keys need
    /// the password.
    pub(super) fn device_signing_upload(
        &mut self,
        call: &Call<'_>,
        requester: &Requester,
    ) -> Answer {
        let body = call.object()?;
        let user_id = requester.user.as_str();
        let known = self.users.get(user_id).map(|user| user.cross_signing.clone());
        let known = known.unwrap_or_default();
        let mut new = BTreeMap::new();
        for usage in ["master", "self_signing", "user_signing"] {
            if let Some(key) = body.get(&format!("{usage}_key")).filter(|key| !key.is_null()) {
                new.insert(usage.to_owned(), key.clone());
            }
        }
        if new.iter().all(|(usage, key)| known.get(usage) == Some(key)) {
            return Ok(json!({}));
        }
        if known.contains_key("master") {
            self.need_password(call, requester, &body)?;
        }
        let master = new.get("master").or(known.get("master"));
        let master = master.and_then(public_key).map(|key| format!("ed25519:{key}"));
        let Some(master) = master else {
            return Err(ApiError::invalid("No master key available"));
        };
        for (usage, key) in &new {
            check_key(key, user_id, usage)?;
            let signed = key.get("signatures").and_then(|by| by.get(user_id));
            if usage != "master" && signed.and_then(|by| by.get(&master)).is_none() {
                let error = format!("The {usage} key is not signed by the master key");
                return Err(ApiError::new(400, "M_INVALID_SIGNATURE", &error));
            }
        }
        self.note_device_change(user_id);
        let pos = self.pos;
        if let Some(user) = self.users.get_mut(user_id) {
            if new.get("self_signing").is_some_and(|key| known.get("self_signing") != Some(key)) {
                user.signing_log.push((pos, None));
            }
            user.cross_signing.extend(new);
        }
        Ok(json!({}))
    }

    pub(super) fn signatures_upload(&mut self, call: &Call<'_>, requester: &Requester) -> Answer {
        let body = call.object()?;
        let mut failures: BTreeMap<String, BTreeMap<String, Value>> = BTreeMap::new();
        for (user_id, targets) in &body {
            let targets = targets
                .as_object()
                .ok_or_else(|| ApiError::bad_json("The signed keys must be an object"))?;
            for (target, signed) in targets {
                if let Err(error) = self.store_signature(requester, user_id, target, signed) {
                    failures.entry(user_id.clone()).or_default().insert(target.clone(), error.body);
                }
            }
            let own = *user_id == requester.user;
            let stored = targets.len() > failures.get(user_id).map_or(0, BTreeMap::len);
            if stored && own {
                self.note_device_change(user_id);
                self.log_signatures(user_id, targets.keys());
            } else if stored {
                let pos = self.next_pos();
                let signer = requester.user.clone();
                self.signature_changes.push((pos, signer, user_id.clone()));
            }
        }
        Ok(json!({ "failures": failures }))
    }

    /// Notes which of the user's devices are signed with the user's self-signing key as it is now.
    fn log_signatures<'a>(&mut self, user_id: &str, targets: impl Iterator<Item = &'a String>) {
        let pos = self.pos;
        let Some(user) = self.users.get_mut(user_id) else { return };
        let Some(key) = user.cross_signing.get("self_signing").and_then(public_key) else { return };
        let key_id = format!("ed25519:{key}");
        for device in targets {
            let target = (user_id.to_owned(), device.clone());
            let signed = user.signatures.get(&target).is_some_and(|by| by.contains_key(&key_id));
            if signed && user.devices.contains_key(device) {
                user.signing_log.push((pos, Some(device.clone())));
            }
        }
    }

    fn store_signature(
        &mut self,
        requester: &Requester,
        user_id: &str,
        target: &str,
        signed: &Value,
    ) -> Result<(), ApiError> {
        let user = self.users.get(user_id).ok_or_else(|| ApiError::not_found("Unknown user"))?;
        let master = user.cross_signing.get("master");
        let known = if master.and_then(public_key) == Some(target) {
            master
        } else if user_id == requester.user {
            user.devices.get(target).and_then(|device| device.keys.as_ref())
        } else {
            None
        };
        let known = known.ok_or_else(|| ApiError::not_found("No such key"))?;
        if signed_part(known) != signed_part(signed) {
            return Err(ApiError::invalid("The key does not match"));
        }
        let new: Option<&Map<String, Value>> =
            signed.get("signatures").and_then(|by| by.get(&requester.user)?.as_object());
        let Some(new) = new.filter(|new| !new.is_empty()) else {
            return Err(ApiError::new(400, "M_INVALID_SIGNATURE", "No signature found"));
        };
        let new = new.clone();
        if let Some(signer) = self.users.get_mut(&requester.user) {
            let key = (user_id.to_owned(), target.to_owned());
            signer.signatures.entry(key).or_default().extend(new);
        }
        Ok(())
    }
}
