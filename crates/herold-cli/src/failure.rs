//! [`Failure`]: what a command ends with when it cannot do what was asked, and the exit codes.

use std::{fmt, io, process::ExitCode};

use herold::{ClientError, KeyFileError, StoreError, TransportError};

/// Why a command ended, by what whoever ran it should do about it. The numbers are the exit codes that
/// `herold --help` documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Something else.
    Failed = 1,
    /// The arguments, or a file they name, cannot be used.
    Usage = 2,
    /// There is no account in the store, or its session has ended.
    NotLoggedIn = 3,
    /// Another process uses the store.
    StoreLocked = 4,
    /// The store's key, a recovery key or a passphrase is wrong.
    WrongKey = 5,
    /// The server refused.
    Refused = 6,
    /// No answer in time.
    NoAnswer = 7,
    /// The deployment's policy forbids it.
    PolicyDenied = 8,
    /// This build does not have the command.
    #[cfg_attr(feature = "migrate", expect(dead_code, reason = "this build has them all"))]
    NotInBuild = 9,
}

/// An error for the terminal. Never holds a secret.
#[derive(Debug)]
pub struct Failure {
    kind: Kind,
    message: String,
    /// Nobody reads the output any more: end without a word.
    silent: bool,
}

impl Failure {
    /// An error of this kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), silent: false }
    }

    /// An error without a better kind.
    pub fn other(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// The arguments, or a file they name, cannot be used.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// A file cannot be read or written.
    pub fn file(what: &str, path: &std::path::Path, error: &io::Error) -> Self {
        Self::other(format!("{what} {}: {error}", path.display()))
    }

    /// Standard output cannot be written to.
    pub fn output(error: &io::Error) -> Self {
        let silent = error.kind() == io::ErrorKind::BrokenPipe;
        Self { kind: Kind::Failed, message: format!("standard output: {error}"), silent }
    }

    /// What was asked for came to nothing, and standard output has said so.
    pub fn told() -> Self {
        Self { kind: Kind::Failed, message: String::new(), silent: true }
    }

    /// Whether there is anything to say.
    pub fn is_silent(&self) -> bool {
        self.silent
    }

    /// Whether time ran out or the network failed.
    pub fn is_no_answer(&self) -> bool {
        self.kind == Kind::NoAnswer
    }

    /// The exit code.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A server's words may be in it.
        f.write_str(&crate::output::clean(&self.message))
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let kind = kind_of(&error);
        let hint = match (&error, kind) {
            (ClientError::WrongDeployment, _) => "; it was not made by this command",
            (ClientError::LoggedOut, _) => "; log in again, with another --store",
            (ClientError::NotLoggedIn, _) => ": 'herold login' makes one",
            (ClientError::AlreadyLoggedIn, _) => ": take another --store for another account",
            (ClientError::IdentityExists, _) => {
                ", and this device does not have its keys: 'herold recovery recover', or 'herold verify'"
            }
            (ClientError::NotVerified, _) => {
                ": 'herold recovery recover', or 'herold verify' with another device"
            }
            (ClientError::NoDehydrationKey, _) => {
                ", or not in the secret storage: give the recovery key with --stdin"
            }
            (ClientError::NoBackupKey, _) => ": 'herold recovery recover', or 'herold verify'",
            (ClientError::RecoveryInterrupted(_), _) => ": 'herold recovery status' says which",
            (ClientError::AuthenticationNeeded(_), _) => {
                ", and not by password: do this once with a client that has a browser"
            }
            (ClientError::NoSecretStorage, _) => ": 'herold recovery enable' makes one",
            (_, Kind::StoreLocked) => {
                "; processes use it one at a time, in turns only if all of them share it"
            }
            _ => "",
        };
        let text = match error {
            ClientError::Timeout => "there was no answer in time".to_owned(),
            other => other.to_string(),
        };
        Self::new(kind, format!("{text}{hint}"))
    }
}

fn kind_of(error: &ClientError) -> Kind {
    match error {
        ClientError::Store(StoreError::Locked { .. }) => Kind::StoreLocked,
        ClientError::Store(StoreError::WrongKey)
        | ClientError::RecoveryKey(_)
        | ClientError::WrongRecoveryKey
        | ClientError::KeyFile(KeyFileError::BadMac) => Kind::WrongKey,
        ClientError::NotLoggedIn
        | ClientError::LoggedOut
        | ClientError::Store(StoreError::NotFound) => Kind::NotLoggedIn,
        ClientError::AlreadyLoggedIn
        | ClientError::WrongDeployment
        | ClientError::InvalidInput(_)
        | ClientError::KeyFile(KeyFileError::Io(_) | KeyFileError::NotAKeyFile)
        | ClientError::Transport(TransportError::InsecureUrl | TransportError::InvalidUrl) => {
            Kind::Usage
        }
        ClientError::PolicyDenied => Kind::PolicyDenied,
        ClientError::Matrix { .. } | ClientError::SendFailed { .. } => Kind::Refused,
        ClientError::Timeout | ClientError::Transport(_) => Kind::NoAnswer,
        _ => Kind::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_its_exit_code() {
        let locked = StoreError::Locked { holder: "process 7".to_owned() };
        for (error, kind) in [
            (ClientError::Store(locked), Kind::StoreLocked),
            (ClientError::Store(StoreError::WrongKey), Kind::WrongKey),
            (ClientError::Store(StoreError::Corrupt("a row".to_owned())), Kind::Failed),
            (ClientError::WrongRecoveryKey, Kind::WrongKey),
            (ClientError::KeyFile(KeyFileError::BadMac), Kind::WrongKey),
            (ClientError::LoggedOut, Kind::NotLoggedIn),
            (ClientError::Timeout, Kind::NoAnswer),
            (ClientError::Transport(TransportError::Unreachable), Kind::NoAnswer),
            (ClientError::Transport(TransportError::InsecureUrl), Kind::Usage),
            (ClientError::PolicyDenied, Kind::PolicyDenied),
        ] {
            assert_eq!(Failure::from(error).kind, kind);
        }
    }

    #[test]
    fn a_servers_words_do_not_control_the_terminal() {
        let failure = Failure::other("no\u{1b}[2J");
        assert!(!failure.to_string().contains('\u{1b}'));
    }

    #[test]
    fn a_reader_that_left_is_no_news() {
        assert!(Failure::output(&io::ErrorKind::BrokenPipe.into()).is_silent());
        assert!(!Failure::output(&io::ErrorKind::StorageFull.into()).is_silent());
    }
}
