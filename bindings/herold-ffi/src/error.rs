//! [`HeroldError`]: what the app should do now.

use herold::{ClientError, KeyFileError, RehydrationRefusal, StoreError, TransportError};

use crate::{AuthenticationChallenge, Missing, RecoveryChange};

/// Why something was not done. The variant says what the app should do; `code` is the error's stable
/// name, for logs and support; `detail` is a short text for developers. Neither has a secret in it.
///
/// Where the homeserver refused, `code` is the Matrix error code (`M_FORBIDDEN`), else a name in lower
/// case.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, uniffi::Error)]
pub enum HeroldError {
    /// There is no valid login here: log in, into a new store.
    #[error("{code}: {detail}")]
    LogInAgain {
        /// The stable name.
        code: String,
        /// For developers.
        detail: String,
    },
    /// The store has an account already: resume it.
    #[error("{code}: {detail}")]
    ResumeInstead {
        /// The stable name.
        code: String,
        /// For developers.
        detail: String,
    },
    /// It may work later: try again, less and less often.
    #[error("{code}: {detail}")]
    RetryLater {
        /// The stable name.
        code: String,
        /// For developers.
        detail: String,
    },
    /// It did not happen in time, but goes on: wait for it, do not begin it again.
    #[error("{code}: {detail}")]
    WaitLonger {
        /// The stable name.
        code: String,
        /// For developers.
        detail: String,
    },
    /// The app gave something that cannot be used: mend the input.
    #[error("{code}: {detail}")]
    FixInput {
        /// The stable name.
        code: String,
        /// For developers.
        detail: String,
    },
    /// The homeserver, the room or the deployment's policy does not allow it: tell the user.
    #[error("{code}: {detail}")]
    Denied {
        /// The stable name.
        code: String,
        /// For developers.
        detail: String,
    },
    /// There is no such room, event or device, or none yet.
    #[error("{code}: {detail}")]
    NotFound {
        /// The stable name.
        code: String,
        /// For developers.
        detail: String,
    },
    /// It cannot be done here: do not offer it.
    #[error("{code}: {detail}")]
    NotSupported {
        /// The stable name.
        code: String,
        /// For developers.
        detail: String,
    },
    /// The event cannot be read: show it so. [`crate::Event::BecameReadable`] tells if that changes.
    #[error("{code}: {detail}")]
    ShowUnreadable {
        /// The stable name.
        code: String,
        /// For developers.
        detail: String,
    },
    /// A queued message was refused for good and stays in the queue: cancel it, or try it again.
    #[error("{code}: {detail}")]
    CancelOrRetry {
        /// The stable name.
        code: String,
        /// For developers.
        detail: String,
    },
    /// The file was changed on its way, or is malformed: nothing of it was released.
    #[error("{code}: {detail}")]
    RejectFile {
        /// The stable name.
        code: String,
        /// For developers.
        detail: String,
    },
    /// Another process or client has the store open: close that one first.
    #[error("{code}: {detail}")]
    StoreLocked {
        /// The stable name.
        code: String,
        /// For developers.
        detail: String,
    },
    /// The store does not open with this key: ask for the right one.
    #[error("{code}: {detail}")]
    AskForStoreKey {
        /// The stable name.
        code: String,
        /// For developers.
        detail: String,
    },
    /// The store is damaged: tell the user, keep it for support, log in into a new one.
    #[error("{code}: {detail}")]
    StoreDamaged {
        /// The stable name.
        code: String,
        /// For developers.
        detail: String,
    },
    /// The store was written by a newer version: update the app.
    #[error("{code}: {detail}")]
    UpdateApp {
        /// The stable name.
        code: String,
        /// For developers.
        detail: String,
    },
    /// The client is closed: resume a new one.
    #[error("{code}: {detail}")]
    Closed {
        /// The stable name.
        code: String,
        /// For developers.
        detail: String,
    },
    /// The homeserver wants to be sure of the user: have the user answer, then call again with the answer.
    #[error("{code}: {detail}")]
    Authenticate {
        /// The stable name; the Matrix error code if the last answer was refused.
        code: String,
        /// For developers.
        detail: String,
        /// What it wants to see.
        challenge: AuthenticationChallenge,
    },
    /// What the user has typed is not the right recovery key or passphrase, or mistyped: ask again.
    #[error("{code}: {detail}")]
    AskAgain {
        /// The stable name.
        code: String,
        /// For developers.
        detail: String,
    },
    /// This device does not have the keys of the user's identity or backup: recover, verify it, or reset.
    #[error("{code}: {detail}")]
    RecoverFirst {
        /// The stable name.
        code: String,
        /// For developers.
        detail: String,
    },
    /// Recovered in part: what was there has been taken. Tell the user what is missing.
    #[error("{code}: {detail}")]
    RecoveredInPart {
        /// The stable name.
        code: String,
        /// For developers.
        detail: String,
        /// What is missing.
        missing: Missing,
    },
    /// Something else was begun with the recovery: go on with that first.
    #[error("{code}: {detail}")]
    FinishRecovery {
        /// The stable name.
        code: String,
        /// For developers.
        detail: String,
        /// What was begun.
        change: RecoveryChange,
    },
    /// What the homeserver keeps for the user is damaged, or somebody has changed it: nothing of it was taken. Warn the user.
    #[error("{code}: {detail}")]
    WarnOfTampering {
        /// The stable name.
        code: String,
        /// For developers.
        detail: String,
    },
    /// A fault of Herold's own: report it. The client can still be used.
    #[error("{code}: {detail}")]
    Bug {
        /// The stable name.
        code: String,
        /// For developers.
        detail: String,
    },
}

/// The longest detail, in characters.
const MAX_DETAIL: usize = 300;

impl HeroldError {
    /// Input that cannot be used. `what` never repeats the input.
    pub(crate) fn input(what: &str) -> Self {
        Self::FixInput { code: "invalid_input".to_owned(), detail: what.to_owned() }
    }

    pub(crate) fn closed() -> Self {
        ClientError::Closed.into()
    }

    pub(crate) fn panicked() -> Self {
        Self::Bug { code: "panic".to_owned(), detail: "the library panicked".to_owned() }
    }

    pub(crate) fn internal(what: &'static str) -> Self {
        ClientError::Internal(what).into()
    }
}

impl From<ClientError> for HeroldError {
    fn from(error: ClientError) -> Self {
        let detail = error.to_string().chars().take(MAX_DETAIL).collect();
        let code = match &error {
            ClientError::Matrix { errcode, .. } => errcode.clone(),
            other => other.code().to_owned(),
        };
        match error {
            ClientError::Matrix { status, .. } => refused(status, code, detail),
            ClientError::Transport(error) => no_answer(error, code, detail),
            ClientError::Store(error) => store(&error, code, detail),
            ClientError::NotLoggedIn | ClientError::LoggedOut => Self::LogInAgain { code, detail },
            ClientError::AlreadyLoggedIn => Self::ResumeInstead { code, detail },
            ClientError::BadResponse(_) | ClientError::NoOlmSession => {
                Self::RetryLater { code, detail }
            }
            ClientError::Timeout => Self::WaitLonger { code, detail },
            ClientError::InvalidInput(_) => Self::FixInput { code, detail },
            ClientError::PolicyDenied | ClientError::WrongDeployment | ClientError::NotJoined => {
                Self::Denied { code, detail }
            }
            ClientError::UnknownRoom
            | ClientError::UnknownDevice
            | ClientError::UnknownEvent
            | ClientError::UnknownVerification
            | ClientError::NoSecretStorage => Self::NotFound { code, detail },
            ClientError::AuthenticationNeeded(challenge) => {
                // An answer that was refused says why.
                let code = challenge.refused.clone().unwrap_or(code);
                Self::Authenticate { code, detail, challenge: (*challenge).into() }
            }
            ClientError::RecoveryKey(_)
            | ClientError::WrongRecoveryKey
            | ClientError::KeyFile(KeyFileError::BadMac) => Self::AskAgain { code, detail },
            ClientError::IdentityExists
            | ClientError::NoBackupKey
            | ClientError::NotVerified
            | ClientError::NoDehydrationKey => Self::RecoverFirst { code, detail },
            ClientError::RecoveryIncomplete { missing, .. } => {
                Self::RecoveredInPart { code, detail, missing: missing.into() }
            }
            ClientError::RecoveryInterrupted(change) => {
                Self::FinishRecovery { code, detail, change: change.into() }
            }
            ClientError::DehydratedDevice(RehydrationRefusal::Gone) => {
                Self::NotFound { code, detail }
            }
            ClientError::DehydratedDevice(RehydrationRefusal::Unavailable) => {
                Self::RetryLater { code, detail }
            }
            ClientError::DehydratedDevice(RehydrationRefusal::UnsupportedAlgorithm) => {
                Self::NotSupported { code, detail }
            }
            ClientError::SecretStorage(_)
            | ClientError::SecretRefused(_)
            | ClientError::DehydratedDevice(_) => Self::WarnOfTampering { code, detail },
            ClientError::KeyFile(KeyFileError::Io(_)) => Self::FixInput { code, detail },
            ClientError::KeyFile(_) => Self::RejectFile { code, detail },
            ClientError::Unsupported(_) => Self::NotSupported { code, detail },
            ClientError::Undecryptable(_) => Self::ShowUnreadable { code, detail },
            ClientError::SendFailed { .. } => Self::CancelOrRetry { code, detail },
            ClientError::Attachment(_) => Self::RejectFile { code, detail },
            ClientError::Closed => Self::Closed { code, detail },
            _ => Self::Bug { code, detail },
        }
    }
}

/// The homeserver answered, and refused.
fn refused(status: u16, code: String, detail: String) -> HeroldError {
    match status {
        401 | 403 => HeroldError::Denied { code, detail },
        404 => HeroldError::NotFound { code, detail },
        408 | 429 | 500.. => HeroldError::RetryLater { code, detail },
        _ => HeroldError::FixInput { code, detail },
    }
}

/// The homeserver did not answer.
fn no_answer(error: TransportError, code: String, detail: String) -> HeroldError {
    match error {
        TransportError::InsecureUrl | TransportError::InvalidUrl => {
            HeroldError::FixInput { code, detail }
        }
        TransportError::TooLarge { .. } => HeroldError::NotSupported { code, detail },
        error if error.is_transient() => HeroldError::RetryLater { code, detail },
        _ => HeroldError::Bug { code, detail },
    }
}

fn store(error: &StoreError, code: String, detail: String) -> HeroldError {
    match error {
        StoreError::NotFound => HeroldError::LogInAgain { code, detail },
        StoreError::Exists => HeroldError::ResumeInstead { code, detail },
        StoreError::WrongKey => HeroldError::AskForStoreKey { code, detail },
        StoreError::Corrupt(_) | StoreError::RolledBack { .. } => {
            HeroldError::StoreDamaged { code, detail }
        }
        StoreError::Locked { .. } => HeroldError::StoreLocked { code, detail },
        StoreError::TooNew { .. } => HeroldError::UpdateApp { code, detail },
        // What has no name here yet is a fault of the medium at worst.
        _ => HeroldError::RetryLater { code, detail },
    }
}

#[cfg(test)]
mod tests {
    use herold::{ClientError, StoreError, TransportError};

    use super::HeroldError;

    fn matrix(status: u16, errcode: &str) -> HeroldError {
        let (errcode, message) = (errcode.to_owned(), "their words".to_owned());
        ClientError::Matrix { status, errcode, message }.into()
    }

    #[test]
    fn a_refusal_says_what_to_do_and_keeps_the_matrix_code() {
        assert!(
            matches!(matrix(403, "M_FORBIDDEN"), HeroldError::Denied { code, .. } if code == "M_FORBIDDEN")
        );
        assert!(matches!(matrix(404, "M_NOT_FOUND"), HeroldError::NotFound { .. }));
        assert!(matches!(matrix(400, "M_BAD_JSON"), HeroldError::FixInput { .. }));
        for status in [408, 429, 500, 502, 504] {
            assert!(matches!(matrix(status, "M_UNKNOWN"), HeroldError::RetryLater { .. }));
        }
    }

    #[test]
    fn what_may_work_later_is_told_from_what_will_not() {
        let of = |error: TransportError| HeroldError::from(ClientError::Transport(error));
        assert!(matches!(of(TransportError::Unreachable), HeroldError::RetryLater { .. }));
        assert!(matches!(of(TransportError::InsecureUrl), HeroldError::FixInput { .. }));
        assert!(matches!(of(TransportError::Setup), HeroldError::Bug { .. }));
    }

    #[test]
    fn each_fault_of_the_store_has_its_own_remedy() {
        let of = |error: StoreError| HeroldError::from(ClientError::Store(error));
        let locked = of(StoreError::Locked { holder: "app".to_owned() });
        assert!(matches!(locked, HeroldError::StoreLocked { code, .. } if code == "store_locked"));
        assert!(matches!(of(StoreError::WrongKey), HeroldError::AskForStoreKey { .. }));
        assert!(matches!(of(StoreError::Corrupt(String::new())), HeroldError::StoreDamaged { .. }));
        let newer = of(StoreError::TooNew { found: 2, supported: 1 });
        assert!(matches!(newer, HeroldError::UpdateApp { .. }));
    }

    #[test]
    fn a_long_detail_is_cut() {
        let error = HeroldError::from(ClientError::Store(StoreError::Io("ü".repeat(10_000))));
        assert!(error.to_string().chars().count() < 400);
    }
}
