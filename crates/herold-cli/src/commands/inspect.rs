//! `inspect`: what is in the store, redacted. Counts, sizes, identifiers of the own account and states;
//! no keys but public ones, no tokens, no room names, no messages.

use std::{collections::BTreeMap, fs, path::Path};

use herold::{Client, Membership, QueueState};
use serde_json::{Value, json};

use super::{Freshness, STORE_FILE, Setting};
use crate::{
    failure::Failure,
    output::{clean, size},
};

/// `herold inspect`
pub async fn inspect(setting: &Setting) -> Result<(), Failure> {
    let folder = setting.folder()?;
    setting
        .with_client(Freshness::Stored, async |client| {
            let report = report(client, &folder)?;
            for line in lines(&report) {
                setting.output.text(&line)?;
            }
            if setting.output.is_json() { setting.output.line("", &report) } else { Ok(()) }
        })
        .await
}

fn report(client: &Client, folder: &Path) -> Result<Value, Failure> {
    let policy = client.policy()?;
    let keys = client.identity_keys();
    let mut rooms: BTreeMap<&str, u64> = BTreeMap::new();
    for (_, room) in client.rooms()? {
        let kind = match (room.membership, room.encryption.is_some()) {
            (Membership::Join, true) => "joined, encrypted",
            (Membership::Join, false) => "joined, not encrypted",
            (Membership::Invite, _) => "invited",
            _ => "left",
        };
        count(&mut rooms, kind);
    }
    let mut queue: BTreeMap<&str, u64> = BTreeMap::new();
    let mut refusals: BTreeMap<String, u64> = BTreeMap::new();
    for (_, item) in client.queue()? {
        match item.state {
            QueueState::Queued => count(&mut queue, "waiting for keys"),
            QueueState::Ready { .. } => count(&mut queue, "encrypted, to be sent"),
            QueueState::Failed { errcode } => {
                count(&mut queue, "refused");
                let refused = refusals.entry(errcode).or_default();
                *refused = refused.saturating_add(1);
            }
        }
    }
    Ok(json!({
        "user_id": client.user_id(),
        "device_id": client.device_id(),
        "ed25519": keys.ed25519.to_base64(),
        "curve25519": keys.curve25519.to_base64(),
        "homeserver": client.homeserver(),
        "logged_out": client.is_logged_out(),
        "policy": policy,
        "rooms": rooms,
        "queue": queue,
        "refusals": refusals,
        "events_not_taken": events_not_taken(client)?,
        "files": files(folder)?,
    }))
}

fn count<'a>(counts: &mut BTreeMap<&'a str, u64>, kind: &'a str) {
    let count = counts.entry(kind).or_default();
    *count = count.saturating_add(1);
}

fn events_not_taken(client: &Client) -> Result<u64, Failure> {
    let (mut after, mut count) = (None, 0_u64);
    loop {
        let events = client.events(after)?;
        let Some((last, _)) = events.last() else { return Ok(count) };
        after = Some(*last);
        count = count.saturating_add(u64::try_from(events.len()).unwrap_or(u64::MAX));
    }
}

/// The store's files and their sizes in bytes.
fn files(folder: &Path) -> Result<BTreeMap<String, u64>, Failure> {
    let failed = |error| Failure::file("the store's folder", folder, &error);
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(STORE_FILE) {
            files.insert(name, entry.metadata().map_err(failed)?.len());
        }
    }
    Ok(files)
}

/// The report for people.
fn lines(report: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, value) in report.as_object().into_iter().flatten() {
        let name = name.replace('_', " ");
        match value {
            Value::Object(members) if members.is_empty() => lines.push(format!("{name}: none")),
            Value::Object(members) => {
                lines.push(format!("{name}:"));
                lines.extend(members.iter().map(|(key, value)| member(&name, key, value)));
            }
            other => lines.push(format!("{name}: {}", plain(other))),
        }
    }
    lines
}

fn member(group: &str, key: &str, value: &Value) -> String {
    let shown = match (group, value.as_u64()) {
        ("files", Some(bytes)) => size(bytes),
        _ => plain(value),
    };
    format!("    {}: {shown}", clean(&key.replace('_', " ")))
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => clean(text),
        other => clean(&other.to_string()),
    }
}
