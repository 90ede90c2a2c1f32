//! `cargo xtask bindings`: the library for other languages. The Kotlin and Swift sources and the
//! library's size are compared with what is kept; the Python tests run over a real Synapse.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::cargo;
use crate::error::{Context, Result, fail};
use crate::interop;
use crate::setup;
use crate::synapse::{PASSWORD, Synapse};
use crate::tally::Tally;

/// The size that a library for one architecture must stay below, in bytes.
const SIZE_LIMIT: u64 = 15_000_000;
/// How far the size may be from the one that is kept, in percent.
const SIZE_TOLERANCE: u64 = 3;
/// The architecture whose size is kept.
const SIZE_OF: &str = "x86_64-unknown-linux-gnu";
/// How the library is built to be shipped. Optimising over all crates at the last step makes it a tenth
/// smaller, and needs no second build of what is below it.
const SHIPPED: [&str; 11] = [
    "rustc",
    "--release",
    "--package",
    "herold-ffi",
    "--lib",
    "--crate-type",
    "cdylib",
    "--",
    "-Clto=fat",
    "-Ccodegen-units=1",
    "-Cstrip=none",
];
/// The generated sources that are kept: language, file, where it is kept.
const GOLDENS: [(&str, &str, &str); 4] = [
    ("kotlin", "herold/herold.kt", "kotlin/herold.kt"),
    ("swift", "Herold.swift", "swift/Herold.swift"),
    ("swift", "HeroldFFI.h", "swift/HeroldFFI.h"),
    ("swift", "HeroldFFI.modulemap", "swift/HeroldFFI.modulemap"),
];

/// What to do.
#[derive(Default)]
pub struct Options {
    /// Keep what there is now, instead of comparing.
    bless: bool,
    /// Compare only.
    compare: bool,
}

impl Options {
    /// Reads the command line.
    ///
    /// # Errors
    ///
    /// It is not understood.
    pub fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self::default();
        for word in arguments {
            match word.as_str() {
                "--bless" => options.bless = true,
                "--compare" => options.compare = true,
                _ => return fail(format!("what is {word}?")),
            }
        }
        Ok(options)
    }
}

/// Compares, then runs the Python tests.
///
/// # Errors
///
/// Something could not be built or installed.
pub fn run(options: &Options) -> Result<Tally> {
    let mut tally = compare(options.bless)?;
    if !options.bless && !options.compare {
        tally += python(&["--package", "herold-ffi"])?;
    }
    println!("\nbindings:\n{tally}");
    Ok(tally)
}

/// Compares the generated sources and the size with what is kept, or keeps them.
fn compare(bless: bool) -> Result<Tally> {
    let library = library(&SHIPPED)?;
    let folder = scratch(&library, "bindings")?;
    generate(&library, &folder, &["kotlin", "swift"])?;
    let mut tally = Tally::default();
    for (language, made, kept) in GOLDENS {
        let (made, kept) = (folder.join(made), bindings().join(kept));
        let made = fs::read_to_string(&made).context(made.display())?;
        if bless {
            fs::create_dir_all(kept.parent().unwrap_or(&kept))?;
            fs::write(&kept, &made)?;
        }
        let same = fs::read_to_string(&kept).unwrap_or_default() == made;
        if !same {
            println!("{language}: {} is not what would be generated", kept.display());
        }
        tally += verdict(same);
    }
    tally += size(&library, &folder, bless)?;
    if tally.failed > 0 {
        println!("if that is meant to be so: cargo xtask bindings --bless");
    }
    Ok(tally)
}

/// Compares the size of the library as it is shipped.
fn size(library: &Path, folder: &Path, bless: bool) -> Result<Tally> {
    let host = cargo::output(Command::new("rustc").arg("-vV"))?;
    if !host.lines().any(|line| line.strip_prefix("host: ") == Some(SIZE_OF)) {
        println!("size: compared for {SIZE_OF} only");
        return Ok(Tally { skipped: 1, ..Tally::default() });
    }
    let stripped = folder.join("stripped.so");
    cargo::run(Command::new("strip").arg("--strip-all").arg(library).arg("-o").arg(&stripped))?;
    let size = fs::metadata(&stripped)?.len();
    let file = bindings().join("size.txt");
    if bless {
        fs::write(&file, format!("{SIZE_OF} {size}\n"))?;
    }
    let text = fs::read_to_string(&file).context(file.display())?;
    let kept = text.split_whitespace().nth(1).and_then(|number| number.parse().ok());
    let Some(kept) = kept else { return fail(format!("{}: not a size", file.display())) };
    println!("the stripped library has {size} bytes; {kept} are kept, {SIZE_LIMIT} is the limit");
    Ok(verdict(fits(size, kept)))
}

fn fits(size: u64, kept: u64) -> bool {
    size < SIZE_LIMIT && size.abs_diff(kept) * 100 <= kept * SIZE_TOLERANCE
}

/// Runs the Python tests over a Synapse of their own. `build` is further arguments of `cargo build`.
///
/// # Errors
///
/// Something could not be built or installed.
pub fn python(build: &[&str]) -> Result<Tally> {
    let mut arguments = vec!["build", "--lib", "--features", "herold-ffi/provoke-panic"];
    arguments.extend(build);
    let library = library(&arguments)?;
    let module = scratch(&library, "python")?;
    generate(&library, &module, &["python"])?;
    let tail = fs::read_to_string(bindings().join("python/at_exit.py"))?;
    let source = module.join("herold.py");
    fs::write(&source, fs::read_to_string(&source)? + &tail)?;
    fs::copy(&library, module.join("libherold_ffi.so"))?;
    let folder = interop::run_folder()?;
    let server = Synapse::start(&setup::synapse()?, &folder.join("synapse"))?;
    let mut tests = Command::new("python3");
    tests
        .args(["-B", "run.py"])
        .current_dir(bindings().join("python"))
        .env("PYTHONPATH", &module)
        // Panics are provoked in there.
        .env("RUST_BACKTRACE", "0")
        .env("HEROLD_HOMESERVER", server.proxy.url())
        .env("HEROLD_PASSWORD", PASSWORD)
        .env("HEROLD_FOLDER", &folder);
    let tally = cargo::count(&mut tests)?;
    drop(server);
    if tally.failed == 0 {
        fs::remove_dir_all(folder)?;
    }
    Ok(tally)
}

/// Builds the shared library and gives its path.
fn library(arguments: &[&str]) -> Result<PathBuf> {
    let mut command = cargo::cargo();
    let (command_name, rest) = arguments.split_at(1);
    command.args(command_name).arg("--message-format=json-render-diagnostics").args(rest);
    cargo::show(&command);
    let messages = cargo::output(&mut command)?;
    let path = messages.lines().rev().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let ours = message["target"]["name"] == "herold_ffi" && message["profile"]["test"] == false;
        let mut files = message["filenames"].as_array().filter(|_| ours)?.iter();
        files.find_map(|file| file.as_str().filter(|file| file.ends_with(".so"))).map(PathBuf::from)
    });
    match path {
        Some(path) => Ok(path),
        None => fail("cargo build does not say where the shared library is"),
    }
}

/// Writes the sources for these languages.
fn generate(library: &Path, folder: &Path, languages: &[&str]) -> Result<()> {
    let mut bindgen = Command::new(bindgen()?);
    bindgen.arg(library).arg(bindings().join("uniffi.toml")).arg(folder).args(languages);
    // It asks cargo where the workspace is.
    cargo::run(bindgen.current_dir(cargo::root()))
}

/// The program that writes the sources, built once.
///
/// # Errors
///
/// It does not build.
pub fn bindgen() -> Result<PathBuf> {
    let source = bindings().join("bindgen");
    let read = |name: &str| fs::read(source.join(name));
    let inputs = [read("Cargo.toml")?, read("Cargo.lock")?, read("src/main.rs")?];
    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    let folder = setup::installed("bindgen", &inputs, |folder| {
        let target = folder.join("target");
        let mut install = cargo::cargo();
        install.args(["install", "--locked", "--quiet", "--debug", "--path"]).arg(&source);
        cargo::run(install.arg("--root").arg(folder).env("CARGO_TARGET_DIR", &target))?;
        Ok(fs::remove_dir_all(target)?)
    })?;
    Ok(folder.join("bin/herold-bindgen"))
}

fn bindings() -> PathBuf {
    cargo::root().join("bindings")
}

/// An empty folder beside the library.
fn scratch(library: &Path, name: &str) -> Result<PathBuf> {
    let folder = library.with_file_name(format!("herold-{name}"));
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn verdict(good: bool) -> Tally {
    Tally { passed: u64::from(good), failed: u64::from(!good), skipped: 0 }
}

#[cfg(test)]
mod tests {
    use super::{SIZE_LIMIT, fits};

    #[test]
    fn a_library_that_grows_or_shrinks_much_is_noticed() {
        assert!(fits(10_300_000, 10_000_000) && fits(9_700_000, 10_000_000));
        assert!(!fits(10_300_001, 10_000_000) && !fits(9_699_999, 10_000_000));
        assert!(!fits(SIZE_LIMIT, SIZE_LIMIT));
    }
}
