//! Device keys, one-time keys and fallback keys.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::HomeServer;
use super::http::{Answer, ApiError, Call};
use super::ids::server_of;
use super::model::{Device, FallbackKey, Requester};

/// Whether the server takes an uploaded key for the one it has: signatures do not count.
fn same_key(old: &Value, new: &Value) -> bool {
    match (old.as_object(), new.as_object()) {
        (Some(old), Some(new)) => {
            old.get("key") == new.get("key") && old.get("fallback") == new.get("fallback")
        }
        _ => old == new,
    }
}

impl Device {
    /// The count of every algorithm that ever had a key, and always of `signed_curve25519`.
    pub(super) fn key_counts(&self) -> Value {
        let mut counts = BTreeMap::from([("signed_curve25519".to_owned(), 0_u64)]);
        for id in self.one_time_keys.keys() {
            let algorithm = id.split(':').next().unwrap_or_default();
            *counts.entry(algorithm.to_owned()).or_insert(0) += 1;
        }
        json!(counts)
    }

    pub(super) fn unused_fallback_types(&self) -> Vec<&str> {
        let unused = self.fallback_keys.iter().filter(|(_, key)| !key.used);
        unused.map(|(algorithm, _)| algorithm.as_str()).collect()
    }

    /// Takes the oldest one-time key; without one, shows the fallback key and marks it used.
    fn claim(&mut self, algorithm: &str) -> Option<(String, Value)> {
        let oldest = self
            .one_time_keys
            .iter()
            .filter(|(id, _)| id.split(':').next() == Some(algorithm))
            .min_by_key(|(id, (order, _))| (*order, id.as_str()))
            .map(|(id, _)| id.clone());
        if let Some(id) = oldest {
            let (_, key) = self.one_time_keys.remove(&id)?;
            return Some((id, key));
        }
        let fallback = self.fallback_keys.get_mut(algorithm)?;
        fallback.used = true;
        Some((fallback.key_id.clone(), fallback.key.clone()))
    }
}

impl HomeServer {
    /// Whether requests for users of this server end in `failures`.
    pub(super) fn unreachable_server(&self, server: &str) -> bool {
        self.failing.contains(server)
            || (server != self.name && !self.users.keys().any(|user| server_of(user) == server))
    }

    pub(super) fn keys_upload(
        &mut self,
        call: &Call<'_>,
        requester: &Requester,
        path_device: Option<&str>,
    ) -> Answer {
        let body = call.object()?;
        if path_device.is_some_and(|device| device != requester.device) {
            return Err(ApiError::invalid("The device of the path is not that of the token"));
        }
        if let Some(keys) = body.get("device_keys").filter(|keys| !keys.is_null()) {
            self.upload_device_keys(requester, keys)?;
        }
        let empty = Map::new();
        let section = |names: &[&str]| -> Result<&Map<String, Value>, ApiError> {
            match names.iter().find_map(|name| body.get(*name)).filter(|keys| !keys.is_null()) {
                None => Ok(&empty),
                Some(keys) => {
                    keys.as_object().ok_or_else(|| ApiError::bad_json("Keys must be an object"))
                }
            }
        };
        let one_time = section(&["one_time_keys"])?;
        let fallback = section(&["fallback_keys", "org.matrix.msc2732.fallback_keys"])?;
        if one_time.keys().chain(fallback.keys()).any(|id| !id.contains(':')) {
            return Err(ApiError::bad_json("A key id is an algorithm, a colon and a name"));
        }
        let order = self.next_pos();
        let device = self
            .device_mut(&requester.user, &requester.device)
            .ok_or_else(|| ApiError::not_found("Unknown device"))?;
        for (id, key) in one_time {
            if let Some((_, old)) = device.one_time_keys.get(id)
                && !same_key(old, key)
            {
                let error = format!("One time key {id} already exists. Old key: {old}; new: {key}");
                return Err(ApiError::new(400, "M_UNKNOWN", &error));
            }
        }
        for (id, key) in one_time {
            device.one_time_keys.entry(id.clone()).or_insert_with(|| (order, key.clone()));
        }
        for (id, key) in fallback {
            let algorithm = id.split(':').next().unwrap_or_default().to_owned();
            let known = device.fallback_keys.get(&algorithm);
            // The same key again stays used.
            if known.is_some_and(|known| known.key_id == *id && same_key(&known.key, key)) {
                continue;
            }
            let fallback = FallbackKey { key_id: id.clone(), key: key.clone(), used: false };
            device.fallback_keys.insert(algorithm, fallback);
        }
        Ok(json!({ "one_time_key_counts": device.key_counts() }))
    }

    /// Other identity keys for a known device are taken without a word; a client has to judge.
    fn upload_device_keys(&mut self, requester: &Requester, keys: &Value) -> Result<(), ApiError> {
        if !keys.is_object() {
            return Err(ApiError::bad_json("'device_keys' must be an object"));
        }
        if keys.get("user_id").and_then(Value::as_str) != Some(&requester.user)
            || keys.get("device_id").and_then(Value::as_str) != Some(&requester.device)
        {
            let error = "'device_keys' are not those of the authenticated user and device";
            return Err(ApiError::bad_json(error));
        }
        let mut keys = keys.clone();
        if let Some(map) = keys.as_object_mut() {
            map.remove("unsigned");
        }
        if let Some(device) = self.device_mut(&requester.user, &requester.device)
            && device.keys.as_ref() != Some(&keys)
        {
            device.keys = Some(keys);
            self.note_device_change(&requester.user);
        }
        Ok(())
    }

    pub(super) fn keys_query(&self, call: &Call<'_>, requester: &Requester) -> Answer {
        let body = call.object()?;
        let asked = body
            .get("device_keys")
            .and_then(Value::as_object)
            .ok_or_else(|| ApiError::bad_json("'device_keys' must be an object"))?;
        let mut failures = Map::new();
        let mut devices = Map::new();
        let mut known = BTreeSet::new();
        for (user_id, wanted) in asked {
            let wanted: Vec<&str> = wanted
                .as_array()
                .ok_or_else(|| ApiError::bad_json("The devices of a user must be a list"))?
                .iter()
                .filter_map(Value::as_str)
                .collect();
            if self.unreachable_server(server_of(user_id)) {
                failures.insert(server_of(user_id).to_owned(), failure());
                continue;
            }
            known.insert(user_id.as_str());
            devices.insert(user_id.clone(), self.query_devices(user_id, &wanted));
        }
        let mut out = json!({ "device_keys": devices, "failures": failures });
        for (usage, section) in [
            ("master", "master_keys"),
            ("self_signing", "self_signing_keys"),
            ("user_signing", "user_signing_keys"),
        ] {
            let users = known
                .iter()
                .filter(|user| usage != "user_signing" || **user == requester.user)
                .filter_map(|user| {
                    let key = self.cross_signing_key(user, usage, &requester.user)?;
                    Some(((*user).to_owned(), key))
                });
            out[section] = Value::Object(users.collect());
        }
        Ok(out)
    }

    fn query_devices(&self, user_id: &str, wanted: &[&str]) -> Value {
        let mut out = Map::new();
        let Some(user) = self.users.get(user_id) else { return Value::Object(out) };
        for (device_id, device) in &user.devices {
            if !wanted.is_empty() && !wanted.contains(&device_id.as_str()) {
                continue;
            }
            if let Some(keys) = &device.keys_override {
                if !keys.is_null() {
                    out.insert(device_id.clone(), keys.clone());
                }
                continue;
            }
            let Some(mut keys) = device.keys.clone() else { continue };
            if let Some(signatures) = user.signatures.get(&(user_id.to_owned(), device_id.clone()))
            {
                super::cross_signing::add_signatures(&mut keys, user_id, signatures);
            }
            if let Some(map) = keys.as_object_mut() {
                let name = device.display_name.as_ref();
                let unsigned = name.map(|name| json!({ "device_display_name": name }));
                map.insert("unsigned".to_owned(), unsigned.unwrap_or_else(|| json!({})));
            }
            out.insert(device_id.clone(), keys);
        }
        Value::Object(out)
    }

    pub(super) fn keys_claim(&mut self, call: &Call<'_>) -> Answer {
        let body = call.object()?;
        let asked = body
            .get("one_time_keys")
            .and_then(Value::as_object)
            .ok_or_else(|| ApiError::bad_json("'one_time_keys' must be an object"))?;
        let mut failures = Map::new();
        let mut claimed = Map::new();
        for (user_id, devices) in asked {
            let devices = devices
                .as_object()
                .ok_or_else(|| ApiError::bad_json("The devices of a user must be an object"))?;
            if self.unreachable_server(server_of(user_id)) {
                failures.insert(server_of(user_id).to_owned(), failure());
                continue;
            }
            let mut found = Map::new();
            for (device_id, algorithm) in devices {
                let algorithm = algorithm.as_str().unwrap_or_default();
                let device = self.device_mut(user_id, device_id);
                if let Some((id, key)) = device.and_then(|device| device.claim(algorithm)) {
                    found.insert(device_id.clone(), json!({ id: key }));
                }
            }
            if !found.is_empty() {
                claimed.insert(user_id.clone(), Value::Object(found));
            }
        }
        Ok(json!({ "one_time_keys": claimed, "failures": failures }))
    }
}

fn failure() -> Value {
    json!({ "status": 503, "message": "Not ready for retry" })
}
