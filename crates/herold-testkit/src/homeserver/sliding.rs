//! Simplified sliding sync (MSC4186), as far as a client for end-to-end encryption can tell it from Synapse's:
//! positions of connections, lists with ranges, and the extensions `to_device` and `e2ee`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::HomeServer;
use super::http::{ApiError, Call, ServerRequest, ServerResponse};
use super::model::{Event, NOW, Requester, Room};
use super::sync::parse_token;
use super::sync_rooms::{invite_state, newly_joined};

/// The path behind `/_matrix/client/unstable`.
pub(super) const PATH: [&str; 2] = ["org.matrix.simplified_msc3575", "sync"];

/// Up to which position of the stream each room was sent.
type Sent = BTreeMap<String, u64>;

/// What the server remembers of a connection: the state at the position it was last asked from, and that at
/// the one it answered with.
#[derive(Clone, Debug, Default)]
pub(super) struct Connection {
    positions: BTreeMap<u64, Sent>,
    last: u64,
}

/// A request, read.
struct Options {
    connection: String,
    /// The connection's position and that of the stream.
    pos: Option<(u64, u64)>,
    lists: Map<String, Value>,
    extensions: Map<String, Value>,
}

/// A response in the making.
struct Draft {
    body: Map<String, Value>,
    sent: Sent,
    news: bool,
}

/// How a room is asked for: its timeline limit and its required state.
#[derive(Default)]
struct RoomConfig {
    limit: usize,
    state: BTreeSet<(String, String)>,
}

impl RoomConfig {
    fn add(&mut self, list: &Value) {
        let limit = list.get("timeline_limit").and_then(Value::as_u64).unwrap_or(0);
        self.limit = self.limit.max(usize::try_from(limit).unwrap_or(0));
        for pair in list.get("required_state").and_then(Value::as_array).into_iter().flatten() {
            let part = |at: usize| pair.get(at).and_then(Value::as_str).unwrap_or_default();
            self.state.insert((part(0).to_owned(), part(1).to_owned()));
        }
    }

    fn asks(&self, kind: &str, key: &str) -> bool {
        self.state.iter().any(|(asked, of)| {
            (asked == "*" || asked == kind) && (of == "*" || (of == key && !of.starts_with('$')))
        })
    }

    fn has(&self, kind: &str, key: &str) -> bool {
        self.state.contains(&(kind.to_owned(), key.to_owned()))
    }
}

fn unknown_pos() -> ApiError {
    ApiError::new(400, "M_UNKNOWN_POS", "Unknown position")
}

impl HomeServer {
    /// Forgets every connection of a device, or of everybody, as Synapse does after a time or when there is
    /// too much to tell.
    pub fn expire_connections(&mut self, device: Option<&str>) {
        self.connections.retain(|(of, _), _| device.is_some_and(|device| of.device != device));
    }

    fn sliding_options(call: &Call<'_>) -> Result<Options, ApiError> {
        let body = call.object()?;
        let object = |name: &str| match body.get(name) {
            None | Some(Value::Null) => Ok(Map::new()),
            Some(Value::Object(map)) => Ok(map.clone()),
            Some(_) => Err(ApiError::bad_json(name)),
        };
        let pos = match call.query("pos") {
            None => None,
            Some(text) => {
                let (position, token) = text.split_once('/').ok_or_else(unknown_pos)?;
                let position = position.parse().map_err(|_| unknown_pos())?;
                Some((position, parse_token(token)?.pos))
            }
        };
        let connection = body.get("conn_id").and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(Options { connection, pos, lists: object("lists")?, extensions: object("extensions")? })
    }

    pub(super) fn sliding_sync(
        &mut self,
        call: &Call<'_>,
        requester: &Requester,
    ) -> Result<ServerResponse, ApiError> {
        let options = Self::sliding_options(call)?;
        if let Some(since) = to_device_since(&options)? {
            self.acknowledge(requester, since);
        }
        let draft = self.sliding_draft(call.now_ms, requester, &options)?;
        let key = (requester.clone(), options.connection.clone());
        let stream = self.pos;
        let connection = self.connections.entry(key).or_default();
        // Whoever asks from a position has seen what came with it.
        let asked = options.pos.map(|(position, _)| position);
        connection.positions.retain(|position, _| Some(*position) == asked);
        connection.last += 1;
        connection.positions.insert(connection.last, draft.sent);
        let mut body = draft.body;
        body.insert("pos".to_owned(), json!(format!("{}/s{stream}", connection.last)));
        Ok(ServerResponse::json(200, &Value::Object(body)))
    }

    /// As [`HomeServer::has_news`], for this kind of sync.
    pub(super) fn sliding_has_news(&self, request: &ServerRequest) -> bool {
        let call = Call { now_ms: 0, request };
        let (Ok(requester), Ok(options)) = (self.requester(request), Self::sliding_options(&call))
        else {
            return true;
        };
        self.sliding_draft(0, &requester, &options).map_or(true, |draft| draft.news)
    }

    fn sliding_draft(
        &self,
        now_ms: u64,
        viewer: &Requester,
        options: &Options,
    ) -> Result<Draft, ApiError> {
        let known = match options.pos {
            None => Sent::new(),
            Some((position, _)) => {
                let key = (viewer.clone(), options.connection.clone());
                let connection = self.connections.get(&key).ok_or_else(unknown_pos)?;
                connection.positions.get(&position).ok_or_else(unknown_pos)?.clone()
            }
        };
        let since = options.pos.map(|(_, stream)| stream);
        let rooms = self.listed_rooms(viewer, since, &known);
        let mut wanted: BTreeMap<&str, RoomConfig> = BTreeMap::new();
        let mut lists = Map::new();
        for (name, list) in &options.lists {
            for room_id in in_ranges(&rooms, list.get("ranges")) {
                wanted.entry(room_id).or_default().add(list);
            }
            lists.insert(name.clone(), json!({ "count": rooms.len(), "ops": [] }));
        }
        let mut sent = known.clone();
        let mut out = Map::new();
        for (room_id, config) in &wanted {
            let Some(room) = self.rooms.get(*room_id) else { continue };
            let from = known.get(*room_id).copied();
            if let Some(entry) = room_entry(now_ms, viewer, room, config, from, since) {
                out.insert((*room_id).to_owned(), entry);
            }
            sent.insert((*room_id).to_owned(), self.pos);
        }
        let mut news = since.is_none() || !out.is_empty();
        let extensions = self.extensions(viewer, options, since, &mut news)?;
        let mut body = Map::new();
        body.insert("lists".to_owned(), Value::Object(lists));
        body.insert("rooms".to_owned(), Value::Object(out));
        body.insert("extensions".to_owned(), Value::Object(extensions));
        Ok(Draft { body, sent, news })
    }

    /// The rooms the user has to do with, the one with the newest event first. A room the user has left is
    /// there only to tell of it.
    fn listed_rooms(&self, viewer: &Requester, since: Option<u64>, known: &Sent) -> Vec<&str> {
        let mut rooms: Vec<(u64, &str)> = Vec::new();
        for (room_id, room) in &self.rooms {
            let Some(own) = room.state_now("m.room.member", &viewer.user) else { continue };
            let listed = match room.membership(&viewer.user) {
                "join" | "invite" | "knock" => true,
                "ban" => !room.forgotten.contains(&viewer.user),
                "leave" => {
                    let newly = since.is_some_and(|since| own.pos > since);
                    let told = known.get(room_id).is_none_or(|sent| *sent >= own.pos);
                    let removed = own.sender() != viewer.user;
                    !room.forgotten.contains(&viewer.user) && (newly || removed || !told)
                }
                _ => false,
            };
            if listed {
                rooms.push((room.events.last().map_or(0, |event| event.pos), room_id));
            }
        }
        rooms.sort_by(|a, b| b.cmp(a));
        rooms.into_iter().map(|(_, room_id)| room_id).collect()
    }

    fn extensions(
        &self,
        viewer: &Requester,
        options: &Options,
        since: Option<u64>,
        news: &mut bool,
    ) -> Result<Map<String, Value>, ApiError> {
        let enabled = |name: &str| {
            let extension = options.extensions.get(name);
            extension.is_some_and(|extension| extension.get("enabled") == Some(&json!(true)))
        };
        let mut out = Map::new();
        if enabled("to_device") {
            let after = to_device_since(options)?.unwrap_or(0);
            let (events, upto) = self.pending_to_device(viewer, after);
            *news |= !events.is_empty();
            out.insert(
                "to_device".to_owned(),
                json!({ "next_batch": upto.to_string(), "events": events }),
            );
        }
        if enabled("e2ee") {
            let mut e2ee = Map::new();
            if let Some(since) = since {
                let lists = self.device_list_delta(&viewer.user, since, NOW);
                *news |= !lists.is_empty();
                e2ee.insert("device_lists".to_owned(), lists.json());
            }
            if let Some(device) = self.device(&viewer.user, &viewer.device) {
                match &device.count_override {
                    Some(Value::Null) => {}
                    Some(counts) => {
                        e2ee.insert("device_one_time_keys_count".to_owned(), counts.clone());
                    }
                    None => {
                        e2ee.insert("device_one_time_keys_count".to_owned(), device.key_counts());
                    }
                }
                let types = json!(device.unused_fallback_types());
                e2ee.insert("device_unused_fallback_key_types".to_owned(), types);
            }
            out.insert("e2ee".to_owned(), Value::Object(e2ee));
        }
        Ok(out)
    }
}

fn to_device_since(options: &Options) -> Result<Option<u64>, ApiError> {
    match options.extensions.get("to_device").and_then(|extension| extension.get("since")) {
        None | Some(Value::Null) => Ok(None),
        Some(since) => {
            let number = since.as_str().and_then(|since| since.parse().ok());
            number.map(Some).ok_or_else(|| ApiError::bad_json("extensions.to_device.since"))
        }
    }
}

/// The rooms in a list's ranges; none if it has none, as Synapse does.
fn in_ranges<'a>(rooms: &[&'a str], ranges: Option<&Value>) -> Vec<&'a str> {
    let Some(ranges) = ranges.and_then(Value::as_array) else { return Vec::new() };
    let inside = |place: usize| {
        ranges.iter().any(|range| {
            let end = |at: usize| range.get(at).and_then(Value::as_u64);
            let place = place as u64;
            end(0).is_some_and(|first| first <= place) && end(1).is_some_and(|last| place <= last)
        })
    };
    let numbered = rooms.iter().enumerate().filter(|(place, _)| inside(*place));
    numbered.map(|(_, room_id)| *room_id).collect()
}

/// A room as it is sent; `None` if nothing has happened in it since `sent`.
fn room_entry(
    now_ms: u64,
    viewer: &Requester,
    room: &Room,
    config: &RoomConfig,
    sent: Option<u64>,
    since: Option<u64>,
) -> Option<Value> {
    let user = viewer.user.as_str();
    let own = room.state_now("m.room.member", user)?;
    if matches!(room.membership(user), "invite" | "knock") {
        let news = sent.is_none_or(|sent| own.pos > sent);
        let mut state = invite_state(room, own);
        state.push(super::history::stripped(own));
        return news.then(|| json!({ "initial": true, "invite_state": state }));
    }
    let to = if room.membership(user) == "join" { NOW } else { own.pos };
    let newly = sent.is_some_and(|sent| to == NOW && newly_joined(room, user, sent));
    let from = sent.filter(|_| !newly);
    let gap = from.is_some_and(|from| from < room.gap);
    let first = if gap { room.gap } else { from.unwrap_or(0) };
    let mut timeline: Vec<&Event> = room
        .events
        .iter()
        .skip(room.first_after(first))
        .take_while(|event| event.pos <= to)
        .filter(|event| room.visible(event, user))
        .collect();
    let dropped = timeline.len().saturating_sub(config.limit);
    timeline.drain(..dropped);
    let limited = dropped > 0 || gap;
    let initial = from.is_none();
    let senders: BTreeSet<&str> = timeline
        .iter()
        .flat_map(|event| {
            let target = event.state_key().filter(|_| event.kind() == "m.room.member");
            [Some(event.sender()), target]
        })
        .flatten()
        .collect();
    let state: Vec<&Event> = room
        .state_indexes(to)
        .into_iter()
        .filter_map(|index| room.event(index))
        .filter(|event| {
            let key = event.state_key().unwrap_or_default();
            let fresh = from.is_none_or(|from| event.pos > from);
            let lazy = event.kind() == "m.room.member"
                && config.has("m.room.member", "$LAZY")
                && if limited || initial { senders.contains(key) } else { fresh };
            let me = key == user && config.has(event.kind(), "$ME");
            lazy || (fresh && (me || config.asks(event.kind(), key)))
        })
        .collect();
    if !initial && !limited && timeline.is_empty() && state.is_empty() {
        return None;
    }
    let serve = |events: &[&Event]| -> Vec<Value> {
        events.iter().map(|event| room.serve_in_sync(event, viewer, now_ms)).collect()
    };
    let newest = room.events.last().map_or(0, |event| event.pos).min(to);
    let start = timeline.first().map_or(newest, |event| event.pos.saturating_sub(1));
    let live = timeline.iter().filter(|event| since.is_some_and(|since| event.pos > since)).count();
    let mut out = json!({
        "required_state": serve(&state),
        "timeline": serve(&timeline),
        "limited": limited,
        "prev_batch": format!("t{start}"),
        "num_live": live,
        "notification_count": 0,
        "highlight_count": 0,
    });
    if initial {
        out["initial"] = json!(true);
    }
    Some(out)
}
