//! [`InProcess`]: the homeserver model behind the SDK's transport.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use herold::{Body, Exchange, Transport, TransportError, TransportRequest, TransportResponse};
use herold_testkit::homeserver::{HomeServer, ServerRequest};
use tokio::{sync::watch, time::Instant};

/// A homeserver in this process. Clones are the same one.
#[derive(Clone)]
pub struct InProcess {
    server: Arc<Mutex<HomeServer>>,
    changed: Arc<watch::Sender<u64>>,
}

impl InProcess {
    /// An empty homeserver.
    #[must_use]
    pub fn new(server_name: &str) -> Self {
        Self {
            server: Arc::new(Mutex::new(HomeServer::new(server_name, 1))),
            changed: Arc::new(watch::Sender::new(0)),
        }
    }

    /// The model itself.
    pub fn lock(&self) -> MutexGuard<'_, HomeServer> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn exchange(
        &self,
        request: TransportRequest,
    ) -> Result<TransportResponse, TransportError> {
        let (content_type, body) = match request.http.body {
            Body::Empty => (None, Vec::new()),
            Body::Json(text) => (Some("application/json".to_owned()), text.into_bytes()),
            Body::Bytes { content_type, data } => (Some(content_type), data),
        };
        let query = |name: &str| {
            request.http.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
        };
        let wait = query("timeout").and_then(|text| text.parse().ok()).unwrap_or(0);
        let is_sync = request.http.path.ends_with("/sync");
        let request = ServerRequest {
            method: request.http.method.as_str().to_owned(),
            path: request.http.path,
            query: request.http.query,
            access_token: request.access_token.map(|token| token.as_str().to_owned()),
            content_type,
            body,
        };
        if is_sync {
            let mut changed = self.changed.subscribe();
            let end = Instant::now() + Duration::from_millis(wait);
            while !self.lock().has_news(&request)
                && tokio::time::timeout_at(end, changed.changed()).await.is_ok()
            {}
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_millis()).unwrap_or_default();
        let response = self.lock().handle(now, &request);
        if !is_sync {
            self.changed.send_modify(|count| *count = count.wrapping_add(1));
        }
        Ok(TransportResponse {
            status: response.status,
            retry_after_ms: response.retry_after_ms,
            body: response.body,
        })
    }
}

impl Transport for InProcess {
    fn send(&self, request: TransportRequest) -> Exchange<'_> {
        Box::pin(self.exchange(request))
    }
}
