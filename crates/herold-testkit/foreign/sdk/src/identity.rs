//! Devices, identities, verification, recovery, key files.

use std::{
    path::PathBuf,
    sync::{
        PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use matrix_sdk::{
    encryption::verification::{
        QrVerification, QrVerificationData, SasVerification, Verification, VerificationRequest,
    },
    ruma::{
        OwnedDeviceId, OwnedUserId,
        api::client::{
            backup::{get_backup_keys, get_latest_backup_info},
            uiaa::{AuthData, Password, UserIdentifier},
        },
        events::key::verification::VerificationMethod,
    },
};
use serde_json::{Value, json};

use crate::{Device, Parameters, Unsupported};

fn methods() -> Vec<VerificationMethod> {
    vec![
        VerificationMethod::SasV1,
        VerificationMethod::QrCodeShowV1,
        VerificationMethod::QrCodeScanV1,
        VerificationMethod::ReciprocateV1,
    ]
}

fn password(device: &Device, parameters: &Parameters, session: Option<String>) -> Result<AuthData> {
    let user = device.client.user_id().context("no user")?.to_owned();
    let password = parameters.text("password")?.to_owned();
    let mut auth = Password::new(UserIdentifier::Matrix(user.into()), password);
    auth.session = session;
    Ok(AuthData::Password(auth))
}

pub async fn devices(device: &Device, parameters: &Parameters) -> Result<Value> {
    let user: OwnedUserId = parameters.id("user")?;
    let encryption = device.client.encryption();
    let identity = encryption.request_user_identity(&user).await?;
    let known = encryption.get_user_devices(&user).await?;
    let devices: Vec<Value> = known
        .devices()
        .map(|device| {
            json!({
                "device": device.device_id(),
                "verified": device.is_verified(),
                "cross_signed": device.is_cross_signed_by_owner(),
            })
        })
        .collect();
    let identity = identity.map(|identity| json!({ "verified": identity.is_verified() }));
    Ok(json!({ "identity": identity, "devices": devices }))
}

pub async fn delete_device(device: &Device, parameters: &Parameters) -> Result<Value> {
    let target: OwnedDeviceId = parameters.text("device")?.into();
    let targets = [target];
    if let Err(error) = device.client.delete_devices(&targets, None).await {
        let Some(challenge) = error.as_uiaa_response() else { return Err(error.into()) };
        let auth = password(device, parameters, challenge.session.clone())?;
        device.client.delete_devices(&targets, Some(auth)).await?;
    }
    Ok(json!({}))
}

pub async fn bootstrap(device: &Device, parameters: &Parameters) -> Result<Value> {
    let encryption = device.client.encryption();
    if let Err(error) = encryption.bootstrap_cross_signing(None).await {
        let Some(challenge) = error.as_uiaa_response() else { return Err(error.into()) };
        let auth = password(device, parameters, challenge.session.clone())?;
        encryption.bootstrap_cross_signing(Some(auth)).await?;
    }
    let recovery_key = encryption.recovery().enable().wait_for_backups_to_upload().await?;
    let version = device.client.send(get_latest_backup_info::v3::Request::new()).await?.version;
    Ok(json!({ "recovery_key": recovery_key, "backup_version": version }))
}

pub async fn recover(device: &Device, parameters: &Parameters) -> Result<Value> {
    let encryption = device.client.encryption();
    let user = device.client.user_id().context("no user")?.to_owned();
    encryption.request_user_identity(&user).await?;
    encryption.recovery().recover(parameters.text("recovery_key")?).await?;
    download(device).await
}

/// Takes every key out of the backup in use.
async fn download(device: &Device) -> Result<Value> {
    let version = device.client.send(get_latest_backup_info::v3::Request::new()).await?.version;
    let keys = device.client.send(get_backup_keys::v3::Request::new(version)).await?;
    let mut imported = 0;
    for (room, keys) in &keys.rooms {
        device.client.encryption().backups().download_room_keys_for_room(room).await?;
        imported += keys.sessions.len();
    }
    Ok(json!({ "imported": imported }))
}

pub async fn wait_backup(device: &Device, parameters: &Parameters) -> Result<Value> {
    let backups = device.client.encryption().backups();
    let upload = backups.wait_for_steady_state();
    match tokio::time::timeout(parameters.wait(), upload).await {
        Ok(done) => done?,
        Err(_) => bail!("timeout: every key in the backup"),
    }
    Ok(json!({}))
}

pub async fn restore_backup(device: &Device, parameters: &Parameters) -> Result<Value> {
    parameters
        .poll("the backup's key", async || {
            Ok(device.client.encryption().backups().are_enabled().await.then_some(()))
        })
        .await?;
    download(device).await
}

pub async fn sas_request(device: &Device, parameters: &Parameters) -> Result<Value> {
    let user: OwnedUserId = parameters.id("user")?;
    let encryption = device.client.encryption();
    let identity = encryption.request_user_identity(&user).await?;
    let is_self = device.client.user_id() == Some(&*user);
    let request = if let Some(target) = parameters.value("device").and_then(Value::as_str) {
        let target: OwnedDeviceId = target.into();
        let found = encryption.get_device(&user, &target).await?.context("no such device")?;
        found.request_verification_with_methods(methods()).await?
    } else if is_self || parameters.value("room").is_some() {
        let identity = identity.context("the user has no identity")?;
        identity.request_verification_with_methods(methods()).await?
    } else {
        return Err(Unsupported("a device or a room has to be named").into());
    };
    Ok(json!({ "flow": request.flow_id() }))
}

/// The verification with this id, whoever it is with.
async fn request(device: &Device, flow: &str) -> Option<VerificationRequest> {
    let encryption = device.client.encryption();
    let users = encryption.tracked_users().await.ok()?;
    for user in &users {
        if let Some(request) = encryption.get_verification_request(user, flow).await {
            return Some(request);
        }
    }
    None
}

/// The verification that a command names.
async fn named<'a>(
    device: &Device,
    parameters: &'a Parameters,
) -> Result<(&'a str, VerificationRequest)> {
    let flow = parameters.text("flow")?;
    let flows = || device.flows.lock().unwrap_or_else(PoisonError::into_inner);
    let known = flows().get(flow).cloned();
    if let Some(request) = known {
        return Ok((flow, request));
    }
    let request = request(device, flow).await.with_context(|| format!("no flow {flow}"))?;
    flows().insert(flow.to_owned(), request.clone());
    Ok((flow, request))
}

fn not_cancelled(request: &VerificationRequest) -> Result<()> {
    match request.cancel_info() {
        Some(info) => bail!("cancelled: {}", info.cancel_code().as_str()),
        None => Ok(()),
    }
}

pub async fn sas_accept(device: &Device, parameters: &Parameters) -> Result<Value> {
    let user: OwnedUserId = parameters.id("user")?;
    let open = async || {
        let asked = device.asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (_, flow) in asked.iter().rev().filter(|(sender, _)| *sender == user) {
            let found = device.client.encryption().get_verification_request(&user, flow).await;
            if let Some(request) = found
                && !request.is_ready()
                && !request.is_done()
                && !request.is_cancelled()
                && !request.we_started()
            {
                return Ok(Some(request));
            }
        }
        Ok(None)
    };
    let request = parameters.poll(&format!("a request of {user}"), open).await?;
    request.accept_with_methods(methods()).await?;
    Ok(json!({ "flow": request.flow_id() }))
}

/// What a request has come to, once it was begun.
async fn begun(device: &Device, request: &VerificationRequest) -> Option<Verification> {
    let user = request.other_user_id();
    device.client.encryption().get_verification(user, request.flow_id()).await
}

async fn sas_of(device: &Device, request: &VerificationRequest) -> Option<SasVerification> {
    begun(device, request).await.and_then(Verification::sas)
}

async fn qr_of(device: &Device, request: &VerificationRequest) -> Option<QrVerification> {
    begun(device, request).await.and_then(Verification::qr)
}

/// The strings; who has asked begins.
pub async fn sas_emojis(device: &Device, parameters: &Parameters) -> Result<Value> {
    let (flow, request) = named(device, parameters).await?;
    let sas = parameters
        .poll(&format!("the start of {flow}"), async || {
            not_cancelled(&request)?;
            if request.we_started() && request.is_ready() {
                request.start_sas().await?;
            }
            Ok(sas_of(device, &request).await)
        })
        .await?;
    if !sas.we_started() {
        sas.accept().await?;
    }
    parameters
        .poll("the strings", async || {
            not_cancelled(&request)?;
            let (Some(emoji), Some(decimals)) = (sas.emoji(), sas.decimals()) else {
                return Ok(None);
            };
            let emoji: Vec<Value> =
                emoji.iter().map(|emoji| json!([emoji.symbol, emoji.description])).collect();
            Ok(Some(json!({ "emojis": emoji, "decimals": decimals })))
        })
        .await
}

/// What is shown is the same, or the code that is shown was scanned.
pub async fn sas_confirm(device: &Device, parameters: &Parameters) -> Result<Value> {
    let (flow, request) = named(device, parameters).await?;
    match qr_of(device, &request).await {
        Some(qr) => qr.confirm().await?,
        None => sas_of(device, &request).await.context("no short strings")?.confirm().await?,
    }
    parameters
        .poll(&format!("the end of {flow}"), async || {
            not_cancelled(&request)?;
            Ok(request.is_done().then_some(()))
        })
        .await?;
    Ok(json!({}))
}

/// Where a verification stands.
pub async fn flow(device: &Device, parameters: &Parameters) -> Result<Value> {
    let (_, request) = named(device, parameters).await?;
    let is_scanned = qr_of(device, &request).await.is_some_and(|qr| qr.has_been_scanned());
    let state = if request.is_cancelled() {
        "cancelled"
    } else if request.is_done() {
        "done"
    } else if is_scanned {
        "scanned"
    } else if request.is_ready() {
        "ready"
    } else {
        "requested"
    };
    Ok(json!({ "state": state }))
}

pub async fn qr_show(device: &Device, parameters: &Parameters) -> Result<Value> {
    let (_, request) = named(device, parameters).await?;
    let qr = request.generate_qr_code().await?.context("no code can be shown now")?;
    Ok(json!({ "data": BASE64.encode(qr.to_bytes()?) }))
}

pub async fn qr_scan(device: &Device, parameters: &Parameters) -> Result<Value> {
    let (_, request) = named(device, parameters).await?;
    let code = QrVerificationData::from_bytes(BASE64.decode(parameters.text("data")?)?)?;
    request.scan_qr_code(code).await?.context("not a code of this verification")?;
    Ok(json!({}))
}

pub async fn export_keys(device: &Device, parameters: &Parameters) -> Result<Value> {
    let path = PathBuf::from(parameters.text("path")?);
    let count = std::sync::Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    let all = move |_: &_| {
        counter.fetch_add(1, Ordering::Relaxed);
        true
    };
    device.client.encryption().export_room_keys(path, parameters.text("passphrase")?, all).await?;
    Ok(json!({ "count": count.load(Ordering::Relaxed) }))
}

pub async fn import_keys(device: &Device, parameters: &Parameters) -> Result<Value> {
    let path = PathBuf::from(parameters.text("path")?);
    let result =
        device.client.encryption().import_room_keys(path, parameters.text("passphrase")?).await?;
    Ok(json!({ "imported": result.imported_count }))
}
