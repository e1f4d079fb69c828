//! The documentation agrees with the code: printed pages are up to date, and pages that are written by hand leave no
//! word of the wire out. `UPDATE_DOCS=1` prints the pages.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use reloop_protocol::job::State;
use reloop_protocol::master::{Delivery, WhyNot};
use reloop_protocol::message::{
    Activity, Attention, CloseCode, Message, Mode, ReasonCode, Source, WaitingFor,
};
use reloop_protocol::reconcile::{TABLE, Verdict};
use reloop_protocol::wire;
use reloop_tools::coverage::{self, Test};
use reloop_tools::docs;
use reloop_tools::rows::{ROWS, Rule, Scope};

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn check(path: &str, printed: &str) {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::create_dir_all(root().join("docs")).expect("the folder can be made");
        std::fs::write(root().join(path), printed).expect("the page can be written");
    }
    let written = read(path);
    let differs = written.lines().zip(printed.lines()).find(|(written, printed)| written != printed);
    assert!(
        written == printed,
        "{path} differs from the code, first here: {differs:?}; `UPDATE_DOCS=1` writes it anew"
    );
}

/// The rows of a page's tables: first cell, number of cells, and whether one of them is empty.
fn rows(page: &str) -> Vec<(String, usize, bool)> {
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()
    };
    page.lines()
        .filter(|line| line.starts_with("| "))
        .map(cells)
        .map(|cells| (cells[0].clone(), cells.len(), cells.iter().any(String::is_empty)))
        .collect()
}

fn assert_says(page: &str, path: &str, words: impl IntoIterator<Item = String>) {
    let missing: Vec<_> = words.into_iter().filter(|word| !page.contains(word.as_str())).collect();
    assert!(missing.is_empty(), "{path} does not say {missing:?}");
}

fn code(word: &str) -> String {
    format!("`{word}`")
}

#[test]
fn the_reconciliation_page_is_as_the_tables_print_it() {
    check("docs/reconciliation.md", &docs::reconciliation());
}

#[test]
fn the_states_page_is_as_the_words_print_it() {
    check("docs/states.md", &docs::states());
}

#[test]
fn the_coverage_page_is_as_the_names_of_the_tests_print_it() {
    check("docs/coverage.md", &coverage::page(&tests()));
}

fn tests() -> Vec<coverage::Test> {
    coverage::FOLDERS.iter().flat_map(|folder| coverage::collect(&root(), folder)).collect()
}

#[test]
fn every_row_of_the_disagreements_is_shown_where_it_has_to_be() {
    assert_eq!(coverage::gaps(&tests()), Vec::<String>::new());
    let main = read("tests/sim/tests/disagreements/main.rs");
    for test in tests() {
        // A module that `main.rs` does not declare is not compiled, and its tests do not run.
        if let Some(module) = test.file.strip_prefix("tests/sim/tests/disagreements/") {
            let declared = format!("\nmod {};", module.trim_end_matches(".rs"));
            assert!(main.contains(&declared), "{} is not part of the program", test.file);
        }
    }
}

#[test]
fn every_row_of_the_disagreements_says_what_decides_it() {
    for row in ROWS.iter().filter(|row| !matches!(row.scope, Scope::Nothing(_))) {
        assert!(row.lines().count() + row.rules.len() > 0, "nothing decides {}", row.number);
        for Rule { file, function } in row.rules {
            let source = read(file);
            let there = ["(", "<"].iter().any(|then| source.contains(&format!("fn {function}{then}")));
            assert!(there, "{}: there is no function {function} in {file}", row.number);
        }
    }
    let numbers: BTreeSet<&str> = ROWS.iter().map(|row| row.number).collect();
    assert_eq!(numbers.len(), ROWS.len(), "each number once");
    let published = [('A', 22), ('B', 10), ('C', 8), ('D', 10), ('E', 10), ('P', 8)];
    for number in published.iter().flat_map(|(letter, last)| (1..=*last).map(move |n| format!("{letter}{n}")))
    {
        assert!(numbers.contains(number.as_str()), "{number} has no row");
    }
    assert_eq!(numbers.len(), 68);
}

/// The links to tests: name and file.
fn linked_tests(page: &str) -> Vec<(&str, &str)> {
    let links = page.split("[`").skip(1).filter_map(|rest| {
        let (name, rest) = rest.split_once("`](")?;
        let (target, _) = rest.split_once(')')?;
        Some((name, target.strip_prefix("../")?))
    });
    links.filter(|(_, target)| target.ends_with(".rs")).collect()
}

const GUARANTEES: &str = "docs/guarantees.md";
const PROMISES: usize = 9;

#[test]
fn every_proof_that_the_guarantees_name_is_a_test_that_runs() {
    let page = read(GUARANTEES);
    let mut missing = Vec::new();
    for (name, file) in linked_tests(&page) {
        let named = Test { file: file.to_owned(), name: name.to_owned() };
        if !coverage::of_source(file, &read(file)).contains(&named) {
            missing.push(named);
        }
    }
    assert_eq!(missing, [], "{GUARANTEES} names tests that are not there, or are ignored");
}

#[test]
fn every_guarantee_has_a_proof_its_faults_and_its_limits() {
    let page = read(GUARANTEES);
    let sections: Vec<&str> = page.split("\n## ").skip(1).collect();
    for promise in 1..=PROMISES {
        let Some(section) = sections.iter().find(|section| section.starts_with(&format!("{promise}. ")))
        else {
            panic!("{GUARANTEES} does not speak of promise {promise}");
        };
        assert!(linked_tests(section).len() >= 2, "promise {promise} has hardly a proof");
        for part in ["**Under**", "**Proof**", "**Not promised**"] {
            assert!(section.contains(part), "promise {promise} does not say {part}");
        }
    }
}

#[test]
fn every_value_has_its_row_in_the_states_page() {
    assert_eq!(docs::missing(), Vec::<String>::new());
    let page = docs::states();
    let rows = rows(&page);
    let has = |word: &str, cells: usize| {
        assert!(
            rows.iter().any(|(first, count, empty)| *first == code(word) && *count == cells && !empty),
            "{word} has no full row of {cells} cells"
        );
    };
    for state in State::ALL {
        has(state.name(), 2);
        has(state.name(), 6);
    }
    for mode in Mode::ALL {
        has(mode.name(), 5);
    }
    for activity in Activity::ALL {
        has(activity.name(), 6);
    }
    for (link, ..) in docs::LINKS {
        has(link, 5);
    }
    let waits = docs::all(wire::decode::<WaitingFor>);
    assert_eq!(waits.last(), Some(&WaitingFor::Elsewhere), "all of them are found");
    for waiting in waits {
        has(waiting.name(), 3);
    }
    for attention in docs::all(wire::decode::<Attention>) {
        has(attention.name(), 3);
    }
    for source in docs::all(wire::decode::<Source>) {
        has(source.name(), 2);
    }
    assert_eq!(docs::flags().len(), 10);
    for flag in docs::flags().into_iter().map(|(_, flag)| flag).chain(docs::SHOWN_FLAGS.map(|(flag, _)| flag))
    {
        has(flag, 2);
    }
    let master = read("master/src/rest/view/job.rs");
    let pushed = master.matches("flags.push(").count();
    let known = docs::SHOWN_FLAGS
        .iter()
        .filter(|(flag, _)| master.contains(&format!("flags.push(\"{flag}\".into())")));
    assert_eq!((pushed, known.count()), (2, 2), "what the master adds to the flags is in SHOWN_FLAGS");
    for delivery in Delivery::ALL {
        has(delivery.name(), 2);
    }
    for why in WhyNot::ALL {
        has(why.name(), 3);
    }
    for reason in ReasonCode::ALL {
        has(reason.name(), 3);
    }
    for close in CloseCode::ALL {
        let number = close.number().to_string();
        assert!(rows.iter().any(|(first, count, _)| *first == number && *count == 6), "{close:?} has no row");
    }
}

#[test]
fn every_line_of_the_verdict_table_is_printed() {
    let page = docs::reconciliation();
    assert_says(&page, "docs/reconciliation.md", TABLE.iter().map(|line| format!("| `{}` |", line.name)));
    assert_says(&page, "docs/reconciliation.md", Verdict::ALL.map(|verdict| code(verdict.name())));
    assert_says(&page, "docs/reconciliation.md", State::ALL.map(|state| format!("### `{}`", state.name())));
}

/// In wire order, as the table of messages in PROTOCOL.md has them.
const MESSAGES: [&str; 15] = [
    "Challenge",
    "Hello",
    "Welcome",
    "Refuse",
    "Settled",
    "Report",
    "Declined",
    "Machine",
    "DesiredState",
    "Forget",
    "OperatingMode",
    "Ask",
    "Answer",
    "Ping",
    "Pong",
];

const PROTOCOL: &str = "protocol/PROTOCOL.md";

#[test]
fn the_protocol_page_leaves_no_word_and_no_number_out() {
    let page = read(PROTOCOL);
    let numbered = |number: usize, word: &str| format!("{number} | {word} |");
    let listed = |number: usize, word: &str| format!("{number} {}", code(word));
    let each = |words: Vec<&'static str>| words.into_iter().enumerate();
    assert_says(&page, PROTOCOL, each(MESSAGES.to_vec()).map(|(n, word)| format!("| {}", numbered(n, word))));
    let states = State::ALL.iter().map(|state| state.name()).collect();
    assert_says(&page, PROTOCOL, each(states).map(|(n, word)| format!("| {}", numbered(n, &code(word)))));
    let reasons = ReasonCode::ALL.iter().map(|reason| reason.name()).collect();
    assert_says(&page, PROTOCOL, each(reasons).map(|(n, word)| numbered(n, &code(word))));
    let plain: [Vec<&str>; 6] = [
        Mode::ALL.iter().map(|word| word.name()).collect(),
        Activity::ALL.iter().map(|word| word.name()).collect(),
        Verdict::ALL.iter().map(|word| word.name()).collect(),
        docs::all(wire::decode::<WaitingFor>).into_iter().map(WaitingFor::name).collect(),
        docs::all(wire::decode::<Source>).into_iter().map(Source::name).collect(),
        docs::all(wire::decode::<Attention>).into_iter().map(Attention::name).collect(),
    ];
    for words in plain {
        assert_says(&page, PROTOCOL, each(words).map(|(n, word)| listed(n, word)));
    }
    let flags = docs::flags().into_iter();
    assert_says(
        &page,
        PROTOCOL,
        flags.map(|(bit, word)| format!("| {} | {bit} | `{word}` |", bit.trailing_zeros())),
    );
    let closes = CloseCode::ALL.iter().enumerate();
    assert_says(
        &page,
        PROTOCOL,
        closes.map(|(n, close)| {
            let passing = if close.is_passing() { "yes" } else { "no" };
            format!("| {n} | {close:?} | {} | {passing} |", close.number())
        }),
    );
}

#[test]
fn the_vectors_in_the_protocol_page_are_the_golden_ones_and_are_decoded_to_the_last_byte() {
    let golden = read("protocol/tests/golden/v1.txt");
    let golden: BTreeMap<&str, &str> = golden.lines().filter_map(|line| line.split_once(' ')).collect();
    let page = read(PROTOCOL);
    let (_, vectors) = page.split_once("## 17 Vectors").expect("the page has its vectors");
    let squeeze = |text: &str| text.chars().filter(|c| !c.is_whitespace() && *c != '`').collect::<String>();
    for name in ["ask.log", "forget", "desired_state.resolve", "report"] {
        let section =
            vectors.split("\n### ").find(|section| section.contains(&code(name))).expect("its section");
        assert!(squeeze(section).contains(golden[name]), "{name} is not the golden vector");
        let decoded: String = section
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split(" | ").next())
            .map(squeeze)
            .collect();
        assert_eq!(decoded, golden[name], "{name}, decoded");
    }
    assert!(squeeze(vectors).contains(golden["digest"]));
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("two hexadecimal digits");
    (0..hex.len()).step_by(2).map(byte).collect()
}

#[test]
fn the_session_in_the_protocol_page_is_made_of_frames_and_its_signature_is_right() {
    let page = read(PROTOCOL);
    let (_, session) = page.split_once("## 18 One session").expect("the page has its session");
    let session = session.split("\n## ").next().expect("a split has a first part");
    let cells = |section: &str| -> String {
        section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect()
    };
    let mut nonce = None;
    let mut messages = Vec::new();
    for section in session.split("\n### ").skip(1) {
        let frame = wire::decode_frame(&bytes_of(&cells(section)), wire::MAX_MESSAGE)
            .unwrap_or_else(|error| panic!("{section}: {error}"));
        reloop_protocol::limits::check_frame(&frame).expect("it is within the limits");
        match &frame.message {
            Message::Challenge(challenge) => nonce = Some(challenge.nonce),
            Message::Hello(hello) => {
                let signed = wire::signed_bytes(&nonce.expect("the Challenge comes first"), hello);
                let wire::Signature(first, second) = frame.signature.expect("a Hello is signed");
                let key = ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, hello.key.0);
                key.verify(&signed, &[first, second].concat()).expect("the signature is right");
            }
            Message::DesiredState(desired_state) => {
                let spec = desired_state.spec.as_ref().expect("it is an offer");
                assert_eq!(spec.digest(), desired_state.digest);
            }
            _ => {}
        }
        messages.push(frame.message);
    }
    assert_eq!(messages.len(), 11);
    assert!(matches!(&messages[8], Message::Report(report) if report.state == State::Succeeded));
}
