//! `recovery`: what lets a new device in.

use herold::{
    Client, Missing, Recovery, RecoveryChange, RecoverySecret, RecoveryState, SecretString,
};
use serde_json::{Value, json};

use super::{Freshness, Setting, ask};
use crate::{
    args::{self, ChangeKey, EnableRecovery, Recover, ResetRecovery},
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
        args::Recovery::ChangeKey(args) => change_key(setting, args).await,
    }
}

async fn status(setting: &Setting) -> Result<(), Failure> {
    setting
        .with_client(Freshness::CaughtUp, async |client| {
            let state = setting.within("asking the server", client.recovery_state()).await?;
            let (text, value) = in_words(&state);
            setting.output.line(&format!("recovery: {text}"), &value)
        })
        .await
}

/// How things stand, for people and for programs.
fn in_words(state: &RecoveryState) -> (String, Value) {
    let plain = |word: &str, text: &str| (text.to_owned(), json!({ "recovery": word }));
    match state {
        RecoveryState::Disabled => {
            plain("disabled", "not set up: 'herold recovery enable' does that")
        }
        RecoveryState::Enabled => plain("enabled", "set up, and this device has all of it"),
        RecoveryState::Interrupted { change } | RecoveryState::Unconfirmed { change } => {
            let command = match change {
                RecoveryChange::Enable => "enable",
                RecoveryChange::Reset => "reset",
                RecoveryChange::ChangeKey => "change-key",
            };
            let text = format!("begun and not done: 'herold recovery {command}' goes on");
            (text, json!({ "recovery": "interrupted", "command": command }))
        }
        RecoveryState::Incomplete { missing } => {
            let text = format!("set up, but incomplete: {}", what_is_missing(missing));
            let names = |secrets: &std::collections::BTreeSet<RecoverySecret>| {
                secrets.iter().map(|secret| secret.name()).collect::<Vec<_>>()
            };
            let value = json!({
                "recovery": "incomplete",
                "missing_here": names(&missing.here),
                "missing_in_storage": names(&missing.stored),
                "backup": !missing.backup,
            });
            (text, value)
        }
        RecoveryState::Enabling { .. } | RecoveryState::Recovering { .. } => {
            plain("busy", "being changed just now")
        }
        _ => plain("unknown", "the server has not said yet"),
    }
}

fn what_is_missing(missing: &Missing) -> String {
    let mut parts = Vec::new();
    if !missing.here.is_empty() {
        parts.push(
            "this device lacks something ('herold recovery recover', or 'herold verify' with another \
             device)",
        );
    }
    if !missing.stored.is_empty() {
        parts.push("the server's storage lacks something ('herold recovery enable' on a device that has all)");
    }
    if missing.backup {
        parts.push("the server has no key backup ('herold recovery enable' makes one)");
    }
    parts.join("; ")
}

async fn enable(setting: &Setting, args: EnableRecovery) -> Result<(), Failure> {
    setting
        .with_client(Freshness::CaughtUp, async |client| {
            let (password, passphrase) = asked_for(client, &args)?;
            let made = client.enable_recovery(password, passphrase);
            tell(setting, client, &setting.within("setting recovery up", made).await?)
        })
        .await
}

/// The account's password, and the new passphrase if there is to be one.
fn asked_for(
    client: &Client,
    args: &EnableRecovery,
) -> Result<(SecretString, Option<SecretString>), Failure> {
    let question = format!("Password of {}: ", client.user_id());
    let password = secrets::password(args.password_stdin, &question)?;
    let passphrase = args.passphrase.then(secrets::new_recovery_passphrase).transpose()?;
    Ok((password, passphrase))
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
            let (password, passphrase) = asked_for(client, &args)?;
            let made = client.reset_recovery(password, passphrase);
            tell(setting, client, &setting.within("replacing everything", made).await?)
        })
        .await
}

async fn change_key(setting: &Setting, args: ChangeKey) -> Result<(), Failure> {
    setting
        .with_client(Freshness::CaughtUp, async |client| {
            let current = secrets::recovery_key(args.stdin)?;
            let passphrase = args.passphrase.then(secrets::new_recovery_passphrase).transpose()?;
            let made = client.change_recovery_key(current, passphrase);
            tell(setting, client, &setting.within("changing the key", made).await?)
        })
        .await
}

/// The one place where a secret is printed: it is for the user, who sees it once.
fn tell(setting: &Setting, client: &Client, made: &Recovery) -> Result<(), Failure> {
    let key = made.recovery_key.as_str();
    let version = made.backup_version.as_deref().unwrap_or("none");
    let mut left = String::new();
    for name in &made.left_behind {
        left += &format!("\nNOT under the new key, for it could not be read: {}", clean(name));
    }
    setting.output.line(
        &format!(
            "RECOVERY KEY - SECRET, SHOWN ONLY NOW\n\n    {key}\n\nWhoever has it can be you on a new \
             device, and read all that you can. Write it down.\nkey backup: version {}{left}",
            clean(version)
        ),
        &json!({
            "recovery_key": key,
            "backup_version": made.backup_version,
            "left_behind": made.left_behind,
        }),
    )?;
    // It was shown; until then the same command shows the same key.
    Ok(client.confirm_recovery_key()?)
}

async fn recover(setting: &Setting, args: Recover) -> Result<(), Failure> {
    setting
        .with_client(Freshness::CaughtUp, async |client| {
            let typed = secrets::recovery_key(args.stdin)?;
            let restored = setting.within_lengthy("recovering", client.recover(typed)).await?;
            let (text, value) = super::keys::imported(Some(restored));
            setting.output.line(&format!("recovered; {text}"), &value)
        })
        .await
}
