//! Takes a JSON array apart into the texts of its elements, byte by byte, so that the whole is never
//! in memory. Only the borders are found here; each element is parsed by whoever takes it.

use zeroize::Zeroizing;

use crate::key_file::KeyFileError;

/// The largest element, bytes. Honest ones have less than a thousand.
const MAX_ELEMENT: usize = 64 * 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before `[`.
    Start,
    /// After `[`: an element or the end.
    FirstOrEnd,
    /// After `,`: an element.
    Element,
    /// Within an element, this deep in braces and brackets.
    Inside { depth: usize, in_string: bool, escaped: bool },
    /// After an element: `,` or the end.
    CommaOrEnd,
    /// After `]`.
    End,
}

/// The scanner.
pub(super) struct Elements {
    state: State,
    element: Zeroizing<Vec<u8>>,
}

impl Elements {
    pub(super) fn new() -> Self {
        Self { state: State::Start, element: Zeroizing::new(Vec::new()) }
    }

    /// Whether the array has ended.
    pub(super) fn is_complete(&self) -> bool {
        self.state == State::End
    }

    /// Takes the next byte; gives the element that it completes.
    ///
    /// # Errors
    ///
    /// [`KeyFileError::NotSessions`] when this is no array of objects, or an object is too large.
    pub(super) fn push(&mut self, byte: u8) -> Result<Option<Zeroizing<Vec<u8>>>, KeyFileError> {
        if let State::Inside { .. } = self.state {
            return self.inside(byte);
        }
        if byte.is_ascii_whitespace() {
            return Ok(None);
        }
        self.state = match (self.state, byte) {
            (State::Start, b'[') => State::FirstOrEnd,
            (State::FirstOrEnd | State::Element, b'{') => {
                self.element.reserve(4096);
                self.element.push(byte);
                State::Inside { depth: 1, in_string: false, escaped: false }
            }
            (State::CommaOrEnd, b',') => State::Element,
            (State::FirstOrEnd | State::CommaOrEnd, b']') => State::End,
            _ => return Err(KeyFileError::NotSessions),
        };
        Ok(None)
    }

    fn inside(&mut self, byte: u8) -> Result<Option<Zeroizing<Vec<u8>>>, KeyFileError> {
        let State::Inside { mut depth, mut in_string, escaped } = self.state else {
            return Err(KeyFileError::NotSessions);
        };
        if self.element.len() >= MAX_ELEMENT {
            return Err(KeyFileError::NotSessions);
        }
        self.element.push(byte);
        let mut escapes = false;
        match byte {
            _ if escaped => {}
            b'\\' if in_string => escapes = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            self.state = State::CommaOrEnd;
            return Ok(Some(std::mem::take(&mut self.element)));
        }
        self.state = State::Inside { depth, in_string, escaped: escapes };
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The elements of a text, and whether it was a complete array.
    fn split(text: &[u8]) -> Result<(Vec<Vec<u8>>, bool), KeyFileError> {
        let mut elements = Elements::new();
        let mut found = Vec::new();
        for byte in text {
            found.extend(elements.push(*byte)?.map(|element| element.to_vec()));
        }
        Ok((found, elements.is_complete()))
    }

    #[test]
    fn elements_end_where_their_braces_do() {
        let text = br#" [ {"a":[{}]} , {"b":"}]\"{\\"} ] "#;
        let (found, complete) = split(text).unwrap();
        assert_eq!(found, [br#"{"a":[{}]}"#.to_vec(), br#"{"b":"}]\"{\\"}"#.to_vec()]);
        assert!(complete);
        assert_eq!(split(b"[]"), Ok((vec![], true)));
        assert_eq!(split(b"[{}"), Ok((vec![b"{}".to_vec()], false)));
    }

    #[test]
    fn anything_but_an_array_of_objects_is_refused() {
        for text in ["{}", "[1]", "[{},]", "[,{}]", "[{}{}]", "[] []", "null", "[[{}]]", "\"[\""] {
            assert_eq!(split(text.as_bytes()), Err(KeyFileError::NotSessions), "{text}");
        }
    }

    #[test]
    fn a_huge_element_is_refused() {
        let text = format!("[{{\"a\":\"{}", "x".repeat(MAX_ELEMENT));
        assert_eq!(split(text.as_bytes()), Err(KeyFileError::NotSessions));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = split(&bytes);
        }

        #[test]
        fn what_the_parser_takes_is_taken_apart_alike(texts: Vec<String>, pretty: bool) {
            let values: Vec<_> = texts.iter().map(|t| serde_json::json!({ "k": [t], t: {} })).collect();
            let text = if pretty {
                serde_json::to_vec_pretty(&values).unwrap()
            } else {
                serde_json::to_vec(&values).unwrap()
            };
            let (found, complete) = split(&text).unwrap();
            let found: Vec<serde_json::Value> =
                found.iter().map(|e| serde_json::from_slice(e).unwrap()).collect();
            prop_assert!(complete);
            prop_assert_eq!(found, values);
        }
    }
}
