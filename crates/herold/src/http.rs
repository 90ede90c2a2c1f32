//! [`HttpTransport`]: the default transport, over reqwest and rustls.
//!
//! What it never does: follow a redirect (the access token would go elsewhere), take more than the
//! limit, or log. Plain HTTP is refused unless the host is this machine or it was explicitly allowed.

use std::{net::IpAddr, sync::Arc, time::Duration};

use herold_machine::{Body, HttpRequest, Method};
use reqwest::{
    Client, Response, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER},
    redirect::Policy,
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_platform_verifier::Verifier;

use crate::{Exchange, Transport, TransportError, TransportRequest, TransportResponse};

/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// After how long an idle connection is probed, so that a network that is gone is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

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
    client: Client,
    allow_insecure_http: bool,
}

impl HttpTransport {
    /// A transport with its own connection pool.
    ///
    /// # Errors
    /// [`TransportError::Setup`] if the options or the platform do not allow one.
    pub fn new(options: HttpOptions) -> Result<Self, TransportError> {
        let mut builder = Client::builder()
            .tls_backend_preconfigured(tls()?)
            .redirect(Policy::none())
            .referer(false)
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(KEEP_ALIVE);
        if !options.user_agent.is_empty() {
            builder = builder.user_agent(options.user_agent);
        }
        if let Some(proxy) = &options.proxy {
            let proxy = reqwest::Proxy::all(proxy).map_err(|_| TransportError::Setup)?;
            builder = builder.proxy(proxy);
        }
        let client = builder.build().map_err(|_| TransportError::Setup)?;
        Ok(Self { client, allow_insecure_http: options.allow_insecure_http })
    }

    async fn exchange(
        &self,
        request: TransportRequest,
    ) -> Result<TransportResponse, TransportError> {
        let url = self.url(&request.base_url, &request.http)?;
        let mut builder = self
            .client
            .request(method(request.http.method), url)
            .timeout(Duration::from_millis(request.http.timeout_ms));
        if let Some(token) = &request.access_token {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.as_str()))
                .map_err(|_| TransportError::Setup)?;
            value.set_sensitive(true);
            builder = builder.header(AUTHORIZATION, value);
        }
        builder = match request.http.body {
            Body::Empty => builder,
            Body::Json(text) => builder.header(CONTENT_TYPE, "application/json").body(text),
            Body::Bytes { content_type, data } => {
                builder.header(CONTENT_TYPE, content_type).body(data)
            }
        };
        let response = builder.send().await.map_err(|error| classify(&error))?;
        let status = response.status().as_u16();
        let retry_after_ms = retry_after(response.headers());
        let body = read(response, request.response_limit).await?;
        Ok(TransportResponse { status, retry_after_ms, body })
    }

    fn url(&self, base: &str, http: &HttpRequest) -> Result<Url, TransportError> {
        let joined = format!("{}{}", base.trim_end_matches('/'), http.path);
        let mut url = Url::parse(&joined).map_err(|_| TransportError::InvalidUrl)?;
        match url.scheme() {
            "https" => {}
            "http" if self.allow_insecure_http || is_this_machine(&url) => {}
            "http" => return Err(TransportError::InsecureUrl),
            _ => return Err(TransportError::InvalidUrl),
        }
        // Parsing resolves steps up and the like: what is sent must be what was asked for.
        let stands = http.path.starts_with('/') && url.path().ends_with(&http.path);
        if !stands || url.query().is_some() || url.fragment().is_some() || has_password(&url) {
            return Err(TransportError::InvalidUrl);
        }
        if !http.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&http.query);
        }
        Ok(url)
    }
}

impl Transport for HttpTransport {
    fn send(&self, request: TransportRequest) -> Exchange<'_> {
        Box::pin(self.exchange(request))
    }
}

impl std::fmt::Debug for HttpTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpTransport")
            .field("allow_insecure_http", &self.allow_insecure_http)
            .finish_non_exhaustive()
    }
}

/// TLS with the platform's trust; with none at all (no host then passes) where the platform has none.
fn tls() -> Result<ClientConfig, TransportError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|_| TransportError::Setup)?;
    let mut config = match Verifier::new(provider) {
        Ok(verifier) => {
            // "Dangerous" is any verifier of the caller's choice; this one is the platform's.
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
        Err(_) => builder.with_root_certificates(RootCertStore::empty()),
    }
    .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

async fn read(mut response: Response, limit: usize) -> Result<Vec<u8>, TransportError> {
    let announced = response.content_length().unwrap_or(0);
    if announced > u64::try_from(limit).unwrap_or(u64::MAX) {
        return Err(TransportError::TooLarge { limit });
    }
    // An announcement alone reserves no more than a megabyte.
    let mut body = Vec::with_capacity(usize::try_from(announced).unwrap_or(0).min(1 << 20));
    while let Some(chunk) = response.chunk().await.map_err(|error| classify(&error))? {
        if body.len().saturating_add(chunk.len()) > limit {
            return Err(TransportError::TooLarge { limit });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn classify(error: &reqwest::Error) -> TransportError {
    if error.is_connect() {
        TransportError::Unreachable
    } else if error.is_timeout() {
        TransportError::Timeout
    } else if error.is_builder() {
        TransportError::InvalidUrl
    } else {
        TransportError::Interrupted
    }
}

fn method(method: Method) -> reqwest::Method {
    match method {
        Method::Get => reqwest::Method::GET,
        Method::Post => reqwest::Method::POST,
        Method::Put => reqwest::Method::PUT,
        Method::Delete => reqwest::Method::DELETE,
    }
}

/// `Retry-After` in seconds, as milliseconds. The form with a date is not used by homeservers.
fn retry_after(headers: &HeaderMap) -> Option<u64> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    seconds.checked_mul(1000)
}

fn is_this_machine(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn has_password(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
