//! The reference model: who may read what, and who must be able to in the end.
//!
//! It knows nothing of sessions or keys. It looks at the room as the server has it, from the place that
//! the sender had synced to when the message was encrypted, up to that moment: whoever was never to read
//! along in that span must never read it; whoever was all the time must be able to, on every device that
//! its sender could know of and was to use.

use std::collections::BTreeSet;

use herold::{OwnedEventId, OwnedRoomId, OwnedTransactionId};

/// A message that an app has asked to send.
#[derive(Debug)]
pub(super) struct Message {
    /// The sending device.
    pub(super) device: usize,
    pub(super) room: OwnedRoomId,
    pub(super) body: String,
    pub(super) txn_id: OwnedTransactionId,
    /// Since it was encrypted.
    pub(super) readers: Option<Readers>,
    pub(super) event_id: Option<OwnedEventId>,
    /// Its sender was told that it will not be sent.
    pub(super) failed: bool,
    /// The sender's power failed before it was known to be sent: it may be gone.
    pub(super) forgotten: bool,
}

/// Who may read a message and who must: devices of the world, by number.
#[derive(Debug)]
pub(super) struct Readers {
    /// The place in the stream that its sender had synced to when it was encrypted.
    pub(super) since: u64,
    /// The end of the stream when it was encrypted.
    pub(super) position: u64,
    pub(super) may: BTreeSet<usize>,
    pub(super) must: BTreeSet<usize>,
    /// Users who were to read along and whose server did not answer. Nobody can tell which of their devices there were:
    /// each that the server names once it is back may read.
    pub(super) unseen: BTreeSet<String>,
}

/// What the model asks about one device, at the moment a message is encrypted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// It is the sending device itself.
    pub(super) is_sender: bool,
    /// Its user was to read along at some time, and at all times, since the sender's last sync.
    pub(super) reads_along: (bool, bool),
    /// It had published its keys, and had when the sender last synced.
    pub(super) published: (bool, bool),
    /// It was signed by its owner, or need not be; and was when the sender last synced.
    pub(super) signed: (bool, bool),
    /// The sender's user has blocked it.
    pub(super) blocked: bool,
    /// Its server's answers were to be had all the time.
    pub(super) reachable: bool,
    /// It is logged in.
    pub(super) logged_in: bool,
}

impl Candidate {
    pub(super) fn may(&self) -> bool {
        self.is_sender || self.reads_along.0 && self.published.0 && self.signed.0 && !self.blocked
    }

    pub(super) fn must(&self) -> bool {
        self.is_sender
            || self.may()
                && self.reads_along.1
                && self.published.1
                && self.signed.1
                && self.reachable
                && self.logged_in
    }
}
