//! Devices, identities, blocking and policy.

use herold::{Client, DecryptTrust, IdentityState, OwnedDeviceId, OwnedUserId, Recipients};
use serde_json::{Value, json};

use super::{error::Answer, params::Params};

/// `devices`
pub async fn devices(client: &Client, mut params: Params) -> Answer {
    let user: OwnedUserId = params.id("user")?;
    let view = client.devices(&user).await?;
    let is_verified =
        view.identity.as_ref().is_some_and(|identity| identity.state() == IdentityState::Verified);
    let devices: Vec<Value> = view
        .devices
        .iter()
        .map(|view| {
            json!({
                "device": view.device.device_id,
                "verified": view.verified,
                "cross_signed": view.cross_signed,
            })
        })
        .collect();
    let identity = view.identity.as_ref().map(|_| json!({ "verified": is_verified }));
    Ok(json!({ "identity": identity, "devices": devices }))
}

/// `delete_device`
pub async fn delete_device(client: &Client, mut params: Params) -> Answer {
    let device: OwnedDeviceId = OwnedDeviceId::from(params.text("device")?);
    let password = params.secret("password")?;
    client.delete_device(&device, password).await?;
    Ok(json!({}))
}

/// `identity`
pub async fn identity(client: &Client, mut params: Params) -> Answer {
    let user: OwnedUserId = params.id("user")?;
    let view = client.devices(&user).await?;
    let state = match view.identity.as_ref().map(|identity| identity.state()) {
        None => "none",
        Some(IdentityState::Pinned) => "pinned",
        Some(IdentityState::PinViolation) => "pin_violation",
        Some(IdentityState::Verified) => "verified",
        Some(IdentityState::VerificationViolation) => "verification_violation",
    };
    let master_key = view.identity.as_ref().map(|identity| identity.master.to_base64());
    Ok(json!({ "state": state, "master_key": master_key }))
}

/// `pin_identity`
pub fn pin_identity(client: &Client, mut params: Params) -> Answer {
    let user: OwnedUserId = params.id("user")?;
    client.pin_identity(&user)?;
    Ok(json!({}))
}

/// `set_device_blocked`
pub fn set_device_blocked(client: &Client, mut params: Params) -> Answer {
    let user: OwnedUserId = params.id("user")?;
    let device = OwnedDeviceId::from(params.text("device")?);
    let blocked = params.required_flag("blocked")?;
    client.set_blocked(&user, &device, blocked)?;
    Ok(json!({}))
}

/// `set_policy`
pub fn set_policy(client: &Client, mut params: Params) -> Answer {
    let recipients = params.word(
        "recipients",
        &[
            ("all_devices", Recipients::AllDevices),
            ("identity_based", Recipients::IdentityBased),
            ("identity_based_then_strict", Recipients::IdentityBasedThenStrict),
            ("only_trusted", Recipients::OnlyTrusted),
        ],
    )?;
    let decrypt_trust = params.word(
        "decrypt_trust",
        &[
            ("any", DecryptTrust::Any),
            ("cross_signed_or_legacy", DecryptTrust::CrossSignedOrLegacy),
            ("cross_signed", DecryptTrust::CrossSigned),
        ],
    )?;
    client.set_policy(recipients, decrypt_trust)?;
    Ok(json!({}))
}
