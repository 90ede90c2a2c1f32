//! `herold rpc`: one device, driven by JSON lines on standard input and output, as a peer of a
//! conformance runner. Protocol version 1, with the extension `control` as far as these layers go.
//!
//! - One request per line, one answer per line, strictly one after another; sync goes on meanwhile.
//! - The log goes to standard error. Nothing but answers goes to standard output.
//! - End of input: what was read is still answered for a few seconds, then the process exits with 0.
//!
//! Extensions of our own: `login` takes `sync` (`v2` or `sliding`; `resume` goes on the same way), announced as the
//! feature `sliding_sync`; `send_to_device` without `device` is for all devices of the user and answers `outcomes`;
//! `set_policy` knows `identity_based_then_strict`.
//!
//! The feature `dehydration` (MSC3814): `dehydration_start` with `recovery_key`, which can be left out once the key is here, makes a
//! dehydrated device and answers as `dehydration_status` does, with its `device`; `rehydrate` reads the one that is there,
//! as `recover` does by itself; `dehydration_stop` removes it.
//!
//! The store is shared: a second `herold rpc` can `resume` from the same folder while the first lives, as a notification
//! process beside an app, and either may be killed.
//!
//! For tests only: the store's key is in the file `rpc.key` in the store's folder, because a peer
//! that comes back is given nothing but that folder.

mod control;
mod dehydration;
mod devices;
mod error;
mod framing;
mod inbox;
pub mod message;
mod params;
mod recovery;
mod rooms;
mod session;
mod verification;

use std::{
    io::{self, BufReader},
    time::Duration,
};

use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, watch};

use self::{
    error::{Answer, RpcError, within},
    framing::Line,
    params::Params,
    session::Session,
};
use crate::{failure::Failure, output};

/// How long what was read before the end of the input may still take.
const GRACE: Duration = Duration::from_secs(5);
/// How long a command may take that names no time-out: less than the runner's patience of 60 s.
const LIMIT: Duration = Duration::from_secs(55);
/// How long a login or a resumption may take: a first sync can be large.
const SESSION_LIMIT: Duration = Duration::from_secs(300);
/// How much longer than its own time-out a waiting command may take before it is cut off.
const SLACK: Duration = Duration::from_secs(10);

/// Serves until `close` or the end of the input.
///
/// # Errors
/// When standard output cannot be written to.
pub async fn run() -> Result<(), Failure> {
    // Few: a peer has at most one request outstanding, and a line may be large.
    let (sender, mut lines) = mpsc::channel(2);
    let (ended, mut end) = watch::channel(false);
    // A thread and not a task: a read of standard input cannot be cancelled, and must not keep the
    // process alive.
    std::thread::spawn(move || {
        let mut input = BufReader::with_capacity(64 * 1024, io::stdin());
        while let Ok(Some(line)) = framing::read_line(&mut input, framing::MAX_LINE) {
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
        drop(sender);
        let _ = ended.send(true);
    });

    let mut session = Session::default();
    while let Some(line) = lines.recv().await {
        let Some((id, command, params)) = (match request(line) {
            Ok(request) => request,
            Err(refusal) => {
                output::write_line(&refusal.to_string())?;
                continue;
            }
        }) else {
            continue;
        };
        let answer = tokio::select! {
            answer = bounded(&mut session, &command, params) => answer,
            () = grace(&mut end) => break,
        };
        let closing = command == "close";
        let answer = match answer {
            Ok(result) => json!({ "id": id, "ok": true, "result": result }),
            Err(error) => error.answer(&id),
        };
        output::write_line(&answer.to_string())?;
        if closing {
            return Ok(());
        }
        session.settle();
    }
    session.end().await;
    Ok(())
}

/// Comes back some time after the end of the input.
async fn grace(end: &mut watch::Receiver<bool>) {
    // An error means that the reading thread is gone, which is the end as well.
    let _ = end.wait_for(|ended| *ended).await;
    tokio::time::sleep(GRACE).await;
}

/// Takes a line apart: `None` for an empty one, an answer for one that is no request.
fn request(line: Line) -> Result<Option<(Value, String, Params)>, Value> {
    let no_id = Value::Null;
    let bytes = match line {
        Line::Whole(bytes) => bytes,
        Line::TooLong => {
            return Err(RpcError::new("invalid", "the line is too long").answer(&no_id));
        }
    };
    if bytes.trim_ascii().is_empty() {
        return Ok(None);
    }
    // The parser's own words could quote the line, and with it a password.
    let mut members: Map<String, Value> = serde_json::from_slice(&bytes)
        .map_err(|_| RpcError::new("invalid", "the line is not a JSON object").answer(&no_id))?;
    if members.contains_key("event") && !members.contains_key("id") {
        return Ok(None);
    }
    let id = members.remove("id").unwrap_or(Value::Null);
    if !id.is_i64() && !id.is_u64() {
        return Err(RpcError::new("invalid", "the id is not a whole number").answer(&no_id));
    }
    match members.remove("cmd") {
        Some(Value::String(command)) => Ok(Some((id, command, Params::new(members)))),
        _ => Err(RpcError::new("invalid", "the cmd is not a string").answer(&id)),
    }
}

/// Carries a command out, cutting it off when it takes too long. That loses nothing: what it has
/// started is in the store.
async fn bounded(session: &mut Session, command: &str, params: Params) -> Answer {
    let limit = match (command, params.announced_wait()) {
        ("login" | "resume", _) => SESSION_LIMIT,
        (_, Some(wait)) => wait.saturating_add(SLACK),
        (_, None) => LIMIT,
    };
    within(limit, "the command took too long", carry_out(session, command, params)).await?
}

async fn carry_out(session: &mut Session, command: &str, params: Params) -> Answer {
    match command {
        "hello" => Ok(session::hello()),
        "login" => session.login(params).await,
        "resume" => session.resume(params).await,
        "close" => session.close().await,
        "logout" => session.logout().await,
        "stats" => session.stats(),

        "create_room" => rooms::create_room(session, params).await,
        "invite" => rooms::invite(session.client()?, params).await,
        "join" => rooms::join(session, params).await,
        "leave" => rooms::leave(session.client()?, params).await,
        "kick" => rooms::kick(session.client()?, params).await,
        "wait_member" => rooms::wait_member(session.client()?, params).await,
        "send" => rooms::send(session.client()?, params).await,
        "wait_message" => rooms::wait_message(session.client()?, params).await,
        "send_file" => rooms::send_file(session.client()?, params).await,
        "download" => rooms::download(session.client()?, params).await,

        "devices" => devices::devices(session.client()?, params).await,
        "delete_device" => devices::delete_device(session.client()?, params).await,
        "identity" => devices::identity(session.client()?, params).await,
        "pin_identity" => devices::pin_identity(session.client()?, params),
        "sas_request" => verification::request(session.client()?, params).await,
        "sas_accept" => verification::accept(session.client()?, params).await,
        "sas_emojis" => verification::emojis(session.client()?, params).await,
        "sas_confirm" => verification::confirm(session.client()?, params).await,
        "sas_cancel" => verification::cancel(session.client()?, params),
        "flow" => verification::state(session.client()?, params),
        "qr_show" => verification::qr_show(session.client()?, params),
        "qr_scan" => verification::qr_scan(session.client()?, params),
        "export_keys" => recovery::export_keys(session.client()?, params).await,
        "import_keys" => recovery::import_keys(session.client()?, params).await,

        "bootstrap" => recovery::bootstrap(session.client()?, params).await,
        "reset_identity" => recovery::reset_identity(session.client()?, params).await,
        "recover" => recovery::recover(session.client()?, params).await,
        "wait_backup" => recovery::wait_backup(session.client()?, params).await,
        "restore_backup" => recovery::restore_backup(session.client()?, params).await,
        "backup_state" => recovery::backup_state(session.client()?),
        "secret" => recovery::secret(session.client()?, params),
        "dehydration_start" => dehydration::start(session.client()?, params).await,
        "dehydration_stop" => dehydration::stop(session.client()?).await,
        "dehydration_status" => dehydration::status(session.client()?),
        "rehydrate" => dehydration::rehydrate(session.client()?, params).await,
        "withdraw_verification" => recovery::withdraw_verification(session.client()?, params),
        "set_device_blocked" => devices::set_device_blocked(session.client()?, params),
        "set_policy" => devices::set_policy(session.client()?, params),

        "sync_stop" => session.sync_stop().await,
        "sync_start" => session.sync_start(),
        "sync_once" => session.sync_once(params).await,
        "notification" => session.notification(params).await,
        "to_device_events" => session.take_to_device(),
        "notices" => session.take_notices(),

        "send_event" => control::send_event(session.client()?, params).await,
        "queue_event" => control::queue_event(session.client()?, params),
        "event" => control::event(session.client()?, params),
        "timeline" => control::timeline(session.client()?, params),
        "paginate" => control::paginate(session.client()?, params).await,
        "send_to_device" => control::send_to_device(session.client()?, params).await,
        "members" => control::members(session.client()?, params).await,
        "room" => control::room(session.client()?, params),
        "discard_room_key" => control::discard_room_key(session.client()?, params),
        "clock_advance" => control::clock_advance(session.client()?, params),

        // Cross-signing, secret storage, key backup, verification and key files.
        _ => Err(RpcError::unsupported("this peer does not know the command")),
    }
}
