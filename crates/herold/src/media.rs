//! Attachments: encrypted before they leave, checked before they are released.

use std::sync::Arc;

use herold_crypto::{EncryptedFile, decrypt_attachment, encrypt_attachment};
use herold_machine::{Body, HttpRequest, Method, RoomEvent};
use ruma::{EventId, OwnedEventId, RoomId};
use serde_json::{Value, json};

use crate::{
    Client, ClientError, OsEntropy, TransportResponse,
    homeserver::Retry,
    session::Session,
    tasks::{blocking, detached},
};

/// The largest attachment that is taken, in bytes.
const ATTACHMENT_LIMIT: usize = 512 << 20;

/// How long an upload or a download may take, in milliseconds.
const MEDIA_TIMEOUT: u64 = 10 * 60 * 1000;

/// The longest file name, in characters.
const MAX_NAME: usize = 200;

/// An attachment, decrypted and checked against its hash.
#[derive(Clone, PartialEq, Eq)]
pub struct Download {
    /// The content.
    pub data: Vec<u8>,
    /// The file name the sender gave, made safe to use as one: no path, no control characters.
    pub name: String,
    /// The media type the sender gave. Not to be trusted.
    pub mimetype: String,
}

impl std::fmt::Debug for Download {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Download").field("length", &self.data.len()).finish_non_exhaustive()
    }
}

impl Client {
    /// Encrypts a file, uploads it, and sends it as an `m.file` message.
    ///
    /// # Errors
    /// [`ClientError::Unsupported`] if the room is not encrypted: the key would be in the clear. Else
    /// as for [`Client::send_event`].
    pub async fn send_file(
        &self,
        room: &RoomId,
        name: &str,
        mimetype: &str,
        data: &[u8],
    ) -> Result<OwnedEventId, ClientError> {
        match self.room(room)? {
            None => return Err(ClientError::UnknownRoom),
            Some(room) if room.encryption.is_none() => {
                return Err(ClientError::Unsupported(
                    "attachments in rooms that are not encrypted",
                ));
            }
            Some(_) => {}
        }
        let (session, plain) = (self.session().clone(), data.to_vec());
        let file = detached(async move {
            let encrypted =
                blocking(move || Ok::<_, ClientError>(encrypt_attachment(&plain, &mut OsEntropy)));
            let (ciphertext, mut file) = encrypted.await?;
            file.url = session.upload(ciphertext).await?;
            Ok(file)
        })
        .await?;
        let content = json!({
            "msgtype": "m.file",
            "body": name,
            "filename": name,
            "info": { "mimetype": mimetype, "size": data.len() },
            "file": file.to_json(),
        });
        // Should the room have lost its encryption, this is refused rather than sent in the clear:
        // encryption once on stays on.
        self.send_event(room, "m.room.message", &content, None).await
    }

    /// Downloads and decrypts the attachment of an event; fetches the event if it is not there.
    ///
    /// # Errors
    /// [`ClientError::Attachment`]: it was changed, or is malformed; nothing is released.
    /// [`ClientError::Undecryptable`]: the event's key has not come. [`ClientError::InvalidInput`]: the
    /// event has no encrypted attachment.
    pub async fn download(
        &self,
        room: &RoomId,
        event_id: &EventId,
    ) -> Result<Download, ClientError> {
        let event = match self.event(room, event_id)? {
            Some(event) => event,
            None => self.fetch_event(room, event_id).await?,
        };
        let (file, name, mimetype) = attachment(&event)?;
        let session = self.session().clone();
        detached(async move {
            let ciphertext = session.fetch_media(&file).await?;
            let data = blocking(move || decrypt_attachment(&ciphertext, &file)).await?;
            Ok(Download { data, name, mimetype })
        })
        .await
    }
}

impl Session {
    pub(crate) async fn upload(self: &Arc<Self>, data: Vec<u8>) -> Result<String, ClientError> {
        #[derive(serde::Deserialize)]
        struct Uploaded {
            content_uri: String,
        }
        let mut request =
            HttpRequest::new(Method::Post, "/_matrix/media/v3", &["upload"]).timeout(MEDIA_TIMEOUT);
        request.body = Body::Bytes { content_type: "application/octet-stream".to_owned(), data };
        // Uploading twice wastes space, no more.
        let body = self.call(request, Retry::Always).await?;
        let uploaded: Uploaded =
            serde_json::from_slice(&body).map_err(|_| ClientError::BadResponse("an upload"))?;
        Ok(uploaded.content_uri)
    }

    /// The ciphertext, as the homeserver has it: by the authenticated endpoint, or the older one where
    /// the homeserver does not know that yet.
    async fn fetch_media(self: &Arc<Self>, file: &EncryptedFile) -> Result<Vec<u8>, ClientError> {
        let address = file.url.strip_prefix("mxc://").and_then(|rest| rest.split_once('/'));
        let Some((server, media)) = address else {
            return Err(ClientError::Attachment(herold_crypto::AttachmentError::Url));
        };
        let request =
            |prefix| HttpRequest::new(Method::Get, prefix, &[server, media]).timeout(MEDIA_TIMEOUT);
        let newer = request("/_matrix/client/v1/media/download");
        let response = self.call_raw(newer, Retry::Always, ATTACHMENT_LIMIT).await?;
        if !is_unrecognised(&response) {
            return self.success(response);
        }
        let mut older = request("/_matrix/media/v3/download");
        older.authenticated = false;
        let response = self.call_raw(older, Retry::Always, ATTACHMENT_LIMIT).await?;
        self.success(response)
    }
}

fn is_unrecognised(response: &TransportResponse) -> bool {
    matches!(response.status, 404 | 405)
        && ClientError::from_answer(response.status, &response.body, &[])
            .is_matrix("M_UNRECOGNIZED")
}

/// The encrypted attachment of an event, with the name and the type its sender gave.
fn attachment(event: &RoomEvent) -> Result<(EncryptedFile, String, String), ClientError> {
    const NONE: ClientError = ClientError::InvalidInput("the event has no encrypted attachment");
    let body = event.body.as_ref().map_err(|utd| ClientError::Undecryptable(utd.clone()))?;
    let content: Value = serde_json::from_str(&body.content).map_err(|_| NONE)?;
    let file = EncryptedFile::parse(content.get("file").ok_or(NONE)?)?;
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let name = text(content.get("filename")).or_else(|| text(content.get("body")));
    let mimetype = text(content.get("info").and_then(|info| info.get("mimetype")));
    Ok((
        file,
        safe_name(&name.unwrap_or_default()),
        mimetype.unwrap_or_else(|| "application/octet-stream".to_owned()),
    ))
}

/// A name that names a file in whatever folder it is put, and nothing else.
fn safe_name(name: &str) -> String {
    let safe: String = name
        .chars()
        .map(|c| if matches!(c, '/' | '\\') || c.is_control() { '_' } else { c })
        .take(MAX_NAME)
        .collect();
    if safe.trim_matches([' ', '.']).is_empty() { "file".to_owned() } else { safe }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_cannot_lead_out_of_its_folder() {
        for (given, safe) in [
            ("bild ü.png", "bild ü.png"),
            ("../../etc/passwd", ".._.._etc_passwd"),
            ("C:\\x", "C:_x"),
            ("..", "file"),
            ("", "file"),
            ("a\0b\n", "a_b_"),
        ] {
            assert_eq!(safe_name(given), safe);
        }
        assert_eq!(safe_name(&"x".repeat(1000)).len(), MAX_NAME);
    }
}
