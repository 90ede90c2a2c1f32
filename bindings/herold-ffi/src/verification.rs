//! Verification: asking, answering, comparing; and whom one trusts.

use herold::{CancelCode, Emoji, Methods, VerificationView};

use crate::{Client, HeroldError, input};

/// A verification as it stands.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct Verification {
    /// Its id.
    pub flow_id: String,
    /// The other user; the own one for own devices.
    pub user_id: String,
    /// The other device, once there is one.
    pub device_id: Option<String>,
    /// It goes through a room.
    pub in_room: bool,
    /// This side has asked.
    pub asked_by_us: bool,
    /// Both sides can compare short strings.
    pub can_compare: bool,
    /// This side can show a QR code that the other side can scan.
    pub can_show_code: bool,
    /// This side can scan a QR code that the other side shows.
    pub can_scan_code: bool,
    /// Where it stands.
    pub state: VerificationState,
}

/// Where a verification stands.
#[derive(Clone, PartialEq, Eq, uniffi::Enum)]
pub enum VerificationState {
    /// A request was sent, or came in: then ask the user, and accept or cancel.
    Requested {
        /// This side asked.
        by_us: bool,
    },
    /// Both sides take part: start to compare, show a code or scan one.
    Ready,
    /// Short strings are being worked out. If `needs_accept`, ask the user first.
    Started {
        /// This side has started.
        by_us: bool,
        /// Nothing happens before it is accepted.
        needs_accept: bool,
    },
    /// Show these: the user compares them with what the other side shows, and confirms or not.
    Compare {
        /// Seven emoji, if both sides can show them.
        emoji: Option<Vec<VerificationEmoji>>,
        /// Three numbers, if both sides can show them.
        decimals: Option<Vec<u16>>,
    },
    /// The other side has scanned our code: ask the user whether it shows success.
    Scanned,
    /// This side has confirmed, the other one has still to.
    Confirmed,
    /// Over, with success.
    Done,
    /// Over, without.
    Cancelled {
        /// Why, a code of the Matrix specification.
        code: String,
        /// This side cancelled.
        by_us: bool,
    },
    /// Something that has no name here yet.
    Unknown,
}

/// An emoji to compare.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct VerificationEmoji {
    /// Its number in the specification's table, for a picture of the app's own.
    pub number: u8,
    /// It.
    pub symbol: String,
    /// What it is called, in English.
    pub name: String,
}

/// What the user has decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum VerificationAction {
    /// Takes part, and can show QR codes and scan them.
    Accept,
    /// Takes part, and can do neither.
    AcceptWithoutCodes,
    /// Begins to compare short strings.
    StartComparing,
    /// They match, or the other device shows success.
    Confirm,
    /// They differ, or it does not.
    Mismatch,
    /// Does not want to.
    Cancel,
}

/// What an emoji is called in a language, such as `de` or `pt-BR`; in English if there is no name in it. Nothing if the number
/// is none of an emoji.
#[uniffi::export]
#[must_use]
pub fn emoji_name(number: u8, language: &str) -> Option<String> {
    Some(Emoji::new(number)?.description(language).to_owned())
}

#[uniffi::export]
impl Client {
    /// Asks devices of a user to verify each other: these, or all that are known. Answers the verification's id.
    ///
    /// # Errors
    /// [`HeroldError::NotFound`]: there is none to ask.
    #[uniffi::method(default(device_ids = None))]
    pub async fn request_verification(
        &self,
        user_id: String,
        device_ids: Option<Vec<String>>,
    ) -> Result<String, HeroldError> {
        self.host
            .run(|client| async move {
                let user = input::user(&user_id)?;
                let devices = |ids: Vec<String>| ids.iter().map(|id| input::device(id)).collect();
                let devices = device_ids.map(devices).transpose()?;
                Ok(client.request_verification(&user, devices)?)
            })
            .await
    }

    /// Asks a user to verify each other, in a room. Answers the verification's id.
    ///
    /// # Errors
    /// [`HeroldError::NotFound`], [`HeroldError::CancelOrRetry`].
    pub async fn request_room_verification(
        &self,
        room_id: String,
        user_id: String,
    ) -> Result<String, HeroldError> {
        self.host
            .run(|client| async move {
                let (room, user) = (input::room(&room_id)?, input::user(&user_id)?);
                Ok(client.request_room_verification(&room, &user).await?.into())
            })
            .await
    }

    /// Every verification that is under way, or was a day ago.
    ///
    /// # Errors
    /// [`HeroldError::Closed`].
    pub async fn verifications(&self) -> Result<Vec<Verification>, HeroldError> {
        self.host
            .run(|client| async move {
                Ok(client.verifications()?.into_iter().map(Into::into).collect())
            })
            .await
    }

    /// One verification.
    ///
    /// # Errors
    /// [`HeroldError::NotFound`].
    pub async fn verification(
        &self,
        user_id: String,
        flow_id: String,
    ) -> Result<Verification, HeroldError> {
        self.host
            .run(|client| async move {
                let flow_id = input::name(&flow_id, "not a verification's id")?;
                Ok(client.verification(&input::user(&user_id)?, flow_id)?.into())
            })
            .await
    }

    /// Does what the user has decided. What does not fit where it stands changes nothing, or cancels it.
    ///
    /// # Errors
    /// [`HeroldError::NotFound`].
    pub async fn act_on_verification(
        &self,
        user_id: String,
        flow_id: String,
        action: VerificationAction,
    ) -> Result<(), HeroldError> {
        self.host
            .run(move |client| async move {
                let flow_id = input::name(&flow_id, "not a verification's id")?;
                let user = input::user(&user_id)?;
                Ok(client.act_on_verification(&user, flow_id, action.into())?)
            })
            .await
    }

    /// The bytes of the QR code to show; nothing if none can be shown now. Secret until the other side has scanned it.
    ///
    /// # Errors
    /// [`HeroldError::Closed`].
    pub async fn show_verification_code(
        &self,
        user_id: String,
        flow_id: String,
    ) -> Result<Option<Vec<u8>>, HeroldError> {
        self.host
            .run(|client| async move {
                let flow_id = input::name(&flow_id, "not a verification's id")?;
                let code = client.show_verification_code(&input::user(&user_id)?, flow_id)?;
                Ok(code.map(|code| code.as_slice().to_vec()))
            })
            .await
    }

    /// Takes the bytes of the QR code that the other side shows.
    ///
    /// # Errors
    /// [`HeroldError::FixInput`]: they are no code of this verification; scan again.
    pub async fn scan_verification_code(
        &self,
        user_id: String,
        flow_id: String,
        code: Vec<u8>,
    ) -> Result<(), HeroldError> {
        self.host
            .run(move |client| async move {
                let flow_id = input::name(&flow_id, "not a verification's id")?;
                Ok(client.scan_verification_code(&input::user(&user_id)?, flow_id, &code)?)
            })
            .await
    }

    /// Gives a device no more room keys, or gives them again.
    ///
    /// # Errors
    /// [`HeroldError::NotFound`].
    pub async fn set_blocked(
        &self,
        user_id: String,
        device_id: String,
        blocked: bool,
    ) -> Result<(), HeroldError> {
        self.host
            .run(move |client| async move {
                let (user, device) = (input::user(&user_id)?, input::device(&device_id)?);
                Ok(client.set_blocked(&user, &device, blocked)?)
            })
            .await
    }

    /// Accepts a user's identity as it is now, after the user was told that it changed.
    ///
    /// # Errors
    /// [`HeroldError::FixInput`]: the user has none that is known.
    pub async fn accept_identity(&self, user_id: String) -> Result<(), HeroldError> {
        self.host
            .run(|client| async move { Ok(client.pin_identity(&input::user(&user_id)?)?) })
            .await
    }

    /// Lets a verification go that another identity has broken.
    ///
    /// # Errors
    /// [`HeroldError::FixInput`]: the user has none that is known.
    pub async fn withdraw_verification(&self, user_id: String) -> Result<(), HeroldError> {
        self.host
            .run(|client| async move { Ok(client.withdraw_verification(&input::user(&user_id)?)?) })
            .await
    }
}

impl From<VerificationAction> for herold::VerificationAction {
    fn from(action: VerificationAction) -> Self {
        match action {
            VerificationAction::Accept => Self::Accept(Methods::ALL),
            VerificationAction::AcceptWithoutCodes => Self::Accept(Methods::SAS),
            VerificationAction::StartComparing => Self::StartSas,
            VerificationAction::Confirm => Self::Confirm,
            VerificationAction::Mismatch => Self::Mismatch,
            VerificationAction::Cancel => Self::Cancel,
        }
    }
}

impl From<VerificationView> for Verification {
    fn from(view: VerificationView) -> Self {
        Self {
            flow_id: view.flow_id,
            user_id: view.user_id.into(),
            device_id: view.device_id.map(Into::into),
            in_room: view.in_room,
            asked_by_us: view.asked_by_us,
            can_compare: view.methods.sas,
            can_show_code: view.methods.show_qr,
            can_scan_code: view.methods.scan_qr,
            state: view.state.into(),
        }
    }
}

impl From<herold::VerificationState> for VerificationState {
    fn from(state: herold::VerificationState) -> Self {
        use herold::VerificationState as From;
        match state {
            From::Requested { by_us } => Self::Requested { by_us },
            From::Ready { .. } => Self::Ready,
            From::Started { by_us, needs_accept } => Self::Started { by_us, needs_accept },
            From::KeysExchanged(shown) => Self::Compare {
                emoji: shown.emoji.map(|emoji| emoji.into_iter().map(Into::into).collect()),
                decimals: shown.decimals.map(|decimals| decimals.to_vec()),
            },
            From::Scanned => Self::Scanned,
            From::Confirmed => Self::Confirmed,
            From::Done { .. } => Self::Done,
            From::Cancelled { code, by_us } => {
                Self::Cancelled { code: CancelCode::as_str(&code).to_owned(), by_us }
            }
        }
    }
}

/// What is to be compared does not get into a log.
impl std::fmt::Debug for VerificationState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Requested { by_us } => write!(f, "Requested(by us: {by_us})"),
            Self::Ready => f.write_str("Ready"),
            Self::Started { by_us, .. } => write!(f, "Started(by us: {by_us})"),
            Self::Compare { .. } => f.write_str("Compare(..)"),
            Self::Scanned => f.write_str("Scanned"),
            Self::Confirmed => f.write_str("Confirmed"),
            Self::Done => f.write_str("Done"),
            Self::Cancelled { code, .. } => write!(f, "Cancelled({code})"),
            Self::Unknown => f.write_str("Unknown"),
        }
    }
}

impl From<Emoji> for VerificationEmoji {
    fn from(emoji: Emoji) -> Self {
        Self {
            number: emoji.number(),
            symbol: emoji.symbol().to_owned(),
            name: emoji.description("en").to_owned(),
        }
    }
}
