//! [`Recording`]: a transport that writes down what the homeserver gets to see.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use herold::{Body, Exchange, Transport, TransportRequest};

/// One request as the homeserver saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The method.
    pub method: &'static str,
    /// The path.
    pub path: String,
    /// The body.
    pub body: Vec<u8>,
}

/// Passes requests on, and keeps a copy. Clones write into the same list.
#[derive(Clone)]
pub struct Recording {
    inner: Arc<dyn Transport>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Recording {
    /// Records what goes through `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Transport>) -> Self {
        Self { inner, seen: Arc::default() }
    }

    /// What has been seen so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transport for Recording {
    fn send(&self, request: TransportRequest) -> Exchange<'_> {
        let body = match &request.http.body {
            Body::Empty => Vec::new(),
            Body::Json(text) => text.clone().into_bytes(),
            Body::Bytes { data, .. } => data.clone(),
        };
        let method = request.http.method.as_str();
        self.lock().push(Seen { method, path: request.http.path.clone(), body });
        self.inner.send(request)
    }
}
