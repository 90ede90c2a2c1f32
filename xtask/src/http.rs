//! As much HTTP/1.1 as a test server on loopback needs: one request per connection.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::error::{Context, Result, ensure};

/// How long the server may be silent; longer than any long poll of a client.
const SILENCE: Duration = Duration::from_secs(180);

/// A request or a response.
#[derive(Debug)]
pub struct Message {
    /// The request line or the status line.
    pub start: String,
    /// Header fields in order.
    pub fields: Vec<(String, String)>,
    /// The content, without its transfer encoding.
    pub body: Vec<u8>,
}

impl Message {
    /// Reads one message, or nothing when the other side has closed. What has neither a length nor
    /// chunks has no content, but for a response, which then ends with the connection.
    ///
    /// # Errors
    ///
    /// A broken connection, or what is not HTTP.
    pub fn read(input: &mut impl BufRead) -> io::Result<Option<Self>> {
        let Some(start) = read_line(input)? else { return Ok(None) };
        let mut fields = Vec::new();
        loop {
            let line = read_line(input)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or(io::ErrorKind::InvalidData)?;
            fields.push((name.trim().to_owned(), value.trim().to_owned()));
        }
        let mut message = Self { start, fields, body: Vec::new() };
        if message.field("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            read_chunks(input, &mut message.body)?;
        } else if let Some(length) = message.field("content-length") {
            let length: u64 = length.parse().map_err(|_| io::ErrorKind::InvalidData)?;
            input.by_ref().take(length).read_to_end(&mut message.body)?;
            if message.body.len() as u64 != length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        } else if message.start.starts_with("HTTP/") {
            input.read_to_end(&mut message.body)?;
        }
        Ok(Some(message))
    }

    /// The value of a header field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// A response's status code; 0 for a request.
    pub fn status(&self) -> u16 {
        let mut words = self.start.split(' ');
        match words.next() {
            Some(version) if version.starts_with("HTTP/") => {
                words.next().and_then(|code| code.parse().ok()).unwrap_or_default()
            }
            _ => 0,
        }
    }

    /// A request's method and target.
    pub fn request_line(&self) -> Option<(&str, &str)> {
        let mut words = self.start.split(' ');
        Some((words.next()?, words.next()?))
    }

    /// Writes the message as the only one of its connection.
    ///
    /// # Errors
    ///
    /// A broken connection.
    pub fn write(&self, output: &mut impl Write) -> io::Result<()> {
        let mut head = format!("{}\r\n", self.start);
        for (name, value) in &self.fields {
            let hop = [
                "connection",
                "keep-alive",
                "transfer-encoding",
                "content-length",
                "te",
                "upgrade",
                "expect",
            ];
            if !hop.iter().any(|h| name.eq_ignore_ascii_case(h)) {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        head.push_str(&format!("connection: close\r\ncontent-length: {}\r\n\r\n", self.body.len()));
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&self.body);
        output.write_all(&bytes)?;
        output.flush()
    }

    /// Sends this request and reads the answer.
    ///
    /// # Errors
    ///
    /// No connection, a broken one, or no answer in time.
    pub fn exchange(&self, server: SocketAddr) -> io::Result<Self> {
        let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        self.write(&mut stream)?;
        let mut input = BufReader::new(stream);
        Self::read(&mut input)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// A request to a Matrix endpoint, and the JSON it was answered with.
///
/// # Errors
///
/// No answer, or one that is not a 200.
pub fn json(
    server: SocketAddr,
    line: &str,
    token: Option<&str>,
    body: Option<&Value>,
) -> Result<Value> {
    let mut fields = vec![("host".to_owned(), server.to_string())];
    fields.extend(token.map(|token| ("authorization".to_owned(), format!("Bearer {token}"))));
    let body = body.map(Value::to_string).unwrap_or_default().into_bytes();
    let request = Message { start: format!("{line} HTTP/1.1"), fields, body };
    let answer = request.exchange(server).context(line)?;
    let text = String::from_utf8_lossy(&answer.body);
    ensure(answer.status() == 200, || format!("{line}: {} {text}", answer.status()))?;
    serde_json::from_str(&text).context(line)
}

/// A line without its end, or nothing at the end of the input.
fn read_line(input: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    if input.by_ref().take(64 << 10).read_line(&mut line)? == 0 {
        return Ok(None);
    }
    line.truncate(line.trim_end_matches(['\r', '\n']).len());
    Ok(Some(line))
}

fn read_chunks(input: &mut impl BufRead, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let line = read_line(input)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(size, 16).map_err(|_| io::ErrorKind::InvalidData)?;
        input.by_ref().take(size).read_to_end(body)?;
        let end = read_line(input)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if !end.is_empty() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if size == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Message;

    fn read(text: &str) -> Message {
        Message::read(&mut text.as_bytes()).unwrap().unwrap()
    }

    #[test]
    fn content_is_read_by_length_by_chunks_and_to_the_end() {
        let request = read("PUT /a?b HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET");
        assert_eq!(
            (request.request_line(), &request.body[..]),
            (Some(("PUT", "/a?b")), &b"abc"[..])
        );
        let chunked = read(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n2\r\nab\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
        );
        assert_eq!((chunked.status(), &chunked.body[..]), (200, &b"ab0123456789"[..]));
        assert_eq!(read("HTTP/1.0 404 No\r\n\r\nrest").body, b"rest");
        assert!(read("GET / HTTP/1.1\r\n\r\nnothing of mine").body.is_empty());
    }

    #[test]
    fn a_cut_message_is_an_error() {
        for text in ["GET / HTTP/1.1\r\nHost: a", "PUT / HTTP/1.1\r\ncontent-length: 4\r\n\r\nabc"]
        {
            assert!(Message::read(&mut text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_passed_on_says_that_the_connection_ends() {
        let mut out = Vec::new();
        read("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nX-A: 1\r\ncontent-length: 2\r\n\r\nok")
            .write(&mut out)
            .unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "HTTP/1.1 200 OK\r\nX-A: 1\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"
        );
    }
}
