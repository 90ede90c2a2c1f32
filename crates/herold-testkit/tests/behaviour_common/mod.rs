//! What the behaviour tests share.

#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{cell::RefCell, collections::BTreeSet, ops::ControlFlow, rc::Rc, time::Duration};

use herold::{
    Answer, Body, MemoryStore, Method, Notice, OwnedEventId, OwnedRoomId, OwnedUserId, UserDevices,
};
use herold_machine::{Outgoing, percent_encode};
use herold_store::{Snapshot as _, Table};
use herold_testkit::{
    World,
    homeserver::{SeenRequest, SentToDevice, ServerRequest, ServerResponse},
};
use serde_json::{Value, json};

/// Nothing on the wire was ever wrong.
pub fn clean(world: &World) {
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

pub fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub fn path(room: &OwnedRoomId, rest: &str) -> String {
    format!("/_matrix/client/v3/rooms/{}/{rest}", percent_encode(room.as_str()))
}

pub fn put_state(
    world: &mut World,
    by: usize,
    room: &OwnedRoomId,
    kind: &str,
    key: &str,
    value: Value,
) {
    let path = path(room, &format!("state/{kind}/{}", percent_encode(key)));
    let answer = world.call(Some(by), "PUT", &path, value);
    assert!(answer["event_id"].is_string(), "{kind}: {answer}");
}

/// A membership action that [`World`] has no name for.
pub fn act(world: &mut World, by: usize, room: &OwnedRoomId, action: &str, whom: usize) {
    let user = world.devices[whom].user_id.clone();
    let answer = world.call(Some(by), "POST", &path(room, action), json!({ "user_id": user }));
    assert!(answer.get("errcode").is_none(), "{action}: {answer}");
}

pub fn redact(world: &mut World, by: usize, room: &OwnedRoomId, event: &OwnedEventId, txn: &str) {
    let path = path(room, &format!("redact/{}/{txn}", percent_encode(event.as_str())));
    let answer = world.call(Some(by), "PUT", &path, json!({}));
    assert!(answer["event_id"].is_string(), "{answer}");
}

/// Logs a device out: it goes with its keys.
pub fn log_out(world: &mut World, device: usize) {
    world.call(Some(device), "POST", "/_matrix/client/v3/logout", json!({}));
    world.set_online(device, false);
}

/// The event as it stands on the server.
pub fn on_server(world: &World, room: &OwnedRoomId, event: &OwnedEventId) -> Value {
    let events = world.server.events(room.as_str());
    events.into_iter().find(|value| value["event_id"] == event.as_str()).expect("on the server")
}

/// The Megolm session an event was encrypted with.
pub fn session(world: &World, room: &OwnedRoomId, event: &OwnedEventId) -> String {
    let event = on_server(world, room, event);
    event["content"]["session_id"].as_str().expect("an encrypted event").to_owned()
}

/// The encrypted events of a room, as (session, sender).
pub fn sessions_of(world: &World, room: &OwnedRoomId) -> Vec<String> {
    let events = world.server.events(room.as_str());
    let encrypted = events.iter().filter(|event| event["type"] == "m.room.encrypted");
    encrypted.map(|event| event["content"]["session_id"].to_string()).collect()
}

pub fn distinct(sessions: &[String]) -> usize {
    sessions.iter().collect::<BTreeSet<_>>().len()
}

/// What was sent to a device of this type since entry number `from` of the log.
pub fn sent_to(world: &World, device: usize, kind: &str, from: usize) -> Vec<SentToDevice> {
    let device = &world.devices[device];
    let log = &world.server.to_device_log()[from..];
    log.iter()
        .filter(|message| {
            message.recipient == device.user_id.as_str()
                && message.recipient_device == device.device_id
                && message.event_type == kind
        })
        .cloned()
        .collect()
}

pub fn log_length(world: &World) -> usize {
    world.server.to_device_log().len()
}

/// The requests of a device whose path contains `part`, from entry `from` of the log on.
pub fn requests(world: &World, device: usize, part: &str, from: usize) -> Vec<SeenRequest> {
    let id = &world.devices[device].device_id;
    let all = &world.server.requests()[from..];
    all.iter()
        .filter(|seen| seen.device.as_deref() == Some(id) && seen.path.contains(part))
        .cloned()
        .collect()
}

/// Blocks a device, or lets it be used again.
pub fn block(world: &mut World, by: usize, whom: usize, blocked: bool) {
    let (user, device) =
        (world.devices[whom].user_id.clone(), world.devices[whom].device_id.clone());
    world
        .command(by, |engine| {
            engine.step(|machine, snapshot, cx| {
                machine.set_blocked(snapshot, cx, &user, device.as_str().into(), blocked)
            })
        })
        .expect("blocked");
}

/// The response that a device's next sync would get.
pub fn next_sync(world: &mut World, device: usize) -> Value {
    let request = world.command(device, |engine| {
        engine.read(|machine, snapshot| machine.sync_request(snapshot, 0))
    });
    world.call_http(device, &request.expect("a request"))
}

/// Has a device take a sync response; the app acknowledges nothing.
pub fn take_sync(world: &mut World, device: usize, response: &Value) {
    let response = response.to_string();
    let taken = world.command(device, |engine| {
        engine.step(|machine, snapshot, cx| machine.handle_sync(snapshot, cx, response.as_bytes()))
    });
    taken.expect("the response is taken");
}

/// The numbers of the app events that a device's app has not acknowledged.
pub fn event_numbers(
    world: &mut World,
    device: usize,
    after: Option<u64>,
    limit: usize,
) -> Vec<u64> {
    let events = world.command(device, |engine| {
        engine.read(|machine, snapshot| machine.events_after(snapshot, after, limit))
    });
    events.expect("they can be read").into_iter().map(|(number, _)| number).collect()
}

pub fn known_devices(world: &mut World, by: usize, of: &OwnedUserId) -> UserDevices {
    world
        .command(by, |engine| engine.read(|machine, snapshot| machine.devices(snapshot, of)))
        .expect("it lives")
}

/// The notices of this kind.
pub fn notices(world: &World, device: usize, kind: &str) -> Vec<Notice> {
    world.notices(device).into_iter().filter(|notice| notice.kind() == kind).collect()
}

/// The requests that are due now; they count as under way from then on.
pub fn due(world: &mut World, device: usize) -> Vec<Outgoing> {
    world.command(device, |engine| engine.due_requests()).expect("it lives").reply
}

pub fn take(due: &mut Vec<Outgoing>, kind: &str) -> Outgoing {
    let kinds: Vec<&str> = due.iter().map(Outgoing::kind).collect();
    let place = due.iter().position(|request| request.kind() == kind);
    due.remove(place.unwrap_or_else(|| panic!("no {kind} among {kinds:?}")))
}

/// The server's answer to a request, which the device does not hear of yet.
pub fn perform(world: &mut World, device: usize, outgoing: &Outgoing) -> ServerResponse {
    let http = &outgoing.http;
    let (user, id) = (&world.devices[device].user_id, &world.devices[device].device_id);
    let request = ServerRequest {
        method: match http.method {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
        }
        .to_owned(),
        path: http.path.clone(),
        query: http.query.clone(),
        access_token: world.server.token_of(user.as_str(), id).map(str::to_owned),
        content_type: Some("application/json".to_owned()),
        body: match &http.body {
            Body::Json(text) => text.clone().into_bytes(),
            _ => Vec::new(),
        },
    };
    let now = world.clock.millis();
    world.server.handle(now, &request)
}

pub fn answer(
    world: &mut World,
    device: usize,
    outgoing: &Outgoing,
    response: Option<&ServerResponse>,
) {
    let answer = match response {
        None => Answer::Failed,
        Some(response) => Answer::Response {
            status: response.status,
            retry_after_ms: response.retry_after_ms,
            body: &response.body,
        },
    };
    world.command(device, |engine| engine.answer(outgoing, answer)).expect("it lives");
}

/// Makes the requests of these kinds, again and again until none of them is due. Answers the others.
pub fn pump_only(world: &mut World, device: usize, kinds: &[&str]) -> Vec<Outgoing> {
    let mut others = Vec::new();
    for _ in 0..20 {
        let requests = due(world, device);
        if requests.is_empty() {
            return others;
        }
        for request in requests {
            if kinds.contains(&request.kind()) {
                let response = perform(world, device, &request);
                answer(world, device, &request, Some(&response));
            } else {
                others.push(request);
            }
        }
    }
    panic!("it does not end")
}

/// Turns the clock back.
pub fn turn_back(world: &World, span: Duration) {
    let millis = u64::try_from(span.as_millis()).expect("not that long");
    // The clock's counter wraps.
    world.clock.advance(Duration::from_millis(0_u64.wrapping_sub(millis)));
}

/// An answer with an error.
pub fn fail(response: &mut ServerResponse, status: u16) {
    response.status = status;
    response.body = json!({ "errcode": "M_UNKNOWN", "error": "a fault" }).to_string().into_bytes();
}

pub fn edit_json(response: &mut ServerResponse, edit: impl FnOnce(&mut Value)) {
    let mut body: Value = serde_json::from_slice(&response.body).expect("JSON");
    edit(&mut body);
    response.body = body.to_string().into_bytes();
}

/// A switch that a test and its `tamper` share.
#[derive(Clone, Default)]
pub struct Switch(Rc<RefCell<bool>>);

impl Switch {
    pub fn set(&self, on: bool) {
        *self.0.borrow_mut() = on;
    }

    pub fn is_on(&self) -> bool {
        *self.0.borrow()
    }
}

/// The first claim's answer is given to everybody while the switch is on: one key handed out often.
pub fn replay_first_claim(world: &mut World) -> Switch {
    let switch = Switch::default();
    let on = switch.clone();
    let mut first: Option<Vec<u8>> = None;
    world.tamper = Some(Box::new(move |_, path, response| {
        if path.ends_with("/keys/claim") && response.status == 200 {
            match &first {
                None => first = Some(response.body.clone()),
                Some(first) if on.is_on() => response.body.clone_from(first),
                Some(_) => {}
            }
        }
    }));
    switch
}

/// Whether any row of a store contains `text`.
pub fn contains_text(store: &MemoryStore, text: &str) -> bool {
    let mut found = false;
    for table in Table::ALL {
        store
            .scan(*table, &[], None, &mut |_, value| {
                found |= value.windows(text.len()).any(|window| window == text.as_bytes());
                ControlFlow::Continue(())
            })
            .expect("a memory store can be read");
    }
    found
}
