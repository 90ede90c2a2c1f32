//! Which requests are due: a reading of committed state, and of nothing else.

use std::collections::BTreeMap;

use herold_crypto::Account;
use herold_store::{
    Snapshot, SnapshotExt, StoreError,
    records::{
        AccountRecord, BackoffRecord, BackupBatchRecord, BackupRecord, ClaimRecord, CounterRecord,
        KeyUploadRecord, LoginRecord, Membership, NameKey, Only, OutboxBodyRecord, OutboxRecord,
        OutdatedUserRecord, QueueRecord, QueueState, RetiredSessionRecord, RoomKey, RoomRecord,
        SignatureRecord, SyncRecord, TrackedUserRecord,
    },
};
use herold_trust::Timestamp;
use ruma::{EventId, OwnedDeviceId, OwnedUserId, RoomId};
use serde_json::{json, value::RawValue};

use crate::{
    Answer, HttpRequest, MachineError, Method, Outgoing, RequestId,
    account::{SentKeys, UPLOAD, upload_body},
    app_to_device,
    context::LONGEST_DELAY,
    dehydration,
    devices::query_name,
    history, key_backup,
    queue::{LATE_SHARES, heads},
    request::RequestKind,
    rooms,
    share::PATIENCE,
    signatures::{SIGNATURES, batch_size},
    txn::Txn,
    verification,
    wire::Chunk,
};

/// The client-server API.
const CLIENT: &str = "/_matrix/client/v3";
/// As many users are asked for at once.
const USERS_PER_QUERY: usize = 250;
/// As many devices' keys are claimed at once.
const DEVICES_PER_CLAIM: usize = 250;
/// A download of many room keys may take this long.
pub(crate) const LARGE_DOWNLOAD: u64 = 300_000;
/// How long the homeserver may wait for others, in milliseconds.
const FEDERATION_TIMEOUT: u64 = 10_000;
/// A sync's HTTP exchange may take this much longer than the server was asked to wait.
pub(crate) const SYNC_GRACE: u64 = 30_000;

pub(crate) fn sync_request(
    snapshot: &dyn Snapshot,
    timeout_ms: u64,
) -> Result<HttpRequest, MachineError> {
    let token = snapshot.load::<SyncRecord>(&Only)?.unwrap_or_default().next_batch;
    let filter = json!({
        "presence": { "types": [] },
        "room": {
            "ephemeral": { "types": [] },
            "state": { "lazy_load_members": false },
            "timeline": { "limit": 50 },
        },
    });
    let mut request = HttpRequest::new(Method::Get, CLIENT, &["sync"])
        .query("filter", filter.to_string())
        .query("timeout", if token.is_some() { timeout_ms } else { 0 }.to_string())
        .timeout(timeout_ms.saturating_add(SYNC_GRACE));
    if let Some(token) = token {
        request = request.query("since", token);
    }
    Ok(request)
}

pub(crate) fn messages_request(
    snapshot: &dyn Snapshot,
    room_id: &RoomId,
    limit: u32,
) -> Result<Option<HttpRequest>, MachineError> {
    let key = RoomKey { room_id: room_id.to_owned() };
    let room: RoomRecord = snapshot.load(&key)?.ok_or(MachineError::UnknownRoom)?;
    Ok(room.prev_batch.map(|token| {
        HttpRequest::new(Method::Get, CLIENT, &["rooms", room_id.as_str(), "messages"])
            .query("dir", "b")
            .query("from", token)
            .query("limit", limit.to_string())
    }))
}

pub(crate) fn keys_changes_request(from: &str, to: &str) -> HttpRequest {
    HttpRequest::new(Method::Get, CLIENT, &["keys", "changes"]).query("from", from).query("to", to)
}

pub(crate) fn members_request(room_id: &RoomId) -> HttpRequest {
    HttpRequest::new(Method::Get, CLIENT, &["rooms", room_id.as_str(), "members"])
}

pub(crate) fn backup_request(version: &str) -> HttpRequest {
    HttpRequest::new(Method::Get, CLIENT, &["room_keys", "keys"])
        .query("version", version)
        .timeout(LARGE_DOWNLOAD)
}

pub(crate) fn event_request(room_id: &RoomId, event_id: &EventId) -> HttpRequest {
    let segments = ["rooms", room_id.as_str(), "event", event_id.as_str()];
    HttpRequest::new(Method::Get, CLIENT, &segments)
}

pub(crate) fn requests(
    snapshot: &dyn Snapshot,
    now: Timestamp,
) -> Result<Vec<Outgoing>, MachineError> {
    if snapshot.load::<LoginRecord>(&Only)?.is_some_and(|login| login.logged_out) {
        return Ok(Vec::new());
    }
    let mut requests = Vec::new();
    requests.extend(upload(snapshot, now)?);
    queries(snapshot, now, &mut requests)?;
    claims(snapshot, now, &mut requests)?;
    requests.extend(to_device(snapshot, now)?);
    sends(snapshot, now, &mut requests)?;
    members_for_late_shares(snapshot, now, &mut requests)?;
    requests.extend(signatures(snapshot, now)?);
    requests.extend(backup(snapshot, now)?);
    requests.extend(history::request(snapshot, now)?);
    requests.extend(dehydration::request(snapshot, now)?);
    Ok(requests)
}

/// A time further ahead than anything is ever put off comes from a clock that was wrong, and counts as
/// come.
fn is_due(retry_at: Option<Timestamp>, now: Timestamp) -> bool {
    retry_at.is_none_or(|at| at <= now || at > now.saturating_add(LONGEST_DELAY))
}

/// Whether the request called `name` is not put off.
pub(crate) fn is_allowed(
    snapshot: &dyn Snapshot,
    name: &str,
    now: Timestamp,
) -> Result<bool, MachineError> {
    let limit: Option<BackoffRecord> = snapshot.load(&NameKey { name: name.to_owned() })?;
    Ok(is_due(limit.map(|limit| limit.retry_at), now))
}

fn upload(snapshot: &dyn Snapshot, now: Timestamp) -> Result<Option<Outgoing>, MachineError> {
    let Some(uploads) = snapshot.load::<KeyUploadRecord>(&Only)? else { return Ok(None) };
    if uploads.device_keys_published && !uploads.unpublished_keys {
        return Ok(None);
    }
    if !is_allowed(snapshot, UPLOAD, now)? {
        return Ok(None);
    }
    let record: AccountRecord = snapshot.load(&Only)?.ok_or(MachineError::NoAccount)?;
    let account = Account::from_record(record.pickle.as_slice())
        .map_err(|_| StoreError::Corrupt("the account".to_owned()))?;
    let body = upload_body(&record, &account, &uploads)?;
    Ok(Some(Outgoing {
        id: RequestId(UPLOAD.to_owned()),
        http: HttpRequest::new(Method::Post, CLIENT, &["keys", "upload"]).json(body),
        kind: RequestKind::KeysUpload { keys: SentKeys::of(&account) },
    }))
}

/// One query a server, so that a dead one holds up its own users only.
fn queries(
    snapshot: &dyn Snapshot,
    now: Timestamp,
    requests: &mut Vec<Outgoing>,
) -> Result<(), MachineError> {
    let mut servers: BTreeMap<String, BTreeMap<OwnedUserId, u64>> = BTreeMap::new();
    for (key, _) in snapshot.list::<OutdatedUserRecord>(&[], usize::MAX)? {
        let Some(tracked) = snapshot.load::<TrackedUserRecord>(&key)? else { continue };
        let users = servers.entry(key.user_id.server_name().to_string()).or_default();
        if is_due(tracked.retry_at, now) && users.len() < USERS_PER_QUERY {
            users.insert(key.user_id, tracked.generation);
        }
    }
    for (server, users) in servers {
        let name = query_name(&server);
        if users.is_empty() || !is_allowed(snapshot, &name, now)? {
            continue;
        }
        let asked: BTreeMap<&str, [&str; 0]> =
            users.keys().map(|user_id| (user_id.as_str(), [])).collect();
        let body = json!({ "timeout": FEDERATION_TIMEOUT, "device_keys": asked });
        requests.push(Outgoing {
            id: RequestId(name),
            http: HttpRequest::new(Method::Post, CLIENT, &["keys", "query"]).json(body.to_string()),
            kind: RequestKind::KeysQuery { users },
        });
    }
    Ok(())
}

/// One claim a server, likewise.
fn claims(
    snapshot: &dyn Snapshot,
    now: Timestamp,
    requests: &mut Vec<Outgoing>,
) -> Result<(), MachineError> {
    let mut servers: BTreeMap<String, Vec<(OwnedUserId, OwnedDeviceId)>> = BTreeMap::new();
    for (key, claim) in snapshot.list::<ClaimRecord>(&[], usize::MAX)? {
        let devices = servers.entry(key.user_id.server_name().to_string()).or_default();
        if is_due(Some(claim.retry_at), now) && devices.len() < DEVICES_PER_CLAIM {
            devices.push((key.user_id, key.device_id));
        }
    }
    for (server, devices) in servers {
        if devices.is_empty() {
            continue;
        }
        let mut asked: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
        for (user_id, device_id) in &devices {
            asked
                .entry(user_id.as_str())
                .or_default()
                .insert(device_id.as_str(), "signed_curve25519");
        }
        let body = json!({ "timeout": FEDERATION_TIMEOUT, "one_time_keys": asked });
        requests.push(Outgoing {
            id: RequestId(format!("keys/claim/{server}")),
            http: HttpRequest::new(Method::Post, CLIENT, &["keys", "claim"]).json(body.to_string()),
            kind: RequestKind::KeysClaim { devices },
        });
    }
    Ok(())
}

/// The signatures to be uploaded, each key once: of two of the same key the later one goes with the next request.
fn signatures(snapshot: &dyn Snapshot, now: Timestamp) -> Result<Option<Outgoing>, MachineError> {
    let rows = snapshot.list::<SignatureRecord>(&[], batch_size(snapshot)?)?;
    if rows.is_empty() || !is_allowed(snapshot, SIGNATURES, now)? {
        return Ok(None);
    }
    let mut body: BTreeMap<OwnedUserId, BTreeMap<String, Box<RawValue>>> = BTreeMap::new();
    let mut sent = Vec::new();
    for (key, row) in rows {
        let object = RawValue::from_string(row.object.clone())
            .map_err(|_| StoreError::Corrupt("a signature to be uploaded".to_owned()))?;
        let objects = body.entry(row.user_id.clone()).or_default();
        if !objects.contains_key(&row.name) {
            objects.insert(row.name.clone(), object);
            sent.push((key.sequence, row));
        }
    }
    let body = serde_json::to_string(&body)
        .map_err(|_| StoreError::Corrupt("a signature to be uploaded".to_owned()))?;
    Ok(Some(Outgoing {
        id: RequestId(SIGNATURES.to_owned()),
        http: HttpRequest::new(Method::Post, CLIENT, &["keys", "signatures", "upload"]).json(body),
        kind: RequestKind::Signatures { sent },
    }))
}

/// What the backup needs: to be asked for, or the next upload.
fn backup(snapshot: &dyn Snapshot, now: Timestamp) -> Result<Option<Outgoing>, MachineError> {
    match snapshot.load::<BackupRecord>(&Only)? {
        Some(BackupRecord::Unknown) if is_allowed(snapshot, key_backup::VERSION, now)? => {
            Ok(Some(Outgoing {
                id: RequestId(key_backup::VERSION.to_owned()),
                http: HttpRequest::new(Method::Get, CLIENT, &["room_keys", "version"]),
                kind: RequestKind::BackupVersion,
            }))
        }
        Some(BackupRecord::Enabled { .. }) if is_allowed(snapshot, key_backup::UPLOAD, now)? => {
            Ok(snapshot.load::<BackupBatchRecord>(&Only)?.map(|batch| Outgoing {
                id: RequestId(key_backup::UPLOAD.to_owned()),
                http: HttpRequest::new(Method::Put, CLIENT, &["room_keys", "keys"])
                    .query("version", batch.version.clone())
                    .json(batch.body.clone()),
                kind: RequestKind::BackupUpload { sent: batch },
            }))
        }
        _ => Ok(None),
    }
}

/// The first request of the outbox: they go out one after the other.
fn to_device(snapshot: &dyn Snapshot, now: Timestamp) -> Result<Option<Outgoing>, MachineError> {
    let first = snapshot.list::<OutboxRecord>(&[], 1)?.into_iter().next();
    let Some((key, row)) = first.filter(|(_, row)| is_due(row.retry_at, now)) else {
        return Ok(None);
    };
    let body: OutboxBodyRecord =
        snapshot.load(&key)?.ok_or_else(|| StoreError::Corrupt("an outbox row".to_owned()))?;
    let segments = ["sendToDevice", &row.event_type, row.txn_id.as_str()];
    Ok(Some(Outgoing {
        id: RequestId("sendToDevice".to_owned()),
        http: HttpRequest::new(Method::Put, CLIENT, &segments).json(body.body),
        kind: RequestKind::ToDevice { sequence: key.sequence, txn_id: row.txn_id },
    }))
}

/// For each room's first queued event: the event if it is ready, or the member list it waits for.
fn sends(
    snapshot: &dyn Snapshot,
    now: Timestamp,
    requests: &mut Vec<Outgoing>,
) -> Result<(), MachineError> {
    for (key, row) in heads(snapshot.list::<QueueRecord>(&[], usize::MAX)?) {
        let room_id = row.room_id.clone();
        match row.state {
            QueueState::Ready { event_type, content } if is_due(row.retry_at, now) => {
                let segments =
                    ["rooms", room_id.as_str(), "send", &event_type, row.txn_id.as_str()];
                requests.push(Outgoing {
                    id: RequestId(format!("send/{}", key.sequence)),
                    http: HttpRequest::new(Method::Put, CLIENT, &segments).json(content),
                    kind: RequestKind::Send { sequence: key.sequence, txn_id: row.txn_id },
                });
            }
            QueueState::Queued => {
                requests.extend(members(snapshot, now, &room_id)?);
            }
            _ => {}
        }
    }
    Ok(())
}

/// The member list of a room where it is needed to share a key, and not known.
fn members(
    snapshot: &dyn Snapshot,
    now: Timestamp,
    room_id: &RoomId,
) -> Result<Option<Outgoing>, MachineError> {
    let name = members_name(room_id);
    let room: Option<RoomRecord> = snapshot.load(&RoomKey { room_id: room_id.to_owned() })?;
    let missing = room.filter(|room| room.encryption.is_some() && !room.members_complete);
    let is_allowed = is_allowed(snapshot, &name, now)?;
    Ok(missing.filter(|_| is_allowed).map(|room| Outgoing {
        id: RequestId(name),
        http: members_request(room_id),
        kind: RequestKind::Members {
            room_id: room_id.to_owned(),
            generation: room.member_generation,
        },
    }))
}

/// Who may be given the keys that devices have missed depends on the member list.
fn members_for_late_shares(
    snapshot: &dyn Snapshot,
    now: Timestamp,
    requests: &mut Vec<Outgoing>,
) -> Result<(), MachineError> {
    let noted: Option<CounterRecord> = snapshot.load(&NameKey { name: LATE_SHARES.to_owned() })?;
    if noted.is_none() {
        return Ok(());
    }
    for (key, _) in snapshot.list::<RetiredSessionRecord>(&[], usize::MAX)? {
        let room: Option<RoomRecord> = snapshot.load(&RoomKey { room_id: key.room_id.clone() })?;
        if room.is_some_and(|room| room.membership == Membership::Join)
            && let Some(request) = members(snapshot, now, &key.room_id)?
            && requests.iter().all(|known| known.id != request.id)
        {
            requests.push(request);
        }
    }
    Ok(())
}

fn members_name(room_id: &RoomId) -> String {
    format!("members/{room_id}")
}

/// Takes the answer of `GET /rooms/{}/members`.
pub(crate) fn handle_members(
    txn: &mut Txn<'_, '_>,
    room_id: &RoomId,
    generation: u64,
    answer: Answer<'_>,
) -> Result<(), MachineError> {
    let name = members_name(room_id);
    match answer.success().and_then(|body| serde_json::from_slice::<Chunk>(body).ok()) {
        Some(members) => {
            txn.answered(&name)?;
            let room: Option<RoomRecord> = txn.load(&RoomKey { room_id: room_id.to_owned() })?;
            if room.is_some_and(|room| room.member_generation != generation) {
                // Somebody has come or gone since it was asked for: a leave must not be undone by an
                // older list. If it is still needed, it is asked for again.
                return Ok(());
            }
            rooms::handle_members(txn, room_id, &members.chunk)
        }
        None => {
            txn.failed(&name, answer.retry_after())?;
            Ok(())
        }
    }
}

pub(crate) fn next_timeout(
    snapshot: &dyn Snapshot,
    now: Timestamp,
) -> Result<Option<Timestamp>, MachineError> {
    let mut times: Vec<Timestamp> = Vec::new();
    for (key, _) in snapshot.list::<OutdatedUserRecord>(&[], usize::MAX)? {
        times
            .extend(snapshot.load::<TrackedUserRecord>(&key)?.and_then(|tracked| tracked.retry_at));
    }
    for (_, claim) in snapshot.list::<ClaimRecord>(&[], usize::MAX)? {
        times.push(claim.retry_at);
        times.extend(claim.asked_since.map(|since| since.saturating_add(PATIENCE)));
    }
    times.extend(
        snapshot.list::<OutboxRecord>(&[], 1)?.into_iter().filter_map(|(_, row)| row.retry_at),
    );
    for (_, row) in heads(snapshot.list::<QueueRecord>(&[], usize::MAX)?) {
        times.extend(row.retry_at);
        times.extend(row.waiting_since.map(|since| since.saturating_add(PATIENCE)));
    }
    times.extend(app_to_device::timeouts(snapshot)?);
    times.extend(verification::next_timeout(snapshot)?);
    times.extend(dehydration::next_timeout(snapshot)?);
    times.extend(
        snapshot
            .list::<BackoffRecord>(&[], usize::MAX)?
            .into_iter()
            .map(|(_, limit)| limit.retry_at),
    );
    Ok(times.into_iter().filter(|at| *at > now).min())
}
