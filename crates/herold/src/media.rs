//! Attachments: encrypted before they leave, checked before they are released.

use ruma::{EventId, OwnedEventId, RoomId};

use crate::{Client, ClientError};

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
        let _ = (room, name, mimetype, data);
        Err(ClientError::Unsupported("in progress"))
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
        let _ = (room, event_id);
        Err(ClientError::Unsupported("in progress"))
    }
}
