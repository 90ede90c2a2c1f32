//! `devices`: whose they are, and which get room keys.

use herold::{Client, DeviceView, IdentityState, OwnedDeviceId, Policy, UserId};
use serde_json::json;

use super::{Freshness, Setting};
use crate::{args::Devices, failure::Failure, output::clean, secrets};

/// `herold devices`
pub async fn devices(setting: &Setting, args: Devices) -> Result<(), Failure> {
    if let Some(device) = &args.delete {
        return delete(setting, device, args.password_stdin).await;
    }
    setting
        .with_client(Freshness::CaughtUp, async |client| {
            let user = args.user.clone().unwrap_or_else(|| client.user_id());
            if let Some(device) = &args.block {
                client.set_blocked(&user, device, true)?;
            }
            if let Some(device) = &args.unblock {
                client.set_blocked(&user, device, false)?;
            }
            list(setting, client, &user).await
        })
        .await
}

async fn list(setting: &Setting, client: &Client, user: &UserId) -> Result<(), Failure> {
    let view = setting.within("asking for the devices", client.devices(user)).await?;
    if view.outdated {
        setting.progress.note("the server did not answer: the list may be outdated");
    }
    let identity = match view.identity.as_ref().map(|identity| identity.state()) {
        None => "no cross-signing identity",
        Some(IdentityState::Pinned) => "cross-signing identity as first seen",
        Some(IdentityState::Verified) => "verified cross-signing identity",
        Some(IdentityState::PinViolation | IdentityState::VerificationViolation) => {
            "CROSS-SIGNING IDENTITY HAS CHANGED"
        }
    };
    setting.output.text(&format!("{}: {identity}", clean(user.as_str())))?;
    let policy = client.policy()?;
    for device in &view.devices {
        show(setting, client, &policy, user, device)?;
    }
    Ok(())
}

fn show(
    setting: &Setting,
    client: &Client,
    policy: &Policy,
    user: &UserId,
    view: &DeviceView,
) -> Result<(), Failure> {
    let device = &view.device;
    let is_own = *user == client.user_id() && device.device_id == client.device_id();
    let name = policy.device_name(device);
    let marks = [
        (is_own, "this device"),
        (view.cross_signed, "cross-signed"),
        (view.blocked, "BLOCKED"),
        (device.dehydrated, "dehydrated"),
    ];
    let marks: Vec<&str> =
        marks.into_iter().filter(|(holds, _)| *holds).map(|(_, mark)| mark).collect();
    let key = device.keys.ed25519.to_base64();
    let text = format!(
        "{}  {}\n    {}{}",
        clean(device.device_id.as_str()),
        name.as_deref().map(clean).unwrap_or_default(),
        fingerprint(&key),
        if marks.is_empty() { String::new() } else { format!("  ({})", marks.join(", ")) },
    );
    setting.output.line(
        &text,
        &json!({
            "user": user,
            "device": device.device_id,
            "name": name,
            "ed25519": key,
            "this_device": is_own,
            "cross_signed": view.cross_signed,
            "blocked": view.blocked,
        }),
    )
}

async fn delete(
    setting: &Setting,
    device: &OwnedDeviceId,
    password_stdin: bool,
) -> Result<(), Failure> {
    setting
        .with_client(Freshness::CaughtUp, async |client| {
            if *device == client.device_id() {
                return Err(Failure::usage("this is the device in use: 'herold logout' ends it"));
            }
            let question = format!("Password of {}: ", client.user_id());
            let password = secrets::password(password_stdin, &question)?;
            setting.within("removing", client.delete_device(device, password)).await?;
            setting
                .output
                .line(&format!("removed {}", clean(device.as_str())), &json!({ "device": device }))
        })
        .await
}

/// A key in groups of four, to be read out.
pub fn fingerprint(key: &str) -> String {
    let mut text = String::new();
    for (index, c) in key.chars().enumerate() {
        if index > 0 && index % 4 == 0 {
            text.push(' ');
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_in_groups() {
        assert_eq!(fingerprint("abcdefghij"), "abcd efgh ij");
        assert_eq!(fingerprint(""), "");
    }
}
