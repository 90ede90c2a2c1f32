//! `send-file` and `download`.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde_json::json;

use super::{Freshness, Setting, messages};
use crate::{
    args::{Download, SendFile},
    failure::Failure,
    output::{clean, size, write_bytes},
};

/// The largest file sent: it is encrypted in memory.
const MAX_FILE: u64 = 512 * 1024 * 1024;

/// `herold send-file`
pub async fn send_file(setting: &Setting, args: SendFile) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::file("the file", &args.file, &error);
    let length = fs::metadata(&args.file).map_err(failed)?.len();
    if length > MAX_FILE {
        return Err(Failure::usage(format!(
            "{} is larger than {}",
            args.file.display(),
            size(MAX_FILE)
        )));
    }
    let data = fs::read(&args.file).map_err(failed)?;
    let name = match args.name {
        Some(name) => name,
        None => args.file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
    };
    let mimetype = args.mimetype.unwrap_or_else(|| guess_type(&name).to_owned());
    setting
        .with_client(Freshness::CaughtUp, async |client| {
            let what = format!("encrypting and sending {}", size(length));
            let sending = client.send_file(&args.room, &name, &mimetype, &data);
            let last = messages::last_queued(client)?;
            let sent = setting.within(&what, sending).await;
            let event = messages::settle(setting, client, last, sent)?;
            setting.output.line(event.as_str(), &json!({ "event_id": event }))
        })
        .await
}

/// The media type by the name's ending, for those that are sent every day.
fn guess_type(name: &str) -> &'static str {
    let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
    match ending.as_deref().unwrap_or_default() {
        "csv" => "text/csv",
        "gif" => "image/gif",
        "htm" | "html" => "text/html",
        "jpeg" | "jpg" => "image/jpeg",
        "json" => "application/json",
        "md" => "text/markdown",
        "mp3" => "audio/mpeg",
        "mp4" => "video/mp4",
        "odt" => "application/vnd.oasis.opendocument.text",
        "ogg" => "audio/ogg",
        "pdf" => "application/pdf",
        "png" => "image/png",
        "svg" => "image/svg+xml",
        "txt" => "text/plain",
        "webm" => "video/webm",
        "webp" => "image/webp",
        "zip" => "application/zip",
        _ => "application/octet-stream",
    }
}

/// `herold download`
pub async fn download(setting: &Setting, args: Download) -> Result<(), Failure> {
    let to_stdout = args.output.as_deref() == Some(Path::new("-"));
    setting
        .with_client(Freshness::CaughtUp, async |client| {
            let loading = client.download(&args.room, &args.event);
            let file = setting.within("downloading and decrypting", loading).await?;
            if to_stdout {
                return write_bytes(&file.data);
            }
            let path = match &args.output {
                Some(path) => path.clone(),
                None => PathBuf::from(safe_name(&file.name)),
            };
            save(&path, &file.data, args.force)
                .map_err(|error| Failure::file("the file", &path, &error))?;
            let length = u64::try_from(file.data.len()).unwrap_or(u64::MAX);
            setting.output.line(
                &format!("{}  {}", clean(&path.to_string_lossy()), size(length)),
                &json!({
                    "file": path,
                    "size": length,
                    "name": file.name,
                    "mimetype": file.mimetype,
                }),
            )
        })
        .await
}

/// The sender's name for a file as a name in the current folder: no folders, nothing hidden, nothing a
/// file system chokes on. The sender may wish for `../.ssh/authorized_keys`.
fn safe_name(name: &str) -> String {
    const MAX_BYTES: usize = 200;
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let mut safe = String::new();
    for c in clean(last).chars() {
        let c =
            if matches!(c, '\u{fffd}' | ':' | '*' | '?' | '"' | '<' | '>' | '|') { '_' } else { c };
        if safe.len().saturating_add(c.len_utf8()) > MAX_BYTES {
            break;
        }
        safe.push(c);
    }
    let safe = safe.trim_matches([' ', '.']);
    if safe.is_empty() { "attachment".to_owned() } else { safe.to_owned() }
}

/// Writes a file by way of a temporary one beside it, so that it is there whole or not at all.
fn save(path: &Path, data: &[u8], force: bool) -> io::Result<()> {
    if !force {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).open(path)?;
        let written = file.write_all(data).and_then(|()| file.sync_all());
        if written.is_err() {
            // What is there of it is of no use; the first error counts.
            let _ = fs::remove_file(path);
        }
        return written;
    }
    let mut name = path.file_name().unwrap_or(OsStr::new("attachment")).to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = fs::write(&temporary, data).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_does_not_choose_the_folder() {
        for (name, safe) in [
            ("plan.pdf", "plan.pdf"),
            ("../../.ssh/authorized_keys", "authorized_keys"),
            ("C:\\Windows\\x.dll", "x.dll"),
            ("/etc/passwd", "passwd"),
            (".bashrc", "bashrc"),
            ("..", "attachment"),
            ("", "attachment"),
            ("a/", "attachment"),
            ("a\u{0}b\n", "a_b_"),
            ("x\u{202e}fdp.exe", "x_fdp.exe"),
            ("Übersicht 2026.odt", "Übersicht 2026.odt"),
        ] {
            assert_eq!(safe_name(name), safe, "{name:?}");
        }
        assert!(safe_name(&"ü".repeat(5000)).len() <= 200);
    }

    #[test]
    fn a_file_is_not_written_over_unless_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        save(&path, b"one", false).unwrap();
        assert!(save(&path, b"two", false).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"one");
        save(&path, b"two", true).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_media_type_follows_the_ending() {
        assert_eq!(guess_type("Plan.PDF"), "application/pdf");
        assert_eq!(guess_type("pdf"), "application/octet-stream");
        assert_eq!(guess_type("a.b.unknown"), "application/octet-stream");
    }
}
