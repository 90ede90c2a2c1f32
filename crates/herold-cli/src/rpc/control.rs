//! The extension `control`: events, timelines and to-device messages under the runner's hand.

use std::time::Duration;

use herold::{
    Client, OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedTransactionId, OwnedUserId, RoomEvent,
    ToDeviceRecipient,
};
use serde_json::{Value, json};

use super::{
    error::{Answer, RpcError},
    message,
    params::Params,
};

/// `send_event`
pub async fn send_event(client: &Client, mut params: Params) -> Answer {
    let room: OwnedRoomId = params.id("room")?;
    let event_type = params.text("type")?;
    let content = params.object("content")?;
    let txn = params.optional_text("txn")?.map(OwnedTransactionId::from);
    let event_id = client.send_event(&room, &event_type, &content, txn).await?;
    Ok(json!({ "event_id": event_id }))
}

/// `queue_event`
pub fn queue_event(client: &Client, mut params: Params) -> Answer {
    let room: OwnedRoomId = params.id("room")?;
    let event_type = params.text("type")?;
    let content = params.object("content")?;
    let txn = params.optional_text("txn")?.map(OwnedTransactionId::from);
    let txn = client.queue_event(&room, &event_type, &content, txn)?;
    Ok(json!({ "txn": txn }))
}

/// `event`
pub fn event(client: &Client, mut params: Params) -> Answer {
    let (room, event_id): (OwnedRoomId, OwnedEventId) =
        (params.id("room")?, params.id("event_id")?);
    match client.event(&room, &event_id)? {
        Some(event) => Ok(message::event(&event)),
        None => Err(RpcError::not_found("the event is not known")),
    }
}

/// `timeline`
pub fn timeline(client: &Client, mut params: Params) -> Answer {
    let room: OwnedRoomId = params.id("room")?;
    let limit = params.count("limit")?;
    Ok(events(&client.timeline(&room, limit)?))
}

/// `paginate`
pub async fn paginate(client: &Client, mut params: Params) -> Answer {
    let room: OwnedRoomId = params.id("room")?;
    let count = u32::try_from(params.number("count")?).unwrap_or(u32::MAX);
    Ok(events(&client.paginate(&room, count).await?))
}

fn events(events: &[RoomEvent]) -> Value {
    json!({ "events": events.iter().map(message::event).collect::<Vec<_>>() })
}

/// `send_to_device`. Without `device`, for all devices of the user: then `outcomes` says what became of each.
pub async fn send_to_device(client: &Client, mut params: Params) -> Answer {
    let user: OwnedUserId = params.id("user")?;
    let device = params.optional_text("device")?.map(OwnedDeviceId::from);
    let event_type = params.text("type")?;
    let content = params.object("content")?;
    let Some(device) = device else {
        let recipients = [ToDeviceRecipient::User(user)];
        let outcomes = client.send_to_devices(&recipients, &event_type, &content).await?;
        return Ok(json!({ "outcomes": message::outcomes(&outcomes) }));
    };
    client.send_to_device(&user, &device, &event_type, &content).await?;
    Ok(json!({}))
}

/// `members`
pub async fn members(client: &Client, mut params: Params) -> Answer {
    let room: OwnedRoomId = params.id("room")?;
    let members: Vec<Value> = client
        .members(&room)
        .await?
        .into_iter()
        .map(|(user, member)| json!({ "user": user, "membership": message::word(member.membership) }))
        .collect();
    Ok(json!({ "members": members }))
}

/// `room`
pub fn room(client: &Client, mut params: Params) -> Answer {
    let room: OwnedRoomId = params.id("room")?;
    let Some(record) = client.room(&room)? else {
        return Err(RpcError::not_found("the room is not known"));
    };
    Ok(json!({
        "encrypted": record.encryption.is_some(),
        "algorithm": record.encryption.map(|settings| settings.algorithm),
        "name": record.name,
        "history_visibility": message::visibility(record.history_visibility),
    }))
}

/// `discard_room_key`
pub fn discard_room_key(client: &Client, mut params: Params) -> Answer {
    let room: OwnedRoomId = params.id("room")?;
    client.discard_room_key(&room)?;
    Ok(json!({}))
}

/// `clock_advance`
pub fn clock_advance(client: &Client, mut params: Params) -> Answer {
    client.advance_clock(Duration::from_millis(params.number("ms")?))?;
    Ok(json!({}))
}
