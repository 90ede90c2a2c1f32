//! `cargo xtask mutants`: faults planted in the code, one at a time, each of which the simulated world has
//! to find.
//!
//! A mutant is a file in `crates/herold-testkit/mutants/`: a line that says what is wrong with it, `profile`
//! and `file` lines, the text to replace between `<<<<` and `====`, and what stands there instead, up to
//! `>>>>`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::cargo;
use crate::error::{Context, Error, Result, ensure, fail};
use crate::sim;

/// Within so many seeds each has to be found.
const SEEDS: u64 = 2000;

/// What to plant.
#[derive(Debug)]
pub struct Options {
    only: Vec<String>,
    seeds: u64,
}

impl Options {
    /// Reads the command line.
    ///
    /// # Errors
    ///
    /// It is not understood.
    pub fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self { only: Vec::new(), seeds: SEEDS };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let value =
                words.next().ok_or_else(|| Error::Failed(format!("{word} needs a value")))?;
            match word.as_str() {
                "--only" => options.only.extend(value.split(',').map(str::to_owned)),
                "--seeds" => {
                    options.seeds =
                        value.parse().map_err(|_| Error::Failed("--seeds N".to_owned()))?;
                }
                _ => return fail(format!("what is {word}?")),
            }
        }
        Ok(options)
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Mutant {
    name: String,
    what: String,
    profile: String,
    file: String,
    before: String,
    after: String,
}

impl Mutant {
    fn parse(name: &str, text: &str) -> Result<Self> {
        let missing = |part: &str| Error::Failed(format!("the mutant {name} has no {part}"));
        let (head, rest) = text.split_once("<<<<\n").ok_or_else(|| missing("<<<<"))?;
        let (before, rest) = rest.split_once("====\n").ok_or_else(|| missing("===="))?;
        let (after, _) = rest.split_once(">>>>").ok_or_else(|| missing(">>>>"))?;
        let of = |part: &str| {
            let line = head.lines().find_map(|line| line.strip_prefix(part)?.strip_prefix(": "));
            line.map(|line| line.trim().to_owned()).ok_or_else(|| missing(part))
        };
        Ok(Self {
            name: name.to_owned(),
            what: head.lines().next().unwrap_or_default().to_owned(),
            profile: of("profile")?,
            file: of("file")?,
            // The last line's end belongs to the file.
            before: before.strip_suffix('\n').unwrap_or(before).to_owned(),
            after: after.strip_suffix('\n').unwrap_or(after).to_owned(),
        })
    }

    /// The file's text with the fault in it.
    fn plant(&self, text: &str) -> Result<String> {
        let places = text.matches(&self.before).count();
        ensure(places == 1, || {
            format!("{}: the text stands in {} {places} times", self.name, self.file)
        })?;
        Ok(text.replacen(&self.before, &self.after, 1))
    }
}

/// Plants each fault in a copy of the workspace and plays until it is found. `false` if one is not.
///
/// # Errors
///
/// A mutant does not fit the code any more, or does not compile.
pub fn run(options: &Options) -> Result<bool> {
    let mutants = all()?;
    let target = cargo::target_folder(&cargo::root())?.join("mutants");
    let copy = target.join("workspace");
    copy_workspace(&copy)?;
    // Without a fault nothing is found: what finds these mutants is not their profile.
    let mut survivors = Vec::new();
    let mut killed = 0;
    for mutant in &mutants {
        if !options.only.is_empty() && !options.only.iter().any(|name| mutant.name.contains(name)) {
            continue;
        }
        let path = copy.join(&mutant.file);
        let text = fs::read_to_string(&path).context(&mutant.file)?;
        fs::write(&path, mutant.plant(&text)?)?;
        let start = Instant::now();
        let player = sim::build(&copy, &target.join("build"), &["--offline"]);
        fs::write(&path, text)?;
        let player = player?;
        let outcome = sim::play(
            &player,
            &sim::Options {
                profile: mutant.profile.clone(),
                seeds: options.seeds,
                shrink: 0,
                first_failure: true,
                ..sim::Options::default()
            },
        )?;
        let seconds = start.elapsed().as_secs();
        match outcome.failures.first() {
            Some((seed, failure, _)) => {
                killed += 1;
                println!(
                    "killed    {:<34} after {:>4} seeds, {seconds} s: {failure} (seed {seed})",
                    mutant.name, outcome.seeds
                );
            }
            None => {
                println!("SURVIVED  {:<34} {} seeds: {}", mutant.name, outcome.seeds, mutant.what);
                survivors.push(mutant.name.clone());
            }
        }
    }
    println!("{killed} killed, {} survived", survivors.len());
    Ok(survivors.is_empty())
}

fn all() -> Result<Vec<Mutant>> {
    let mut mutants = Vec::new();
    let folder = cargo::root().join("crates/herold-testkit/mutants");
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(&folder).context(folder.display())? {
        paths.push(entry?.path());
    }
    paths.sort();
    for path in paths {
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        mutants.push(Mutant::parse(&name.unwrap_or_default(), &fs::read_to_string(&path)?)?);
    }
    Ok(mutants)
}

/// Brings a copy of the crates up to date; what has not changed keeps its time, and is not built anew.
fn copy_workspace(copy: &Path) -> Result<()> {
    let root = cargo::root();
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    let mut in_defaults = false;
    let mut members = String::new();
    for line in manifest.lines() {
        // What is built by default names folders that are not copied.
        in_defaults |= line.starts_with("default-members");
        let line = if line.starts_with("members") { "members = [\"crates/*\"]" } else { line };
        if !in_defaults {
            members.push_str(line);
            members.push('\n');
        }
        in_defaults &= line != "]";
    }
    fs::create_dir_all(copy)?;
    write_if_other(&copy.join("Cargo.toml"), members.as_bytes())?;
    for file in ["Cargo.lock", "clippy.toml"] {
        write_if_other(&copy.join(file), &fs::read(root.join(file))?)?;
    }
    copy_folder(&root.join("crates"), &copy.join("crates"))
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            write_if_other(&target, &fs::read(entry.path())?)?;
        }
    }
    // What is gone is gone from the copy too.
    for entry in fs::read_dir(to)? {
        let entry = entry?;
        if !from.join(entry.file_name()).exists() {
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

fn write_if_other(path: &Path, content: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|known| known == content) {
        return Ok(());
    }
    Ok(fs::write(path, content)?)
}

#[cfg(test)]
mod tests {
    use super::{Mutant, all};
    use crate::cargo;

    /// The list keeps up with the code.
    #[test]
    fn every_mutant_fits_the_code() {
        let mutants = all().expect("the list can be read");
        assert!(mutants.len() >= 25, "{} mutants", mutants.len());
        for mutant in mutants {
            let text = std::fs::read_to_string(cargo::root().join(&mutant.file)).expect("its file");
            let planted = mutant.plant(&text).expect("it fits");
            assert_ne!(planted, text, "{}", mutant.name);
        }
    }

    #[test]
    fn a_mutant_is_read() {
        let text = "What.\nprofile: honest\nfile: a.rs\n<<<<\nx\n====\ny\n>>>>\n";
        let mutant = Mutant::parse("01", text).expect("it can be read");
        assert_eq!(mutant.plant("w\nx\nz\n").expect("it fits"), "w\ny\nz\n");
        assert!(mutant.plant("w\n").is_err());
        assert!(Mutant::parse("02", "What.\n").is_err());
    }
}
