//! Questions that are answered with yes or no, on standard input: by a person or by a script.

use std::io::{self, BufRead};

use crate::failure::Failure;

/// Asks on standard error and reads the answer. An answer that is neither is asked for again.
pub async fn yes_or_no(question: &str) -> Result<bool, Failure> {
    loop {
        eprint!("{question}");
        // Reading cannot be interrupted; the process does not wait for it when it ends.
        let read = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            io::stdin().lock().read_line(&mut line).map(|count| (count, line))
        });
        let read = read.await.map_err(|_| Failure::other("a task ended early"))?;
        let (count, line) =
            read.map_err(|error| Failure::other(format!("standard input: {error}")))?;
        if count == 0 {
            return Err(Failure::usage("there is nobody to answer on standard input"));
        }
        if let Some(answer) = parse(&line) {
            return Ok(answer);
        }
    }
}

fn parse(line: &str) -> Option<bool> {
    match line.trim().to_lowercase().as_str() {
        "y" | "yes" => Some(true),
        "n" | "no" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn only_yes_is_yes() {
        assert_eq!(parse("yes\n"), Some(true));
        assert_eq!(parse(" Y \r\n"), Some(true));
        assert_eq!(parse("no\n"), Some(false));
        for line in ["", "\n", "ja", "yes no", "1"] {
            assert_eq!(parse(line), None, "{line:?}");
        }
    }
}
