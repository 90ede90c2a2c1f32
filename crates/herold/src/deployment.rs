//! [`Deployment`]: one brand's settings, which its app's code cannot loosen.

use herold_trust::Policy;

/// What a branded messenger is made with.
///
/// The policy goes into the store with the account and is enforced below this crate. Its
/// [`Policy::floor`] holds for whatever the app asks for later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// The deployment's own name. A store made by one deployment is not opened by another.
    pub name: String,
    /// What is allowed.
    pub policy: Policy,
    /// What a new device is called when the app gives no name. Other users see it.
    pub device_display_name: String,
    /// The homeserver's base URL if the deployment fixes it; a login elsewhere is refused then.
    pub homeserver: Option<String>,
    /// The `User-Agent` of the default transport.
    pub user_agent: String,
}

impl Default for Deployment {
    /// An unbranded deployment with the default policy and no fixed homeserver.
    fn default() -> Self {
        Self {
            name: "herold".to_owned(),
            policy: Policy::default(),
            device_display_name: "Herold".to_owned(),
            homeserver: None,
            user_agent: concat!("herold/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}
