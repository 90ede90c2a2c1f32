//! What comes from the app: parsed and bounded before anything else sees it. No error repeats it.

use herold::{
    OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedTransactionId, OwnedUserId, RoomId,
    TransactionId, UserId,
};

use crate::HeroldError;

/// The longest id, name or media type, in bytes.
const MAX_NAME: usize = 255;

/// The longest path, URL, password or passphrase, in bytes.
const MAX_LINE: usize = 4096;

/// The longest message, in bytes: encrypted, it has to fit into an event of 64 KiB.
const MAX_TEXT: usize = 32 * 1024;

/// The largest file, in bytes.
const MAX_FILE: usize = 512 << 20;

/// How many users can be named at once.
const MAX_USERS: usize = 1000;

/// How many events can be asked for at once.
const MAX_EVENTS: u32 = 1000;

type Result<T> = std::result::Result<T, HeroldError>;

pub(crate) fn room(id: &str) -> Result<OwnedRoomId> {
    let room = has_substance(id).then(|| RoomId::parse(id).ok()).flatten();
    room.ok_or_else(|| HeroldError::input("not a room id"))
}

pub(crate) fn user(id: &str) -> Result<OwnedUserId> {
    let user = has_substance(id).then(|| UserId::parse(id).ok()).flatten();
    user.ok_or_else(|| HeroldError::input("not a user id"))
}

pub(crate) fn device(id: &str) -> Result<OwnedDeviceId> {
    Ok(OwnedDeviceId::from(name(id, "not a device id")?))
}

pub(crate) fn users(ids: &[String]) -> Result<Vec<OwnedUserId>> {
    if ids.len() > MAX_USERS {
        return Err(HeroldError::input("too many users at once"));
    }
    ids.iter().map(|id| user(id)).collect()
}

pub(crate) fn event(id: &str) -> Result<OwnedEventId> {
    let event = has_substance(id).then(|| OwnedEventId::try_from(id).ok()).flatten();
    event.ok_or_else(|| HeroldError::input("not an event id"))
}

/// Says more than what kind of id it is, and nothing invisible: ids of old allow much.
fn has_substance(id: &str) -> bool {
    id.len() > 1 && !id.contains(|c: char| c.is_control() || c.is_whitespace())
}

pub(crate) fn txn(id: &str) -> Result<OwnedTransactionId> {
    Ok(<&TransactionId>::from(name(id, "not a transaction id")?).to_owned())
}

/// A message.
pub(crate) fn text(text: &str) -> Result<&str> {
    match text.len() {
        0 => Err(HeroldError::input("the message is empty")),
        1..=MAX_TEXT => Ok(text),
        _ => Err(HeroldError::input("the message is too long")),
    }
}

/// A name that others see.
pub(crate) fn name<'a>(name: &'a str, otherwise: &str) -> Result<&'a str> {
    let fits = (1..=MAX_NAME).contains(&name.len()) && !name.contains(char::is_control);
    fits.then_some(name).ok_or_else(|| HeroldError::input(otherwise))
}

/// A path, URL, password or passphrase.
pub(crate) fn line<'a>(line: &'a str, otherwise: &str) -> Result<&'a str> {
    let fits = (1..=MAX_LINE).contains(&line.len()) && !line.contains('\0');
    fits.then_some(line).ok_or_else(|| HeroldError::input(otherwise))
}

/// A file's content.
pub(crate) fn file(data: &[u8]) -> Result<&[u8]> {
    let fits = data.len() <= MAX_FILE;
    fits.then_some(data).ok_or_else(|| HeroldError::input("the file is too large"))
}

/// How many events are wanted.
pub(crate) fn count(count: u32) -> Result<u32> {
    let fits = (1..=MAX_EVENTS).contains(&count);
    fits.then_some(count).ok_or_else(|| HeroldError::input("between 1 and 1000 events at once"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_empty_huge_or_malformed_is_refused_and_not_repeated() {
        let huge = "secret".repeat(100_000);
        for bad in ["", "!", "@", "$", "secret", "@secret", "! secret", "secret\0", &huge] {
            for result in [room(bad).map(drop), user(bad).map(drop), event(bad).map(drop)] {
                let error = result.unwrap_err();
                assert!(matches!(error, HeroldError::FixInput { .. }), "{error}");
                assert!(!format!("{error:?}").contains("secret"), "{error}");
            }
        }
        for bad in ["", "a\0", &huge] {
            assert!(line(bad, "no").is_err() && name(bad, "no").is_err());
        }
        assert!(text("").is_err() && text(&huge).is_err());
        assert!(count(0).is_err() && count(u32::MAX).is_err() && txn("").is_err());
        assert!(users(&vec![String::new(); MAX_USERS + 1]).is_err());
    }

    #[test]
    fn what_is_usual_is_taken() {
        assert!(room("!a:b.example").is_ok() && user("@a:b.example").is_ok());
        assert!(event("$abc").is_ok() && txn("m1").is_ok() && text("ü\n\0").is_ok());
        assert!(name("Empfang ü", "no").is_ok() && line("/a b/ü", "no").is_ok());
    }
}
