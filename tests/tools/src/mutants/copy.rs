//! The copies that mutants are built into: one for all that can be switched, and one for a single mutant.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::doctor::{Number, Piece, Places, blamed, doctored, last_arm, without_constants};
use super::{Mutant, REACHED, SWITCH};
use crate::breaks::workspace::{Doctored, MODEL, Programs, Texts, slim, unfetched};

/// The modules of `reloop-sim` in the copy. The model check is added only where it is asked for, because it takes long
/// to build.
const MODULES: [&str; 3] = ["world", "simulation", "fuzz"];

/// The tests in the copy, beside those of the rules' own crate.
const TESTS: [&str; 5] = ["rules", "rules_edges", "disagreements", "fences", "hostile"];

/// The crate root of the rules, to which the switch is added.
const ROOT: &str = "protocol/src/lib.rs";

/// How often the compiler is asked again after mutants that do not compile were left out: it reports errors in stages
/// (names, types, borrows).
const ROUNDS: usize = 20;

#[derive(Debug)]
pub struct Prepared {
    /// Contain every mutant that can be switched.
    pub programs: Programs,
    /// Mutants that have to be built one by one; many of them do not compile.
    pub alone: BTreeSet<Number>,
}

/// Makes and builds the copy with all mutants that can be switched.
pub fn prepare(workspace: &Path, mutants: &[Mutant], with_model: bool) -> Result<Prepared, String> {
    let plain = texts(workspace, with_model)?;
    let copy = Doctored::new(workspace, "mutants", "all");
    // Kept from an earlier run on the same sources.
    let memory = workspace.join("target/mutants/switched-off.json");
    let rules = hash(&plain);
    let (of, known): (u64, BTreeSet<Number>) = remembered(&memory);
    let mut off = if of == rules { known } else { BTreeSet::new() };
    let mut round = 0;
    let mut kept = BTreeSet::new();
    let left = loop {
        let (texts, left) = with_switches(&plain, mutants, &off, &kept)?;
        copy.write(&texts).map_err(|error| error.to_string())?;
        let mut errors = errors_of(&copy, &["check", "--keep-going", "--workspace", "--all-targets"])?;
        if errors.is_empty() {
            errors = errors_of(&copy, &["build", "-p", "reloop-protocol"])?;
        }
        if errors.is_empty() {
            break left;
        }
        round += 1;
        let mut more = BTreeSet::new();
        for error in &errors {
            let of_error = error.guilty(&texts);
            more.extend(of_error.iter().copied().filter(|number| !off.contains(number)));
            if of_error.is_empty() {
                kept.extend(error.constants(&texts));
            }
        }
        println!(
            "round {round}: {} errors, {} mutants cannot be switched",
            errors.len(),
            off.len() + more.len()
        );
        if (more.is_empty() && kept.is_empty()) || round > ROUNDS {
            let said: Vec<_> = errors.into_iter().map(|error| error.said).take(5).collect();
            return Err(format!("{} does not compile:\n{}", copy.root().display(), said.join("\n")));
        }
        off.extend(more);
    };
    remember(&memory, &(rules, &off))?;
    let programs = build(&copy)?;
    let alone = off.union(&left).copied().collect();
    Ok(Prepared { programs, alone })
}

/// Builds one mutant by itself; `None` if it does not compile. The compiler's verdict is stored by the text's hash.
pub fn alone(workspace: &Path, mutant: &Mutant, with_model: bool) -> Result<Option<Programs>, String> {
    let mut texts = texts(workspace, with_model)?;
    apply(&mut texts, mutant)?;
    let memory = workspace.join("target/mutants/compiles.json");
    let mut known: BTreeMap<u64, bool> = remembered(&memory);
    let rules = hash(&texts);
    if known.get(&rules) == Some(&false) {
        return Ok(None);
    }
    give_switch(&mut texts, 1);
    let copy = Doctored::new(workspace, "mutants", "one");
    copy.write(&texts).map_err(|error| error.to_string())?;
    let compiles = ["check", "build"].iter().map(|how| errors_of(&copy, &[how, "-p", "reloop-protocol"]));
    let compiles = compiles.map(|errors| errors.map(|errors| errors.is_empty())).find(|one| *one != Ok(true));
    known.insert(rules, compiles.unwrap_or(Ok(true))?);
    remember(&memory, &known)?;
    if known[&rules] { build(&copy).map(Some) } else { Ok(None) }
}

fn build(copy: &Doctored) -> Result<Programs, String> {
    let mut programs = copy.build(&["test", "--no-run", "--workspace", "--tests"])?;
    programs.extend(copy.build(&["build", "-p", "reloop-sim", "--bins"])?);
    Ok(programs)
}

fn texts(workspace: &Path, with_model: bool) -> Result<Texts, String> {
    let model = with_model.then_some(MODEL);
    let modules: Vec<_> = MODULES.into_iter().chain(model).collect();
    let tests: Vec<_> = TESTS.into_iter().chain(model).collect();
    slim(workspace, &modules, &tests).map_err(|error| error.to_string())
}

fn apply(texts: &mut Texts, mutant: &Mutant) -> Result<(), String> {
    let text = texts.get_mut(&mutant.file).ok_or_else(|| format!("{} is gone", mutant.file))?;
    *text = mutant.piece.applied(text, &(0..text.len()));
    Ok(())
}

/// The copy's texts, and the mutants that can't be switched.
fn with_switches(
    plain: &Texts,
    mutants: &[Mutant],
    off: &BTreeSet<Number>,
    kept: &BTreeSet<String>,
) -> Result<(Texts, BTreeSet<Number>), String> {
    let mut pieces: BTreeMap<&str, Vec<Piece>> = BTreeMap::new();
    for one in mutants.iter().filter(|one| !off.contains(&one.piece.number)) {
        pieces.entry(&one.file).or_default().push(one.piece.clone());
    }
    let mut texts = plain.clone();
    let mut left = BTreeSet::new();
    let mut constants = BTreeSet::new();
    for (file, mut pieces) in pieces {
        let text = texts.get_mut(file).ok_or_else(|| format!("{file} is gone"))?;
        let about = |error: syn::Error| format!("{file}: {error}");
        let places = Places::of(text).map_err(about)?;
        let (may, may_not): (Vec<_>, Vec<_>) = pieces
            .drain(..)
            .partition(|piece| places.constants_with(std::slice::from_ref(piece)).is_disjoint(kept));
        left.extend(may_not.iter().map(|piece| piece.number));
        constants.extend(places.constants_with(&may));
        let doctored = doctored(text, &may).map_err(about)?;
        left.extend(doctored.left);
        *text = doctored.text;
    }
    let sources: Vec<_> = texts.keys().filter(|file| file.ends_with(".rs")).cloned().collect();
    loop {
        let before = constants.len();
        for file in &sources {
            let places = Places::of(&texts[file]).map_err(|error| format!("{file}: {error}"))?;
            constants.extend(places.constants_of(&constants));
        }
        if constants.len() == before {
            break;
        }
    }
    for file in sources {
        let text =
            without_constants(&texts[&file], &constants).map_err(|error| format!("{file}: {error}"))?;
        texts.insert(file, text);
    }
    give_switch(&mut texts, mutants.len().max(1));
    Ok((texts, left))
}

/// One file with these mutants and the switch, as in the copy; and the mutants that can't be switched.
#[cfg(test)]
pub(super) fn set_in(text: &str, pieces: &[Piece]) -> syn::Result<(String, Vec<Number>)> {
    let mut constants = Places::of(text)?.constants_with(pieces);
    let found = doctored(text, pieces)?;
    constants.extend(Places::of(text)?.constants_of(&constants));
    let text = without_constants(&found.text, &constants)?;
    Ok((text + &switch(pieces.len()), found.left))
}

fn give_switch(texts: &mut Texts, mutants: usize) {
    if let Some(root) = texts.get_mut(ROOT) {
        root.push_str(&switch(mutants));
    }
}

/// The functions that are added to the copy's rules: the switch, and the record of reached mutants.
fn switch(mutants: usize) -> String {
    format!(
        r#"
/// Whether this mutant is switched on.
pub fn mutant(number: usize) -> bool {{
    use std::io::Write as _;
    use std::sync::atomic::{{AtomicBool, Ordering}};
    use std::sync::{{LazyLock, Mutex}};
    static ON: LazyLock<usize> = LazyLock::new(|| {{
        std::env::var("{SWITCH}").ok().and_then(|text| text.parse().ok()).unwrap_or(usize::MAX)
    }});
    static TOLD: LazyLock<Option<Mutex<std::fs::File>>> = LazyLock::new(|| {{
        let path = std::env::var_os("{REACHED}")?;
        std::fs::OpenOptions::new().create(true).append(true).open(path).ok().map(Mutex::new)
    }});
    static REACHED: [AtomicBool; {mutants}] = [const {{ AtomicBool::new(false) }}; {mutants}];
    if let Some(file) = &*TOLD
        && !REACHED[number].swap(true, Ordering::Relaxed)
    {{
        writeln!(file.lock().expect("nobody panics with it"), "{{number}}").expect("what is reached can be told");
    }}
    *ON == number
}}
"#
    )
}

/// A hash of the rules' sources.
fn hash(texts: &Texts) -> u64 {
    let mut hasher = DefaultHasher::new();
    texts.iter().filter(|(file, _)| file.starts_with("protocol/src")).for_each(|file| file.hash(&mut hasher));
    hasher.finish()
}

/// Results of an earlier run; the default if there are none that can be read.
fn remembered<T: DeserializeOwned + Default>(path: &Path) -> T {
    fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn remember<T: Serialize>(path: &Path, what: &T) -> Result<(), String> {
    let bytes = serde_json::to_vec(what).map_err(|error| error.to_string())?;
    fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))
}

#[derive(Debug)]
struct Error {
    said: String,
    /// File and byte of the compiler's primary spans.
    at: Vec<(String, usize)>,
}

impl Error {
    fn guilty(&self, texts: &Texts) -> BTreeSet<Number> {
        let spans = self.at.iter().filter_map(|(file, at)| texts.get(file).map(|text| blamed(text, *at)));
        let blamed: BTreeSet<Number> = spans.flatten().collect();
        if blamed.is_empty() && self.said.contains("non-exhaustive patterns") {
            let arm = |(file, at): &(String, usize)| last_arm(texts.get(file)?, *at);
            return self.at.iter().filter_map(arm).collect();
        }
        blamed
    }

    /// Constants that became functions where only a constant is allowed.
    fn constants(&self, texts: &Texts) -> BTreeSet<String> {
        let word = |(file, at): &(String, usize)| {
            let text = texts.get(file)?.get(*at..)?;
            let line = text.lines().next()?;
            let upper = |c: char| c.is_ascii_uppercase() || c == '_' || c.is_ascii_digit();
            let words = line.split(|c| !upper(c)).filter(|word| word.len() > 2);
            Some(
                words
                    .filter(|word| line.contains(&format!("{word}()")))
                    .map(str::to_owned)
                    .collect::<Vec<_>>(),
            )
        };
        self.at.iter().filter_map(word).flatten().collect()
    }
}

fn errors_of(copy: &Doctored, arguments: &[&str]) -> Result<Vec<Error>, String> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(arguments)
        .args(["--offline", "--message-format", "json", "--target-dir"])
        .arg(&copy.target)
        .current_dir(copy.root())
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut errors = Vec::new();
    for message in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let message = &message["message"];
        if message["level"] != "error" {
            continue;
        }
        let spans = message["spans"].as_array().map(Vec::as_slice).unwrap_or_default();
        let place = |span: &Value| {
            // Code from a macro counts at the place of the macro's call.
            let mut span = span;
            while span["expansion"]["span"].is_object() {
                span = &span["expansion"]["span"];
            }
            Some((span["file_name"].as_str()?.to_owned(), span["byte_start"].as_u64()? as usize))
        };
        let at: Vec<_> = spans.iter().filter(|span| span["is_primary"] == true).filter_map(place).collect();
        if !at.is_empty() {
            let said = message["rendered"].as_str().unwrap_or_default().to_owned();
            errors.push(Error { said, at });
        }
    }
    if errors.is_empty() && !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(unfetched(&said).unwrap_or_else(|| said.into_owned()));
    }
    Ok(errors)
}
