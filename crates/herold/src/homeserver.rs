//! [`Homeserver`]: exchanges with one homeserver, with retries where they are safe.

use std::{sync::Arc, time::Duration};

use herold_crypto::{Entropy, SecretString};
use herold_machine::HttpRequest;

use crate::{
    ClientError, OsEntropy, Transport, TransportError, TransportRequest, TransportResponse,
};

/// The largest answer taken that is no attachment, in bytes.
pub(crate) const RESPONSE_LIMIT: usize = 128 << 20;

/// How often a call is tried.
const MAX_ATTEMPTS: u32 = 5;

/// The longest `Retry-After` a call waits for; beyond it the error goes to the app.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);

/// When a call may be made again by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// Whenever trying again can help: making it twice is the same as making it once.
    Always,
    /// Only if the homeserver has certainly not acted on it.
    IfNotSeen,
}

/// A homeserver and the way to it.
pub(crate) struct Homeserver {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) base_url: String,
}

impl Homeserver {
    /// One exchange. The token goes with it if the request wants it.
    pub(crate) async fn exchange(
        &self,
        http: HttpRequest,
        token: Option<SecretString>,
        response_limit: usize,
    ) -> Result<TransportResponse, TransportError> {
        let method = http.method.as_str();
        let request = TransportRequest {
            base_url: self.base_url.clone(),
            access_token: token.filter(|_| http.authenticated),
            http,
            response_limit,
        };
        let result = self.transport.send(request).await;
        match &result {
            Ok(response) => tracing::trace!(method, status = response.status, "exchange"),
            Err(error) => tracing::debug!(method, %error, "exchange failed"),
        }
        result
    }

    /// Makes a call until it is answered for good, five times at most.
    pub(crate) async fn call(
        &self,
        http: HttpRequest,
        token: Option<&SecretString>,
        retry: Retry,
        response_limit: usize,
    ) -> Result<TransportResponse, TransportError> {
        let mut attempt = 1;
        loop {
            let result = self.exchange(http.clone(), token.cloned(), response_limit).await;
            let Some(delay) = retry_delay(&result, retry, attempt) else { return result };
            tokio::time::sleep(delay).await;
            attempt += 1;
        }
    }
}

/// The body of a success, else the error. `secrets` are kept out of the error.
pub(crate) fn success(
    response: TransportResponse,
    secrets: &[&SecretString],
) -> Result<Vec<u8>, ClientError> {
    match response.status {
        200..300 => Ok(response.body),
        status => Err(ClientError::from_answer(status, &response.body, secrets)),
    }
}

/// What an answer asks to wait, from its header or its body.
pub(crate) fn retry_after(response: &TransportResponse) -> Option<Duration> {
    #[derive(serde::Deserialize)]
    struct Limited {
        retry_after_ms: Option<u64>,
    }
    let in_body =
        || serde_json::from_slice::<Limited>(&response.body).ok().and_then(|l| l.retry_after_ms);
    let wanted = match response.status {
        429 | 503 => response.retry_after_ms.or_else(in_body)?,
        _ => response.retry_after_ms?,
    };
    Some(Duration::from_millis(wanted))
}

/// Doubling from half a second to a minute, plus up to a quarter at random.
pub(crate) fn backoff(failures: u32) -> Duration {
    let base = 500_u64 << failures.saturating_sub(1).min(7);
    let base = base.min(60_000);
    let mut random = [0; 1];
    OsEntropy.fill(&mut random);
    Duration::from_millis(base + base * u64::from(random[0]) / 1024)
}

fn retry_delay(
    result: &Result<TransportResponse, TransportError>,
    retry: Retry,
    attempt: u32,
) -> Option<Duration> {
    if attempt >= MAX_ATTEMPTS {
        return None;
    }
    let again = match result {
        Err(error) if error.was_not_sent() => error.is_transient(),
        Err(error) => retry == Retry::Always && error.is_transient(),
        Ok(response) => match response.status {
            429 => true,
            500.. => retry == Retry::Always,
            _ => false,
        },
    };
    let asked = result.as_ref().ok().and_then(retry_after).unwrap_or_default();
    (again && asked <= MAX_RETRY_AFTER).then(|| backoff(attempt).max(asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_doubles_and_ends_at_75_seconds() {
        for (failures, base) in [(1, 500), (2, 1000), (4, 4000), (8, 60_000), (u32::MAX, 60_000)] {
            let delay = backoff(failures).as_millis();
            assert!((base..=base + base / 4).contains(&delay), "{failures}: {delay}");
        }
    }

    #[test]
    fn what_may_have_been_seen_is_repeated_only_when_that_is_safe() {
        let answer =
            |status| Ok(TransportResponse { status, retry_after_ms: None, body: b"{}".to_vec() });
        let retries = |result, retry| retry_delay(&result, retry, 1).is_some();
        for result in [answer(500), answer(502), Err(TransportError::Interrupted)] {
            assert!(retries(result.clone(), Retry::Always));
            assert!(!retries(result, Retry::IfNotSeen));
        }
        for result in [answer(429), Err(TransportError::Unreachable)] {
            assert!(retries(result, Retry::IfNotSeen));
        }
        for result in [answer(200), answer(404), answer(401), Err(TransportError::InsecureUrl)] {
            assert!(!retries(result, Retry::Always));
        }
    }

    #[test]
    fn the_wait_asked_for_is_kept_unless_it_is_unreasonable() {
        let limited = |retry_after_ms, body: &str| TransportResponse {
            status: 429,
            retry_after_ms,
            body: body.as_bytes().to_vec(),
        };
        let delay = |response| retry_delay(&Ok(response), Retry::Always, 1);
        assert!(delay(limited(Some(7000), "")).unwrap() >= Duration::from_secs(7));
        assert!(delay(limited(None, r#"{"retry_after_ms":9000}"#)).unwrap().as_secs() >= 9);
        assert!(delay(limited(Some(600_000), "")).is_none());
        assert!(delay(limited(None, r#"{"retry_after_ms":-1}"#)).is_some());
    }
}
