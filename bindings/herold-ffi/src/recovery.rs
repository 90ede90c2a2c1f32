//! Recovery: the user's identity, the key backup and the secret storage as one thing.

use std::{sync::Arc, time::Duration};

use herold::{AuthenticationAnswer, AuthenticationStage, Lengthy, SecretString};

use crate::{
    Client, HeroldError,
    callback::Caller,
    input,
    keys::{Imported, Progress, ProgressSink, counted},
};

/// How recovery stands: what an app draws its screen from.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum RecoveryState {
    /// The homeserver has not said yet: show nothing.
    Unknown,
    /// Nothing is set up: offer [`Client::enable_recovery`].
    Disabled,
    /// It is being set up, replaced, or given another key.
    Enabling {
        /// Which of it.
        change: RecoveryChange,
    },
    /// It was begun, and did not come to its end: offer to go on with the same call.
    Interrupted {
        /// What was begun.
        change: RecoveryChange,
    },
    /// All is made: show the recovery key (the same call gives the same one), then
    /// [`Client::confirm_recovery_key`].
    Unconfirmed {
        /// What was done.
        change: RecoveryChange,
    },
    /// This device has all it needs, and so will the next one.
    Enabled,
    /// Something is missing. What this device lacks comes with [`Client::recover`] or a verification; what the next one would
    /// lack, with [`Client::enable_recovery`].
    Incomplete {
        /// What.
        missing: Missing,
    },
    /// This device is being given what it lacks.
    Recovering {
        /// How far the room keys are, once it is about those.
        progress: Option<Progress>,
    },
}

/// What is done with the recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum RecoveryChange {
    /// What is missing is made: [`Client::enable_recovery`].
    Enable,
    /// All of it is replaced: [`Client::reset_recovery`].
    Reset,
    /// It gets another key: [`Client::change_recovery_key`].
    ChangeKey,
}

/// What is missing of a recovery.
#[derive(Clone, Debug, Default, PartialEq, Eq, uniffi::Record)]
pub struct Missing {
    /// What this device does not have.
    pub here: Vec<RecoverySecret>,
    /// What the homeserver does not have under the recovery key, or hides.
    pub stored: Vec<RecoverySecret>,
    /// The homeserver has no key backup, or hides it.
    pub backup: bool,
}

/// A secret that recovery is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum RecoverySecret {
    /// The private master key of the user's identity.
    MasterKey,
    /// The private key that signs the user's devices.
    SelfSigningKey,
    /// The private key that signs other users.
    UserSigningKey,
    /// The private key of the key backup.
    BackupKey,
}

/// What the user has to write down, and what was made.
#[derive(Clone, PartialEq, Eq, uniffi::Record)]
pub struct Recovery {
    /// Opens everything on a new device. Secret: show it, and keep it nowhere.
    pub recovery_key: String,
    /// The version of the key backup, if there is one.
    pub backup_version: Option<String>,
    /// Names of what other clients keep under the old key still: it could not be opened.
    pub left_behind: Vec<String>,
}

/// What is shown to a homeserver that wants to be sure of the user.
#[derive(uniffi::Enum)]
pub enum Authentication {
    /// Nothing: [`HeroldError::Authenticate`] says what it wants to see.
    Nothing,
    /// The account's password.
    Password {
        /// It.
        password: SecretString,
    },
    /// The user has been on the page of a stage.
    PageVisited {
        /// The stage's name.
        stage: String,
        /// The session of the challenge.
        session: Option<String>,
    },
    /// The password, as one of several stages.
    PasswordStage {
        /// It.
        password: SecretString,
        /// The session of the challenge.
        session: Option<String>,
    },
}

/// What a homeserver wants to see before it does what was asked.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct AuthenticationChallenge {
    /// The stages that can be answered now; one is enough for now.
    pub stages: Vec<NextStage>,
    /// What the answers belong to.
    pub session: Option<String>,
}

/// A stage that can be answered now.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct NextStage {
    /// Its name in the Matrix specification.
    pub stage: String,
    /// The page to open in a browser, if it is answered on one.
    pub page: Option<String>,
}

#[uniffi::export]
impl Client {
    /// How recovery stands. Asks the homeserver if that has not been done.
    ///
    /// # Errors
    /// [`HeroldError::RetryLater`]: the homeserver did not answer.
    pub async fn recovery_state(&self) -> Result<RecoveryState, HeroldError> {
        self.host.run(|client| async move { Ok(client.recovery_state().await?.into()) }).await
    }

    /// Waits until recovery stands otherwise than the app knows, and answers how; when the time is up, how it stands. With
    /// nothing known, at once.
    ///
    /// # Errors
    /// [`HeroldError::Closed`].
    pub async fn next_recovery_state(
        &self,
        known: Option<RecoveryState>,
        timeout_ms: u64,
    ) -> Result<RecoveryState, HeroldError> {
        self.host
            .run(move |client| async move {
                let mut states = client.recovery_states();
                let mut state: RecoveryState = states.next().await?.into();
                let wait = async {
                    while known.as_ref() == Some(&state) {
                        state = states.next().await?.into();
                    }
                    Ok::<_, HeroldError>(())
                };
                let waited = tokio::time::timeout(Duration::from_millis(timeout_ms), wait).await;
                waited.unwrap_or(Ok(()))?;
                Ok(state)
            })
            .await
    }

    /// Makes what is missing of an identity, a key backup and a secret storage, and a recovery key. What was begun is gone on
    /// with.
    ///
    /// # Errors
    /// [`HeroldError::Denied`]: wrong password. [`HeroldError::Authenticate`]: show what it asks for.
    /// [`HeroldError::RecoverFirst`]: the user has an identity, and this device does not have its keys.
    #[uniffi::method(default(passphrase = None))]
    pub async fn enable_recovery(
        &self,
        authentication: Authentication,
        passphrase: Option<SecretString>,
    ) -> Result<Recovery, HeroldError> {
        let (shown, passphrase) = (authentication.into_herold()?, checked(passphrase)?);
        self.host
            .run(move |client| async move {
                Ok(client.enable_recovery(shown, passphrase).await?.into())
            })
            .await
    }

    /// Replaces the identity, the key backup and the secret storage. Others have to verify anew, and what only the old backup
    /// had is lost to new devices.
    ///
    /// # Errors
    /// As for [`Client::enable_recovery`].
    #[uniffi::method(default(passphrase = None))]
    pub async fn reset_recovery(
        &self,
        authentication: Authentication,
        passphrase: Option<SecretString>,
    ) -> Result<Recovery, HeroldError> {
        let (shown, passphrase) = (authentication.into_herold()?, checked(passphrase)?);
        self.host
            .run(move |client| async move {
                Ok(client.reset_recovery(shown, passphrase).await?.into())
            })
            .await
    }

    /// Gives the secret storage another key. `current` opens it now. The old key opens nothing any more afterwards.
    ///
    /// # Errors
    /// [`HeroldError::AskAgain`]: `current` does not open it. [`HeroldError::FinishRecovery`]: something else was begun.
    #[uniffi::method(default(passphrase = None))]
    pub async fn change_recovery_key(
        &self,
        current: SecretString,
        passphrase: Option<SecretString>,
    ) -> Result<Recovery, HeroldError> {
        input::line(current.as_str(), "not a recovery key")?;
        let passphrase = checked(passphrase)?;
        self.host
            .run(move |client| async move {
                Ok(client.change_recovery_key(current, passphrase).await?.into())
            })
            .await
    }

    /// The user has the recovery key: it is not kept any longer.
    ///
    /// # Errors
    /// [`HeroldError::FinishRecovery`]: what was begun has not come to its end.
    pub async fn confirm_recovery_key(&self) -> Result<(), HeroldError> {
        self.host.run(|client| async move { Ok(client.confirm_recovery_key()?) }).await
    }

    /// Opens the secret storage with a recovery key or a passphrase: takes over the identity and the key backup, signs this device,
    /// and restores the room keys.
    ///
    /// # Errors
    /// [`HeroldError::AskAgain`]: it does not open with that. [`HeroldError::RecoveredInPart`]: the homeserver does not have
    /// all of it, or hides some. [`HeroldError::WarnOfTampering`].
    #[uniffi::method(default(progress = None))]
    pub async fn recover(
        &self,
        key_or_passphrase: SecretString,
        progress: Option<Arc<dyn ProgressSink>>,
    ) -> Result<Imported, HeroldError> {
        input::line(key_or_passphrase.as_str(), "not a recovery key")?;
        let caller = progress.map(Caller::of_progress).transpose()?;
        self.host
            .run(move |client| async move {
                let work: Lengthy<_> = client.recover(key_or_passphrase);
                Ok(counted(work, caller).await?.into())
            })
            .await
    }

    /// Removes another device of the account from the homeserver.
    ///
    /// # Errors
    /// As for [`Client::enable_recovery`].
    pub async fn delete_device(
        &self,
        device_id: String,
        authentication: Authentication,
    ) -> Result<(), HeroldError> {
        let shown = authentication.into_herold()?;
        self.host
            .run(move |client| async move {
                Ok(client.delete_device(&input::device(&device_id)?, shown).await?)
            })
            .await
    }
}

fn checked(passphrase: Option<SecretString>) -> Result<Option<SecretString>, HeroldError> {
    if let Some(passphrase) = &passphrase {
        input::line(passphrase.as_str(), "not a passphrase")?;
    }
    Ok(passphrase)
}

impl Authentication {
    fn into_herold(self) -> Result<herold::Authentication, HeroldError> {
        let checked = |text: SecretString| -> Result<SecretString, HeroldError> {
            input::line(text.as_str(), "not a password")?;
            Ok(text)
        };
        Ok(match self {
            Self::Nothing => herold::Authentication::None,
            Self::Password { password } => checked(password)?.into(),
            Self::PageVisited { stage, session } => {
                let stage = AuthenticationStage::parse(input::name(&stage, "not a stage")?);
                AuthenticationAnswer::page_visited(&stage, session).into()
            }
            Self::PasswordStage { password, session } => {
                AuthenticationAnswer::password(checked(password)?, session).into()
            }
        })
    }
}

impl From<herold::AuthenticationChallenge> for AuthenticationChallenge {
    fn from(challenge: herold::AuthenticationChallenge) -> Self {
        let next = |stage: &AuthenticationStage| NextStage {
            stage: stage.name().to_owned(),
            page: challenge.page(stage),
        };
        Self {
            stages: challenge.next_stages().into_iter().map(next).collect(),
            session: challenge.session.clone(),
        }
    }
}

impl From<herold::Recovery> for Recovery {
    fn from(made: herold::Recovery) -> Self {
        Self {
            recovery_key: made.recovery_key.as_str().to_owned(),
            backup_version: made.backup_version,
            left_behind: made.left_behind,
        }
    }
}

impl std::fmt::Debug for Recovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recovery")
            .field("backup_version", &self.backup_version)
            .finish_non_exhaustive()
    }
}

impl From<herold::RecoveryState> for RecoveryState {
    fn from(state: herold::RecoveryState) -> Self {
        use herold::RecoveryState as From;
        match state {
            From::Disabled => Self::Disabled,
            From::Enabling { change, .. } => Self::Enabling { change: change.into() },
            From::Interrupted { change } => Self::Interrupted { change: change.into() },
            From::Unconfirmed { change } => Self::Unconfirmed { change: change.into() },
            From::Enabled => Self::Enabled,
            From::Incomplete { missing } => Self::Incomplete { missing: missing.into() },
            From::Recovering { step } => Self::Recovering {
                progress: match step {
                    herold::RecoverStep::Backup { progress } => Some(progress.into()),
                    _ => None,
                },
            },
            _ => Self::Unknown,
        }
    }
}

impl From<herold::RecoveryChange> for RecoveryChange {
    fn from(change: herold::RecoveryChange) -> Self {
        match change {
            herold::RecoveryChange::Enable => Self::Enable,
            herold::RecoveryChange::Reset => Self::Reset,
            herold::RecoveryChange::ChangeKey => Self::ChangeKey,
        }
    }
}

impl From<herold::Missing> for Missing {
    fn from(missing: herold::Missing) -> Self {
        let secrets = |secrets: std::collections::BTreeSet<herold::RecoverySecret>| {
            secrets.into_iter().map(Into::into).collect()
        };
        Self {
            here: secrets(missing.here),
            stored: secrets(missing.stored),
            backup: missing.backup,
        }
    }
}

impl From<herold::RecoverySecret> for RecoverySecret {
    fn from(secret: herold::RecoverySecret) -> Self {
        match secret {
            herold::RecoverySecret::MasterKey => Self::MasterKey,
            herold::RecoverySecret::SelfSigningKey => Self::SelfSigningKey,
            herold::RecoverySecret::UserSigningKey => Self::UserSigningKey,
            herold::RecoverySecret::BackupKey => Self::BackupKey,
        }
    }
}
