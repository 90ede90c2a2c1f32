//! [`HttpTransport`]: the default transport, over reqwest and rustls.

use crate::{Exchange, Transport, TransportError, TransportRequest};

/// How the default transport behaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpOptions {
    /// The `User-Agent`; none if empty.
    pub user_agent: String,
    /// Plain HTTP is allowed to hosts other than this machine. Everybody on the way sees the access
    /// token then: for test networks only.
    pub allow_insecure_http: bool,
    /// An HTTP proxy's URL. The environment's proxy settings are not used.
    pub proxy: Option<String>,
}

/// The default transport: HTTP/1.1 over rustls with the platform's trusted certificates.
pub struct HttpTransport {
    client: reqwest::Client,
    options: HttpOptions,
}

impl HttpTransport {
    /// A transport with its own connection pool.
    ///
    /// # Errors
    /// [`TransportError::Setup`] if the options or the platform do not allow one.
    pub fn new(options: HttpOptions) -> Result<Self, TransportError> {
        let _ = options;
        Err(TransportError::Setup)
    }
}

impl Transport for HttpTransport {
    fn send(&self, request: TransportRequest) -> Exchange<'_> {
        let _ = (request, &self.client, &self.options);
        Box::pin(async { Err(TransportError::Setup) })
    }
}
