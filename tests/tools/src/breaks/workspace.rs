//! The changed copies of the workspace, and the programs that are built from them.
//!
//! A file is written only if it differs, so that a second build is incremental.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Break, SEEDED_FN, SWITCH};

/// The crate root of the rules, to which the switch is added.
const RULES_ROOT: &str = "protocol/src/lib.rs";

/// The modules of `reloop-sim` that the tests of the rules need.
const WORLD: [&str; 2] = ["world", "simulation"];

/// The model check, a module and a test. It is left out where possible, because it needs stateright.
pub(crate) const MODEL: &str = "model";

/// Changes of the whole copy beside the seeded bugs: the switch is passed on to the nodes, and scenarios that wait for
/// something that a bug prevents give up sooner.
const ADAPTED: [(&str, &str, &str); 2] = [
    (
        "tests/rig/src/daemon.rs",
        "key.as_bytes().starts_with(b\"RELOOP_\")",
        "key.as_bytes().starts_with(b\"RELOOP_\") && key.as_bytes() != b\"RELOOP_BREAK\"",
    ),
    (
        "tests/rig/src/wait.rs",
        "PATIENCE: Duration = Duration::from_secs(40)",
        "PATIENCE: Duration = Duration::from_secs(20)",
    ),
];

/// A copy and its target directory.
#[derive(Debug, Clone)]
pub struct Doctored {
    pub(crate) root: PathBuf,
    pub(crate) target: PathBuf,
}

/// Programs that were built: name and path.
pub type Programs = BTreeMap<String, PathBuf>;

/// The copy of the rules with their tests and the simulation.
pub fn rules(workspace: &Path, breaks: &[Break]) -> io::Result<Doctored> {
    let copy = Doctored::new(workspace, "breaks", "rules");
    let mut texts = slim(workspace, &WORLD, &super::RULE_TESTS)?;
    if let Some(manifest) = texts.get_mut("protocol/Cargo.toml") {
        *manifest = without_section(manifest, "[dev-dependencies]");
    }
    texts.retain(|path, _| !path.starts_with("protocol/tests"));
    let of_rules: Vec<_> = breaks.iter().filter(|one| one.place.starts_with("protocol/")).cloned().collect();
    doctor(&mut texts, &of_rules)?;
    copy.write(&texts)?;
    Ok(copy)
}

/// Makes a workspace of the rules with these modules of `reloop-sim`, these of its tests, and the program that searches
/// schedules. It contains no seeded bug yet.
pub(crate) fn slim(workspace: &Path, modules: &[&str], programs: &[&str]) -> io::Result<Texts> {
    let mut files = BTreeMap::new();
    let mut take = |from: &str| collect(workspace, Path::new(from), &mut files);
    take("Cargo.lock")?;
    take("protocol")?;
    take("tests/sim/Cargo.toml")?;
    for module in modules {
        take(&format!("tests/sim/src/{module}.rs"))?;
        take(&format!("tests/sim/src/{module}"))?;
    }
    take("tests/sim/tests/stage")?;
    for program in programs {
        take(&format!("tests/sim/tests/{program}.rs"))?;
        take(&format!("tests/sim/tests/{program}"))?;
    }
    let mut texts = read(workspace, files)?;
    let members = fs::read_to_string(workspace.join("Cargo.toml"))?;
    texts.insert("Cargo.toml".into(), smaller(&members));
    let modules_of_lib = modules.iter().map(|module| format!("pub mod {module};\n"));
    texts.insert("tests/sim/src/lib.rs".into(), modules_of_lib.collect());
    texts.insert("tests/sim/src/bin/hunt.rs".into(), HUNT.to_owned());
    if !modules.contains(&MODEL)
        && let Some(manifest) = texts.get_mut("tests/sim/Cargo.toml")
    {
        // stateright takes as long to build as everything else.
        *manifest = manifest.replace("stateright.workspace = true\n", "");
    }
    Ok(texts)
}

/// The sources that may contain a seeded bug.
pub(super) fn sources(workspace: &Path) -> io::Result<Texts> {
    let mut files = BTreeMap::new();
    for folder in ["protocol/src", "node/src", "master/src", "slave/src"] {
        collect(workspace, Path::new(folder), &mut files)?;
    }
    read(workspace, files)
}

pub fn whole(workspace: &Path, breaks: &[Break]) -> io::Result<Doctored> {
    let copy = Doctored::new(workspace, "breaks", "whole");
    let mut files = BTreeMap::new();
    collect(workspace, Path::new(""), &mut files)?;
    let mut texts = read(workspace, files)?;
    // The copy does not need the list: without it, a new line of the list does not cause a rebuild.
    let lists = texts.iter_mut().filter(|(path, _)| path.starts_with("tests/tools/src/breaks/list/"));
    lists.for_each(|(_, list)| list.clear());
    doctor(&mut texts, breaks)?;
    for (file, find, with) in ADAPTED {
        let text = texts.get_mut(file).ok_or_else(|| io::Error::other(format!("{file} is gone")))?;
        if text.matches(find).count() != 1 {
            return Err(io::Error::other(format!("{file} does not hold once what the copy changes: {find}")));
        }
        *text = text.replace(find, with);
    }
    copy.write(&texts)?;
    Ok(copy)
}

/// Texts by their path from the root. Files that are not UTF-8 are left out.
pub(crate) type Texts = BTreeMap<String, String>;

fn doctor(texts: &mut Texts, breaks: &[Break]) -> io::Result<()> {
    super::doctor(texts, breaks).map_err(io::Error::other)?;
    let root = texts.get_mut(RULES_ROOT).ok_or_else(|| io::Error::other(format!("{RULES_ROOT} is gone")))?;
    root.push_str(SEEDED_FN);
    Ok(())
}

/// Collects the files below a path of the workspace, without build output and hidden files.
fn collect(workspace: &Path, path: &Path, files: &mut BTreeMap<String, PathBuf>) -> io::Result<()> {
    let full = workspace.join(path);
    if full.is_file() {
        files.insert(path.to_string_lossy().into_owned(), full);
        return Ok(());
    }
    if !full.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(&full)? {
        let name = entry?.file_name();
        if name != "target" && !name.to_string_lossy().starts_with('.') {
            collect(workspace, &path.join(name), files)?;
        }
    }
    Ok(())
}

fn read(workspace: &Path, files: BTreeMap<String, PathBuf>) -> io::Result<Texts> {
    let mut texts = Texts::new();
    for (name, path) in files {
        match fs::read_to_string(&path) {
            Ok(text) => drop(texts.insert(name, text)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
            Err(error) => {
                let place = path.strip_prefix(workspace).unwrap_or(&path).display();
                return Err(io::Error::new(error.kind(), format!("{place}: {error}")));
            }
        }
    }
    Ok(texts)
}

/// The workspace's manifest with two members, without the path dependencies that the copy does not contain.
fn smaller(manifest: &str) -> String {
    let line = |line: &str| match line {
        _ if line.starts_with("members = ") => "members = [\"protocol\", \"tests/sim\"]".to_owned(),
        _ if line.starts_with("default-members = ") => String::new(),
        _ => line.to_owned(),
    };
    without_section(&manifest.lines().map(|text| line(text) + "\n").collect::<String>(), "[patch.crates-io]")
}

fn without_section(manifest: &str, title: &str) -> String {
    let mut inside = false;
    let mut kept = String::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line == title;
        }
        if !inside {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

const HUNT: &str = include_str!("hunt.rs");

impl Doctored {
    pub(crate) fn new(workspace: &Path, kind: &str, name: &str) -> Self {
        let place = workspace.join("target").join(kind);
        Self { root: place.join(name), target: place.join(format!("{name}-target")) }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn write(&self, texts: &Texts) -> io::Result<()> {
        let mut old = BTreeMap::new();
        collect(&self.root, Path::new(""), &mut old)?;
        let stale: BTreeSet<_> = old.keys().filter(|name| !texts.contains_key(*name)).collect();
        for name in stale {
            if name != "Cargo.lock" {
                fs::remove_file(self.root.join(name))?;
            }
        }
        for (name, text) in texts {
            let path = self.root.join(name);
            if fs::read_to_string(&path).is_ok_and(|known| known == *text) {
                continue;
            }
            // Cargo removes what the smaller workspace does not need; that difference is no reason to rewrite the file.
            if name == "Cargo.lock" && path.is_file() {
                continue;
            }
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir)?;
            }
            fs::write(&path, text)?;
        }
        Ok(())
    }

    /// Builds the copy and returns its programs. Dependencies are taken from the vendored or cached ones of the
    /// original build (`--offline`).
    ///
    /// # Errors
    /// The compiler's output.
    pub fn build(&self, arguments: &[&str]) -> Result<Programs, String> {
        let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(arguments)
            .args(["--offline", "--message-format", "json-render-diagnostics", "--target-dir"])
            .arg(&self.target)
            .current_dir(&self.root)
            .env_remove(SWITCH)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("cargo: {error}"))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            if let Some(hint) = unfetched(&text) {
                return Err(hint);
            }
            // Without the warnings, of which changed sources cause many.
            let errors: Vec<_> = text.split("\n\n").filter(|part| part.contains("error")).collect();
            return Err(format!("{}: {arguments:?} failed:\n{}", self.root.display(), errors.join("\n\n")));
        }
        let messages = String::from_utf8_lossy(&output.stdout);
        let messages =
            messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let program = |message: serde_json::Value| {
            let path = message["executable"].as_str()?.into();
            Some((message["target"]["name"].as_str()?.to_owned(), path))
        };
        Ok(messages.filter_map(program).collect())
    }
}

/// What to say if a build without network misses a crate.
pub(crate) fn unfetched(said: &str) -> Option<String> {
    let is_missing = said.contains("--offline was specified");
    is_missing.then(|| format!("{said}\nrun `cargo fetch` once: a copy is built from what cargo has fetched"))
}
