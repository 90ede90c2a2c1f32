//! What one side has encrypted the other must decrypt; else the two have not done the same work.

use std::path::Path;

use crate::{Program, Result};

/// Lets the two talk and listen to each other. Answers how many messages each has read.
pub(crate) fn check(ours: &Program, opponent: &Program, folder: &Path) -> Result<u64> {
    let sides = [(ours, "@herold:bench.local"), (opponent, "@opponent:bench.local")];
    let folders = [folder.join("ours"), folder.join("opponent")];
    for own in &folders {
        std::fs::create_dir(own).map_err(|error| error.to_string())?;
    }
    // Each step of one side is a file the other reads in its next one.
    let mut said: [Option<String>; 2] = [None, None];
    let mut read = u64::MAX;
    for step in ["introduce", "talk", "listen"] {
        let before = said.clone();
        for (place, (program, user)) in sides.iter().enumerate() {
            let own = folders[place].to_str().ok_or("a path that is not text")?;
            let mut arguments = vec![step, user, own];
            if let Some(other) = &before[1 - place] {
                arguments.push(other);
            }
            let report = program.run(&arguments, &folders[place])?;
            if step == "listen" {
                read = read.min(report["read"].as_u64().unwrap_or(0));
            } else {
                let path = folders[place].join(format!("{step}.json"));
                std::fs::write(&path, report.to_string()).map_err(|error| error.to_string())?;
                said[place] = path.to_str().map(str::to_owned);
            }
        }
    }
    if read == 0 {
        return Err("nobody has read anything".to_owned());
    }
    Ok(read)
}
