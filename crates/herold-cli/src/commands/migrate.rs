//! `migrate`: takes an account over from an older client's matrix-sdk-crypto store.

#[cfg(feature = "migrate")]
pub use with::migrate;

/// `herold migrate`, in a build that does not have it.
#[cfg(not(feature = "migrate"))]
pub async fn migrate(
    _: &super::Setting,
    _: crate::args::Migrate,
) -> Result<(), crate::failure::Failure> {
    Err(crate::failure::Failure::new(
        crate::failure::Kind::NotInBuild,
        "this build has no migration: build it with 'cargo build -p herold-cli --features migrate'",
    ))
}

#[cfg(feature = "migrate")]
#[path = "migrate_with.rs"]
mod with;
