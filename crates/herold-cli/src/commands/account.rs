//! `login` and `logout`.

use std::{fs, path::Path, time::Duration};

use herold::{Client, ClientBuilder, DecryptTrust, IdentityKeys, Policy, Recipients, SyncMode};
use serde_json::json;

use super::{Freshness, Setting, deployment, has_store};
use crate::{
    args::{DecryptTrustArg, Login, NewDevice, RecipientsArg, SyncArg},
    failure::Failure,
    output::clean,
    secrets::{self, Purpose},
};

/// `herold login`
pub async fn login(setting: &Setting, args: Login) -> Result<(), Failure> {
    let folder = setting.folder()?;
    let question = format!("Password of {} on {}: ", clean(&args.user), clean(&args.homeserver));
    let password = secrets::password(args.password_stdin, &question)?;
    // A login that failed may have left a store without an account.
    let purpose = if has_store(&folder) { Purpose::Open } else { Purpose::Create };
    make_private_folder(&folder)?;
    let key = secrets::store_key(&setting.global, purpose)?;

    let policy = policy(args.device.recipients, args.device.decrypt_trust);
    let builder = connect(ClientBuilder::new(), &args.device)
        .deployment(deployment(policy))
        .store_path(&folder)
        .store_key(key)
        .homeserver(&args.homeserver);
    let login = builder.login(&args.user, password, args.device_name.as_deref());
    let client = setting.within("logging in", login).await?;

    let ready = first_sync(setting, &client).await;
    let told = tell(setting, &client, &folder);
    client.close().await?;
    told?;
    ready
}

/// How a new device talks to its server.
pub fn connect(builder: ClientBuilder, device: &NewDevice) -> ClientBuilder {
    let mode = match device.sync {
        SyncArg::V2 => SyncMode::V2,
        SyncArg::Sliding => SyncMode::Sliding,
    };
    builder.sync_mode(mode).allow_insecure_http(device.allow_insecure_http)
}

async fn first_sync(setting: &Setting, client: &Client) -> Result<(), Failure> {
    let limit = Duration::from_secs(setting.global.timeout);
    setting
        .within("first sync", async {
            client.start_sync()?;
            client.wait_ready(limit).await
        })
        .await
        .inspect_err(|_| {
            setting.progress.note("logged in; the first sync goes on with the next command");
        })
}

fn tell(setting: &Setting, client: &Client, folder: &Path) -> Result<(), Failure> {
    let IdentityKeys { ed25519, curve25519 } = client.identity_keys();
    let (user, device) = (client.user_id(), client.device_id());
    let value = json!({
        "user_id": user,
        "device_id": device,
        "ed25519": ed25519.to_base64(),
        "curve25519": curve25519.to_base64(),
        "store": folder,
    });
    let text = format!(
        "logged in as {user}, device {}\nkey of this device: {}\nstore: {}",
        clean(device.as_str()),
        super::devices::fingerprint(&ed25519.to_base64()),
        folder.display()
    );
    setting.output.line(&text, &value)
}

/// The policy that the options ask for.
pub(super) fn policy(recipients: RecipientsArg, decrypt_trust: DecryptTrustArg) -> Policy {
    Policy {
        recipients: match recipients {
            RecipientsArg::AllDevices => Recipients::AllDevices,
            RecipientsArg::IdentityBased => Recipients::IdentityBased,
            RecipientsArg::IdentityBasedThenStrict => Recipients::IdentityBasedThenStrict,
            RecipientsArg::OnlyTrusted => Recipients::OnlyTrusted,
        },
        decrypt_trust: match decrypt_trust {
            DecryptTrustArg::Any => DecryptTrust::Any,
            DecryptTrustArg::CrossSignedOrLegacy => DecryptTrust::CrossSignedOrLegacy,
            DecryptTrustArg::CrossSigned => DecryptTrust::CrossSigned,
        },
        ..Policy::default()
    }
}

/// The store's folder, for its owner only if it is new.
fn make_private_folder(folder: &Path) -> Result<(), Failure> {
    let mut options = fs::DirBuilder::new();
    options.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut options, 0o700);
    options.create(folder).map_err(|error| Failure::file("the store's folder", folder, &error))
}

/// `herold logout`
pub async fn logout(setting: &Setting) -> Result<(), Failure> {
    setting
        .with_client(Freshness::Stored, async |client| {
            setting.within("logging out", client.logout()).await?;
            let (user, device) = (client.user_id(), client.device_id());
            setting.output.line(
                &format!("logged out: {user}, device {}", clean(device.as_str())),
                &json!({ "user_id": user, "device_id": device }),
            )
        })
        .await
}
