//! The table, and the file it is kept in.

use std::path::Path;

use crate::{Result, figures::Figures};

/// What the project asks of a work: at least so many times faster than the opponent, at most so many times
/// slower than vodozemac alone.
const ASKED: &[(&str, Option<f64>, Option<f64>)] = &[
    ("encrypt/1", Some(5.0), Some(3.0)),
    ("encrypt/1000", Some(20.0), Some(3.0)),
    ("decrypt", Some(3.0), Some(1.5)),
    ("encrypt/3000", Some(50.0), None),
    ("sync/500", Some(5.0), None),
    ("backlog/10000", Some(7.0), None),
    ("backlog1/10000", Some(4.0), None),
    ("share/10000", Some(5.0), None),
    ("import/100000", Some(5.0), None),
    ("restore/100000", Some(4.0), None),
    ("open/100000", Some(3.0), None),
];

/// Where the table stands in the file.
const BEGIN: &str = "<!-- figures: written by `cargo xtask bench --write` -->";
const END: &str = "<!-- end of figures -->";

/// The table, as Markdown.
pub(crate) fn print(figures: &[(&str, [Figures; 3])]) -> String {
    let mut lines = vec![
        "| work | Herold | opponent | ratio | vodozemac alone | ratio | memory | written | on disk |"
            .to_owned(),
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |".to_owned(),
    ];
    for (work, [ours, opponent, alone]) in figures {
        let asked = ASKED.iter().find(|(name, ..)| name == work);
        let faster = opponent.median() / ours.median();
        let over = ours.median() / alone.median();
        let faster_note =
            note(asked.and_then(|asked| asked.1), |least| faster >= least, "at least");
        let over_note = note(asked.and_then(|asked| asked.2), |most| over <= most, "at most");
        lines.push(format!(
            "| {work} | {} | {} | **{faster:.1}**{faster_note} | {} | {over:.2}{over_note} | {} : {} | {} : {} | {} |",
            time(ours),
            time(opponent),
            time(alone),
            size(ours.peak),
            size(opponent.peak),
            size(ours.written),
            size(opponent.written),
            match (ours.disk, opponent.disk) {
                (Some(ours), Some(opponent)) => format!("{} : {}", size(ours), size(opponent)),
                _ => String::new(),
            },
        ));
    }
    lines.join("\n")
}

fn note(asked: Option<f64>, reached: impl Fn(f64) -> bool, word: &str) -> String {
    asked.map_or_else(String::new, |asked| {
        format!(" ({word} {asked}{})", if reached(asked) { "" } else { ": **missed**" })
    })
}

/// The median and the quartiles.
fn time(figures: &Figures) -> String {
    let (low, high) = figures.quartiles();
    let (unit, name) = match figures.median() {
        nanoseconds if nanoseconds < 1e6 => (1e3, "µs"),
        nanoseconds if nanoseconds < 1e9 => (1e6, "ms"),
        _ => (1e9, "s"),
    };
    format!(
        "{} {name} ({}-{})",
        digits(figures.median() / unit),
        digits(low / unit),
        digits(high / unit),
    )
}

fn size(bytes: f64) -> String {
    match bytes {
        bytes if bytes < 1e3 => format!("{bytes:.0} B"),
        bytes if bytes < 1e6 => format!("{} kB", digits(bytes / 1e3)),
        bytes => format!("{} MB", digits(bytes / 1e6)),
    }
}

fn digits(number: f64) -> String {
    match number {
        number if number < 10.0 => format!("{number:.2}"),
        number if number < 100.0 => format!("{number:.1}"),
        number => format!("{number:.0}"),
    }
}

/// Puts the table into the file.
pub(crate) fn write(path: &Path, table: &str) -> Result<()> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let text = replace(&text, table).ok_or("the file has no place for the figures")?;
    std::fs::write(path, text).map_err(|error| error.to_string())
}

fn replace(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{table}\n\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_replaces_the_one_before() {
        let text = format!("a\n{BEGIN}\nold\n{END}\nb");
        let new = replace(&text, "new").unwrap();
        assert_eq!(new, format!("a\n{BEGIN}\n\nnew\n\n{END}\nb"));
        assert_eq!(replace(&new, "new").unwrap(), new);
        assert_eq!(replace("nothing", "new"), None);
    }

    #[test]
    fn what_is_missed_says_so() {
        assert_eq!(note(Some(3.0), |least| 2.0 >= least, "at least"), " (at least 3: **missed**)");
        assert_eq!(note(Some(3.0), |least| 4.0 >= least, "at least"), " (at least 3)");
        assert_eq!(note(None, |_| false, "at least"), "");
    }
}
