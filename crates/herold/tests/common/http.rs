//! The homeserver model behind a real socket on loopback.

use std::sync::{Arc, Mutex};

use herold::{Body, HttpRequest, Method, SecretString, Transport, TransportRequest};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{Net, Wire};

/// What passed over the wire.
#[derive(Default)]
pub struct Log {
    /// Request lines.
    pub targets: Mutex<Vec<String>>,
    /// Access tokens seen.
    pub tokens: Mutex<Vec<String>>,
}

/// Serves `net` and gives its base URL.
pub async fn serve(net: Arc<Net>) -> (String, Arc<Log>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let log = Arc::new(Log::default());
    let shared = log.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(connection(stream, net.clone(), shared.clone()));
        }
    });
    (url, log)
}

async fn connection(mut stream: TcpStream, net: Arc<Net>, log: Arc<Log>) {
    let mut bytes = Vec::new();
    while let Some((head, body)) = next_request(&mut stream, &mut bytes).await {
        let request = parse(&head, body, &log);
        let Ok(response) = Wire(net.clone()).send(request).await else { return };
        let head = format!(
            "HTTP/1.1 {} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            response.status,
            response.body.len()
        );
        let answer = [head.as_bytes(), &response.body].concat();
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

async fn next_request(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let length = header(&head, "content-length").map_or(0, |text| text.parse().unwrap());
            if bytes.len() >= end + 4 + length {
                let body = bytes[end + 4..end + 4 + length].to_vec();
                bytes.drain(..end + 4 + length);
                return Some((head, body));
            }
        }
        let mut chunk = [0; 65_536];
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(length) => bytes.extend_from_slice(&chunk[..length]),
        }
    }
}

fn header(head: &str, name: &str) -> Option<String> {
    head.lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.to_owned())
}

fn parse(head: &str, body: Vec<u8>, log: &Log) -> TransportRequest {
    let line = head.lines().next().unwrap();
    log.targets.lock().unwrap().push(line.to_owned());
    let mut parts = line.split(' ');
    let method = match parts.next().unwrap() {
        "GET" => Method::Get,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        _ => Method::Delete,
    };
    let target = parts.next().unwrap();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut http = HttpRequest::new(method, path, &[]);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap();
        http = http.query(key, decode(value));
    }
    http.body = match header(head, "content-type") {
        Some(kind) if kind.starts_with("application/json") => {
            Body::Json(String::from_utf8(body).unwrap())
        }
        Some(content_type) => Body::Bytes { content_type, data: body },
        None => Body::Empty,
    };
    let token = header(head, "authorization")
        .map(|value| value.strip_prefix("Bearer ").unwrap().to_owned());
    log.tokens.lock().unwrap().extend(token.clone());
    TransportRequest {
        base_url: String::new(),
        http,
        access_token: token.map(SecretString::new),
        response_limit: usize::MAX,
    }
}

/// Undoes the encoding of a query.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                out.push(u8::from_str_radix(&text[at + 1..at + 3], 16).unwrap());
                at += 2;
            }
            b'+' => out.push(b' '),
            byte => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8(out).unwrap()
}
