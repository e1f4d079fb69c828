//! `reloop-slave store`: the way out of the store of an agent that does not run, and back in.

use std::path::Path;

use reloop_node::store::StoreError;
use reloop_node::store::text::TextError;
use reloop_node::transfer::{self, TransferError};

use crate::records;
use crate::run::{EXIT_STORAGE, store_dir};

/// In the first line of an exported text.
const KIND: &str = "reloop-slave";

/// It was not done, and the words say what would do it.
const EXIT_REFUSED: u8 = 1;

/// Writes the store as text. Returns what to tell the operator.
pub fn export(state_dir: &Path, file: &Path) -> Result<String, TransferError> {
    let dir = store_dir(state_dir);
    let records = transfer::export(&dir, KIND, file, records::explain)?;
    Ok(format!("{records} records exported from {}", dir.display()))
}

/// Makes the store out of a text. Returns what to tell the operator.
pub fn import(state_dir: &Path, file: &Path) -> Result<String, TransferError> {
    let dir = store_dir(state_dir);
    let records = transfer::import(&dir, KIND, file)?;
    Ok(format!("{records} records imported into {}: start the agent", dir.display()))
}

/// 1 for what was refused and an operator can put right, 74 for a disk that fails.
pub fn exit_code(error: &TransferError) -> u8 {
    match error {
        TransferError::Text(TextError::Store(StoreError::Locked { .. })) => EXIT_REFUSED,
        TransferError::Text(TextError::Store(_) | TextError::Write(_) | TextError::Place { .. }) => {
            EXIT_STORAGE
        }
        TransferError::Text(
            TextError::NoStore { .. }
            | TextError::NotEmpty { .. }
            | TextError::Line { .. }
            | TextError::Read(_),
        )
        | TransferError::Create { .. }
        | TransferError::Open { .. } => EXIT_REFUSED,
    }
}
