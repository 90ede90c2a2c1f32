//! `inspect`: what is in the store, redacted. Counts, sizes, states, and the own account's public
//! identifiers; no keys but public ones, no tokens, no room names, no messages. No network either.

use std::{collections::BTreeMap, fs, io::Write as _, path::Path, sync::Arc};

use herold::{
    ClientError, Engine, EngineError, Membership, OsEntropy, QueueState, SqliteStore, StoreOptions,
    SystemClock,
};
use serde_json::{Value, json};

use super::Setting;
use crate::{
    args::Inspect,
    failure::Failure,
    output::{clean, size},
    secrets::{self, Purpose},
};

/// What a report for the developers has; the other sections name the account.
const NAMELESS: [&str; 7] =
    ["versions", "files", "integrity", "tables", "policy", "rooms", "health"];

/// `herold inspect`
pub async fn inspect(setting: &Setting, args: Inspect) -> Result<(), Failure> {
    let folder = setting.existing_folder()?;
    let key = secrets::store_key(&setting.global, Purpose::Open)?;
    let path = folder.clone();
    let open = move || SqliteStore::open(path, &key, &StoreOptions::default());
    let mut store = off_runtime(setting, "opening the store", open).await??;
    let mut sections = vec![("versions", versions(&store)?), ("files", files(&folder)?)];
    if args.check {
        let check = move || store.integrity_check().map(|()| store);
        store = off_runtime(setting, "checking the store", check).await??;
        sections.push(("integrity", json!("every page is authentic and in its place")));
    }
    let counts: BTreeMap<&str, u64> = store
        .table_counts()
        .map_err(ClientError::from)?
        .into_iter()
        .map(|(table, rows)| (table.name(), rows))
        .collect();
    sections.push(("tables", json!(counts)));
    match Engine::load(Box::new(store), Arc::new(SystemClock), Box::new(OsEntropy)) {
        Ok(engine) => account(&engine, &mut sections)?,
        Err(EngineError::NoAccount) => sections.push(("user_id", Value::Null)),
        Err(error) => return Err(ClientError::from(error).into()),
    }
    match args.report {
        None => tell(setting, sections),
        Some(file) => report(setting, &file, sections),
    }
}

/// Writes what names nobody into a new file.
fn report(
    setting: &Setting,
    path: &Path,
    sections: Vec<(&'static str, Value)>,
) -> Result<(), Failure> {
    let nameless: serde_json::Map<String, Value> = sections
        .into_iter()
        .filter(|(name, _)| NAMELESS.contains(name))
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    let text = format!("{:#}\n", Value::Object(nameless));
    fs::File::create_new(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| Failure::file("the report", path, &error))?;
    setting.output.line(&format!("the report is in {}", path.display()), &json!({ "report": path }))
}

fn versions(store: &SqliteStore) -> Result<Value, Failure> {
    let found = store.versions().map_err(ClientError::from)?;
    Ok(json!({
        "herold": env!("CARGO_PKG_VERSION"),
        "schema": found.schema,
        "sqlite": found.sqlite,
        "sqlcipher": found.cipher,
        "system": std::env::consts::OS,
        "processor": std::env::consts::ARCH,
    }))
}

/// Does what takes its time where it holds nobody up.
async fn off_runtime<T: Send + 'static>(
    setting: &Setting,
    what: &str,
    work: impl FnOnce() -> Result<T, herold::StoreError> + Send + 'static,
) -> Result<Result<T, ClientError>, Failure> {
    let done = setting.progress.during(what, tokio::task::spawn_blocking(work)).await;
    done.map(|outcome| outcome.map_err(ClientError::from))
        .map_err(|_| Failure::other("a task ended early"))
}

/// What concerns the account.
fn account(engine: &Engine, sections: &mut Vec<(&'static str, Value)>) -> Result<(), Failure> {
    let machine = engine.machine();
    let keys = machine.identity_keys();
    let login =
        engine.read(|machine, snapshot| machine.login(snapshot)).map_err(ClientError::from)?;
    sections.push(("user_id", json!(machine.user_id())));
    sections.push(("device_id", json!(machine.device_id())));
    sections.push(("ed25519", json!(keys.ed25519.to_base64())));
    sections.push(("curve25519", json!(keys.curve25519.to_base64())));
    if let Some(login) = login {
        sections.push(("homeserver", json!(login.homeserver)));
        sections.push(("deployment", json!(login.deployment)));
        sections.push(("logged_out", json!(login.logged_out)));
    }
    sections.push(("policy", json!(machine.policy())));
    sections.push(("rooms", rooms(engine)?));
    sections.push(("queue", queue(engine)?));
    let now = engine.now();
    let health = engine
        .read(|machine, snapshot| machine.health(snapshot, now))
        .map_err(ClientError::from)?;
    sections.push(("health", json!(health)));
    Ok(())
}

fn rooms(engine: &Engine) -> Result<Value, Failure> {
    let mut counts = Counts::default();
    for (_, room) in
        engine.read(|machine, snapshot| machine.rooms(snapshot)).map_err(ClientError::from)?
    {
        counts.add(match (room.membership, room.encryption.is_some()) {
            (Membership::Join, true) => "joined and encrypted",
            (Membership::Join, false) => "joined and not encrypted",
            (Membership::Invite, _) => "invited to",
            _ => "left",
        });
    }
    Ok(json!(counts.0))
}

fn queue(engine: &Engine) -> Result<Value, Failure> {
    let mut counts = Counts::default();
    for (_, item) in
        engine.read(|machine, snapshot| machine.queue(snapshot)).map_err(ClientError::from)?
    {
        match item.state {
            QueueState::Queued => counts.add("not yet encrypted"),
            QueueState::Ready { .. } => counts.add("encrypted and not yet sent"),
            QueueState::Failed { errcode } => counts.add(&format!("refused with {errcode}")),
        }
        if item.failures > 0 {
            counts.add("with failed attempts");
        }
    }
    Ok(json!(counts.0))
}

/// How many there are of each kind.
#[derive(Default)]
struct Counts(BTreeMap<String, u64>);

impl Counts {
    fn add(&mut self, kind: &str) {
        let count = self.0.entry(kind.to_owned()).or_default();
        *count = count.saturating_add(1);
    }
}

/// The files in the store's folder and their sizes in bytes.
fn files(folder: &Path) -> Result<Value, Failure> {
    let failed = |error| Failure::file("the store's folder", folder, &error);
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("herold.") {
            files.insert(name, entry.metadata().map_err(failed)?.len());
        }
    }
    Ok(json!(files))
}

fn tell(setting: &Setting, sections: Vec<(&str, Value)>) -> Result<(), Failure> {
    if setting.output.is_json() {
        let whole: serde_json::Map<String, Value> =
            sections.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        return setting.output.line("", &Value::Object(whole));
    }
    for (name, value) in sections {
        let Value::Object(members) = value else {
            setting.output.text(&format!("{name}: {}", plain(&value)))?;
            continue;
        };
        let none = if members.is_empty() { " none" } else { "" };
        setting.output.text(&format!("{name}:{none}"))?;
        for (key, value) in members {
            let shown = match (name, value.as_u64()) {
                ("files", Some(bytes)) => size(bytes),
                _ => plain(&value),
            };
            setting.output.text(&format!("    {}: {shown}", clean(&key)))?;
        }
    }
    Ok(())
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => clean(text),
        other => clean(&other.to_string()),
    }
}
