//! The rooms of a sync response.

use serde_json::{Map, Value, json};

use super::HomeServer;
use super::history::stripped;
use super::model::{Event, NOW, Requester, Room};
use super::sync::SyncOptions;

/// The state of an invite that its recipient sees.
const INVITE_STATE: [&str; 7] = [
    "m.room.create",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.avatar",
    "m.room.encryption",
    "m.room.name",
    "m.room.topic",
];

/// One timeline with the state before it.
struct Window<'a> {
    events: Vec<&'a Event>,
    state: Vec<&'a Event>,
    limited: bool,
    /// The position just before the timeline.
    start: u64,
}

impl HomeServer {
    pub(super) fn sync_rooms(
        &self,
        now_ms: u64,
        viewer: &Requester,
        options: &SyncOptions,
    ) -> Map<String, Value> {
        let (mut joined, mut invited, mut left) = (Map::new(), Map::new(), Map::new());
        for (room_id, room) in &self.rooms {
            match room.membership(&viewer.user) {
                "join" => {
                    if let Some(entry) = self.joined_room(now_ms, viewer, options, room_id, room) {
                        joined.insert(room_id.clone(), entry);
                    }
                }
                "invite" => {
                    if let Some(entry) = invite(viewer, options, room) {
                        invited.insert(room_id.clone(), entry);
                    }
                }
                "leave" | "ban" if !room.forgotten.contains(&viewer.user) => {
                    if let Some(entry) = left_room(now_ms, viewer, options, room) {
                        left.insert(room_id.clone(), entry);
                    }
                }
                _ => {}
            }
        }
        let sections = [("join", joined), ("invite", invited), ("leave", left)];
        sections
            .into_iter()
            .filter(|(_, rooms)| !rooms.is_empty())
            .map(|(name, rooms)| (name.to_owned(), Value::Object(rooms)))
            .collect()
    }

    fn joined_room(
        &self,
        now_ms: u64,
        viewer: &Requester,
        options: &SyncOptions,
        room_id: &str,
        room: &Room,
    ) -> Option<Value> {
        let since = options.since_pos();
        let newly = since.is_some_and(|since| newly_joined(room, &viewer.user, since));
        let from = since.filter(|_| !newly);
        let mut window = window(room, &viewer.user, from, NOW, options);
        window.limited |= newly;
        let account_data = self.room_account_data_since(&viewer.user, room_id, from.unwrap_or(0));
        let nothing = window.events.is_empty() && window.state.is_empty() && !window.limited;
        if nothing && account_data.is_empty() && since.is_some() && !options.full_state {
            return None;
        }
        let members_changed = from.is_none_or(|from| {
            let recent = room.events.iter().skip(room.first_after(from));
            recent.into_iter().any(|event| event.kind() == "m.room.member")
        });
        let summary = if members_changed { summary(room, &viewer.user) } else { json!({}) };
        let mut out = window_json(room, &window, viewer, now_ms);
        out["account_data"] = json!({ "events": account_data });
        out["ephemeral"] = json!({ "events": [] });
        out["unread_notifications"] = json!({ "notification_count": 0, "highlight_count": 0 });
        out["summary"] = summary;
        Some(out)
    }
}

/// Whether the user joined after a position, or left and came back.
pub(super) fn newly_joined(room: &Room, user: &str, since: u64) -> bool {
    room.membership_at(user, since) != "join"
        || room.membership_log(user, since).iter().any(|(_, now)| *now != "join")
}

/// The visible events after `from` (from the beginning if `None`) up to `to`, as many as the
/// filter lets through.
fn window<'a>(
    room: &'a Room,
    user: &str,
    from: Option<u64>,
    to: u64,
    options: &SyncOptions,
) -> Window<'a> {
    let gap = from.is_some_and(|from| from < room.gap);
    let first = if gap { room.gap } else { from.unwrap_or(0) };
    // Synapse always shows the state that holds: else whoever joins a room whose history is for those who
    // had joined would not hear of who is in it.
    let holds = |event: &Event| {
        let now = event.state_key().and_then(|key| room.state_at(event.kind(), key, to));
        now.is_some_and(|now| now.pos == event.pos)
    };
    let mut events: Vec<&Event> = room
        .events
        .iter()
        .skip(room.first_after(first))
        .take_while(|event| event.pos <= to)
        .filter(|event| room.visible(event, user) || holds(event))
        .collect();
    let dropped = events.len().saturating_sub(options.limit);
    events.drain(..dropped);
    let limited = dropped > 0 || gap;
    let newest = room.events.last().map_or(0, |event| event.pos).min(to);
    let start = events.first().map_or(newest, |event| event.pos.saturating_sub(1));
    let full = from.is_none() || options.full_state;
    let state = if full || limited {
        room.state_indexes(start)
            .into_iter()
            .filter_map(|index| room.event(index))
            .filter(|event| full || from.is_none_or(|from| event.pos > from))
            .collect()
    } else {
        Vec::new()
    };
    Window { events, state, limited, start }
}

fn window_json(room: &Room, window: &Window<'_>, viewer: &Requester, now_ms: u64) -> Value {
    let serve = |events: &[&Event]| -> Vec<Value> {
        events.iter().map(|event| room.serve_in_sync(event, viewer, now_ms)).collect()
    };
    json!({
        "state": { "events": serve(&window.state) },
        "timeline": {
            "events": serve(&window.events),
            "limited": window.limited,
            "prev_batch": format!("t{}", window.start),
        },
    })
}

fn left_room(now_ms: u64, viewer: &Requester, options: &SyncOptions, room: &Room) -> Option<Value> {
    let user = viewer.user.as_str();
    let log = room.membership_log(user, 0);
    let (end, _) = *log.last()?;
    let since = options.since_pos();
    if since.map_or(!options.include_leave, |since| since >= end) {
        return None;
    }
    let was_joined = since.is_some_and(|since| room.membership_at(user, since) == "join");
    let joined_between = log.iter().any(|(pos, now)| *now == "join" && *pos > since.unwrap_or(0));
    let from = since.filter(|_| was_joined || !joined_between);
    let mut window = window(room, user, from, end, options);
    window.limited |= since.is_some() && from.is_none();
    if !was_joined && !joined_between {
        // A refused invite shows nothing of the room.
        window.state.clear();
    }
    let mut out = window_json(room, &window, viewer, now_ms);
    out["account_data"] = json!({ "events": [] });
    Some(out)
}

fn invite(viewer: &Requester, options: &SyncOptions, room: &Room) -> Option<Value> {
    let own = room.state_now("m.room.member", &viewer.user)?;
    if !options.full_state && options.since_pos().is_some_and(|since| since >= own.pos) {
        return None;
    }
    let mut events = invite_state(room, own);
    events.push(stripped(own));
    Some(json!({ "invite_state": { "events": events } }))
}

/// The state that an invite shows, without the invite.
pub(super) fn invite_state(room: &Room, own: &Event) -> Vec<Value> {
    let inviter = room.state_at("m.room.member", own.sender(), own.pos);
    INVITE_STATE
        .iter()
        .filter_map(|kind| room.state_at(kind, "", own.pos))
        .chain(inviter)
        .map(stripped)
        .collect()
}

fn summary(room: &Room, user: &str) -> Value {
    let joined = room.members_at("join", NOW);
    let invited = room.members_at("invite", NOW);
    let mut out = json!({
        "m.joined_member_count": joined.len(),
        "m.invited_member_count": invited.len(),
    });
    let named = |kind: &str, field: &str| {
        let event = room.state_now(kind, "");
        event.and_then(|event| event.content(field)?.as_str()).is_some_and(|name| !name.is_empty())
    };
    if !named("m.room.name", "name") && !named("m.room.canonical_alias", "alias") {
        let others: Vec<&str> =
            joined.into_iter().chain(invited).filter(|other| *other != user).take(5).collect();
        out["m.heroes"] = json!(others);
    }
    out
}
