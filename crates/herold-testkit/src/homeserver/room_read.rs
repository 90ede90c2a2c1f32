//! Reading a room: state, members, messages, single events and their context.

use serde_json::{Map, Value, json};

use super::HomeServer;
use super::http::{Answer, ApiError, Call};
use super::model::{Event, NOW, Requester, Room};
use super::room_send::not_in_room;
use super::sync::parse_token;

impl HomeServer {
    fn readable(&self, requester: &Requester, room: &str) -> Result<(&Room, u64), ApiError> {
        let room = self.rooms.get(room).ok_or_else(|| not_in_room(requester))?;
        let horizon = room.horizon(&requester.user).ok_or_else(|| not_in_room(requester))?;
        Ok((room, horizon))
    }

    pub(super) fn joined_rooms(&self, requester: &Requester) -> Value {
        let joined = |room: &&String| {
            self.rooms.get(*room).is_some_and(|room| room.membership(&requester.user) == "join")
        };
        json!({ "joined_rooms": self.rooms.keys().filter(joined).collect::<Vec<_>>() })
    }

    pub(super) fn get_state(&self, call: &Call<'_>, requester: &Requester, room: &str) -> Answer {
        let (room, horizon) = self.readable(requester, room)?;
        let events = room.state_indexes(horizon).into_iter().filter_map(|index| room.event(index));
        Ok(events.map(|event| room.serve(event, requester, call.now_ms)).collect())
    }

    pub(super) fn get_state_event(
        &self,
        call: &Call<'_>,
        requester: &Requester,
        room: &str,
        kind: &str,
        key: &str,
    ) -> Answer {
        let (room, horizon) = self.readable(requester, room)?;
        let event = room
            .state_at(kind, key, horizon)
            .ok_or_else(|| ApiError::not_found("Event not found."))?;
        if call.query("format") == Some("event") {
            return Ok(room.serve(event, requester, call.now_ms));
        }
        Ok(event.value.get("content").cloned().unwrap_or_default())
    }

    pub(super) fn members(&self, call: &Call<'_>, requester: &Requester, room: &str) -> Answer {
        let (room, horizon) = self.readable(requester, room)?;
        let at = match call.query("at") {
            Some(token) => parse_token(token)?.pos.min(horizon),
            None => horizon,
        };
        let wanted = |event: &&Event| {
            let membership = event.content("membership").and_then(Value::as_str);
            event.kind() == "m.room.member"
                && call.query("membership").is_none_or(|wanted| membership == Some(wanted))
                && call.query("not_membership").is_none_or(|other| membership != Some(other))
        };
        let events = room.state_indexes(at).into_iter().filter_map(|index| room.event(index));
        let chunk: Vec<Value> =
            events.filter(wanted).map(|event| room.serve(event, requester, call.now_ms)).collect();
        Ok(json!({ "chunk": chunk }))
    }

    pub(super) fn joined_members(&self, requester: &Requester, room: &str) -> Answer {
        let (room, horizon) = self.readable(requester, room)?;
        if horizon != NOW {
            return Err(not_in_room(requester));
        }
        let mut joined = Map::new();
        for user in room.members_at("join", NOW) {
            let member = room.state_now("m.room.member", user);
            let field = |name: &str| member.and_then(|member| member.content(name)).cloned();
            joined.insert(
                user.to_owned(),
                json!({ "display_name": field("displayname"), "avatar_url": field("avatar_url") }),
            );
        }
        Ok(json!({ "joined": joined }))
    }

    pub(super) fn messages(&self, call: &Call<'_>, requester: &Requester, room: &str) -> Answer {
        let (room, horizon) = self.readable(requester, room)?;
        let backwards = match call.query("dir") {
            Some("b") => true,
            Some("f") => false,
            _ => return Err(ApiError::new(400, "M_MISSING_PARAM", "Missing 'dir'")),
        };
        let token = |name: &str| -> Result<Option<u64>, ApiError> {
            call.query(name).map(|text| parse_token(text).map(|token| token.pos)).transpose()
        };
        let limit = call.query("limit").and_then(|limit| limit.parse().ok()).unwrap_or(10_usize);
        let limit = limit.min(1000);
        let newest = horizon.min(self.pos);
        let from = token("from")?.unwrap_or(if backwards { newest } else { 0 });
        let to = token("to")?;
        let visible = |event: &&Event| {
            let inside = if backwards {
                event.pos <= from && to.is_none_or(|to| event.pos > to)
            } else {
                event.pos > from && to.is_none_or(|to| event.pos <= to)
            };
            inside && event.pos <= newest && room.visible(event, &requester.user)
        };
        let mut found: Vec<&Event> = room.events.iter().filter(visible).collect();
        if backwards {
            found.reverse();
        }
        let more = found.len() > limit;
        found.truncate(limit);
        let mut out = json!({ "start": format!("t{from}") });
        out["chunk"] =
            found.iter().map(|event| room.serve(event, requester, call.now_ms)).collect();
        match (found.last(), backwards) {
            (Some(last), true) if more => out["end"] = json!(format!("t{}", last.pos - 1)),
            (Some(last), false) => out["end"] = json!(format!("t{}", last.pos)),
            _ => {}
        }
        Ok(out)
    }

    fn seen_event<'a>(
        &self,
        room: &'a Room,
        requester: &Requester,
        event_id: &str,
    ) -> Result<&'a Event, ApiError> {
        room.by_id
            .get(event_id)
            .and_then(|index| room.event(*index))
            .filter(|event| room.visible(event, &requester.user))
            .ok_or_else(|| ApiError::not_found("Event not found."))
    }

    pub(super) fn get_event(
        &self,
        call: &Call<'_>,
        requester: &Requester,
        room: &str,
        event_id: &str,
    ) -> Answer {
        let room = self.rooms.get(room).ok_or_else(|| not_in_room(requester))?;
        let event = self.seen_event(room, requester, event_id)?;
        Ok(room.serve(event, requester, call.now_ms))
    }

    pub(super) fn context(
        &self,
        call: &Call<'_>,
        requester: &Requester,
        room: &str,
        event_id: &str,
    ) -> Answer {
        let (room, horizon) = self.readable(requester, room)?;
        let event = self.seen_event(room, requester, event_id)?;
        let limit = call.query("limit").and_then(|limit| limit.parse().ok()).unwrap_or(10_usize);
        let seen = |other: &&Event| other.pos <= horizon && room.visible(other, &requester.user);
        let serve = |other: &Event| room.serve(other, requester, call.now_ms);
        let before: Vec<&Event> = room
            .events
            .iter()
            .rev()
            .filter(|other| other.pos < event.pos)
            .filter(seen)
            .take(limit / 2)
            .collect();
        let after: Vec<&Event> = room
            .events
            .iter()
            .filter(|other| other.pos > event.pos)
            .filter(seen)
            .take(limit - limit / 2)
            .collect();
        let start = before.last().map_or(event.pos, |first| first.pos) - 1;
        let end = after.last().map_or(event.pos, |last| last.pos);
        let state = room.state_indexes(end).into_iter().filter_map(|index| room.event(index));
        Ok(json!({
            "start": format!("t{start}"),
            "end": format!("t{end}"),
            "event": serve(event),
            "events_before": before.into_iter().map(serve).collect::<Vec<_>>(),
            "events_after": after.into_iter().map(serve).collect::<Vec<_>>(),
            "state": state.map(serve).collect::<Vec<_>>(),
        }))
    }
}
