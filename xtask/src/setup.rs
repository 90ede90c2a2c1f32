//! What the interoperability needs and the workspace does not have: Synapse, foreign clients, cargo-deny.
//!
//! All of it goes into the user's cache folder, in a folder named after what was asked for, and is
//! left alone once it is complete.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bindings;
use crate::cargo;
use crate::error::{Context, Result, ensure, fail};

/// The oldest Node.js that matrix-js-sdk works with.
const NODE: u32 = 22;

/// Installs everything that the tests need.
///
/// # Errors
///
/// Something could not be installed.
pub fn everything() -> Result<()> {
    synapse()?;
    nio()?;
    js()?;
    bindings::bindgen().map(drop)
}

/// The folder for what is installed and for logs.
///
/// # Errors
///
/// There is neither `XDG_CACHE_HOME` nor `HOME`.
pub fn cache() -> Result<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|h| h.join(".cache")));
    match base {
        Some(base) => Ok(base.join("herold")),
        None => fail("neither XDG_CACHE_HOME nor HOME is set"),
    }
}

/// Where the foreign peers' sources are.
fn foreign() -> PathBuf {
    cargo::root().join("crates/herold-testkit/foreign")
}

/// The Python that has Synapse.
///
/// # Errors
///
/// It could not be installed.
pub fn synapse() -> Result<PathBuf> {
    python("synapse")
}

/// The command that starts the matrix-nio peer.
///
/// # Errors
///
/// It could not be installed.
pub fn nio() -> Result<Vec<PathBuf>> {
    Ok(vec![python("nio")?, foreign().join("nio/peer.py")])
}

/// The command that starts the matrix-js-sdk peer.
///
/// # Errors
///
/// It could not be installed, or there is no Node.js that is new enough.
pub fn js() -> Result<Vec<PathBuf>> {
    let source = foreign().join("js");
    let manifest = fs::read(source.join("package.json"))?;
    let lock = fs::read(source.join("package-lock.json"))?;
    let folder = installed("js", &[&manifest, &lock], |folder| {
        fs::write(folder.join("package.json"), &manifest)?;
        fs::write(folder.join("package-lock.json"), &lock)?;
        // No package's own script is run: the lock file says all that is installed.
        let options = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
        cargo::run(Command::new("npm").args(options).current_dir(folder))
    })?;
    // Beside its modules, where they are found.
    let peer = folder.join("peer.mjs");
    fs::copy(source.join("peer.mjs"), &peer)?;
    let shipped = folder.join("node_modules/.bin/node");
    let node = if shipped.exists() { shipped } else { PathBuf::from("node") };
    let version = cargo::output(Command::new(&node).arg("--version"))?;
    let major = version.trim_start_matches('v').split('.').next().and_then(|v| v.parse().ok());
    ensure(major.is_some_and(|major: u32| major >= NODE), || {
        format!("matrix-js-sdk needs Node.js {NODE}, and this is {}", version.trim())
    })?;
    Ok(vec![node, peer])
}

/// The command that starts the matrix-rust-sdk peer, built first: a quarter of an hour the first time, and so only for who
/// asks for it.
///
/// # Errors
///
/// It does not build.
pub fn sdk() -> Result<Vec<PathBuf>> {
    let target = cache()?.join("sdk-peer");
    let mut build = cargo::cargo();
    build.args(["build", "--release", "--locked", "--quiet", "--manifest-path"]);
    build.arg(foreign().join("sdk/Cargo.toml")).arg("--target-dir").arg(&target);
    cargo::run(&mut build)?;
    Ok(vec![target.join("release/sdk-peer")])
}

/// A virtual environment with what `foreign/NAME/requirements.txt` asks for.
fn python(name: &str) -> Result<PathBuf> {
    let requirements = foreign().join(name).join("requirements.txt");
    let system = cargo::output(Command::new("python3").arg("--version"))?;
    let wanted = fs::read(&requirements).context(requirements.display())?;
    let folder = installed(name, &[system.as_bytes(), &wanted], |folder| {
        cargo::run(Command::new("python3").args(["-m", "venv"]).arg(folder.join("venv")))?;
        let mut pip = Command::new(folder.join("venv/bin/python"));
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--requirement",
        ]);
        cargo::run(pip.arg(&requirements))
    })?;
    Ok(folder.join("venv/bin/python"))
}

/// The folder `NAME-HASH` of the cache, filled by `fill` unless that has been done before. `inputs` is
/// what its content depends on; a folder for other inputs is removed.
///
/// # Errors
///
/// `fill` failed; the next call starts afresh.
pub fn installed(
    name: &str,
    inputs: &[&[u8]],
    fill: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let base = cache()?.join("tools");
    fs::create_dir_all(&base)?;
    // One process installs, another waits for it.
    let lock = File::create(base.join(format!("{name}.lock")))?;
    lock.lock()?;
    let folder = base.join(format!("{name}-{:016x}", fingerprint(inputs)));
    let complete = folder.join(".complete");
    if complete.exists() {
        return Ok(folder);
    }
    for entry in fs::read_dir(&base)? {
        let path = entry?.path();
        let same = |n: &str| n.rsplit_once('-').is_some_and(|(stem, _)| stem == name);
        if path.is_dir() && path.file_name().and_then(|n| n.to_str()).is_some_and(same) {
            fs::remove_dir_all(&path)?;
        }
    }
    eprintln!("installing {name} in {}", folder.display());
    fs::create_dir(&folder)?;
    fill(&folder).context(format!("installing {name}"))?;
    File::create(complete)?;
    Ok(folder)
}

/// FNV-1a over all inputs, each with its length: the same on every machine and with every compiler.
fn fingerprint(inputs: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for input in inputs {
        for byte in (input.len() as u64).to_le_bytes().iter().chain(*input) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::fingerprint;

    #[test]
    fn the_fingerprint_tells_inputs_apart() {
        assert_ne!(fingerprint(&[b"ab", b"c"]), fingerprint(&[b"a", b"bc"]));
        assert_eq!(fingerprint(&[]), 0xcbf2_9ce4_8422_2325);
    }
}
