//! The dehydrated device of a user (MSC3814), as Synapse serves it: one at most, and what was sent to it stays until it goes.

use serde_json::{Map, Value, json};

use super::HomeServer;
use super::http::{Answer, ApiError, Call, need_text, text};
use super::model::{Device, FallbackKey, Requester};

/// What the server serves of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dehydration {
    /// All of it, pages by `GET` and by `POST`.
    Served,
    /// Pages by `POST` only, as an older draft has it: always with a token, the last one empty.
    ByPostOnly,
    /// Nothing.
    Unknown,
}

impl HomeServer {
    /// What the server serves of dehydrated devices; all of it at first.
    pub fn serve_dehydration(&mut self, dehydration: Dehydration) {
        self.dehydration = dehydration;
    }

    /// How many events a page of them has, unless the request says otherwise; a hundred at first.
    pub fn page_dehydrated(&mut self, events: usize) {
        self.dehydrated_page = events;
    }

    /// The id of a user's dehydrated device.
    #[must_use]
    pub fn dehydrated_device(&self, user: &str) -> Option<&str> {
        let (device_id, _) = self.users.get(user)?.dehydrated.as_ref()?;
        Some(device_id)
    }

    pub(super) fn dehydration_route(
        &mut self,
        call: &Call<'_>,
        requester: &Requester,
        method: &str,
        path: &[&str],
    ) -> Answer {
        if self.dehydration == Dehydration::Unknown {
            return Err(ApiError::unrecognized());
        }
        match (method, path) {
            ("PUT", ["dehydrated_device"]) => self.put_dehydrated(call, requester),
            ("GET", ["dehydrated_device"]) => {
                let found =
                    self.users.get(&requester.user).and_then(|user| user.dehydrated.as_ref());
                let (id, data) =
                    found.ok_or_else(|| ApiError::not_found("No dehydrated device"))?;
                Ok(json!({ "device_id": id, "device_data": data }))
            }
            ("DELETE", ["dehydrated_device"]) => {
                let user = self.users.get_mut(&requester.user);
                let gone = user.and_then(|user| user.dehydrated.take());
                let (id, _) = gone.ok_or_else(|| ApiError::not_found("No dehydrated device"))?;
                self.drop_device(&requester.user, &id);
                Ok(json!({ "device_id": id }))
            }
            ("GET", ["dehydrated_device", id, "events"])
                if self.dehydration == Dehydration::Served =>
            {
                let from = call.query("from").map(str::to_owned);
                let (events, next, more) = self.dehydrated_page(call, requester, id, from)?;
                let mut page = json!({ "events": events });
                if more {
                    page["next_batch"] = json!(next);
                }
                Ok(page)
            }
            ("POST", ["dehydrated_device", id, "events"]) => {
                let body = call.object()?;
                let from = text(&body, "next_batch").map(str::to_owned);
                let (events, next, _) = self.dehydrated_page(call, requester, id, from)?;
                Ok(json!({ "events": events, "next_batch": next }))
            }
            _ => Err(ApiError::unrecognized()),
        }
    }

    /// The device comes with all its keys. The one before goes.
    fn put_dehydrated(&mut self, call: &Call<'_>, requester: &Requester) -> Answer {
        let body = call.object()?;
        let id = need_text(&body, "device_id")?.to_owned();
        let data = body.get("device_data").cloned().unwrap_or_default();
        if !data["algorithm"].is_string() {
            return Err(ApiError::bad_json("'algorithm' must be a string"));
        }
        let keys = body.get("device_keys").cloned();
        let keys = keys.ok_or_else(|| ApiError::bad_json("Device key(s) not found"))?;
        let before = self.users.get_mut(&requester.user).and_then(|user| user.dehydrated.take());
        if let Some((before, _)) = before {
            self.drop_device(&requester.user, &before);
        }
        let order = self.next_pos();
        let empty = Map::new();
        let section = |name: &str| body.get(name).and_then(Value::as_object).unwrap_or(&empty);
        let one_time = section("one_time_keys").iter();
        let fallback = section("fallback_keys").iter().map(|(key_id, key)| {
            let algorithm = key_id.split(':').next().unwrap_or_default().to_owned();
            (algorithm, FallbackKey { key_id: key_id.clone(), key: key.clone(), used: false })
        });
        let device = Device {
            display_name: text(&body, "initial_device_display_name").map(str::to_owned),
            keys: Some(keys),
            one_time_keys: one_time.map(|(id, key)| (id.clone(), (order, key.clone()))).collect(),
            fallback_keys: fallback.collect(),
            ..Device::default()
        };
        let user = self.users.entry(requester.user.clone()).or_default();
        user.devices.insert(id.clone(), device);
        user.dehydrated = Some((id.clone(), data));
        self.note_device_change(&requester.user);
        Ok(json!({ "device_id": id }))
    }

    /// The events from a token on, the next token, and whether there are more.
    fn dehydrated_page(
        &self,
        call: &Call<'_>,
        requester: &Requester,
        id: &str,
        from: Option<String>,
    ) -> Result<(Vec<Value>, String, bool), ApiError> {
        if self.dehydrated_device(&requester.user) != Some(id) {
            return Err(ApiError::forbidden("Not your dehydrated device"));
        }
        let after = match &from {
            None => 0,
            Some(token) => token
                .strip_prefix('d')
                .and_then(|number| number.parse().ok())
                .ok_or_else(|| ApiError::invalid("from has an invalid format"))?,
        };
        let limit = call
            .query("limit")
            .and_then(|limit| limit.parse().ok())
            .unwrap_or(self.dehydrated_page);
        let device = self.device(&requester.user, id);
        let inbox = device.map(|device| device.inbox.as_slice()).unwrap_or_default();
        let mut pending = inbox.iter().filter(|(pos, _)| *pos > after);
        let page: Vec<&(u64, Value)> = pending.by_ref().take(limit).collect();
        let more = pending.next().is_some();
        let next = page.last().filter(|_| more).map_or(self.pos, |(pos, _)| *pos);
        let events = page.into_iter().map(|(_, event)| event.clone()).collect();
        Ok((events, format!("d{next}"), more))
    }
}
