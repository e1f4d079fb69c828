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

use super::{Entry, KEY_LIMIT_BYTES, Op, Options, Store, StoreError, VALUE_LIMIT_BYTES};
use crate::digest::{from_hex, to_hex};
use crate::durable::{parent_of, sync_dir};

const FORMAT: u32 = 1;

/// One commit of an import has about this many bytes of keys and values.
const COMMIT_BYTES: usize = 1024 * 1024;

/// More than any line that an export writes: a line holds a value twice over in hexadecimal and what it means.
const LINE_LIMIT_BYTES: u64 = 16 * 1024 * 1024;

const OPTIONS: Options = Options { cache_bytes: 4 << 20, min_free_bytes: 0 };

#[derive(Debug, thiserror::Error)]
pub enum TextError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("there is no store in {}: name the directory that holds it", dir.display())]
    NoStore { dir: PathBuf },
    #[error(
        "the store {} holds records, and import replaces nothing: move it away, then import again", dir.display()
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

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum LaterLine {
    Record(RecordLine),
    Last(LastLine),
}

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
    // Its lock keeps a node from starting meanwhile.
    let old = Store::open_as_it_is(dir, OPTIONS)?;
    let imported = if has_records(&old)? {
        Err(TextError::NotEmpty { dir: dir.to_owned() })
    } else {
        fill_new(dir, kind, text, &mut progress)
    };
    old.close()?;
    let placed = imported.and_then(|records| put_in_place(dir).map(|()| records));
    if placed.is_err() && was_absent {
        // It was made for its lock. Whether it stays makes no difference to anybody.
        let _ = fs::remove_dir_all(dir);
    }
    placed
}

fn fill_new(
    dir: &Path,
    kind: &str,
    text: &mut impl BufRead,
    progress: &mut impl FnMut(u64),
) -> Result<u64, TextError> {
    let new = new_dir(dir);
    let filled = remove(&new).and_then(|()| {
        let store = Store::open_as_it_is(&new, OPTIONS)?;
        let records = read_into(&store, kind, text, progress)?;
        store.close()?;
        Ok(records)
    });
    if filled.is_err() {
        // The next import removes it otherwise.
        let _ = fs::remove_dir_all(&new);
    }
    filled
}

/// Replaces the store, which holds no records, by the new one. A node that starts in between makes this fail.
fn put_in_place(dir: &Path) -> Result<(), TextError> {
    remove(dir)?;
    fs::rename(new_dir(dir), dir)
        .and_then(|()| sync_dir(parent_of(dir)))
        .map_err(|why| TextError::Place { dir: dir.to_owned(), why })
}

fn remove(dir: &Path) -> Result<(), TextError> {
    match fs::remove_dir_all(dir) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => {
            Err(TextError::Place { dir: dir.to_owned(), why })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// `<dir>.importing`.
fn new_dir(dir: &Path) -> PathBuf {
    let mut name = OsString::from(dir.as_os_str());
    name.push(".importing");
    PathBuf::from(name)
}

fn read_into(
    store: &Store,
    kind: &str,
    text: &mut impl BufRead,
    progress: &mut impl FnMut(u64),
) -> Result<u64, TextError> {
    let mut lines = Lines { text, number: 0 };
    check_first(&lines.next::<FirstLine>("its first line")?, kind).map_err(|why| lines.error(why))?;
    let (mut records, mut bytes, mut ops) = (0, 0, Vec::new());
    let mut last: Option<Vec<u8>> = None;
    let expected = loop {
        match lines.next("its last line")? {
            LaterLine::Last(LastLine { records }) => break records,
            LaterLine::Record(line) => {
                let (key, value) = entry(&line).map_err(|why| lines.error(why))?;
                if last.as_ref().is_some_and(|last| *last >= key) {
                    return Err(lines.error("its key does not come after the one before it"));
                }
                records += 1;
                bytes += key.len() + value.len();
                last = Some(key.clone());
                ops.push(Op::Put { key, value });
            }
        }
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
    fn next<T: for<'de> Deserialize<'de>>(&mut self, missing: &str) -> Result<T, TextError> {
        let line = self.read()?;
        if line.is_empty() {
            return Err(self.error(format_args!("the text ends without {missing}")));
        }
        serde_json::from_slice(&line).map_err(|why| self.error(format_args!("it makes no sense ({why})")))
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
        let limited = io::Read::take(&mut *self.text, LINE_LIMIT_BYTES);
        io::BufReader::new(limited).read_until(b'\n', &mut line).map_err(TextError::Read)?;
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

fn has_records(store: &Store) -> Result<bool, TextError> {
    let mut found = false;
    store.load(b"", |_, _| found = true)?;
    Ok(found)
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
