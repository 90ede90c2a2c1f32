//! Verification: short authentication strings and QR codes. A flow is named `<user> <flow id>` to the runner.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use herold::{
    Client, ClientError, Methods, OwnedDeviceId, OwnedRoomId, OwnedUserId, VerificationAction,
    VerificationState, VerificationView,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    error::{Answer, RpcError},
    params::Params,
};

fn name(user: &OwnedUserId, flow: &str) -> Value {
    json!(format!("{user} {flow}"))
}

fn flow(params: &mut Params) -> Result<(OwnedUserId, String), RpcError> {
    let text = params.text("flow")?;
    let not = || RpcError::parameter("flow", "not one of ours");
    let (user, flow) = text.split_once(' ').ok_or_else(not)?;
    Ok((OwnedUserId::try_from(user).map_err(|_| not())?, flow.to_owned()))
}

/// Waits until `check` says something of a verification.
async fn wait_for<T>(
    client: &Client,
    wait: Duration,
    mut check: impl FnMut(&Client) -> Result<Option<T>, RpcError>,
) -> Result<T, RpcError> {
    let deadline = Instant::now() + wait;
    let mut changes = client.changed();
    loop {
        if let Some(found) = check(client)? {
            return Ok(found);
        }
        tokio::time::timeout_at(deadline, changes.wait())
            .await
            .map_err(|_| RpcError::timeout("the verification did not get so far"))??;
    }
}

fn ended(view: &VerificationView) -> Option<RpcError> {
    match &view.state {
        VerificationState::Cancelled { code, .. } => {
            Some(RpcError::new("cancelled", code.as_str()))
        }
        _ => None,
    }
}

/// `sas_request`
pub async fn request(client: &Client, mut params: Params) -> Answer {
    let user: OwnedUserId = params.id("user")?;
    let flow = if let Some(room) = params.optional_text("room")? {
        let room = OwnedRoomId::try_from(room)
            .map_err(|_| RpcError::parameter("room", "not a room id"))?;
        client.request_room_verification(&room, &user).await?.to_string()
    } else {
        let device = params.optional_text("device")?.map(OwnedDeviceId::from);
        // The list should hold the devices that are there now.
        client.devices(&user).await?;
        client.request_verification(&user, device.map(|device| vec![device]))?
    };
    Ok(json!({ "flow": name(&user, &flow) }))
}

/// `sas_accept`
pub async fn accept(client: &Client, mut params: Params) -> Answer {
    let user: OwnedUserId = params.id("user")?;
    let found = wait_for(client, params.wait()?, |client| {
        let views = client.verifications()?;
        Ok(views.into_iter().find(|view| {
            view.user_id == user
                && matches!(
                    view.state,
                    VerificationState::Requested { by_us: false }
                        | VerificationState::Started { needs_accept: true, .. }
                )
        }))
    });
    let found = found.await?;
    let action = VerificationAction::Accept(Methods::ALL);
    client.act_on_verification(&user, &found.flow_id, action)?;
    Ok(json!({ "flow": name(&user, &found.flow_id) }))
}

/// `sas_emojis`
pub async fn emojis(client: &Client, mut params: Params) -> Answer {
    let (user, flow) = flow(&mut params)?;
    let asked_by_us = is_by_us(client, &user, &flow)?;
    let shown = wait_for(client, params.wait()?, |client| {
        let view = client.verification(&user, &flow)?;
        if let Some(error) = ended(&view) {
            return Err(error);
        }
        match view.state {
            VerificationState::Ready { .. } if asked_by_us => {
                client.act_on_verification(&user, &flow, VerificationAction::StartSas)?;
                Ok(None)
            }
            VerificationState::KeysExchanged(strings) => Ok(Some(strings)),
            _ => Ok(None),
        }
    });
    let shown = shown.await?;
    let emojis: Option<Vec<Value>> = shown.emoji.map(|emoji| {
        emoji.iter().map(|emoji| json!([emoji.symbol(), emoji.description("en")])).collect()
    });
    Ok(json!({ "emojis": emojis, "decimals": shown.decimals }))
}

/// Whether this side has asked. Only it knows before the other has answered, so it is kept apart.
fn is_by_us(client: &Client, user: &OwnedUserId, flow: &str) -> Result<bool, RpcError> {
    Ok(client.verification(user, flow)?.asked_by_us)
}

/// `sas_confirm`
pub async fn confirm(client: &Client, mut params: Params) -> Answer {
    let (user, flow) = flow(&mut params)?;
    client.act_on_verification(&user, &flow, VerificationAction::Confirm)?;
    let done = wait_for(client, params.wait()?, |client| {
        let view = client.verification(&user, &flow)?;
        if let Some(error) = ended(&view) {
            return Err(error);
        }
        Ok(matches!(view.state, VerificationState::Done { .. }).then_some(()))
    });
    done.await?;
    Ok(json!({}))
}

/// `sas_cancel`
pub fn cancel(client: &Client, mut params: Params) -> Answer {
    let (user, flow) = flow(&mut params)?;
    client.act_on_verification(&user, &flow, VerificationAction::Cancel)?;
    Ok(json!({}))
}

/// `flow`
pub fn state(client: &Client, mut params: Params) -> Answer {
    let (user, flow) = flow(&mut params)?;
    let view = client.verification(&user, &flow)?;
    let (state, code) = match &view.state {
        VerificationState::Requested { .. } => ("requested", None),
        VerificationState::Ready { .. } => ("ready", None),
        VerificationState::Started { .. } => ("started", None),
        VerificationState::KeysExchanged(_) => ("keys_exchanged", None),
        VerificationState::Scanned => ("scanned", None),
        VerificationState::Confirmed => ("confirmed", None),
        VerificationState::Done { .. } => ("done", None),
        VerificationState::Cancelled { code, .. } => ("cancelled", Some(code.as_str())),
    };
    Ok(json!({ "state": state, "cancel_code": code }))
}

/// `qr_show`
pub fn qr_show(client: &Client, mut params: Params) -> Answer {
    let (user, flow) = flow(&mut params)?;
    let code = client
        .show_verification_code(&user, &flow)?
        .ok_or_else(|| RpcError::new("invalid", "no code can be shown now"))?;
    Ok(json!({ "data": STANDARD.encode(code.as_slice()) }))
}

/// `qr_scan`
pub fn qr_scan(client: &Client, mut params: Params) -> Answer {
    let (user, flow) = flow(&mut params)?;
    let code = params.bytes("data")?;
    match client.scan_verification_code(&user, &flow, &code) {
        Err(ClientError::InvalidInput(what)) => Err(RpcError::new("invalid", what)),
        result => {
            result?;
            Ok(json!({}))
        }
    }
}
