//! Which crate may use which, held to by `cargo xtask layering` and by the test below.
//!
//! The table here is the architecture's. What it says about a crate is checked on the dependency graph
//! that cargo itself resolves, so a renamed, an indirect or a build dependency counts too. Development
//! dependencies are free, but for the opponents, which stay in a workspace of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::cargo;
use crate::error::Result;

/// What a crate of the workspace may use.
struct Layer {
    name: &'static str,
    /// The Herold crates below it.
    uses: &'static [&'static str],
    /// Without I/O, clock, threads and unsafe code.
    pure: bool,
}

#[rustfmt::skip]
const LAYERS: &[Layer] = &[
    Layer { name: "herold-crypto", uses: &[], pure: true },
    Layer { name: "herold-trust", uses: &["herold-crypto"], pure: true },
    Layer { name: "herold-store", uses: &["herold-crypto", "herold-trust"], pure: true },
    Layer { name: "herold-machine", uses: &["herold-crypto", "herold-trust", "herold-store"], pure: true },
    Layer { name: "herold-sqlcipher", uses: &[], pure: false },
    Layer { name: "herold-store-sqlite", uses: &["herold-crypto", "herold-store", "herold-sqlcipher"], pure: false },
    Layer { name: "herold", uses: &["herold-crypto", "herold-trust", "herold-store", "herold-sqlcipher", "herold-store-sqlite", "herold-machine"], pure: false },
    Layer { name: "herold-migrate", uses: &["herold-crypto", "herold-trust", "herold-store", "herold-sqlcipher", "herold-store-sqlite", "herold-machine"], pure: false },
    Layer { name: "herold-cli", uses: &["herold", "herold-migrate"], pure: false },
    Layer { name: "herold-ffi", uses: &["herold"], pure: false },
];

/// Members that may use anything, and that nothing published may use.
const FREE: &[&str] = &["herold-testkit", "herold-examples", "xtask"];

/// A foreign crate and the only layers that may name it.
const OWNED: &[(&str, &[&str])] = &[
    ("vodozemac", &["herold-crypto"]),
    ("graviola", &["herold-crypto"]),
    ("rusqlite", &["herold-store-sqlite", "herold-migrate"]),
    ("matrix-sdk-store-encryption", &["herold-migrate"]),
    ("libsqlite3-sys", &["herold-sqlcipher"]),
    ("reqwest", &["herold"]),
    ("hyper", &[]),
    ("tokio", &["herold", "herold-cli", "herold-ffi"]),
    ("uniffi", &["herold-ffi"]),
];

/// The one crate of the opponents' that is no engine: the format of their encrypted values.
const THEIR_FORMAT: &str = "matrix-sdk-store-encryption";

/// What must not be anywhere below a pure crate.
const IMPURE: &[&str] = &[
    "tokio",
    "async-std",
    "smol",
    "mio",
    "hyper",
    "reqwest",
    "rusqlite",
    "libsqlite3-sys",
    "uniffi",
];

/// What the `clippy.toml` of a pure crate has to forbid at least.
const FORBIDDEN_CALLS: &[&str] = &[
    "std::time::SystemTime::now",
    "std::time::Instant::now",
    "std::thread::spawn",
    "std::fs::read",
    "std::fs::write",
    "std::fs::File",
    "std::env::var",
    "std::net::TcpStream",
];

/// Compares the workspace with the table and prints what differs; `true` if nothing does.
///
/// # Errors
///
/// The workspace cannot be read.
pub fn check_workspace() -> Result<bool> {
    let violations = violations()?;
    for violation in &violations {
        println!("layering: {violation}");
    }
    println!("layering: {} violations", violations.len());
    Ok(violations.is_empty())
}

fn violations() -> Result<Vec<String>> {
    let metadata = cargo::output(cargo::cargo().args(["metadata", "--format-version=1"]))?;
    let graph = Graph::from_metadata(&serde_json::from_str(&metadata)?);
    let mut found = graph.violations();
    let root = cargo::root();
    for layer in LAYERS.iter().filter(|l| l.pure && graph.members.contains_key(l.name)) {
        let folder = root.join("crates").join(layer.name);
        let text = |file: &Path| fs::read_to_string(folder.join(file)).unwrap_or_default();
        let (lib, clippy) = (text(Path::new("src/lib.rs")), text(Path::new("clippy.toml")));
        found.extend(
            impurities(&lib, &clippy).into_iter().map(|what| format!("{}: {what}", layer.name)),
        );
    }
    Ok(found)
}

/// What a pure crate's root module and `clippy.toml` fail to forbid.
fn impurities(lib: &str, clippy: &str) -> Vec<String> {
    let mut found = Vec::new();
    if !lib.lines().any(|line| line.trim() == "#![forbid(unsafe_code)]") {
        found.push("src/lib.rs does not forbid unsafe_code".to_owned());
    }
    let forbids = |call: &str| clippy.contains(&format!("{{ path = \"{call}\""));
    let missing = FORBIDDEN_CALLS.iter().filter(|call| !forbids(call));
    found.extend(missing.map(|call| format!("clippy.toml does not disallow {call}")));
    found
}

/// A workspace member.
struct Member {
    published: bool,
    /// Names of direct normal and build dependencies.
    uses: BTreeSet<String>,
    /// Names of direct dependencies of any kind.
    names: BTreeSet<String>,
    /// Names of everything below it that is in a build of it.
    below: BTreeSet<String>,
}

/// The workspace's members and what they use.
struct Graph {
    members: BTreeMap<String, Member>,
}

impl Graph {
    /// Reads the output of `cargo metadata`.
    fn from_metadata(metadata: &Value) -> Self {
        let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
        let packages = list(&metadata["packages"]);
        let names: BTreeMap<&str, &str> = packages
            .iter()
            .filter_map(|p| Some((p["id"].as_str()?, p["name"].as_str()?)))
            .collect();
        let mut edges: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for node in list(&metadata["resolve"]["nodes"]) {
            let built =
                |dep: &Value| list(&dep["dep_kinds"]).iter().any(|kind| kind["kind"] != "dev");
            let to = list(&node["deps"]).into_iter().filter(built).map(|dep| string(&dep["pkg"]));
            edges.insert(string(&node["id"]), to.collect());
        }
        let members = list(&metadata["workspace_members"]);
        let members = packages.iter().filter(|p| members.contains(&p["id"])).map(|package| {
            let dependencies = list(&package["dependencies"]);
            let direct = |dev: bool| {
                let counts = |d: &&Value| dev || d["kind"] != "dev";
                dependencies.iter().filter(counts).map(|d| string(&d["name"])).collect()
            };
            let mut reached = BTreeSet::new();
            let mut open = vec![string(&package["id"])];
            while let Some(id) = open.pop() {
                let next = edges.get(&id).into_iter().flatten();
                open.extend(next.filter(|id| reached.insert((*id).clone())).cloned());
            }
            let below =
                reached.iter().filter_map(|id| names.get(id.as_str())).map(|n| (*n).to_owned());
            let published =
                package["publish"].as_array().is_none_or(|registries| !registries.is_empty());
            let member = Member {
                published,
                uses: direct(false),
                names: direct(true),
                below: below.collect(),
            };
            (string(&package["name"]), member)
        });
        Self { members: members.collect() }
    }

    /// Everything that the table does not allow.
    fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (name, member) in &self.members {
            let is_opponent = |name: &&String| {
                (name.starts_with("matrix-sdk") && *name != THEIR_FORMAT)
                    || name.starts_with("olm-")
            };
            for opponent in member.names.iter().filter(is_opponent) {
                found.push(format!(
                    "{name} depends on {opponent}, which belongs in a workspace of its own"
                ));
            }
            if FREE.contains(&name.as_str()) {
                if member.published {
                    found.push(format!("{name} would be published"));
                }
                continue;
            }
            let Some(layer) = LAYERS.iter().find(|l| l.name == name) else {
                found.push(format!("{name} is not in the table of layers"));
                continue;
            };
            found.extend(self.violations_of(layer, member).map(|what| format!("{name} {what}")));
        }
        found
    }

    fn violations_of<'a>(
        &'a self,
        layer: &'a Layer,
        member: &'a Member,
    ) -> impl Iterator<Item = String> + 'a {
        let above = member.uses.iter().filter(|used| {
            self.members.contains_key(*used) && !layer.uses.contains(&used.as_str())
        });
        let owned = OWNED.iter().filter(|(foreign, owners)| {
            member.uses.contains(*foreign) && !owners.contains(&layer.name)
        });
        let impure = IMPURE.iter().filter(|impure| layer.pure && member.below.contains(**impure));
        above
            .map(|used| format!("may not use {used}"))
            .chain(owned.map(|(foreign, _)| format!("may not name {foreign}")))
            .chain(impure.map(|impure| format!("is pure and has {impure} below it")))
    }
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{FORBIDDEN_CALLS, Graph, impurities, violations};

    /// Name and kind.
    type Dependency<'a> = (&'a str, Option<&'a str>);
    /// Name, whether it is published, dependencies.
    type Package<'a> = (&'a str, bool, &'a [Dependency<'a>]);

    /// Cargo's metadata for these packages; what is not named as a package is a foreign crate without
    /// dependencies.
    fn metadata(packages: &[Package<'_>]) -> Value {
        let package = |name: &str, published: bool, deps: &[Dependency<'_>]| {
            let deps: Vec<Value> =
                deps.iter().map(|(n, kind)| json!({"name": n, "kind": kind})).collect();
            let publish = if published { Value::Null } else { json!([]) };
            json!({"id": format!("id:{name}"), "name": name, "publish": publish, "dependencies": deps})
        };
        let node = |name: &str, deps: &[Dependency<'_>]| {
            let dep = |(n, kind): &Dependency<'_>| json!({"pkg": format!("id:{n}"), "dep_kinds": [{"kind": kind}]});
            json!({"id": format!("id:{name}"), "deps": deps.iter().map(dep).collect::<Vec<_>>()})
        };
        let foreign = packages.iter().flat_map(|p| p.2).map(|d| d.0);
        let foreign: Vec<&str> = foreign.filter(|n| packages.iter().all(|p| p.0 != *n)).collect();
        let mut all: Vec<Value> = packages.iter().map(|(n, p, d)| package(n, *p, d)).collect();
        all.extend(foreign.iter().map(|n| package(n, true, &[])));
        json!({
            "packages": all,
            "workspace_members": packages.iter().map(|p| format!("id:{}", p.0)).collect::<Vec<_>>(),
            "resolve": {"nodes": packages.iter().map(|(n, _, d)| node(n, d)).collect::<Vec<_>>()},
        })
    }

    fn found(packages: &[Package<'_>]) -> Vec<String> {
        Graph::from_metadata(&metadata(packages)).violations()
    }

    #[test]
    fn this_workspace_keeps_to_its_layers() {
        assert_eq!(violations().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_the_table_allows_is_no_violation() {
        let dev = Some("dev");
        let packages: &[Package<'_>] = &[
            ("herold-crypto", true, &[("vodozemac", None), ("tokio", dev)]),
            ("herold-trust", true, &[("herold-crypto", None), ("herold-testkit", dev)]),
            (
                "herold-testkit",
                false,
                &[("herold-crypto", None), ("tokio", None), ("vodozemac", None)],
            ),
        ];
        assert_eq!(found(packages), Vec::<String>::new());
    }

    #[test]
    fn a_dependency_upwards_is_found() {
        let packages: &[Package<'_>] = &[
            ("herold-machine", true, &[("herold-store-sqlite", None)]),
            ("herold-store-sqlite", true, &[]),
            ("herold-cli", true, &[("herold-machine", Some("build"))]),
        ];
        let expected = [
            "herold-cli may not use herold-machine",
            "herold-machine may not use herold-store-sqlite",
        ];
        assert_eq!(found(packages), expected);
    }

    #[test]
    fn a_foreign_crate_outside_its_owner_is_found() {
        let packages: &[Package<'_>] =
            &[("herold", true, &[("rusqlite", None), ("tokio", None), ("vodozemac", None)])];
        assert_eq!(
            found(packages),
            ["herold may not name vodozemac", "herold may not name rusqlite"]
        );
    }

    #[test]
    fn impurity_is_found_through_other_crates() {
        let packages: &[Package<'_>] =
            &[("herold-trust", true, &[("helper", None)]), ("helper", true, &[("mio", None)])];
        let all = found(packages);
        assert!(all.contains(&"herold-trust is pure and has mio below it".to_owned()), "{all:?}");
        assert!(all.contains(&"helper is not in the table of layers".to_owned()), "{all:?}");
    }

    #[test]
    fn the_testkit_is_never_published_nor_used_by_what_is() {
        let packages: &[Package<'_>] =
            &[("herold", true, &[("herold-testkit", None)]), ("herold-testkit", true, &[])];
        assert_eq!(
            found(packages),
            ["herold may not use herold-testkit", "herold-testkit would be published"]
        );
    }

    #[test]
    fn the_opponent_is_not_even_a_development_dependency() {
        let packages: &[Package<'_>] =
            &[("herold-testkit", false, &[("matrix-sdk-crypto", Some("dev"))])];
        assert_eq!(found(packages).len(), 1);
    }

    #[test]
    fn the_opponents_format_is_for_the_migration_alone() {
        let format = ("matrix-sdk-store-encryption", None);
        let packages: &[Package<'_>] = &[("herold-migrate", true, &[format, ("rusqlite", None)])];
        assert_eq!(found(packages), Vec::<String>::new());
        let packages: &[Package<'_>] = &[
            ("herold", true, &[("herold-migrate", None), format]),
            ("herold-migrate", true, &[("matrix-sdk-crypto", None)]),
        ];
        assert_eq!(
            found(packages),
            [
                "herold may not use herold-migrate",
                "herold may not name matrix-sdk-store-encryption",
                "herold-migrate depends on matrix-sdk-crypto, which belongs in a workspace of its own",
            ]
        );
    }

    #[test]
    fn a_pure_crate_that_forbids_too_little_is_found() {
        let clippy: String =
            FORBIDDEN_CALLS.iter().map(|c| format!("{{ path = \"{c}\" }},\n")).collect();
        assert_eq!(impurities("//! x\n#![forbid(unsafe_code)]\n", &clippy), Vec::<String>::new());
        assert_eq!(impurities("#![deny(unsafe_code)]", "").len(), 1 + FORBIDDEN_CALLS.len());
    }
}
