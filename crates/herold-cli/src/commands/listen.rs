//! `listen`: what comes, as it comes.

use std::time::Duration;

use herold::{AppEvent, Client};
use tokio::time::Instant;

use super::{Freshness, Setting, messages};
use crate::{
    args::Listen,
    failure::{Failure, Kind},
    output::clean,
    rpc::message,
};

/// How long to wait for events at a time: how soon an interruption of the session is noticed.
const PAUSE: Duration = Duration::from_secs(10);

/// `herold listen`
pub async fn listen(setting: &Setting, args: Listen) -> Result<(), Failure> {
    setting
        .with_client(Freshness::CaughtUp, async |client| {
            // An end that is far enough away if none was asked for.
            let seconds = args.seconds.unwrap_or(u64::from(u32::MAX));
            let end = Instant::now() + Duration::from_secs(seconds);
            tokio::select! {
                outcome = print_until(setting, client, &args, end) => outcome,
                _ = tokio::signal::ctrl_c() => Ok(()),
            }
        })
        .await
}

async fn print_until(
    setting: &Setting,
    client: &Client,
    args: &Listen,
    end: Instant,
) -> Result<(), Failure> {
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 && Instant::now() < end {
        let wait = end.saturating_duration_since(Instant::now()).min(PAUSE);
        for (sequence, event) in client.next_events(wait).await? {
            let printed = print(setting, client, args, sequence, &event)?;
            // Taken only now that it has been written.
            client.acknowledge(sequence)?;
            if matches!(event, AppEvent::LoggedOut) {
                return Err(Failure::new(Kind::NotLoggedIn, "the session was logged out"));
            }
            left = left.saturating_sub(u64::from(printed));
            if left == 0 {
                break;
            }
        }
    }
    Ok(())
}

/// Prints an event if it is one for the reader, and says whether it was.
fn print(
    setting: &Setting,
    client: &Client,
    args: &Listen,
    sequence: u64,
    event: &AppEvent,
) -> Result<bool, Failure> {
    match event {
        AppEvent::RoomEvent { room_id, event_id } | AppEvent::Decrypted { room_id, event_id } => {
            if args.room.as_ref().is_some_and(|room| room != room_id) {
                return Ok(false);
            }
            match client.event(room_id, event_id)? {
                Some(event) if messages::is_message(&event) => {
                    messages::show(setting, &event, args.room.is_none())?;
                    Ok(true)
                }
                _ => Ok(false),
            }
        }
        AppEvent::Membership { room_id, user_id, membership } => {
            if args.room.as_ref().is_some_and(|room| room != room_id) {
                return Ok(false);
            }
            let text = format!(
                "-- {}  {}: {}",
                clean(room_id.as_str()),
                clean(user_id.as_str()),
                message::word(*membership)
            );
            setting.output.line(&text, &message::app_event(sequence, event))?;
            Ok(true)
        }
        AppEvent::Notice(notice) => {
            let value = message::app_event(sequence, event);
            setting.output.line(&format!("-- notice: {}", notice.kind()), &value)?;
            Ok(true)
        }
        AppEvent::SendFailed { errcode, .. } => {
            let value = message::app_event(sequence, event);
            setting.output.line(&format!("-- not sent: {}", clean(errcode)), &value)?;
            Ok(true)
        }
        // What one has sent oneself comes as a room event, too.
        _ => Ok(false),
    }
}
