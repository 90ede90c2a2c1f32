//! The device list of a user as the user manages it.

use serde_json::{Value, json};

use super::HomeServer;
use super::http::{Answer, ApiError, Call, text};
use super::model::{Device, Requester};

impl HomeServer {
    fn device_json(device_id: &str, user_id: &str, device: &Device) -> Value {
        let mut out = json!({
            "device_id": device_id,
            "user_id": user_id,
            "display_name": device.display_name,
        });
        if let Some(seen) = device.last_seen_ms {
            out["last_seen_ts"] = json!(seen);
            out["last_seen_ip"] = json!("127.0.0.1");
        }
        out
    }

    pub(super) fn list_devices(&self, requester: &Requester) -> Value {
        let devices: Vec<Value> = self
            .users
            .get(&requester.user)
            .into_iter()
            .flat_map(|user| &user.devices)
            .map(|(id, device)| Self::device_json(id, &requester.user, device))
            .collect();
        json!({ "devices": devices })
    }

    pub(super) fn device(&self, user: &str, device: &str) -> Option<&Device> {
        self.users.get(user)?.devices.get(device)
    }

    pub(super) fn device_mut(&mut self, user: &str, device: &str) -> Option<&mut Device> {
        self.users.get_mut(user)?.devices.get_mut(device)
    }

    pub(super) fn get_device(&self, requester: &Requester, device_id: &str) -> Answer {
        self.device(&requester.user, device_id)
            .map(|device| Self::device_json(device_id, &requester.user, device))
            .ok_or_else(|| ApiError::not_found("Device not found"))
    }

    pub(super) fn put_device(
        &mut self,
        call: &Call<'_>,
        requester: &Requester,
        device_id: &str,
    ) -> Answer {
        let body = call.object_or_empty()?;
        let device = self
            .device_mut(&requester.user, device_id)
            .ok_or_else(|| ApiError::not_found("Device not found"))?;
        if let Some(name) = text(&body, "display_name") {
            device.display_name = Some(name.to_owned());
            self.note_device_change(&requester.user);
        }
        Ok(json!({}))
    }

    pub(super) fn delete_device(
        &mut self,
        call: &Call<'_>,
        requester: &Requester,
        device_id: &str,
    ) -> Answer {
        let body = call.object_or_empty()?;
        self.need_password(call, requester, &body)?;
        self.drop_device(&requester.user, device_id);
        Ok(json!({}))
    }

    pub(super) fn delete_devices(&mut self, call: &Call<'_>, requester: &Requester) -> Answer {
        let body = call.object()?;
        let devices: Vec<String> = body
            .get("devices")
            .and_then(Value::as_array)
            .ok_or_else(|| ApiError::new(400, "M_MISSING_PARAM", "Missing 'devices'"))?
            .iter()
            .filter_map(|device| device.as_str().map(str::to_owned))
            .collect();
        self.need_password(call, requester, &body)?;
        for device in devices {
            self.drop_device(&requester.user, &device);
        }
        Ok(json!({}))
    }

    /// A device goes with its token, its keys, its inbox and the signatures on it.
    pub(super) fn drop_device(&mut self, user_id: &str, device_id: &str) {
        self.tokens.retain(|_, holder| !(holder.user == user_id && holder.device == device_id));
        let Some(user) = self.users.get_mut(user_id) else { return };
        let target = (user_id.to_owned(), device_id.to_owned());
        user.signatures.remove(&target);
        user.dehydrated.take_if(|(id, _)| id == device_id);
        if user.devices.remove(device_id).is_some() {
            self.note_device_change(user_id);
        }
    }
}
