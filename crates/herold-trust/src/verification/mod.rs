//! Verification: two people, or two devices of one, compare their keys and sign what they found.
//!
//! One [`Verification`] is one flow with one other side, as a state machine without I/O, clock or
//! randomness of its own. Messages go in, messages and a state come out. It ends in
//! [`VerificationState::Done`] with a list of [`VerifiedKey`]s, by value. Those may be signed; nothing
//! else that the flow saw may.
//!
//! Invariants:
//!
//! - Both sides' keys are fixed when the flow becomes bound to a device and compared, by value, in
//!   every step; a change cancels.
//! - Keys are verified only after this side's user has confirmed, the other side has proved that its
//!   user did, and the other side has said `done`.
//! - A flow that ended stays ended: whatever comes later changes nothing and is not answered.
//! - An exact repetition of a message changes nothing. Messages by third parties change nothing.
//!
//! Matrix specification, Client-Server API: "Key verification framework", "Short Authentication String
//! (SAS) verification", "QR codes", "Key and signature security".
//!
//! Only `curve25519-hkdf-sha256`, `sha256` and `hkdf-hmac-sha256.v2` are offered and taken: the
//! deprecated `curve25519` and `hkdf-hmac-sha256` end in `m.unknown_method`.

mod begin;
mod flow;
mod message;
mod party;
mod qr;
mod record;
mod sas;

pub use message::{
    CancelCode, Channel, Methods, VerificationMessage, VerificationTarget, from_device,
    unknown_transaction,
};
pub use party::{CurrentKeys, KeyIdConflict, PartyKeys, VerifiedKey};
pub use record::RecordError;

use std::fmt;
use std::time::Duration;

use herold_crypto::{QrError, SecretBytes};
use ruma::{OwnedDeviceId, OwnedUserId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Emoji, Timestamp};
use sas::Exchange;

/// A flow that is not over by then is cancelled; a request that is older is not looked at.
const LIFETIME: Duration = Duration::from_secs(10 * 60);

/// A prompt that nobody answers is dismissed after this time.
const PROMPT: Duration = Duration::from_secs(2 * 60);

/// A request from further in the future is not looked at.
const MAX_FUTURE: Duration = Duration::from_secs(5 * 60);

/// What two users compare. Not to be logged: it is short enough to be guessed at while it counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ShortAuthString {
    /// Seven emoji, if both sides can show them.
    pub emoji: Option<[Emoji; 7]>,
    /// Three numbers from 1000 to 9191, if both sides can show them.
    pub decimals: Option<[u16; 3]>,
}

impl fmt::Debug for ShortAuthString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShortAuthString(..)")
    }
}

/// Where a flow stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerificationState {
    /// A request was sent (`by_us`) or came in; in the latter case the user is to be asked:
    /// [`Verification::accept`] or [`Verification::cancel`].
    Requested {
        /// Whether this side asked.
        by_us: bool,
    },
    /// Both sides take part. Next: [`start_sas`](Verification::start_sas),
    /// [`show_qr`](Verification::show_qr) or [`scan_qr`](Verification::scan_qr), as far as `methods`
    /// allows, or the other side begins.
    Ready {
        /// What this side can do with the other one.
        methods: Methods,
    },
    /// Short strings are being worked out. If the other side started without a request
    /// (`needs_accept`), the user is to be asked: [`Verification::accept`].
    Started {
        /// Whether this side's start counts.
        by_us: bool,
        /// Whether nothing happens before [`Verification::accept`].
        needs_accept: bool,
    },
    /// Both users compare. Next: [`Verification::confirm`] or [`Verification::mismatch`].
    KeysExchanged(ShortAuthString),
    /// The other side scanned our code and says it matches. The user is to be asked whether the other
    /// device shows success: [`Verification::confirm`] or [`Verification::mismatch`].
    Scanned,
    /// This side's user has confirmed, or scanned a matching code; the other side's has still to.
    Confirmed,
    /// Over, with success.
    Done {
        /// What may be signed.
        verified: Vec<VerifiedKey>,
    },
    /// Over, without.
    Cancelled {
        /// Why.
        code: CancelCode,
        /// Whether this side cancelled.
        by_us: bool,
    },
}

impl VerificationState {
    /// Whether nothing will happen any more.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self, Self::Done { .. } | Self::Cancelled { .. })
    }
}

/// Why a request or start does not begin a flow. Nothing is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IgnoredRequest {
    /// A field is missing or of another type.
    #[error("the verification request is malformed")]
    Malformed,
    /// Made more than ten minutes ago, or in the future.
    #[error("the verification request is out of date")]
    OutOfDate,
    /// It is meant for somebody else, or comes from this very device.
    #[error("the verification request is not for this device")]
    NotForUs,
    /// The keys passed are not those of the device that the message says it is from.
    #[error("the device that asks for verification is not known")]
    UnknownDevice,
    /// A start with another method than SAS, or without one in common.
    #[error("the verification has no method in common")]
    UnknownMethod,
}

/// Why a scanned code was not taken. The flow goes on; the user may scan again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ScanError {
    /// These bytes are no verification code.
    #[error(transparent)]
    Code(#[from] QrError),
    /// The code is of another flow.
    #[error("the code belongs to another verification")]
    OtherFlow,
    /// Nothing is to be scanned now.
    #[error("no code can be scanned now")]
    NotNow,
}

/// One flow with one other side.
///
/// Make one with [`request_devices`](Self::request_devices), [`request_in_room`](Self::request_in_room)
/// or, for what others begin, [`receive_request`](Self::receive_request),
/// [`receive_room_request`](Self::receive_room_request), [`receive_start`](Self::receive_start). Then
/// feed it every later message of the flow ([`handle`](Self::handle)) and the time
/// ([`handle_timeout`](Self::handle_timeout) at [`next_timeout`](Self::next_timeout)), and send what
/// comes out after the record ([`to_record`](Self::to_record)) is stored. A restored flow goes on
/// where it was.
///
/// Secrecy: the record contains private keys; `Debug` shows none.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    channel: Channel,
    ours: PartyKeys,
    their_user: OwnedUserId,
    /// Fixed as soon as the flow is bound to a device.
    theirs: Option<PartyKeys>,
    /// The devices that a request of ours went to, while it is not bound.
    asked: Vec<OwnedDeviceId>,
    by_us: bool,
    from_request: bool,
    our_methods: Methods,
    their_methods: Methods,
    deadline: Timestamp,
    /// Until when the user may answer the other side's request.
    prompt: Option<Timestamp>,
    /// Record of the ephemeral key pair.
    pair: SecretBytes,
    /// The bytes of the code that is shown.
    code: Option<SecretBytes>,
    phase: Phase,
    /// Type and canonical content of what was taken, to recognise repetitions.
    seen: Vec<(String, String)>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    Requested,
    Ready,
    /// The other side started without a request; the user is asked.
    Offered(Exchange),
    /// We started; the other side has not yet accepted.
    StartSent(Exchange),
    /// Accepted; the keys travel.
    Agreeing(Exchange),
    /// The strings are shown. `verified` is set when the other side's MACs have come and hold.
    Comparing {
        exchange: Exchange,
        confirmed: bool,
        verified: Option<Vec<VerifiedKey>>,
    },
    /// The other side scanned our code.
    Scanned {
        done: bool,
    },
    /// Nothing is missing but the other side's word.
    AwaitingDone {
        verified: Vec<VerifiedKey>,
        say_done: bool,
    },
    Done {
        verified: Vec<VerifiedKey>,
    },
    Cancelled {
        code: CancelCode,
        by_us: bool,
    },
}

impl fmt::Debug for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verification")
            .field("channel", &self.channel)
            .field("their_user", &self.their_user)
            .field("their_device", &self.their_device())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
