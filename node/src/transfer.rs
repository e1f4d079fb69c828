//! `store export` and `store import` of both programs: the text's file or standard stream, and progress on a terminal.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::durable::{parent_of, sync_dir};
use crate::store::text::{self, TextError};

/// Often enough to be seen moving.
const PROGRESS_PERIOD: Duration = Duration::from_millis(200);

/// Stands for standard input or output in place of a file.
const STANDARD_STREAM: &str = "-";

#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error(transparent)]
    Text(#[from] TextError),
    #[error("{}: {why}; export replaces no file: name a new one", file.display())]
    Create { file: PathBuf, why: io::Error },
    #[error("{}: {why}; name a file that was exported", file.display())]
    Open { file: PathBuf, why: io::Error },
}

/// Exports a store to a new file, which only its owner may read, or to the standard output. Returns the number of records.
pub fn export(
    store: &Path,
    kind: &str,
    file: &Path,
    explain: impl Fn(&[u8], &[u8]) -> Option<String>,
) -> Result<u64, TransferError> {
    let mut progress = Progress::new("exported");
    let show = |records| progress.show(records);
    if file == Path::new(STANDARD_STREAM) {
        let mut out = BufWriter::new(io::stdout().lock());
        return Ok(text::export(store, kind, &mut out, explain, show)?);
    }
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    let created = created.map_err(|why| TransferError::Create { file: file.to_owned(), why })?;
    let mut out = BufWriter::new(created);
    let exported = text::export(store, kind, &mut out, explain, show).and_then(|records| {
        let synced = out.get_ref().sync_all().and_then(|()| sync_dir(parent_of(file)));
        synced.map(|()| records).map_err(TextError::Write)
    });
    if exported.is_err() {
        // An incomplete text is useless. The error that counts is the one that stopped the export.
        let _ = fs::remove_file(file);
    }
    Ok(exported?)
}

/// Imports a store from a file or from the standard input. Returns the number of records.
pub fn import(store: &Path, kind: &str, file: &Path) -> Result<u64, TransferError> {
    let mut progress = Progress::new("imported");
    let show = |records| progress.show(records);
    if file == Path::new(STANDARD_STREAM) {
        return Ok(text::import(store, kind, &mut io::stdin().lock(), show)?);
    }
    let opened = File::open(file).map_err(|why| TransferError::Open { file: file.to_owned(), why })?;
    Ok(text::import(store, kind, &mut BufReader::new(opened), show)?)
}

/// A line on standard error that is written over, if that is a terminal.
struct Progress {
    done: &'static str,
    is_terminal: bool,
    shown: Option<Instant>,
}

impl Progress {
    fn new(done: &'static str) -> Self {
        Self { done, is_terminal: io::stderr().is_terminal(), shown: None }
    }

    fn show(&mut self, records: u64) {
        if self.is_terminal && self.shown.is_none_or(|shown| shown.elapsed() >= PROGRESS_PERIOD) {
            self.shown = Some(Instant::now());
            self.write(&format!("{records} records {}", self.done));
        }
    }

    fn write(&self, text: &str) {
        // Carriage return, then erase the line (ECMA-48). Progress that cannot be shown is not an error.
        let _ = write!(io::stderr(), "\r\x1b[K{text}");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            self.write("");
        }
    }
}
