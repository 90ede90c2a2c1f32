//! Standard output: lines for people, or JSON lines for scripts; and [`clean`], which makes foreign
//! text harmless for a terminal.

use std::io::{self, Write};

use serde_json::Value;

use crate::failure::Failure;

/// Where a command's answer goes.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
}

impl Output {
    /// For people, or with `json` for scripts.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether scripts read it.
    pub fn is_json(self) -> bool {
        self.json
    }

    /// One line: `text` for people, `value` for scripts. `text` has been cleaned by the caller, part by
    /// part, where it holds foreign text.
    pub fn line(self, text: &str, value: &Value) -> Result<(), Failure> {
        if self.json { write_line(&value.to_string()) } else { write_line(text) }
    }

    /// A line for people only, for headings and the like.
    pub fn text(self, text: &str) -> Result<(), Failure> {
        if self.json { Ok(()) } else { write_line(text) }
    }
}

/// Writes bytes as they are.
pub fn write_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| Failure::output(&error))
}

/// Writes a line at once: whoever reads a pipe sees it.
pub fn write_line(line: &str) -> Result<(), Failure> {
    let mut bytes = Vec::with_capacity(line.len().saturating_add(1));
    bytes.extend_from_slice(line.as_bytes());
    bytes.push(b'\n');
    write_bytes(&bytes)
}

/// `text` with everything replaced that would do more to a terminal than print: control characters
/// (escape sequences begin with one), line breaks, and the invisible ones that change the direction of
/// what follows. Names and messages are written by others.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if is_harmless(c) { c } else { '\u{fffd}' }).collect()
}

/// As [`clean`], for text of several lines: each line break is followed by `indent`.
pub fn clean_lines(text: &str, indent: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(|l| clean(l.trim_end_matches('\r'))).collect();
    lines.join(&format!("\n{indent}"))
}

fn is_harmless(c: char) -> bool {
    !c.is_control()
        && !matches!(
            c,
            '\u{061c}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
        )
}

/// A point in time, in milliseconds since the Unix epoch, as `2026-11-22 05:56` in UTC.
pub fn utc(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (hour, minute) = (rest / 3600, rest % 3600 / 60);
    // Days to a date of the Gregorian calendar, in years that begin on the first of March, so that
    // the leap day is the last one: 400 years have 146097 days.
    let days = days.min(3_000_000) + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}")
}

/// A number of bytes for people.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut tenths = bytes / 100;
    for unit in UNITS {
        if tenths < 10_000 {
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
        tenths /= 1000;
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert_eq!(
            clean("a\u{1b}[2Jb\u{9b}1mc\r\n\u{7}"),
            "a\u{fffd}[2Jb\u{fffd}1mc\u{fffd}\u{fffd}\u{fffd}"
        );
        assert_eq!(clean("x\u{202e}gpj.exe"), "x\u{fffd}gpj.exe");
    }

    #[test]
    fn ordinary_text_stays_as_it_is() {
        // Emoji sequences need the zero-width joiner and the variation selector.
        let text = "Grüße 👩\u{200d}🚀 ❤\u{fe0f} مرحبا";
        assert_eq!(clean(text), text);
    }

    #[test]
    fn lines_are_kept_apart_and_indented() {
        assert_eq!(clean_lines("one\r\ntwo\u{1b}\nthree", "> "), "one\n> two\u{fffd}\n> three");
    }

    #[test]
    fn times_are_gregorian() {
        assert_eq!(utc(0), "1970-01-01 00:00");
        assert_eq!(utc(951_827_696_000), "2000-02-29 12:34");
        assert_eq!(utc(1_795_327_007_000), "2026-11-22 05:56");
        assert_eq!(utc(4_107_542_340_000), "2100-02-28 23:59");
        assert_eq!(utc(4_107_542_400_000), "2100-03-01 00:00");
        assert!(!utc(u64::MAX).is_empty());
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(999), "999 B");
        assert_eq!(size(1_250), "1.2 kB");
        assert_eq!(size(48_000_000), "48.0 MB");
        assert!(!size(u64::MAX).is_empty());
    }
}
