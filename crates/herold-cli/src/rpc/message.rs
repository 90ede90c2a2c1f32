//! Room events as the peer protocol (and `--json`) describes them.

use herold::{
    AppEvent, HistoryVisibility, Membership, Notice, RoomEvent, Shield, ToDeviceOutcome,
    ToDeviceResult,
};
use serde_json::{Value, json};

/// The message object: `wait_message` answers with it.
pub fn message(event: &RoomEvent) -> Value {
    let clear = event.body.as_ref().ok();
    let content = clear.and_then(|clear| serde_json::from_str::<Value>(&clear.content).ok());
    let field = |name: &str| content.as_ref().and_then(|content| content.get(name)).cloned();
    let (shield, reason) = match (&event.body, event.shield) {
        (Err(_), _) => (None, None),
        (Ok(_), Shield::None) => (Some("none"), None),
        (Ok(_), Shield::Grey(reason)) => (Some("grey"), Some(reason.as_str())),
        (Ok(_), Shield::Red(reason)) => (Some("red"), Some(reason.as_str())),
    };
    json!({
        "event_id": event.event_id,
        "sender": event.sender,
        "decrypted": clear.is_some(),
        "encrypted": event.encrypted,
        "session_id": event.session_id.as_ref().map(|session| session.as_str()),
        "body": field("body"),
        "msgtype": field("msgtype"),
        "shield": shield,
        "shield_reason": reason,
        "sender_device": event.sender_device,
        "shared_by": event.shared_by,
        "utd": event.body.as_ref().err().map(herold::Utd::to_text),
    })
}

/// The message object with everything else there is.
pub fn event(event: &RoomEvent) -> Value {
    let mut value = message(event);
    if let Some(members) = value.as_object_mut() {
        let clear = event.body.as_ref().ok();
        let content = clear.and_then(|clear| serde_json::from_str::<Value>(&clear.content).ok());
        let event_type = clear.map_or("m.room.encrypted", |clear| clear.event_type.as_str());
        members.insert("room".to_owned(), json!(event.room_id));
        members.insert("type".to_owned(), json!(event_type));
        members.insert("content".to_owned(), content.unwrap_or(Value::Null));
        members.insert("state_key".to_owned(), json!(event.state_key));
        members.insert("redacts".to_owned(), json!(event.redacts));
        members.insert("origin_server_ts".to_owned(), json!(event.origin_server_ts));
    }
    value
}

/// An event of the app's numbered list, as a flat object with its number and kind.
pub fn app_event(sequence: u64, event: &AppEvent) -> Value {
    let mut value = match event {
        AppEvent::RoomEvent { room_id, event_id } => {
            json!({ "kind": "room_event", "room": room_id, "event_id": event_id })
        }
        AppEvent::Decrypted { room_id, event_id } => {
            json!({ "kind": "decrypted", "room": room_id, "event_id": event_id })
        }
        AppEvent::Membership { room_id, user_id, membership } => json!({
            "kind": "membership",
            "room": room_id, "user": user_id, "membership": word(*membership),
        }),
        AppEvent::Sent { room_id, txn_id, event_id } => {
            json!({ "kind": "sent", "room": room_id, "txn": txn_id, "event_id": event_id })
        }
        AppEvent::SendFailed { room_id, txn_id, errcode } => {
            json!({ "kind": "send_failed", "room": room_id, "txn": txn_id, "errcode": errcode })
        }
        AppEvent::ToDevice { sender, sender_device, event_type, content } => json!({
            "kind": "to_device",
            "type": event_type,
            "content": serde_json::from_str(content).unwrap_or(Value::Null),
            "sender": sender,
            "sender_device": sender_device,
            // Nobody is verified at these layers.
            "verified": false,
        }),
        AppEvent::LoggedOut => json!({ "kind": "logged_out" }),
        AppEvent::ToDeviceSent { txn_id, outcomes: all } => {
            json!({ "kind": "to_device_sent", "txn": txn_id, "outcomes": outcomes(all) })
        }
        AppEvent::Notice(notice) => notice_fields(notice),
        _ => json!({ "kind": "other" }),
    };
    if let Some(members) = value.as_object_mut() {
        members.insert("seq".to_owned(), json!(sequence));
    }
    value
}

/// What became of a to-device event, device by device.
pub fn outcomes(outcomes: &[ToDeviceOutcome]) -> Value {
    outcomes
        .iter()
        .map(|outcome| {
            let reason = match &outcome.result {
                ToDeviceResult::Withheld(code) | ToDeviceResult::Refused(code) => Some(code),
                _ => None,
            };
            json!({
                "user": outcome.user_id,
                "device": outcome.device_id,
                "result": outcome.result.as_str(),
                "code": reason,
            })
        })
        .collect()
}

/// A notice's kind and its own fields.
fn notice_fields(notice: &Notice) -> Value {
    let mut value = json!({ "kind": notice.kind() });
    // A notice serialises as `{"Name": {fields}}`, or as a bare name.
    let fields = match serde_json::to_value(notice) {
        Ok(Value::Object(outer)) => outer.into_iter().next().map(|(_, fields)| fields),
        _ => None,
    };
    if let (Some(Value::Object(fields)), Some(members)) = (fields, value.as_object_mut()) {
        for (name, field) in fields {
            members.entry(name).or_insert(field);
        }
    }
    value
}

/// The specification's word for a membership.
pub fn word(membership: Membership) -> &'static str {
    match membership {
        Membership::Invite => "invite",
        Membership::Join => "join",
        Membership::Knock => "knock",
        Membership::Leave => "leave",
        Membership::Ban => "ban",
    }
}

/// The specification's word for who may read a room's history.
pub fn visibility(visibility: HistoryVisibility) -> &'static str {
    match visibility {
        HistoryVisibility::Invited => "invited",
        HistoryVisibility::Joined => "joined",
        HistoryVisibility::Shared => "shared",
        HistoryVisibility::WorldReadable => "world_readable",
    }
}
