//! `store`: the store's own encryption. No network.

use herold::ClientBuilder;
use serde_json::json;

use super::Setting;
use crate::{
    args::{Rekey, Store},
    failure::Failure,
    secrets::{self, Purpose},
};

/// `herold store`
pub async fn store(setting: &Setting, args: Store) -> Result<(), Failure> {
    match args {
        Store::Rekey(args) => rekey(setting, args).await,
    }
}

async fn rekey(setting: &Setting, args: Rekey) -> Result<(), Failure> {
    let folder = setting.existing_folder()?;
    let key = secrets::store_key(&setting.global, Purpose::Open)?;
    let new = secrets::new_store_key(&setting.global, args.new_store_key_file.as_deref())?;
    let work = ClientBuilder::new().store_path(folder).store_key(key).rekey_store(new);
    setting.progress.during("encrypting the store anew", work).await?;
    setting.output.line("the store opens with the new key only", &json!({ "rekeyed": true }))
}
