//! The rules are pure: they depend on nothing that does IO, and name nothing that does.
#![cfg(test)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The dependencies that `reloop-protocol` may have: data formats, a hash, the text form of ids, derive macros.
const ALLOWED: &[&str] = &[
    "bincode",
    "block-buffer",
    "cfg-if",
    "const-oid",
    "cpufeatures",
    "crypto-common",
    "digest",
    "hybrid-array",
    "proc-macro2",
    "quote",
    "reloop-protocol",
    "serde",
    "serde_core",
    "serde_derive",
    "sha2",
    "syn",
    "thiserror",
    "thiserror-impl",
    "typenum",
    "ulid",
    "unicode-ident",
];

/// Paths that the rules' sources may not name.
const FORBIDDEN: &[&str] = &[
    "std::fs",
    "std::net",
    "std::io",
    "std::env",
    "std::process",
    "std::thread",
    "std::time",
    "std::sync",
    "tokio",
    "async fn",
    ".await",
    "tracing::",
    "println!",
    "eprintln!",
    "unsafe",
    "HashMap",
    "HashSet",
    "rand::",
];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn the_rules_depend_on_an_allow_list_only() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "-p", "reloop-protocol", "-e", "normal,build", "--prefix", "none", "--format", "{p}"])
        .current_dir(workspace())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let found: BTreeSet<_> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(found.contains("serde"), "{text}");
    let strangers: Vec<_> = found.iter().filter(|name| !ALLOWED.contains(name)).collect();
    assert!(strangers.is_empty(), "the rules must not depend on {strangers:?}");
}

#[test]
fn the_rules_name_nothing_that_does_io() {
    let mut files = vec![workspace().join("protocol/src")];
    let mut seen = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        seen += 1;
        let text = std::fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap();
            for word in FORBIDDEN {
                assert!(!code.contains(word), "{}:{}: {word}", path.display(), number + 1);
            }
        }
    }
    assert!(seen > 10, "the rules were looked at");
}
