//! `store`: what is kept, and under which key. No network.

use std::time::Duration;

use herold::{ClientBuilder, Lifetimes, Retention};
use serde_json::json;

use super::{Freshness, Setting};
use crate::{
    args::{Clean, Rekey, Store},
    failure::Failure,
    secrets::{self, Purpose},
};

/// `herold store`
pub async fn store(setting: &Setting, args: Store) -> Result<(), Failure> {
    match args {
        Store::Rekey(args) => rekey(setting, args).await,
        Store::Clean(args) => clean(setting, args).await,
    }
}

async fn clean(setting: &Setting, args: Clean) -> Result<(), Failure> {
    let days = |days: Option<u16>| days.map(|days| Duration::from_hours(24 * u64::from(days)));
    let retention = Retention {
        room_id: args.room,
        lifetimes: Lifetimes {
            room_keys: days(args.keys_older_than),
            events: days(args.messages_older_than),
            ratchet_forward: days(args.keys_forward_after),
            olm_sessions: days(args.sessions_unused_for),
        },
    };
    setting
        .with_client(Freshness::Stored, async |client| {
            let forgotten = if args.dry_run {
                setting.within("looking", client.preview_retention(&retention)).await?
            } else {
                setting.within("forgetting", client.apply_retention(&retention)).await?
            };
            let text = format!(
                "{}: {} room keys, {} moved on, {} kept for the backup, {} events, {} channels",
                if args.dry_run { "would forget" } else { "forgot" },
                forgotten.room_keys,
                forgotten.ratcheted,
                forgotten.kept_for_backup,
                forgotten.events,
                forgotten.olm_sessions,
            );
            let object = json!({
                "dry_run": args.dry_run,
                "room_keys": forgotten.room_keys,
                "ratcheted": forgotten.ratcheted,
                "kept_for_backup": forgotten.kept_for_backup,
                "events": forgotten.events,
                "olm_sessions": forgotten.olm_sessions,
            });
            setting.output.line(&text, &object)
        })
        .await
}

async fn rekey(setting: &Setting, args: Rekey) -> Result<(), Failure> {
    let folder = setting.existing_folder()?;
    let key = secrets::store_key(&setting.global, Purpose::Open)?;
    let new = secrets::new_store_key(&setting.global, args.new_store_key_file.as_deref())?;
    let work = ClientBuilder::new().store_path(folder).store_key(key).rekey_store(new);
    setting.progress.during("encrypting the store anew", work).await?;
    setting.output.line("the store opens with the new key only", &json!({ "rekeyed": true }))
}
