use herold_crypto::SecretString;

use super::*;
use crate::test_support::{TOKEN, answer, loopback};

fn transport() -> HttpTransport {
    HttpTransport::new(HttpOptions { user_agent: "test/1".to_owned(), ..HttpOptions::default() })
        .unwrap()
}

fn request(base_url: &str) -> TransportRequest {
    TransportRequest {
        base_url: base_url.to_owned(),
        http: HttpRequest::new(Method::Get, "/_matrix/client/v3", &["x/y"]),
        access_token: Some(SecretString::new(TOKEN.to_owned())),
        response_limit: 1000,
    }
}

async fn send(request: TransportRequest) -> Result<TransportResponse, TransportError> {
    transport().send(request).await
}

#[tokio::test]
async fn the_token_goes_into_the_header_and_nowhere_else() {
    let (url, seen) = loopback(vec![answer("200 OK", "", "{}")]).await;
    let mut request = request(&url);
    request.http = request.http.query("q", "a b&c=d").json("{\"ä\":1}".to_owned());
    let response = send(request).await.unwrap();
    assert_eq!((response.status, response.body.as_slice()), (200, &b"{}"[..]));
    let seen = seen.lock().unwrap().remove(0);
    assert!(seen.starts_with("GET /_matrix/client/v3/x%2Fy?q=a+b%26c%3Dd HTTP/1.1\r\n"), "{seen}");
    let lower = seen.to_ascii_lowercase();
    assert!(lower.contains(&format!("authorization: bearer {TOKEN}\r\n")));
    assert_eq!(lower.matches(TOKEN).count(), 1);
    assert!(lower.contains("content-type: application/json\r\n"));
    assert!(lower.contains("user-agent: test/1\r\n"));
    assert!(seen.ends_with("{\"ä\":1}"));
}

#[tokio::test]
async fn retry_after_comes_back_in_milliseconds() {
    for (header, wanted) in [
        ("retry-after: 7\r\n", Some(7000)),
        ("retry-after: -1\r\n", None),
        ("retry-after: 99999999999999999999\r\n", None),
        ("retry-after: Wed, 21 Oct 2015 07:28:00 GMT\r\n", None),
    ] {
        let (url, _) = loopback(vec![answer("429 Too Many", header, "{}")]).await;
        let response = send(request(&url)).await.unwrap();
        assert_eq!((response.status, response.retry_after_ms), (429, wanted));
    }
}

#[tokio::test]
async fn a_truncated_body_is_no_answer() {
    let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"a\":".to_vec();
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"a\":\r\n".to_vec();
    for bytes in [cut, chunked, b"HTTP/1.1 2".to_vec(), Vec::new()] {
        let (url, _) = loopback(vec![bytes]).await;
        assert_eq!(send(request(&url)).await, Err(TransportError::Interrupted));
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_announced_or_not() {
    let announced = b"HTTP/1.1 200 OK\r\ncontent-length: 5000000\r\n\r\n".to_vec();
    let mut flood = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec();
    flood.extend(vec![b'x'; 2000]);
    for bytes in [announced, flood] {
        let (url, _) = loopback(vec![bytes]).await;
        assert_eq!(send(request(&url)).await, Err(TransportError::TooLarge { limit: 1000 }));
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (elsewhere, seen) = loopback(vec![answer("200 OK", "", "{}")]).await;
    let header = format!("location: {elsewhere}/\r\n");
    let (url, _) = loopback(vec![answer("302 Found", &header, "")]).await;
    assert_eq!(send(request(&url)).await.unwrap().status, 302);
    assert!(seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_server_that_says_nothing_times_out() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut request = request(&format!("http://{}", listener.local_addr().unwrap()));
    request.http.timeout_ms = 50;
    assert_eq!(send(request).await, Err(TransportError::Timeout));
}

#[tokio::test]
async fn a_closed_port_is_unreachable() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    assert_eq!(send(request(&url)).await, Err(TransportError::Unreachable));
}

#[tokio::test]
async fn plain_http_is_for_this_machine_unless_it_is_allowed() {
    let transport = transport();
    let http = request("").http;
    for base in ["http://localhost:1", "http://127.0.0.1", "http://[::1]:80", "https://a.example"] {
        assert!(transport.url(base, &http).is_ok(), "{base}");
    }
    for base in ["http://a.example", "http://127.0.0.1.a.example", "http://localhost.a.example"] {
        assert_eq!(transport.url(base, &http), Err(TransportError::InsecureUrl), "{base}");
    }
    let options = HttpOptions { allow_insecure_http: true, ..HttpOptions::default() };
    assert!(HttpTransport::new(options).unwrap().url("http://a.example", &http).is_ok());
}

#[tokio::test]
async fn what_is_sent_is_what_was_asked_for() {
    let transport = transport();
    let http = HttpRequest::new(Method::Get, "/_matrix/client/v3", &["rooms", "!ä/b:c"]);
    let url = transport.url("https://a.example/prefix/", &http).unwrap();
    assert_eq!(url.as_str(), "https://a.example/prefix/_matrix/client/v3/rooms/%21%C3%A4%2Fb%3Ac");
    let up = HttpRequest::new(Method::Get, "/_matrix/client/v3/rooms", &["..", "x"]);
    assert_eq!(transport.url("https://a.example", &up), Err(TransportError::InvalidUrl));
    for base in [
        "ftp://a.example",
        "a.example",
        "https://",
        "https://u:p@a.example",
        "https://a.example?x=",
        "https://a.example#",
    ] {
        assert_eq!(transport.url(base, &http), Err(TransportError::InvalidUrl), "{base}");
    }
}

#[tokio::test]
async fn a_token_that_would_end_the_header_is_refused() {
    let mut request = request("http://127.0.0.1:1");
    request.access_token = Some(SecretString::new("a\r\nx: y".to_owned()));
    assert_eq!(send(request).await, Err(TransportError::Setup));
}
