//! `send` and `history`, and how a message looks on a terminal.

use std::io::{self, IsTerminal, Read};

use herold::{Client, ClientError, OwnedRoomId, QueueState, RoomEvent, Shield};
use serde_json::{Value, json};

use super::{Freshness, Setting};
use crate::{
    args::{History, Send},
    failure::Failure,
    output::{clean, clean_lines, utc},
    rpc::message,
};

/// The longest text read from standard input: what fits into an event, and more.
const MAX_TEXT: u64 = 64 * 1024;

/// `herold send`
pub async fn send(setting: &Setting, args: Send) -> Result<(), Failure> {
    let text = match args.text {
        Some(text) => text,
        None => read_text()?,
    };
    if text.is_empty() {
        return Err(Failure::usage("there is nothing to send"));
    }
    let msgtype = if args.notice { "m.notice" } else { "m.text" };
    let content = json!({ "msgtype": msgtype, "body": text });
    let freshness = Freshness::unless(args.queue);
    setting
        .with_client(freshness, async |client| {
            warn_if_clear(setting, client, &args.room)?;
            if args.queue {
                let txn = client.queue_event(&args.room, "m.room.message", &content, None)?;
                return setting.output.line(&format!("queued as {txn}"), &json!({ "txn": txn }));
            }
            let last = last_queued(client)?;
            let sending = client.send_event(&args.room, "m.room.message", &content, None);
            let sent = setting.within("sending", sending).await;
            let event = settle(setting, client, last, sent)?;
            setting.output.line(event.as_str(), &json!({ "event_id": event }))
        })
        .await
}

/// The number of the last event in the send queue.
pub fn last_queued(client: &Client) -> Result<Option<u64>, ClientError> {
    Ok(client.queue()?.last().map(|(sequence, _)| *sequence))
}

/// After an attempt to send: what was refused has been told, and does not stay in the queue. `last` is
/// what [`last_queued`] said before.
pub fn settle<T>(
    setting: &Setting,
    client: &Client,
    last: Option<u64>,
    sent: Result<T, Failure>,
) -> Result<T, Failure> {
    if let Err(failure) = &sent {
        if failure.is_no_answer() {
            setting.progress.note("the message stays queued: the next command goes on");
        }
        for (sequence, item) in client.queue()? {
            if Some(sequence) > last && matches!(item.state, QueueState::Failed { .. }) {
                client.cancel(&item.txn_id)?;
            }
        }
    }
    sent
}

/// A room that is not encrypted is sent to as it is, but not without a word.
pub fn warn_if_clear(
    setting: &Setting,
    client: &Client,
    room: &OwnedRoomId,
) -> Result<(), ClientError> {
    if client.room(room)?.is_some_and(|room| room.encryption.is_none()) {
        setting.progress.note("this room is NOT ENCRYPTED: the server can read what is sent");
    }
    Ok(())
}

fn read_text() -> Result<String, Failure> {
    if io::stdin().is_terminal() {
        eprintln!("herold: the text, ended by an end of file (Ctrl-D):");
    }
    let mut text = String::new();
    io::stdin()
        .lock()
        .take(MAX_TEXT.saturating_add(1))
        .read_to_string(&mut text)
        .map_err(|error| Failure::usage(format!("standard input: {error}")))?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_TEXT {
        return Err(Failure::usage("the text is too long for a message: send it as a file"));
    }
    let end = text.strip_suffix('\n').unwrap_or(&text);
    Ok(end.strip_suffix('\r').unwrap_or(end).to_owned())
}

/// `herold history`
pub async fn history(setting: &Setting, args: History) -> Result<(), Failure> {
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    setting
        .with_client(Freshness::unless(args.offline), async |client| {
            let mut events = client.timeline(&args.room, limit)?;
            while events.len() < limit && !args.offline {
                let missing = u32::try_from(limit.saturating_sub(events.len())).unwrap_or(u32::MAX);
                let older = client.paginate(&args.room, missing.min(100));
                let older = setting.within("fetching older messages", older).await?;
                if older.is_empty() {
                    break;
                }
                events = client.timeline(&args.room, limit)?;
            }
            for event in events.iter().filter(|event| args.all || is_message(event)) {
                show(setting, event, false)?;
            }
            Ok(())
        })
        .await
}

/// Whether people want to see it: messages, and what could be one.
pub fn is_message(event: &RoomEvent) -> bool {
    match &event.body {
        Ok(clear) => clear.event_type == "m.room.message" && event.state_key.is_none(),
        Err(_) => true,
    }
}

/// Prints an event.
pub fn show(setting: &Setting, event: &RoomEvent, with_room: bool) -> Result<(), Failure> {
    let mut value = message::event(event);
    if let Some(members) = value.as_object_mut() {
        members.insert("kind".to_owned(), json!("event"));
    }
    setting.output.line(&line(event, with_room), &value)
}

/// An event as a line for people, every foreign part of it cleaned.
fn line(event: &RoomEvent, with_room: bool) -> String {
    const INDENT: &str = "    ";
    let time = utc(event.origin_server_ts);
    let sender = clean(event.sender.as_str());
    let room =
        if with_room { format!("{}  ", clean(event.room_id.as_str())) } else { String::new() };
    let mark = match event.shield {
        Shield::None => String::new(),
        Shield::Grey(reason) => format!("[? {reason}] "),
        Shield::Red(reason) => format!("[! {reason}] "),
    };
    let text = match &event.body {
        Err(utd) => {
            return format!(
                "{time}  {room}{sender}  ** not readable: {utd}",
                utd = clean(&utd.to_text())
            );
        }
        Ok(clear) => {
            let content: Value = serde_json::from_str(&clear.content).unwrap_or(Value::Null);
            if clear.event_type == "m.room.message" {
                message_text(event, &content)
            } else {
                format!("** {}", clear.event_type)
            }
        }
    };
    format!("{time}  {room}{sender}  {mark}{}", clean_lines(&text, INDENT))
}

fn message_text(event: &RoomEvent, content: &Value) -> String {
    let text = |name: &str| content.get(name).and_then(Value::as_str).unwrap_or_default();
    match text("msgtype") {
        "m.file" | "m.image" | "m.audio" | "m.video" => {
            let name = Some(text("filename")).filter(|name| !name.is_empty());
            format!("[file] {}  {}", name.unwrap_or(text("body")), event.event_id)
        }
        "m.emote" => format!("* {}", text("body")),
        "" => "** redacted, or no message at all".to_owned(),
        _ => text("body").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use herold::{ClearBody, EventId, RoomId, ShieldReason, UserId, Utd};

    use super::*;

    fn event(body: Result<Value, Utd>, shield: Shield) -> RoomEvent {
        RoomEvent {
            room_id: <&RoomId>::try_from("!r:h").unwrap().to_owned(),
            event_id: <&EventId>::try_from("$e").unwrap().to_owned(),
            sender: <&UserId>::try_from("@bob:h").unwrap().to_owned(),
            origin_server_ts: 0,
            encrypted: true,
            body: body.map(|content| ClearBody {
                event_type: "m.room.message".to_owned(),
                content: content.to_string(),
            }),
            session_id: None,
            sender_device: None,
            shield,
            shared_by: None,
            state_key: None,
            redacts: None,
        }
    }

    #[test]
    fn a_message_cannot_pretend_to_be_another_line() {
        let body =
            json!({ "msgtype": "m.text", "body": "hi\n1970-01-01 00:00  @eve:h  \u{1b}[2Jfake" });
        let line = line(&event(Ok(body), Shield::None), false);
        assert_eq!(
            line,
            "1970-01-01 00:00  @bob:h  hi\n    1970-01-01 00:00  @eve:h  \u{fffd}[2Jfake"
        );
    }

    #[test]
    fn doubts_about_the_sender_are_shown() {
        let body = json!({ "msgtype": "m.text", "body": "hi" });
        let red = Shield::Red(ShieldReason::UnsignedDevice);
        assert!(line(&event(Ok(body), red), false).ends_with("[! unsigned_device] hi"));
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let withheld = Utd::Withheld("m.\u{1b}evil".to_owned());
        let line = line(&event(Err(withheld), Shield::None), true);
        assert!(line.ends_with("!r:h  @bob:h  ** not readable: withheld:m.\u{fffd}evil"), "{line}");
    }

    #[test]
    fn files_are_shown_with_what_it_takes_to_download_them() {
        let body = json!({ "msgtype": "m.file", "body": "b", "filename": "plan.pdf" });
        assert!(line(&event(Ok(body), Shield::None), false).ends_with("[file] plan.pdf  $e"));
    }

    #[test]
    fn content_of_the_wrong_shape_is_no_harm() {
        for body in [json!([]), json!(null), json!({ "msgtype": 5, "body": {} })] {
            assert!(!line(&event(Ok(body), Shield::None), false).is_empty());
        }
    }
}
