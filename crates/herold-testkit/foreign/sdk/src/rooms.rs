//! Rooms, messages, files.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use matrix_sdk::{
    Room, RoomState,
    attachment::AttachmentConfig,
    deserialized_responses::{ShieldState, TimelineEvent, TimelineEventKind},
    media::{MediaFormat, MediaRequestParameters},
    ruma::{
        OwnedEventId, OwnedRoomId, OwnedUserId,
        api::client::room::create_room::v3::{Request, RoomPreset},
        events::{
            AnyInitialStateEvent,
            room::{EncryptedFile, MediaSource, message::RoomMessageEventContent},
        },
        serde::Raw,
    },
};
use serde_json::{Value, json};

use crate::{Device, Parameters};

pub async fn create(device: &Device, parameters: &Parameters) -> Result<Value> {
    let mut encryption = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    if let Some(messages) = parameters.value("rotation_msgs") {
        encryption["rotation_period_msgs"] = messages.clone();
    }
    let state = json!({ "type": "m.room.encryption", "state_key": "", "content": encryption });
    let direct = parameters.value("direct").and_then(Value::as_bool).unwrap_or(false);
    let mut request = Request::new();
    request.is_direct = direct;
    request.preset =
        Some(if direct { RoomPreset::TrustedPrivateChat } else { RoomPreset::PrivateChat });
    request.invite = match parameters.value("invite") {
        Some(users) => serde_json::from_value(users.clone())?,
        None => Vec::new(),
    };
    request.initial_state = vec![Raw::<AnyInitialStateEvent>::from_json_string(state.to_string())?];
    let room = device.client.create_room(request).await?;
    ready(device, parameters, room.room_id().to_owned()).await?;
    Ok(json!({ "room": room.room_id() }))
}

/// Waits until the room is joined and known to be encrypted.
async fn ready(device: &Device, parameters: &Parameters, id: OwnedRoomId) -> Result<()> {
    parameters
        .poll("joined and encrypted", async || {
            let Some(room) = device.client.get_room(&id) else { return Ok(None) };
            let ready = room.state() == RoomState::Joined
                && room.is_synced()
                && room.latest_encryption_state().await?.is_encrypted();
            Ok(ready.then_some(()))
        })
        .await
}

pub async fn invite(device: &Device, parameters: &Parameters) -> Result<Value> {
    let user: OwnedUserId = parameters.id("user")?;
    device.room(parameters)?.invite_user_by_id(&user).await?;
    Ok(json!({}))
}

pub async fn kick(device: &Device, parameters: &Parameters) -> Result<Value> {
    let user: OwnedUserId = parameters.id("user")?;
    device.room(parameters)?.kick_user(&user, None).await?;
    Ok(json!({}))
}

pub async fn join(device: &Device, parameters: &Parameters) -> Result<Value> {
    let id: OwnedRoomId = parameters.id("room")?;
    device.client.join_room_by_id(&id).await?;
    ready(device, parameters, id).await?;
    Ok(json!({}))
}

pub async fn leave(device: &Device, parameters: &Parameters) -> Result<Value> {
    device.room(parameters)?.leave().await?;
    Ok(json!({}))
}

pub async fn wait_member(device: &Device, parameters: &Parameters) -> Result<Value> {
    let user: OwnedUserId = parameters.id("user")?;
    let wanted = parameters.text("membership")?;
    parameters
        .poll(&format!("{user} is {wanted}"), async || {
            let Ok(room) = device.room(parameters) else { return Ok(None) };
            let member = room.get_member_no_sync(&user).await?;
            let is = member.map_or("leave".to_owned(), |member| member.membership().to_string());
            Ok((is == wanted).then_some(()))
        })
        .await?;
    Ok(json!({}))
}

pub async fn send(device: &Device, parameters: &Parameters) -> Result<Value> {
    let content = RoomMessageEventContent::text_plain(parameters.text("body")?);
    let sent = device.room(parameters)?.send(content).await?;
    Ok(json!({ "event_id": sent.response.event_id }))
}

pub async fn send_event(device: &Device, parameters: &Parameters) -> Result<Value> {
    let content = parameters.value("content").context("content is missing")?.clone();
    let sent = device.room(parameters)?.send_raw(parameters.text("type")?, content).await?;
    Ok(json!({ "event_id": sent.response.event_id }))
}

/// An event that cannot be read yet is fetched again after this long.
const REFETCH: Duration = Duration::from_millis(400);

async fn fetch(room: &Room, id: &OwnedEventId) -> Option<TimelineEvent> {
    room.event(id, None).await.ok()
}

pub async fn wait_message(device: &Device, parameters: &Parameters) -> Result<Value> {
    let id: OwnedEventId = parameters.id("event_id")?;
    let readable = async || {
        let Ok(room) = device.room(parameters) else { return Ok(None) };
        let event = fetch(&room, &id).await.filter(|event| !event.kind.is_utd());
        if event.is_none() {
            tokio::time::sleep(REFETCH).await;
        }
        Ok(event)
    };
    match parameters.poll(&format!("event {id}"), readable).await {
        Ok(event) => show(&event),
        Err(late) => match fetch(&device.room(parameters)?, &id).await {
            Some(event) => show(&event),
            None => Err(late),
        },
    }
}

pub async fn event(device: &Device, parameters: &Parameters) -> Result<Value> {
    let id: OwnedEventId = parameters.id("event_id")?;
    let event = fetch(&device.room(parameters)?, &id).await;
    show(&event.with_context(|| format!("no event {id}"))?)
}

fn show(event: &TimelineEvent) -> Result<Value> {
    let raw: Value = event.raw().deserialize_as_unchecked()?;
    let content = raw.get("content").cloned().unwrap_or_default();
    let shield =
        event.encryption_info().map(|info| match info.verification_state.to_shield_state_lax() {
            ShieldState::Red { .. } => "red",
            ShieldState::Grey { .. } => "grey",
            ShieldState::None => "none",
        });
    let (decrypted, encrypted, session_id, utd) = match &event.kind {
        TimelineEventKind::Decrypted(found) => {
            let session = found.encryption_info.session_id().map(ToOwned::to_owned);
            (true, true, session, None)
        }
        TimelineEventKind::UnableToDecrypt { utd_info, .. } => {
            (false, true, utd_info.session_id.clone(), Some(format!("{:?}", utd_info.reason)))
        }
        TimelineEventKind::PlainText { .. } => (true, false, None, None),
    };
    Ok(json!({
        "event_id": raw["event_id"],
        "sender": raw["sender"],
        "encrypted": encrypted,
        "decrypted": decrypted,
        "session_id": session_id,
        "type": decrypted.then(|| raw["type"].clone()),
        "body": decrypted.then(|| content["body"].clone()),
        "msgtype": decrypted.then(|| content["msgtype"].clone()),
        "content": decrypted.then_some(content),
        "shield": shield,
        "utd": utd,
    }))
}

pub async fn send_file(device: &Device, parameters: &Parameters) -> Result<Value> {
    let data = STANDARD.decode(parameters.text("data")?)?;
    let kind: mime::Mime = parameters.text("mimetype")?.parse()?;
    let room = device.room(parameters)?;
    let sent = room
        .send_attachment(parameters.text("name")?, &kind, data, AttachmentConfig::new())
        .await?;
    Ok(json!({ "event_id": sent.event_id }))
}

pub async fn download(device: &Device, parameters: &Parameters) -> Result<Value> {
    let event = wait_message(device, parameters).await?;
    let content = &event["content"];
    let Some(file) = content.get("file") else { bail!("no encrypted file: {}", event["utd"]) };
    let file: EncryptedFile = serde_json::from_value(file.clone())?;
    let wanted = MediaRequestParameters {
        source: MediaSource::Encrypted(Box::new(file)),
        format: MediaFormat::File,
    };
    let data = device.client.media().get_media_content(&wanted, false).await?;
    let name = content.get("filename").unwrap_or(&content["body"]);
    Ok(json!({
        "data": STANDARD.encode(data),
        "name": name,
        "mimetype": content["info"]["mimetype"],
    }))
}
