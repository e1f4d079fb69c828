//! A store as text: the way out of the database, and back in. Both work offline only, since they take the store's lock.
//!
//! The text is one JSON object per line:
//!
//! ```text
//! {"store":"reloop-master","format":1}
//! {"key":"live/","id":"0193ab…","value":"02c0…","crc32":"cbf43926","means":"Job { … }"}
//! {"records":1}
//! ```
//!
//! The first line names the kind of store, the last one the number of records, so that a text that was cut short is
//! noticed. Records are in the ascending order of their keys. A record's key is the text of `key` followed by the bytes of
//! `id`; `id` and `value` are hexadecimal, and an empty `id` is left out. `crc32` is the CRC-32/ISO-HDLC of key and value.
//! `means` says what the value decodes to, for people; it is left out for a value that cannot be read, and import ignores
//! it.
//!
//! Import writes a new store beside the old one, and puts it in place when all of the text was read without an error and
//! everything is on the disk.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use serde::{Deserialize, Serialize};

use super::{Entry, KEY_LIMIT_BYTES, Op, Options, Store, StoreError, VALUE_LIMIT_BYTES, opening};
use crate::digest::{from_hex, to_hex};
use crate::durable::{create_dir_all_synced, parent_of, sync_dir};

const FORMAT: u32 = 1;

/// One commit of an import has about this many bytes of keys and values.
const COMMIT_BYTES: usize = 1024 * 1024;

/// More than any line that an export writes, and little enough memory for one that it did not.
const LINE_LIMIT_BYTES: u64 = 16 * 1024 * 1024;

/// The directory of the store that an import fills.
const NEW: &str = ".importing";

/// The directory of the store without records that an import replaces.
const REPLACED: &str = ".replaced";

const OPTIONS: Options = Options { cache_bytes: 4 << 20, min_free_bytes: 0 };

#[derive(Debug, thiserror::Error)]
pub enum TextError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("there is no store in {}: name the directory that holds it", dir.display())]
    NoStore { dir: PathBuf },
    #[error(
        "the store {0} holds records, and import replaces nothing: move it away (`mv {0} {0}.before`), then import again",
        dir.display()
    )]
    NotEmpty { dir: PathBuf },
    /// `number` counts from 1.
    #[error("line {number}: {why}; nothing was imported: take another copy of the text, or export again")]
    Line { number: u64, why: String },
    #[error("the text cannot be written ({0}): find room for it, then export again")]
    Write(io::Error),
    #[error("the text cannot be read ({0}): nothing was imported")]
    Read(io::Error),
    #[error("{} cannot be put in place ({why}): nothing was imported", dir.display())]
    Place { dir: PathBuf, why: io::Error },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FirstLine {
    store: String,
    format: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordLine {
    key: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    id: String,
    value: String,
    crc32: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    means: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LastLine {
    records: u64,
}

/// How the last line begins, and no other.
const LAST_LINE: &[u8] = b"{\"records\":";

/// Writes the store in `dir`, of this `kind`, to `out`. Returns the number of records.
///
/// `explain` says what a key's value means, if it can be read. `progress` is called now and then with the number of
/// records so far. A store that cannot be read is an error, and stays where it is.
pub fn export(
    dir: &Path,
    kind: &str,
    out: &mut impl Write,
    explain: impl Fn(&[u8], &[u8]) -> Option<String>,
    mut progress: impl FnMut(u64),
) -> Result<u64, TextError> {
    if is_absent_or_empty(dir) {
        return Err(TextError::NoStore { dir: dir.to_owned() });
    }
    let store = Store::open_as_it_is(dir, OPTIONS)?;
    write_line(out, &FirstLine { store: kind.to_owned(), format: FORMAT })?;
    let mut records = 0;
    store.load_pages(b"", |page| {
        for (key, value) in page {
            let (text, id) = split_key(key);
            let line = RecordLine {
                key: text.to_owned(),
                id: to_hex(id),
                value: to_hex(value),
                crc32: format!("{:08x}", checksum(key, value)),
                means: explain(key, value),
            };
            write_line(out, &line)?;
        }
        records += page.len() as u64;
        progress(records);
        Ok::<(), TextError>(())
    })?;
    write_line(out, &LastLine { records })?;
    out.flush().map_err(TextError::Write)?;
    store.close()?;
    Ok(records)
}

/// Makes the store in `dir` out of an exported text. Returns the number of records.
///
/// A store that holds records is not replaced. After an error nothing was imported.
pub fn import(
    dir: &Path,
    kind: &str,
    text: &mut impl BufRead,
    mut progress: impl FnMut(u64),
) -> Result<u64, TextError> {
    let was_absent = is_absent_or_empty(dir);
    if !was_absent {
        let old = Store::open_as_it_is(dir, OPTIONS)?;
        old.load_pages(b"", |_| Err(TextError::NotEmpty { dir: dir.to_owned() }))?;
        old.close()?;
    }
    create_dir_all_synced(dir).map_err(|why| TextError::Place { dir: dir.to_owned(), why })?;
    // A node that starts meanwhile finds the store in use.
    let lock = opening::lock(dir)?;
    let placed =
        fill_new(dir, kind, text, &mut progress).and_then(|records| put_in_place(dir).map(|()| records));
    if placed.is_err() && was_absent {
        // It was created for its lock. It is removed only if it is empty, and does no harm otherwise.
        let _ = fs::remove_dir(dir);
    }
    drop(lock);
    // What stays behind is removed by the next import.
    let _ = fs::remove_dir_all(beside(dir, REPLACED));
    placed
}

fn fill_new(
    dir: &Path,
    kind: &str,
    text: &mut impl BufRead,
    progress: &mut impl FnMut(u64),
) -> Result<u64, TextError> {
    let new = beside(dir, NEW);
    let filled = remove(&new).and_then(|()| {
        let store = Store::open_as_it_is(&new, OPTIONS)?;
        let records = read_into(&store, kind, text, progress)?;
        store.close()?;
        Ok(records)
    });
    if filled.is_err() {
        // What stays behind is removed by the next import.
        let _ = fs::remove_dir_all(&new);
    }
    filled
}

/// Moves the store without records away and the new one to its place. The old one's lock is still held, and moves with it:
/// a node that starts in between creates a store of its own, and then this fails.
fn put_in_place(dir: &Path) -> Result<(), TextError> {
    let replaced = beside(dir, REPLACED);
    remove(&replaced)?;
    let moved = fs::rename(dir, &replaced).and_then(|()| {
        fs::rename(beside(dir, NEW), dir).inspect_err(|_| {
            // Nothing is lost if this fails too: it holds no records.
            let _ = fs::rename(&replaced, dir);
        })
    });
    moved.and_then(|()| sync_dir(parent_of(dir))).map_err(|why| TextError::Place { dir: dir.to_owned(), why })
}

fn remove(dir: &Path) -> Result<(), TextError> {
    match fs::remove_dir_all(dir) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => {
            Err(TextError::Place { dir: dir.to_owned(), why })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn beside(dir: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(dir.as_os_str());
    name.push(suffix);
    PathBuf::from(name)
}

fn read_into(
    store: &Store,
    kind: &str,
    text: &mut impl BufRead,
    progress: &mut impl FnMut(u64),
) -> Result<u64, TextError> {
    let mut lines = Lines { text, number: 0 };
    let line = lines.next("its first line")?;
    check_first(&lines.parse(&line)?, kind).map_err(|why| lines.error(why))?;
    let (mut records, mut bytes, mut ops) = (0, 0, Vec::new());
    let mut last: Option<Vec<u8>> = None;
    let expected = loop {
        let line = lines.next("its last line")?;
        if line.starts_with(LAST_LINE) {
            break lines.parse::<LastLine>(&line)?.records;
        }
        let (key, value) = entry(&lines.parse(&line)?).map_err(|why| lines.error(why))?;
        if last.as_ref().is_some_and(|last| *last >= key) {
            return Err(lines.error("its key does not come after the one before it"));
        }
        records += 1;
        bytes += key.len() + value.len();
        last = Some(key.clone());
        ops.push(Op::Put { key, value });
        if bytes >= COMMIT_BYTES {
            bytes = 0;
            commit(store, std::mem::take(&mut ops))?;
            progress(records);
        }
    };
    if expected != records {
        return Err(lines.error(format_args!("{expected} records were exported, and {records} are here")));
    }
    lines.expect_end()?;
    commit(store, ops)?;
    Ok(records)
}

fn check_first(line: &FirstLine, kind: &str) -> Result<(), String> {
    if line.store != kind {
        return Err(format!("this is the text of a store of {}, and not of {kind}", line.store));
    }
    if line.format != FORMAT {
        return Err(format!("it has format {}, and this version knows {FORMAT}", line.format));
    }
    Ok(())
}

fn entry(line: &RecordLine) -> Result<Entry, &'static str> {
    let id = from_hex(&line.id).ok_or("id is not hexadecimal")?;
    let value = from_hex(&line.value).ok_or("value is not hexadecimal")?;
    let key = [line.key.as_bytes(), &id].concat();
    if line.crc32 != format!("{:08x}", checksum(&key, &value)) {
        return Err("the checksum is not that of its key and value");
    }
    if key.len() > KEY_LIMIT_BYTES || value.len() > VALUE_LIMIT_BYTES {
        return Err("it is larger than a record may be");
    }
    Ok((key, value))
}

struct Lines<'a, R> {
    text: &'a mut R,
    /// Of the line that was read last.
    number: u64,
}

impl<R: BufRead> Lines<'_, R> {
    /// The next line, which is there; `expected` says what it would have to be.
    fn next(&mut self, expected: &str) -> Result<Vec<u8>, TextError> {
        let line = self.read()?;
        if line.is_empty() {
            return Err(self.error(format_args!("the text ends without {expected}")));
        }
        Ok(line)
    }

    fn parse<'line, T: Deserialize<'line>>(&self, line: &'line [u8]) -> Result<T, TextError> {
        serde_json::from_slice(line).map_err(|why| self.error(format_args!("it makes no sense ({why})")))
    }

    fn expect_end(&mut self) -> Result<(), TextError> {
        match self.read()?.trim_ascii() {
            [] => Ok(()),
            _ => Err(self.error("something follows the last line")),
        }
    }

    /// The next line; empty at the end.
    fn read(&mut self) -> Result<Vec<u8>, TextError> {
        self.number += 1;
        let mut line = Vec::new();
        let mut limited = io::Read::take(&mut *self.text, LINE_LIMIT_BYTES);
        limited.read_until(b'\n', &mut line).map_err(TextError::Read)?;
        Ok(line)
    }

    fn error(&self, why: impl ToString) -> TextError {
        TextError::Line { number: self.number, why: why.to_string() }
    }
}

fn write_line(out: &mut impl Write, line: &impl Serialize) -> Result<(), TextError> {
    serde_json::to_writer(&mut *out, line).map_err(|error| TextError::Write(error.into()))?;
    out.write_all(b"\n").map_err(TextError::Write)
}

fn commit(store: &Store, ops: Vec<Op>) -> Result<(), StoreError> {
    let (done, written) = mpsc::channel();
    // The receiver waits below.
    store.commit(ops, move |result| drop(done.send(result)));
    written.recv().unwrap_or(Err(StoreError::Closed))
}

fn is_absent_or_empty(dir: &Path) -> bool {
    fs::read_dir(dir).map_or(true, |mut names| names.next().is_none())
}

/// The words at the beginning of a key, and the bytes of the id after them.
fn split_key(key: &[u8]) -> (&str, &[u8]) {
    let is_word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-/".contains(byte);
    let words = key.iter().take_while(|byte| is_word(byte)).count();
    let end = if words == key.len() {
        words
    } else {
        key[..words].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1)
    };
    let (text, id) = key.split_at(end);
    (std::str::from_utf8(text).expect("only ASCII was taken"), id)
}

fn checksum(key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(value);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: &str = "reloop-test";

    fn entries() -> Vec<Entry> {
        let mut entries = vec![
            (b"".to_vec(), b"the empty key".to_vec()),
            (b"\xff\x00".to_vec(), vec![]),
            (b"node".to_vec(), b"about itself".to_vec()),
            (b"unreadable/1732/job/\x01\x93\xab/".to_vec(), (0..=255).collect()),
        ];
        entries.extend(
            (0..50_u8).map(|n| ([b"job/".as_slice(), &[n; 16]].concat(), vec![n; VALUE_LIMIT_BYTES])),
        );
        entries.sort();
        entries
    }

    fn open(dir: &Path) -> Store {
        Store::open_as_it_is(dir, OPTIONS).unwrap()
    }

    fn seen(dir: &Path) -> Vec<Entry> {
        let store = open(dir);
        let mut seen = Vec::new();
        store.load(b"", |key, value| seen.push((key.to_vec(), value.to_vec()))).unwrap();
        seen
    }

    /// A store with [`entries`], and its text.
    fn exported(root: &Path) -> (PathBuf, Vec<u8>) {
        let dir = root.join("store");
        let store = open(&dir);
        commit(&store, entries().into_iter().map(|(key, value)| Op::Put { key, value }).collect()).unwrap();
        store.close().unwrap();
        let text = text_of(&dir);
        (dir, text)
    }

    fn text_of(dir: &Path) -> Vec<u8> {
        let mut text = Vec::new();
        let explain = |key: &[u8], value: &[u8]| (key == b"node").then(|| value.escape_ascii().to_string());
        let count = export(dir, KIND, &mut text, explain, |_| {}).unwrap();
        assert_eq!(count, entries().len() as u64);
        text
    }

    fn import_into(dir: &Path, text: &[u8]) -> Result<u64, TextError> {
        import(dir, KIND, &mut &*text, |_| {})
    }

    fn names_in(dir: &Path) -> Vec<OsString> {
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_exported_and_imported_again_is_the_same_store() {
        let root = tempfile::tempdir().unwrap();
        let (dir, text) = exported(root.path());
        let other = root.path().join("other");
        assert_eq!(import_into(&other, &text).unwrap(), entries().len() as u64);
        assert_eq!(seen(&other), entries());
        assert_eq!(text_of(&other), text);
        assert_eq!(seen(&dir), entries(), "an export changes nothing");
        assert_eq!(names_in(root.path()), ["other", "store"]);
    }

    #[test]
    fn the_text_of_a_record_is_pinned() {
        let root = tempfile::tempdir().unwrap();
        let (_, text) = exported(root.path());
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], r#"{"store":"reloop-test","format":1}"#);
        let node =
            r#"{"key":"node","value":"61626f757420697473656c66","crc32":"daf55195","means":"about itself"}"#;
        assert!(lines.contains(&node), "{:?}", lines.iter().find(|line| line.contains("node")));
        let binary = r#"{"key":"unreadable/1732/job/","id":"0193ab2f","value":"000102"#;
        assert!(lines.iter().any(|line| line.starts_with(binary)));
        assert_eq!(lines.last().unwrap(), &format!(r#"{{"records":{}}}"#, entries().len()));
    }

    #[test]
    fn a_damaged_line_is_named_by_its_number_and_nothing_is_imported() {
        let root = tempfile::tempdir().unwrap();
        let (_, text) = exported(root.path());
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let count = lines.len();
        let without = |at: usize| [&lines[..at], &lines[at + 1..]].concat().join("\n");
        let with = |at: usize, line: &str| [&lines[..at], &[line], &lines[at + 1..]].concat().join("\n");
        let digit = lines[40].replacen("\"value\":\"26", "\"value\":\"27", 1);
        let twice = format!("{}\n{}", lines[6], lines[6]);
        assert_ne!(digit, lines[40]);
        let empty = root.path().join("empty");
        for (damaged, number, why) in [
            (String::new(), 1, "ends without its first line"),
            (with(0, r#"{"store":"reloop-other","format":1}"#), 1, "reloop-other"),
            (with(0, r#"{"store":"reloop-test","format":2}"#), 1, "format 2"),
            (with(40, &digit), 41, "checksum"),
            (with(40, &lines[40][..3000]), 41, "makes no sense"),
            (with(40, ""), 41, "makes no sense"),
            (with(6, &twice), 8, "does not come after"),
            (without(30), count - 1, "are here"),
            (without(count - 1), count, "ends without its last line"),
            (format!("{text}more"), count + 1, "something follows"),
        ] {
            let error = import_into(&empty, damaged.as_bytes()).unwrap_err();
            let said = error.to_string();
            assert!(
                matches!(error, TextError::Line { number: at, .. } if at == number as u64),
                "{number}: {said}"
            );
            assert!(said.contains(why) && said.contains("nothing was imported"), "{said}");
            assert_eq!(names_in(root.path()), ["store"]);
        }
    }

    #[test]
    fn a_store_with_records_is_not_replaced_and_an_empty_one_is() {
        let root = tempfile::tempdir().unwrap();
        let (dir, text) = exported(root.path());
        let other = root.path().join("other");
        let store = open(&other);
        commit(&store, vec![Op::Put { key: b"node".to_vec(), value: vec![] }]).unwrap();
        assert!(matches!(import_into(&other, &text), Err(TextError::Store(StoreError::Locked { .. }))));
        store.close().unwrap();
        assert!(matches!(import_into(&other, &text), Err(TextError::NotEmpty { .. })));
        assert_eq!(seen(&other).len(), 1);

        let store = open(&other);
        commit(&store, vec![Op::Delete { key: b"node".to_vec() }]).unwrap();
        store.close().unwrap();
        // What an import that was killed has left.
        fs::create_dir(beside(&other, NEW)).unwrap();
        fs::write(beside(&other, NEW).join("db"), b"half").unwrap();
        import_into(&other, &text).unwrap();
        assert_eq!(seen(&other), seen(&dir));
        assert_eq!(names_in(root.path()), ["other", "store"]);
    }

    #[test]
    fn there_is_nothing_to_export_where_no_store_is() {
        let root = tempfile::tempdir().unwrap();
        let missing = export(&root.path().join("store"), KIND, &mut Vec::new(), |_, _| None, |_| {});
        assert!(matches!(missing, Err(TextError::NoStore { .. })));
        assert!(names_in(root.path()).is_empty());
    }
}
