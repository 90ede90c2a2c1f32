//! Rooms, members, messages and files.

use std::time::{Duration, Instant};

use herold::{
    Client, CreateRoom, Membership, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, SharedHistory,
};
use serde_json::json;

use super::{
    error::{Answer, RpcError, within},
    message,
    params::{Params, to_base64},
    session::Session,
};

/// How often something is looked at that is waited for.
const PAUSE: Duration = Duration::from_millis(30);
/// How long the own sync may take to show what the server has accepted.
const ECHO_LIMIT: Duration = Duration::from_secs(40);

/// Looks again and again until there is something or time is over.
async fn eventually<T>(
    limit: Duration,
    what: &str,
    probe: impl Fn() -> Result<Option<T>, RpcError>,
) -> Result<T, RpcError> {
    let began = Instant::now();
    loop {
        if let Some(found) = probe()? {
            return Ok(found);
        }
        if began.elapsed() >= limit {
            return Err(RpcError::timeout(what));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// `create_room`
pub async fn create_room(session: &Session, mut params: Params) -> Answer {
    let client = session.client()?;
    let invite: Vec<OwnedUserId> = params.ids("invite")?;
    let direct = params.flag("direct")?;
    let rotation_messages = params.optional_number("rotation_msgs")?;
    let room = client
        .create_room(CreateRoom {
            invite,
            direct,
            encrypted: true,
            rotation_messages,
            ..CreateRoom::default()
        })
        .await?;
    joined_and_encrypted(session, &room).await?;
    Ok(json!({ "room": room }))
}

/// `invite`
pub async fn invite(client: &Client, mut params: Params) -> Answer {
    let (room, user): (OwnedRoomId, OwnedUserId) = (params.id("room")?, params.id("user")?);
    if !params.flag("share_history")? {
        client.invite(&room, &user).await?;
        return Ok(json!({}));
    }
    let shared = client.invite_with_history(&room, &user).await?;
    let keys = if let SharedHistory::Keys(keys) = shared { keys } else { 0 };
    Ok(json!({ "history": shared.as_str(), "keys": keys }))
}

/// `join`
pub async fn join(session: &Session, mut params: Params) -> Answer {
    let client = session.client()?;
    let room: OwnedRoomId = params.id("room")?;
    if params.optional_flag("accept_history")?.unwrap_or(true) {
        client.join(&room).await?;
    } else {
        client.join_without_history(&room).await?;
    }
    joined_and_encrypted(session, &room).await?;
    Ok(json!({}))
}

/// Waits until the own sync has shown the room, unless the runner has stopped it.
async fn joined_and_encrypted(session: &Session, room: &RoomId) -> Result<(), RpcError> {
    if !session.is_syncing() {
        return Ok(());
    }
    let client = session.client()?;
    eventually(ECHO_LIMIT, "sync has not shown the room as joined and encrypted", || {
        let record = client.room(room)?;
        Ok(record
            .filter(|room| room.membership == Membership::Join && room.encryption.is_some())
            .map(drop))
    })
    .await
}

/// `leave`
pub async fn leave(client: &Client, mut params: Params) -> Answer {
    let room: OwnedRoomId = params.id("room")?;
    client.leave(&room).await?;
    Ok(json!({}))
}

/// `kick`
pub async fn kick(client: &Client, mut params: Params) -> Answer {
    let (room, user): (OwnedRoomId, OwnedUserId) = (params.id("room")?, params.id("user")?);
    client.kick(&room, &user).await?;
    Ok(json!({}))
}

/// `wait_member`
pub async fn wait_member(client: &Client, mut params: Params) -> Answer {
    let (room, user): (OwnedRoomId, OwnedUserId) = (params.id("room")?, params.id("user")?);
    let words =
        [("join", Membership::Join), ("invite", Membership::Invite), ("leave", Membership::Leave)];
    let wanted = params.word("membership", &words)?;
    let wait = params.wait()?;
    client.wait_for_member(&room, &user, wanted, wait).await?;
    Ok(json!({}))
}

/// `send`
pub async fn send(client: &Client, mut params: Params) -> Answer {
    let room: OwnedRoomId = params.id("room")?;
    let body = params.text("body")?;
    must_be_encrypted(client, &room)?;
    let event_id = client.send_text(&room, &body).await?;
    Ok(json!({ "event_id": event_id }))
}

fn must_be_encrypted(client: &Client, room: &RoomId) -> Result<(), RpcError> {
    let record = client.room(room)?.ok_or_else(|| RpcError::not_found("the room is not known"))?;
    match record.encryption {
        Some(_) => Ok(()),
        None => Err(RpcError::new("not_encrypted", "the room is not known to be encrypted")),
    }
}

/// `wait_message`
pub async fn wait_message(client: &Client, mut params: Params) -> Answer {
    let (room, event_id): (OwnedRoomId, OwnedEventId) =
        (params.id("room")?, params.id("event_id")?);
    let wait = params.wait()?;
    let event = client.wait_for_event(&room, &event_id, wait).await?;
    Ok(message::message(&event))
}

/// `send_file`
pub async fn send_file(client: &Client, mut params: Params) -> Answer {
    let room: OwnedRoomId = params.id("room")?;
    let (name, mimetype) = (params.text("name")?, params.text("mimetype")?);
    let data = params.bytes("data")?;
    must_be_encrypted(client, &room)?;
    let event_id = client.send_file(&room, &name, &mimetype, &data).await?;
    Ok(json!({ "event_id": event_id }))
}

/// `download`
pub async fn download(client: &Client, mut params: Params) -> Answer {
    let (room, event_id): (OwnedRoomId, OwnedEventId) =
        (params.id("room")?, params.id("event_id")?);
    let wait = params.wait()?;
    let began = Instant::now();
    let event = client.wait_for_event(&room, &event_id, wait).await?;
    if let Err(utd) = &event.body {
        return Err(RpcError::timeout(format!("the event is not readable: {}", utd.to_text())));
    }
    let left = wait.saturating_sub(began.elapsed()).max(Duration::from_secs(1));
    let download = client.download(&room, &event_id);
    let file = within(left, "the file did not come", download).await??;
    Ok(json!({
        "data": to_base64(&file.data),
        "name": file.name,
        "mimetype": file.mimetype,
    }))
}
