//! Account data and filters.

use serde_json::{Value, json};

use super::HomeServer;
use super::http::{Answer, ApiError, Call};
use super::model::Requester;

/// Types that have endpoints of their own.
const RESERVED: [&str; 2] = ["m.fully_read", "m.push_rules"];

fn own_only(requester: &Requester, user: &str) -> Result<(), ApiError> {
    if requester.user == user {
        Ok(())
    } else {
        Err(ApiError::forbidden("Cannot touch the data of other users."))
    }
}

fn none() -> ApiError {
    ApiError::not_found("Account data not found")
}

impl HomeServer {
    pub(super) fn get_account_data(
        &self,
        requester: &Requester,
        user: &str,
        room: Option<&str>,
        kind: &str,
    ) -> Answer {
        own_only(requester, user)?;
        let user = self.users.get(user).ok_or_else(none)?;
        let found = match room {
            None => user.account_data.get(kind),
            Some(room) => user.room_account_data.get(&(room.to_owned(), kind.to_owned())),
        };
        found.map(|(_, content)| content.clone()).ok_or_else(none)
    }

    pub(super) fn put_account_data(
        &mut self,
        call: &Call<'_>,
        requester: &Requester,
        user: &str,
        room: Option<&str>,
        kind: &str,
    ) -> Answer {
        own_only(requester, user)?;
        if RESERVED.contains(&kind) {
            let error = format!("Cannot set {kind} through this API");
            return Err(ApiError::new(405, "M_BAD_JSON", &error));
        }
        let content = Value::Object(call.object()?);
        let pos = self.next_pos();
        let user = self.users.get_mut(user).ok_or_else(none)?;
        match room {
            None => user.account_data.insert(kind.to_owned(), (pos, content)),
            Some(room) => {
                let key = (room.to_owned(), kind.to_owned());
                user.room_account_data.insert(key, (pos, content))
            }
        };
        Ok(json!({}))
    }

    pub(super) fn account_data_since(&self, user: &str, since: u64) -> Vec<Value> {
        let data = self.users.get(user).into_iter().flat_map(|user| &user.account_data);
        data.filter(|(_, (pos, _))| *pos > since)
            .map(|(kind, (_, content))| json!({ "type": kind, "content": content }))
            .collect()
    }

    pub(super) fn room_account_data_since(&self, user: &str, room: &str, since: u64) -> Vec<Value> {
        let data = self.users.get(user).into_iter().flat_map(|user| &user.room_account_data);
        data.filter(|((of, _), (pos, _))| of == room && *pos > since)
            .map(|((_, kind), (_, content))| json!({ "type": kind, "content": content }))
            .collect()
    }

    pub(super) fn post_filter(
        &mut self,
        call: &Call<'_>,
        requester: &Requester,
        user: &str,
    ) -> Answer {
        own_only(requester, user)?;
        let filter = Value::Object(call.object()?);
        let user = self.users.get_mut(user).ok_or_else(none)?;
        let known = user.filters.iter().position(|known| *known == filter);
        let id = known.unwrap_or_else(|| {
            user.filters.push(filter);
            user.filters.len() - 1
        });
        Ok(json!({ "filter_id": id.to_string() }))
    }

    pub(super) fn filter(&self, user: &str, id: &str) -> Result<&Value, ApiError> {
        let index: Option<usize> = id.parse().ok();
        let user = self.users.get(user);
        user.and_then(|user| user.filters.get(index?))
            .ok_or_else(|| ApiError::not_found("No such filter"))
    }

    pub(super) fn get_filter(&self, requester: &Requester, user: &str, id: &str) -> Answer {
        own_only(requester, user)?;
        self.filter(user, id).cloned()
    }
}
