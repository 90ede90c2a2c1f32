//! `keys` and `backup`: room keys in files and on the server.

use herold::{BackupStatus, Client, Imported};
use serde_json::{Value, json};

use super::{Freshness, Setting};
use crate::{
    args::{Backup, KeyFile, Keys},
    failure::Failure,
    output::clean,
    secrets::{self, Purpose},
};

/// `herold keys`
pub async fn keys(setting: &Setting, command: Keys) -> Result<(), Failure> {
    match command {
        Keys::Export(args) => export(setting, args).await,
        Keys::Import(args) => import(setting, args).await,
    }
}

async fn export(setting: &Setting, args: KeyFile) -> Result<(), Failure> {
    if args.file.exists() {
        return Err(Failure::usage(format!("{} is there already", args.file.display())));
    }
    setting
        .with_client(Freshness::Stored, async |client| {
            let passphrase = secrets::keys_passphrase(args.stdin, Purpose::Create)?;
            let written = client.export_keys(&args.file, passphrase);
            let count = setting.within_lengthy("writing the key file", written).await?;
            setting.output.line(
                &format!("{count} room keys are in {}", args.file.display()),
                &json!({ "exported": count, "file": args.file }),
            )
        })
        .await
}

async fn import(setting: &Setting, args: KeyFile) -> Result<(), Failure> {
    setting
        .with_client(Freshness::Stored, async |client| {
            let passphrase = secrets::keys_passphrase(args.stdin, Purpose::Open)?;
            let read = client.import_keys(&args.file, passphrase);
            let (text, value) =
                imported(Some(setting.within_lengthy("reading the key file", read).await?));
            setting.output.line(&text, &value)
        })
        .await
}

/// `herold backup`
pub async fn backup(setting: &Setting, command: Backup) -> Result<(), Failure> {
    setting
        .with_client(Freshness::CaughtUp, async |client| match command {
            Backup::Status => show(setting, client).await,
            Backup::Restore => {
                let restored = setting.within_lengthy("restoring", client.restore_backup()).await?;
                let (text, value) = imported(Some(restored));
                setting.output.line(&text, &value)
            }
        })
        .await
}

async fn show(setting: &Setting, client: &Client) -> Result<(), Failure> {
    client.check_backup()?;
    // That asks the server; where it stands is known a moment later.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let status = client.backup_status()?;
    let value = json!({
        "version": status.version,
        "enabled": status.enabled,
        "trusted": status.trusted,
        "has_key": status.has_key,
        "pending": status.pending,
    });
    setting.output.line(&describe(&status), &value)
}

fn describe(status: &BackupStatus) -> String {
    let Some(version) = &status.version else {
        return "no key backup is known of".to_owned();
    };
    let use_of_it = match (status.enabled, status.pending) {
        (false, _) => "NOT used by this device".to_owned(),
        (true, 0) => "all room keys are in it".to_owned(),
        (true, pending) => format!("{pending} room keys are still to go"),
    };
    let key =
        if status.has_key { "" } else { "; its key is not here, so it cannot be restored from" };
    format!("key backup: version {}, {use_of_it}{key}", clean(version))
}

/// What came out of a backup or a file, for people and for scripts.
pub fn imported(imported: Option<Imported>) -> (String, Value) {
    let Some(Imported { new, known, refused }) = imported else {
        return ("there is no key backup".to_owned(), json!({ "backup": false }));
    };
    let doubt = if refused > 0 { format!(", {refused} REFUSED") } else { String::new() };
    (
        format!("{new} new room keys, {known} known before{doubt}"),
        json!({ "new": new, "known": known, "refused": refused }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_is_not_kept_quiet() {
        let (text, _) = imported(Some(Imported { new: 3, known: 2, refused: 0 }));
        assert_eq!(text, "3 new room keys, 2 known before");
        let (text, _) = imported(Some(Imported { new: 3, known: 2, refused: 1 }));
        assert!(text.ends_with("1 REFUSED"));
    }

    #[test]
    fn a_backup_that_is_not_used_says_so() {
        let mut status = BackupStatus::default();
        assert_eq!(describe(&status), "no key backup is known of");
        status.version = Some("7\u{1b}".to_owned());
        assert!(describe(&status).contains("7\u{fffd}, NOT used"));
        (status.enabled, status.has_key) = (true, true);
        assert!(describe(&status).ends_with("all room keys are in it"));
        status.pending = 4;
        assert!(describe(&status).ends_with("4 room keys are still to go"));
    }
}
