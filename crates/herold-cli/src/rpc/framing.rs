//! Lines in, lines out: one JSON object per line, bounded in length.

use std::io::{self, BufRead};

use zeroize::Zeroizing;

/// The longest line taken, in bytes: a file of 48 MB in base64, and room for the rest.
pub const MAX_LINE: usize = 64 * 1024 * 1024 + 64 * 1024;

/// What was read.
#[derive(Debug)]
pub enum Line {
    /// A line, without its end. It may hold a password.
    Whole(Zeroizing<Vec<u8>>),
    /// A line longer than [`MAX_LINE`]; it was skipped.
    TooLong,
}

/// Reads the next line; `None` at the end of the input. A last line without an end counts.
///
/// # Errors
/// Those of the input.
pub fn read_line(input: &mut impl BufRead, limit: usize) -> io::Result<Option<Line>> {
    let mut line = Zeroizing::new(Vec::with_capacity(4096));
    let mut too_long = false;
    let mut anything = false;
    loop {
        let buffer = match input.fill_buf() {
            Ok(buffer) => buffer,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if buffer.is_empty() {
            break;
        }
        anything = true;
        let (part, ended) = match buffer.iter().position(|byte| *byte == b'\n') {
            Some(end) => (buffer.get(..end).unwrap_or_default(), true),
            None => (buffer, false),
        };
        if line.len().saturating_add(part.len()) > limit {
            too_long = true;
            // Nothing of it is needed any more.
            line = Zeroizing::new(Vec::new());
        }
        if !too_long {
            append(&mut line, part);
        }
        let used = part.len().saturating_add(usize::from(ended));
        input.consume(used);
        if ended {
            break;
        }
    }
    Ok(match (anything, too_long) {
        (false, _) => None,
        (true, true) => Some(Line::TooLong),
        (true, false) => Some(Line::Whole(line)),
    })
}

/// Appends without leaving a copy of a shorter buffer behind in freed memory.
fn append(line: &mut Zeroizing<Vec<u8>>, part: &[u8]) {
    let needed = line.len().saturating_add(part.len());
    if needed > line.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity(needed.saturating_mul(2)));
        larger.extend_from_slice(line);
        *line = larger;
    }
    line.extend_from_slice(part);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &[u8], limit: usize) -> Vec<Option<Vec<u8>>> {
        // A buffer of three bytes, so that lines come in parts.
        let mut input = io::BufReader::with_capacity(3, input);
        let mut lines = Vec::new();
        while let Some(line) = read_line(&mut input, limit).unwrap() {
            lines.push(match line {
                Line::Whole(bytes) => Some(bytes.to_vec()),
                Line::TooLong => None,
            });
        }
        lines
    }

    #[test]
    fn lines_come_one_by_one() {
        let expected: Vec<_> = [&b"one"[..], b"", b"two words", b"rest"]
            .into_iter()
            .map(|line| Some(line.to_vec()))
            .collect();
        assert_eq!(lines(b"one\n\ntwo words\nrest", 100), expected);
        assert_eq!(lines(b"", 100), []);
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_and_the_next_is_read() {
        let mut input = vec![b'x'; 1000];
        input.extend_from_slice(b"\nnext\n");
        assert_eq!(lines(&input, 10), [None, Some(b"next".to_vec())]);
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_taken() {
        assert_eq!(lines(b"1234567890\n12345678901\n", 10), [Some(b"1234567890".to_vec()), None]);
    }
}
