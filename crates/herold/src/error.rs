//! [`ClientError`]: what went wrong, by what the app should do about it.

use herold_crypto::{
    AttachmentError, KeyFileError, RecoveryKeyError, SecretStorageError, SecretString,
};
use herold_machine::{Imported, MachineError, Utd};
use herold_store::{
    StoreError,
    records::{RecoveryChange, RehydrationRefusal},
};

use crate::{AuthenticationChallenge, EngineError, Missing, TransportError};

/// Why the client could not do what was asked.
///
/// No variant's text contains a secret. [`ClientError::code`] gives each a stable name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The homeserver refused. What to do depends on `errcode`.
    #[error("the homeserver answered {status} {errcode}: {message}")]
    Matrix {
        /// The HTTP status.
        status: u16,
        /// The Matrix error code; `HTTP_<status>` if the answer names none.
        errcode: String,
        /// The homeserver's own words, cut and without control characters. Not to be trusted.
        message: String,
    },
    /// The homeserver could not be reached, or not understood. Try again later.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The homeserver's answer is not what the specification says. Try again later, or report it.
    #[error("the homeserver's answer is malformed: {0}")]
    BadResponse(&'static str),
    /// The store failed: see the variant.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no account in the store: log in.
    #[error("there is no account in the store")]
    NotLoggedIn,
    /// There is an account in the store already: resume it, or take another store.
    #[error("there is an account in the store already")]
    AlreadyLoggedIn,
    /// The server session is gone: what is stored can be read, but nothing sent. Log in again, into
    /// a new store.
    #[error("the session was logged out")]
    LoggedOut,
    /// The client was closed: build a new one.
    #[error("the client is closed")]
    Closed,
    /// It did not happen in time. What was started goes on.
    #[error("timeout")]
    Timeout,
    /// This is not supported here: do not offer it.
    #[error("not supported: {0}")]
    Unsupported(&'static str),
    /// The app gave something that makes no sense: mend the app.
    #[error("invalid input: {0}")]
    InvalidInput(&'static str),
    /// The deployment does not allow it.
    #[error("the deployment's policy does not allow it")]
    PolicyDenied,
    /// The store was made by another deployment.
    #[error("the store belongs to another deployment")]
    WrongDeployment,
    /// The room is not known (yet).
    #[error("the room is not known")]
    UnknownRoom,
    /// The account's user is not in the room.
    #[error("not a member of the room")]
    NotJoined,
    /// The device is not known.
    #[error("the device is not known")]
    UnknownDevice,
    /// No channel to the device could be made: it has no keys left, or its server does not answer.
    #[error("there is no Olm session with the device")]
    NoOlmSession,
    /// The event is not known (yet).
    #[error("the event is not known")]
    UnknownEvent,
    /// The event cannot be decrypted (yet).
    #[error("the event cannot be decrypted: {}", .0.to_text())]
    Undecryptable(Utd),
    /// The queued event was refused for good. It stays in the queue, marked: remove or retry it.
    #[error("the event was refused: {errcode}")]
    SendFailed {
        /// The Matrix error code, or the reason's own name.
        errcode: String,
    },
    /// The attachment, or its description, was refused. Nothing of it was released.
    #[error(transparent)]
    Attachment(#[from] AttachmentError),
    /// The user has no secret storage: offer to enable recovery.
    #[error("there is no secret storage")]
    NoSecretStorage,
    /// This text is no recovery key: have the user look at it again.
    #[error(transparent)]
    RecoveryKey(#[from] RecoveryKeyError),
    /// A recovery key or passphrase of something else: have the user look for the right one.
    #[error("this is not the recovery key of the secret storage")]
    WrongRecoveryKey,
    /// The secret storage is damaged, or somebody has tampered with it. Nothing was taken from it.
    #[error("the secret storage cannot be used: {0}")]
    SecretStorage(#[source] SecretStorageError),
    /// A secret does not belong to what is published: it was not taken.
    #[error("the secret {0} is not that of the published key")]
    SecretRefused(&'static str),
    /// The user has an identity whose keys are not here: recover it, verify this device, or reset it.
    #[error("the user has an identity already")]
    IdentityExists,
    /// The key of the dehydrated device is not here, or not in the secret storage: give the recovery key, or recover.
    #[error("the key of the dehydrated device is not here")]
    NoDehydrationKey,
    /// The dehydrated device on the homeserver is not ours, or is not to be read: see the reason.
    #[error("the dehydrated device cannot be used: {}", .0.as_str())]
    DehydratedDevice(RehydrationRefusal),
    /// This device does not have the user's identity: recover, or verify it with another device.
    #[error("the user's identity is not verified on this device")]
    NotVerified,
    /// There is no such verification, or it was over long ago.
    #[error("the verification is not known")]
    UnknownVerification,
    /// The key file cannot be written or read: see the variant. Nothing was taken from it.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// The private key of the backup is not here: recover, or verify this device.
    #[error("the backup's private key is not here")]
    NoBackupKey,
    /// The homeserver wants to be sure of the user first: have the user answer, and call again with the answer.
    #[error("the homeserver wants the user to authenticate")]
    AuthenticationNeeded(Box<AuthenticationChallenge>),
    /// Recovered in part: the homeserver does not have the rest, or hides it. What was there has been taken.
    #[error("the recovery is incomplete: {missing} missing")]
    RecoveryIncomplete {
        /// What is missing.
        missing: Missing,
        /// What came out of the key backup, if there was one to open.
        restored: Option<Imported>,
    },
    /// Something else was begun with the recovery and has not come to its end: go on with that first.
    #[error("something else was begun with the recovery")]
    RecoveryInterrupted(RecoveryChange),
    /// A fault of the program's own: report it.
    #[error("internal error: {0}")]
    Internal(&'static str),
}

impl ClientError {
    /// The variant's stable name.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Matrix { .. } => "matrix",
            Self::Transport(_) => "transport",
            Self::BadResponse(_) => "bad_response",
            Self::Store(StoreError::WrongKey) => "store_wrong_key",
            Self::Store(StoreError::Corrupt(_)) => "store_corrupt",
            Self::Store(StoreError::Locked { .. }) => "store_locked",
            Self::Store(StoreError::Suspended) => "store_suspended",
            Self::Store(StoreError::TooNew { .. }) => "store_too_new",
            Self::Store(StoreError::NotFound) => "store_not_found",
            Self::Store(StoreError::RolledBack { .. }) => "store_rolled_back",
            Self::Store(StoreError::Exists) => "store_exists",
            Self::Store(_) => "store_io",
            Self::NotLoggedIn => "not_logged_in",
            Self::AlreadyLoggedIn => "already_logged_in",
            Self::LoggedOut => "logged_out",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Unsupported(_) => "unsupported",
            Self::InvalidInput(_) => "invalid_input",
            Self::PolicyDenied => "policy_denied",
            Self::WrongDeployment => "wrong_deployment",
            Self::UnknownRoom => "unknown_room",
            Self::NotJoined => "not_joined",
            Self::UnknownDevice => "unknown_device",
            Self::NoOlmSession => "no_olm_session",
            Self::UnknownEvent => "unknown_event",
            Self::Undecryptable(_) => "undecryptable",
            Self::SendFailed { .. } => "send_failed",
            Self::Attachment(_) => "attachment",
            Self::NoSecretStorage => "no_secret_storage",
            Self::RecoveryKey(_) => "recovery_key",
            Self::WrongRecoveryKey => "wrong_recovery_key",
            Self::SecretStorage(_) => "secret_storage",
            Self::SecretRefused(_) => "secret_refused",
            Self::IdentityExists => "identity_exists",
            Self::NoBackupKey => "no_backup_key",
            Self::NoDehydrationKey => "no_dehydration_key",
            Self::DehydratedDevice(_) => "dehydrated_device",
            Self::NotVerified => "not_verified",
            Self::UnknownVerification => "unknown_verification",
            Self::KeyFile(_) => "key_file",
            Self::AuthenticationNeeded(_) => "authentication_needed",
            Self::RecoveryIncomplete { .. } => "recovery_incomplete",
            Self::RecoveryInterrupted(_) => "recovery_interrupted",
            Self::Internal(_) => "internal",
        }
    }

    /// The error in an answer that is no success. `secrets` are kept out of it, should the
    /// homeserver repeat one.
    pub(crate) fn from_answer(status: u16, body: &[u8], secrets: &[&SecretString]) -> Self {
        #[derive(serde::Deserialize)]
        struct MatrixError {
            errcode: Option<String>,
            error: Option<String>,
        }
        let parsed = serde_json::from_slice::<MatrixError>(body).ok();
        let (errcode, message) = parsed.map_or((None, None), |e| (e.errcode, e.error));
        let errcode = errcode.filter(|code| is_plain_code(code) && !contains_any(code, secrets));
        let message = message.filter(|text| !contains_any(text, secrets)).unwrap_or_default();
        Self::Matrix {
            status,
            errcode: errcode.unwrap_or_else(|| format!("HTTP_{status}")),
            message: message.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE).collect(),
        }
    }

    /// Whether the homeserver answered with this error code.
    #[must_use]
    pub fn is_matrix(&self, wanted: &str) -> bool {
        matches!(self, Self::Matrix { errcode, .. } if errcode == wanted)
    }
}

impl From<EngineError> for ClientError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Store(error) => Self::Store(error),
            EngineError::Machine(error) => error.into(),
            EngineError::NoAccount => Self::NotLoggedIn,
            EngineError::AccountExists => Self::AlreadyLoggedIn,
        }
    }
}

impl From<MachineError> for ClientError {
    fn from(error: MachineError) -> Self {
        match error {
            MachineError::Store(error) => Self::Store(error),
            MachineError::NoAccount => Self::NotLoggedIn,
            MachineError::AccountExists => Self::AlreadyLoggedIn,
            MachineError::UnknownRoom => Self::UnknownRoom,
            MachineError::NotJoined => Self::NotJoined,
            MachineError::NotLeft => Self::InvalidInput("the room has not been left"),
            MachineError::UnsupportedAlgorithm => {
                Self::Unsupported("the room's encryption algorithm")
            }
            MachineError::UnknownIdentity => Self::InvalidInput("the user has no known identity"),
            MachineError::ReservedType => Self::InvalidInput("this event type is reserved"),
            MachineError::TooLarge => Self::InvalidInput("too large to be sent"),
            MachineError::Malformed(what) => Self::BadResponse(what),
            MachineError::NoDehydrationKey => Self::NoDehydrationKey,
            MachineError::NotVerified => Self::NotVerified,
            MachineError::PolicyDenied => Self::PolicyDenied,
            MachineError::UnknownDevice => Self::UnknownDevice,
            _ => Self::Internal("the machine refused"),
        }
    }
}

/// How much of the homeserver's words is kept, in characters.
const MAX_MESSAGE: usize = 200;

fn is_plain_code(code: &str) -> bool {
    (1..=100).contains(&code.len())
        && code.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn contains_any(text: &str, secrets: &[&SecretString]) -> bool {
    secrets.iter().any(|secret| !secret.as_str().is_empty() && text.contains(secret.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_code_and_keeps_the_text_plain() {
        let body = br#"{"errcode":"M_FORBIDDEN","error":"no\u0007 \u001b[31mway"}"#;
        let error = ClientError::from_answer(403, body, &[]);
        assert!(error.is_matrix("M_FORBIDDEN"));
        assert_eq!(error.to_string(), "the homeserver answered 403 M_FORBIDDEN: no [31mway");
    }

    #[test]
    fn an_answer_that_is_no_matrix_error_is_named_by_its_status() {
        for body in [&b"<html>"[..], b"", b"[]", br#"{"errcode":5}"#, br#"{"errcode":"a b"}"#] {
            assert!(ClientError::from_answer(502, body, &[]).is_matrix("HTTP_502"));
        }
    }

    #[test]
    fn a_secret_the_homeserver_repeats_is_not_in_the_error() {
        let token = SecretString::new("syt_secret".to_owned());
        let body = br#"{"errcode":"M_UNKNOWN_syt_secret","error":"bad token syt_secret"}"#;
        let error = ClientError::from_answer(401, body, &[&token]);
        assert!(!format!("{error} {error:?}").contains("syt_secret"));
    }

    #[test]
    fn a_long_text_is_cut() {
        let body = format!(r#"{{"errcode":"M_UNKNOWN","error":"{}"}}"#, "ü".repeat(10_000));
        assert!(ClientError::from_answer(400, body.as_bytes(), &[]).to_string().len() < 1000);
    }
}
