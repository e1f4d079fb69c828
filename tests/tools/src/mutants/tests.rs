use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use super::copy::set_in;
use super::doctor::{Piece, blamed, doctored};
use super::run::{Fate, Stage};
use super::*;

/// A program whose output differs with each of its mutants.
const SOURCE: &str = r#"
use std::fmt::Debug;
const LIMIT: usize = 4 * 8;
const LIMITS: [usize; 2] = [LIMIT, 1];
#[derive(Debug, Clone, Default)]
struct Pair { left: u8, right: u8 }
fn value() -> u8 { let seven = 7; seven }
fn numbers() -> impl Iterator<Item = u8> { [1, 2].into_iter() }
fn both(a: bool, b: bool, c: bool) -> bool { a && b || c }
fn not(a: bool) -> bool { !a }
fn name(number: u8) -> &'static str {
    match number {
        1 => "one",
        2 if number.is_power_of_two() => "two",
        n if n > 8 => "big",
        _ => "other",
    }
}
fn pair() -> Pair { let old = Pair { left: 1, right: 2 }; Pair { left: 3, ..old } }
fn chain(some: Option<u8>) -> u8 {
    let mut sum = 0;
    if let Some(n) = some && n == 5 { sum += 2 }
    sum
}
fn say(what: impl Debug) { println!("{what:?}"); }
fn main() {
    say(value());
    say(numbers().collect::<Vec<_>>());
    for bits in 0..8 { say(both(bits & 1 > 0, bits & 2 > 0, bits & 4 > 0)); }
    say(not(true));
    for number in [1, 2, 3, 9] { say(name(number)); }
    say(pair());
    say((chain(Some(5)), chain(Some(4)), chain(None)));
    say(format!("at most {LIMIT}"));
    say(LIMITS);
}
"#;

/// One mutant of each kind: kind, its line, the replaced text, the replacement.
const KINDS: [(Genre, &str, &str, &str); 13] = [
    (Genre::FnValue, "fn value", "let seven = 7; seven", "0"),
    (Genre::FnValue, "fn numbers", "[1, 2].into_iter()", "::std::iter::empty()"),
    (Genre::BinaryOperator, "fn both", "&&", "||"),
    (Genre::BinaryOperator, "fn both", "||", "&&"),
    (Genre::UnaryOperator, "fn not", "!", ""),
    (Genre::MatchArm, "1 => ", "1 => \"one\",", ""),
    (Genre::MatchArm, "2 if", "2 if number.is_power_of_two() => \"two\",", ""),
    (Genre::MatchArmGuard, "n if", "n > 8", "true"),
    (Genre::MatchArmGuard, "n if", "n > 8", "false"),
    (Genre::BinaryOperator, "n if", ">", "<"),
    (Genre::StructField, "fn pair", "left: 3,", ""),
    (Genre::BinaryOperator, "if let", "+=", "-="),
    (Genre::BinaryOperator, "const LIMIT:", "*", "+"),
];

fn piece(number: Number, (genre, line, find, instead): (Genre, &str, &str, &str)) -> Piece {
    let line = SOURCE.find(line).unwrap();
    let start = line + SOURCE[line..].find(find).unwrap();
    Piece { number, genre, at: start..start + find.len(), instead: instead.to_owned() }
}

/// The output of a program with this mutant on.
fn said(program: &Path, mutant: Option<Number>) -> String {
    let mut command = Command::new(program);
    command.env_remove(SWITCH).envs(mutant.map(|number| (SWITCH, number.to_string())));
    let output = command.output().unwrap();
    // A mutant may overflow: the exit status is part of the output.
    format!("{}{:?}", String::from_utf8_lossy(&output.stdout), output.status.code())
}

fn built(dir: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let (source, program) = (dir.join(format!("{name}.rs")), dir.join(name));
    std::fs::write(&source, text).unwrap();
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command
        .args(["--edition", "2024", "-Awarnings", "-Cdebug-assertions=on", "-o"])
        .arg(&program)
        .arg(&source);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    program
}

#[test]
fn a_switched_mutant_behaves_as_the_source_that_was_changed_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let pieces: Vec<_> = KINDS.into_iter().enumerate().map(|(number, kind)| piece(number, kind)).collect();
    let (text, left) = set_in(SOURCE, &pieces).unwrap();
    assert!(left.is_empty(), "{left:?}");
    let switched = built(dir.path(), "switched", &text);
    let sound = said(&built(dir.path(), "sound", SOURCE), None);
    assert_eq!(said(&switched, None), sound);
    for piece in &pieces {
        let name = format!("alone{}", piece.number);
        let alone = built(dir.path(), &name, &piece.applied(SOURCE, &(0..SOURCE.len())));
        let expected = said(&alone, None);
        assert_ne!(expected, sound, "{piece:?} changes nothing: it proves nothing here");
        assert_eq!(said(&switched, Some(piece.number)), expected, "{piece:?}");
    }
}

#[test]
fn each_reached_mutant_is_recorded_once() {
    let dir = tempfile::tempdir().unwrap();
    let pieces = [piece(0, KINDS[4]), piece(1, KINDS[0])];
    let text = set_in(&SOURCE.replace("say(value());", "value(); value();"), &[]).unwrap().0;
    let without = built(dir.path(), "without", &text);
    let with = built(dir.path(), "with", &set_in(SOURCE, &pieces).unwrap().0);
    for (program, expected) in [(without, ""), (with, "1\n0\n")] {
        let file = dir.path().join("reached");
        std::fs::write(&file, "").unwrap();
        Command::new(program).env(REACHED, &file).output().unwrap();
        assert_eq!(std::fs::read_to_string(file).unwrap(), expected);
    }
}

#[test]
fn mutants_that_can_not_be_switched_are_left_to_be_built_alone() {
    let text = "const fn f(a: u8) -> u8 { a + 1 }\nfn g(a: Option<u8>) -> bool { if let Some(b) = a && b > 1 { true } else { false } }";
    let at = |find: &str| text.find(find).unwrap()..text.find(find).unwrap() + find.len();
    let operator = |number, find: &str| Piece {
        number,
        genre: Genre::BinaryOperator,
        at: at(find),
        instead: "-".to_owned(),
    };
    let doctored = doctored(text, &[operator(0, "+"), operator(1, "&&"), operator(2, "> 1")]).unwrap();
    assert_eq!(doctored.left, [0, 1]);
    assert!(doctored.text.contains("mutant(2)"));
}

#[test]
fn a_compiler_error_is_blamed_on_the_mutant_with_its_text_or_on_all_that_share_the_choice() {
    let text = "fn f(a: u8, b: u8) -> bool { a == b }";
    let at = text.find("==").unwrap();
    let piece = |number, instead: &str| Piece {
        number,
        genre: Genre::BinaryOperator,
        at: at..at + 2,
        instead: instead.to_owned(),
    };
    let text = doctored(text, &[piece(3, "!="), piece(4, "<")]).unwrap().text;
    assert_eq!(blamed(&text, text.find("!=").unwrap()), BTreeSet::from([3]));
    assert_eq!(blamed(&text, text.find("a < b").unwrap()), BTreeSet::from([4]));
    assert_eq!(blamed(&text, text.find("a == b").unwrap()), BTreeSet::from([3, 4]));
    assert_eq!(blamed(&text, text.find("-> bool").unwrap()), BTreeSet::new());
}

#[test]
fn a_listed_mutant_is_found_in_its_text_and_keeps_its_name_when_lines_move() {
    let json = |line: usize| {
        format!(
            r#"[{{"file":"x.rs","name":"x.rs:{line}:15: replace == with != in f","genre":"BinaryOperator",
                "replacement":"!=","span":{{"start":{{"line":{line},"column":15}},"end":{{"line":{line},"column":17}}}}}}]"#
        )
    };
    let line = "let é = |a| a == b;";
    for lines in 1..3 {
        let text = format!("{}{line}\n", "\n".repeat(lines - 1));
        let found = listed(&json(lines), |_| Ok(text.clone())).unwrap();
        assert_eq!(found[0].name, "x.rs: replace == with != in f in `let é = |a| a == b;`");
        assert_eq!(&text[found[0].piece.at.clone()], "==");
    }
}

#[test]
fn a_report_names_each_survivor_and_whatever_is_wrong_with_the_explanations() {
    let mutant = |number| Mutant {
        file: "x.rs".to_owned(),
        name: format!("x.rs: m{number}"),
        piece: Piece { number, genre: Genre::FnValue, at: 0..0, instead: String::new() },
    };
    let mutants: Vec<_> = (0..4).map(mutant).collect();
    let caught = Fate::Caught { by: Stage::Rules, what: String::new(), hung: false };
    let survived = Fate::Survived { reached: BTreeSet::new() };
    let fates = [Fate::Unviable, caught, survived.clone(), survived];
    let fates = mutants.iter().map(|one| one.name.clone()).zip(fates).collect();
    let explained = [("x.rs: m1", "not needed"), ("x.rs: m2", "a why"), ("x.rs: m9", "gone")];
    let (page, wrong) = report::page(&mutants, &fates, &explained);
    assert!(page.contains("m2: a why"), "{page}");
    assert!(page.contains("| `x.rs` | 4 | 3 | 1 | 0 | 0 | 0 | 0 | 2 | 33.3 |"), "{page}");
    let wrong = wrong.join("\n");
    for word in ["unexplained: x.rs: m3", "does not survive: x.rs: m1", "no mutant: x.rs: m9", "33.3 %"] {
        assert!(wrong.contains(word), "{wrong}");
    }
}

#[test]
fn every_explanation_is_about_a_line_that_is_there() {
    for (name, why) in EXPLAINED {
        let (file, what) = name.split_once(": ").unwrap();
        let text = std::fs::read_to_string(reloop_rig::daemon::workspace().join(file)).unwrap();
        let line = what.split('`').nth(1);
        assert!(line.is_none_or(|line| text.contains(line)), "{name}: there is no such line any more");
        assert!(!why.is_empty(), "{name}");
    }
    let page = std::fs::read_to_string(reloop_rig::daemon::workspace().join("docs/mutants.md")).unwrap();
    let untold: Vec<_> = EXPLAINED.iter().filter(|(_, why)| !page.contains(why)).collect();
    assert!(untold.is_empty(), "docs/mutants.md is older than these: {untold:#?}");
}
