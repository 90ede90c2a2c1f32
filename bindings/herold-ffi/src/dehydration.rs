//! The user's dehydrated device: what is said while none of the user's devices is there.

use std::sync::Arc;

use herold::{ClientError, SecretString};

use crate::{Client, HeroldError, ProgressSink, callback::Caller, input, keys::counted};

/// What has come out of a dehydrated device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Record)]
pub struct Rehydrated {
    /// So many events were read.
    pub events: u64,
    /// So many room keys were new.
    pub room_keys: u64,
}

/// How things stand with the dehydrated device.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct DehydrationStatus {
    /// There is to be one, and this device keeps it fresh.
    pub enabled: bool,
    /// The key that opens it is here.
    pub has_key: bool,
    /// The one on the homeserver, as far as known.
    pub device_id: Option<String>,
    /// Something is under way.
    pub busy: bool,
}

#[uniffi::export]
impl Client {
    /// Has the user keep a dehydrated device: what is said while none of the user's devices is there can be read on the next
    /// one, after [`Client::recover`]. This device replaces it once a week, until [`Client::stop_dehydration`].
    /// `key_or_passphrase` opens the secret storage; it can be left out if the key is there and here already. Answers what
    /// has come out of the one that was there.
    ///
    /// # Errors
    /// [`HeroldError::RecoverFirst`]: this device does not have the user's identity. [`HeroldError::AskAgain`]: the key is
    /// needed, or it does not open with that. [`HeroldError::NotFound`]: there is no secret storage.
    /// [`HeroldError::NotSupported`]: the homeserver does not know such devices. [`HeroldError::WaitLonger`]: it goes on.
    /// [`HeroldError::Denied`]. [`HeroldError::WarnOfTampering`].
    #[uniffi::method(default(key_or_passphrase = None, progress = None))]
    pub async fn start_dehydration(
        &self,
        key_or_passphrase: Option<SecretString>,
        progress: Option<Arc<dyn ProgressSink>>,
    ) -> Result<Option<Rehydrated>, HeroldError> {
        if let Some(typed) = &key_or_passphrase {
            input::line(typed.as_str(), "not a recovery key")?;
        }
        let caller = progress.map(Caller::of_progress).transpose()?;
        self.host
            .run(move |client| async move {
                let taken = counted(client.start_dehydration(key_or_passphrase), caller).await;
                Ok(taken.map_err(key_wanted)?.map(Into::into))
            })
            .await
    }

    /// Takes what was sent to the dehydrated device, if there is one. Needed after a verification by another device;
    /// [`Client::recover`] does it by itself. A new one takes the place of the one that was read.
    ///
    /// # Errors
    /// [`HeroldError::RecoverFirst`]: this device does not have the user's identity, or not the key.
    /// [`HeroldError::WarnOfTampering`]: it is not the user's, or cannot be read. [`HeroldError::NotFound`]: it was replaced
    /// meanwhile. [`HeroldError::NotSupported`], [`HeroldError::RetryLater`], [`HeroldError::WaitLonger`],
    /// [`HeroldError::Denied`].
    #[uniffi::method(default(progress = None))]
    pub async fn rehydrate(
        &self,
        progress: Option<Arc<dyn ProgressSink>>,
    ) -> Result<Option<Rehydrated>, HeroldError> {
        let caller = progress.map(Caller::of_progress).transpose()?;
        self.host
            .run(move |client| async move {
                Ok(counted(client.rehydrate(), caller).await?.map(Into::into))
            })
            .await
    }

    /// Removes the user's dehydrated device, with what was sent to it, and makes no new one.
    ///
    /// # Errors
    /// [`HeroldError::WaitLonger`]: it goes on.
    pub async fn stop_dehydration(&self) -> Result<(), HeroldError> {
        self.host.run(|client| async move { Ok(client.stop_dehydration().await?) }).await
    }

    /// How things stand with the dehydrated device.
    ///
    /// # Errors
    /// [`HeroldError::Closed`].
    pub async fn dehydration_status(&self) -> Result<DehydrationStatus, HeroldError> {
        self.host.run(|client| async move { Ok(client.dehydration_status()?.into()) }).await
    }
}

/// Whose device is recovered gives the key, and need not recover again.
fn key_wanted(error: ClientError) -> HeroldError {
    let wanted = matches!(error, ClientError::NoDehydrationKey);
    match error.into() {
        HeroldError::RecoverFirst { code, detail } if wanted => {
            HeroldError::AskAgain { code, detail }
        }
        other => other,
    }
}

impl From<herold::Rehydrated> for Rehydrated {
    fn from(taken: herold::Rehydrated) -> Self {
        Self { events: taken.events, room_keys: taken.room_keys }
    }
}

impl From<herold::DehydrationStatus> for DehydrationStatus {
    fn from(status: herold::DehydrationStatus) -> Self {
        Self {
            enabled: status.enabled,
            has_key: status.has_key,
            device_id: status.device_id.map(Into::into),
            busy: status.busy,
        }
    }
}
