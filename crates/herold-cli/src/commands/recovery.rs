//! `recovery`: what lets a new device in.

use herold::{Recovery, RecoveryState};
use serde_json::json;

use super::{Freshness, Setting, ask};
use crate::{
    args::{self, EnableRecovery, Recover, ResetRecovery},
    failure::Failure,
    output::clean,
    secrets,
};

/// `herold recovery`
pub async fn recovery(setting: &Setting, command: args::Recovery) -> Result<(), Failure> {
    match command {
        args::Recovery::Status => status(setting).await,
        args::Recovery::Enable(args) => enable(setting, args).await,
        args::Recovery::Recover(args) => recover(setting, args).await,
        args::Recovery::Reset(args) => reset(setting, args).await,
    }
}

async fn status(setting: &Setting) -> Result<(), Failure> {
    setting
        .with_client(Freshness::CaughtUp, async |client| {
            let state = setting.within("asking the server", client.recovery_state()).await?;
            let (word, text) = match state {
                RecoveryState::Disabled => {
                    ("disabled", "not set up: 'herold recovery enable' does that")
                }
                RecoveryState::Enabled => ("enabled", "set up, and this device has all of it"),
                RecoveryState::Incomplete => (
                    "incomplete",
                    "set up, but this device lacks something: 'herold recovery recover', or \
                     'herold verify' with another device",
                ),
            };
            setting.output.line(&format!("recovery: {text}"), &json!({ "recovery": word }))
        })
        .await
}

async fn enable(setting: &Setting, args: EnableRecovery) -> Result<(), Failure> {
    setting
        .with_client(Freshness::CaughtUp, async |client| {
            let question = format!("Password of {}: ", client.user_id());
            let password = secrets::password(args.password_stdin, &question)?;
            let passphrase = args.passphrase.then(secrets::new_recovery_passphrase).transpose()?;
            let made = client.enable_recovery(password, passphrase);
            tell(setting, &setting.within("setting recovery up", made).await?)
        })
        .await
}

async fn reset(setting: &Setting, args: ResetRecovery) -> Result<(), Failure> {
    let meant = args.yes
        || ask::yes_or_no("Others will have to verify you anew. Replace everything? [yes/no] ")
            .await?;
    if !meant {
        return Err(Failure::usage("nothing was changed"));
    }
    let args = args.enable;
    setting
        .with_client(Freshness::CaughtUp, async |client| {
            let question = format!("Password of {}: ", client.user_id());
            let password = secrets::password(args.password_stdin, &question)?;
            let passphrase = args.passphrase.then(secrets::new_recovery_passphrase).transpose()?;
            let made = client.reset_recovery(password, passphrase);
            tell(setting, &setting.within("replacing everything", made).await?)
        })
        .await
}

/// The one place where a secret is printed: it is for the user, who sees it once.
fn tell(setting: &Setting, made: &Recovery) -> Result<(), Failure> {
    let key = made.recovery_key.as_str();
    setting.output.line(
        &format!(
            "RECOVERY KEY - SECRET, SHOWN ONLY NOW\n\n    {key}\n\nWhoever has it can be you on a new \
             device, and read all that you can. Write it down.\nkey backup: version {}",
            clean(&made.backup_version)
        ),
        &json!({ "recovery_key": key, "backup_version": made.backup_version }),
    )
}

async fn recover(setting: &Setting, args: Recover) -> Result<(), Failure> {
    setting
        .with_client(Freshness::CaughtUp, async |client| {
            let typed = secrets::recovery_key(args.stdin)?;
            let restored = setting.within_lengthy("recovering", client.recover(typed)).await?;
            let (text, value) = super::keys::imported(restored);
            setting.output.line(&format!("recovered; {text}"), &value)
        })
        .await
}
