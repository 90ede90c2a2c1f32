//! Dehydrated devices, the extension `dehydration`.

use herold::{Client, RehydrationOutcome};
use serde_json::{Map, Value, json};

use super::{
    error::{Answer, within},
    params::Params,
};

const TOO_LONG: &str = "the dehydrated device took too long";

/// `dehydration_start`
pub async fn start(client: &Client, mut params: Params) -> Answer {
    let typed = params.optional_secret("recovery_key")?;
    let wait = params.wait()?;
    within(wait, TOO_LONG, client.start_dehydration(typed)).await??;
    status(client)
}

/// `rehydrate`
pub async fn rehydrate(client: &Client, mut params: Params) -> Answer {
    let wait = params.wait()?;
    let taken = within(wait, TOO_LONG, client.rehydrate()).await??;
    Ok(json!({ "imported": taken.map(|taken| taken.room_keys) }))
}

/// `dehydration_stop`
pub async fn stop(client: &Client) -> Answer {
    client.stop_dehydration().await?;
    Ok(Value::Object(Map::new()))
}

/// `dehydration_status`
pub fn status(client: &Client) -> Answer {
    let status = client.dehydration_status()?;
    Ok(json!({
        "enabled": status.enabled,
        "busy": status.busy,
        "device": status.device_id,
        "imported": status.room_keys,
        "outcome": status.outcome.map(RehydrationOutcome::as_str),
    }))
}
