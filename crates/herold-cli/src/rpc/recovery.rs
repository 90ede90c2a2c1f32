//! Cross-signing, secret storage, the key backup and key files.

use std::path::PathBuf;

use herold::{Client, ClientError, OwnedUserId, Recovery, SecretString};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    error::{Answer, RpcError, within},
    params::Params,
};

/// `bootstrap`
pub async fn bootstrap(client: &Client, mut params: Params) -> Answer {
    let password = params.secret("password")?;
    told(client, &client.enable_recovery(password, None).await?)
}

/// `reset_identity`
pub async fn reset_identity(client: &Client, mut params: Params) -> Answer {
    let password = params.secret("password")?;
    told(client, &client.reset_recovery(password, None).await?)
}

/// The runner is told the key, once.
fn told(client: &Client, made: &Recovery) -> Answer {
    client.confirm_recovery_key()?;
    Ok(json!({
        "recovery_key": made.recovery_key.as_str(),
        "backup_version": made.backup_version,
    }))
}

/// `recover`
pub async fn recover(client: &Client, mut params: Params) -> Answer {
    let recovery_key: SecretString = params.secret("recovery_key")?;
    let wait = params.wait()?;
    let recovery = client.recover(recovery_key);
    let imported = match within(wait, "the recovery took too long", recovery).await? {
        Ok(imported) => Some(imported),
        // The protocol has an answer for an account that never had a backup, and none for anything else.
        Err(ClientError::RecoveryIncomplete { missing, restored: None })
            if missing.backup && missing.here.is_empty() =>
        {
            None
        }
        Err(error) => return Err(error.into()),
    };
    Ok(json!({ "imported": imported.map(|imported| imported.new + imported.known) }))
}

/// `wait_backup`
pub async fn wait_backup(client: &Client, mut params: Params) -> Answer {
    client.wait_for_backup(params.wait()?).await?;
    backup_state(client)
}

/// `restore_backup`
pub async fn restore_backup(client: &Client, mut params: Params) -> Answer {
    let deadline = tokio::time::Instant::now() + params.wait()?;
    loop {
        match client.restore_backup().await {
            // It may be on its way from another device.
            Err(ClientError::NoBackupKey) if tokio::time::Instant::now() < deadline => {
                let mut changes = client.changed();
                let _ = tokio::time::timeout_at(deadline, changes.wait()).await;
            }
            Err(ClientError::NoBackupKey) => {
                return Err(RpcError::timeout("the backup's key has not come"));
            }
            result => {
                let imported = result?;
                return Ok(json!({ "imported": imported.new + imported.known }));
            }
        }
    }
}

/// `backup_state`
pub fn backup_state(client: &Client) -> Answer {
    let status = client.backup_status()?;
    Ok(json!({
        "version": status.version,
        "enabled": status.enabled,
        "trusted": status.trusted,
        "pending": status.pending,
    }))
}

/// `secret`
pub fn secret(client: &Client, mut params: Params) -> Answer {
    let name = params.text("name")?;
    let secret = client.secret(&name)?;
    let sha256 = secret.as_ref().map(|secret| {
        let hash = Sha256::digest(secret.as_str().as_bytes());
        hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    });
    Ok(json!({ "known": secret.is_some(), "sha256": sha256 }))
}

/// `withdraw_verification`
pub fn withdraw_verification(client: &Client, mut params: Params) -> Answer {
    let user: OwnedUserId = params.id("user")?;
    client.withdraw_verification(&user)?;
    Ok(Value::Object(serde_json::Map::new()))
}

/// `export_keys`
pub async fn export_keys(client: &Client, mut params: Params) -> Answer {
    let path = PathBuf::from(params.text("path")?);
    let passphrase = params.secret("passphrase")?;
    let count = client.export_keys(&path, passphrase).await?;
    Ok(json!({ "count": count }))
}

/// `import_keys`
pub async fn import_keys(client: &Client, mut params: Params) -> Answer {
    let path = PathBuf::from(params.text("path")?);
    let passphrase = params.secret("passphrase")?;
    let imported = client.import_keys(&path, passphrase).await?;
    Ok(json!({ "imported": imported.new + imported.known, "refused": imported.refused }))
}
