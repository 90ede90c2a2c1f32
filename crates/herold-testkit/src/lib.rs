//! The simulated world: a homeserver model, faults, crash points and oracles, in virtual time.
//!
//! A [`World`] holds one [`homeserver::HomeServer`] and any number of devices, each an
//! [`herold::Engine`] on a [`Disk`] that outlives it. Requests travel through [`Faults`]; commits can be
//! made the device's last ([`Kill`]). An [`Oracle`] watches every request, always.
//!
//! Nothing here is published or a dependency of anything that is.

#![forbid(unsafe_code)]

pub mod homeserver;
pub mod random;
#[allow(
    clippy::panic,
    clippy::expect_used,
    reason = "a run that breaks is a failure that is reported"
)]
pub mod sim;

mod attacker;
mod cross_signing;
mod disk;
mod faults;
mod oracle;
#[allow(clippy::panic, reason = "a scenario that fails is a test that fails")]
mod scenario;
#[allow(clippy::panic, clippy::expect_used, reason = "a world that breaks is a test that fails")]
mod world;

pub use attacker::Attacker;
pub use cross_signing::{
    CrossSigning, IDENTITY_SECRETS, SIGNING_UPLOAD, create_backup, identity_published,
    prepare_identity, publish_identity, with_password,
};
pub use disk::{Disk, DiskStore, Kill};
pub use faults::{Fate, Faults};
pub use oracle::Oracle;
pub use scenario::{Scenario, kill_at_each_commit};
pub use world::{Encrypted, SimClock, SimDevice, World, open_policy};
