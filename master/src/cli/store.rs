//! `reloop store`: exports the store of a master that does not run as text, and imports it again.

use std::path::PathBuf;

use clap::Subcommand;
use reloop_node::store::StoreError;
use reloop_node::store::text::TextError;
use reloop_node::transfer::{self, TransferError};

use super::{Exit, complain, remark};
use crate::config::{Config, Overrides};
use crate::records;

/// In the first line of an exported text.
const KIND: &str = "reloop-master";

#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Write the store of a stopped master as text, one record per line.
    Export {
        #[command(flatten)]
        place: Place,
        /// A new file; - for the standard output.
        file: PathBuf,
    },
    /// Make the store of a stopped master out of an exported text. A store that holds records is not replaced.
    Import {
        #[command(flatten)]
        place: Place,
        /// An exported text; - for the standard input.
        file: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Place {
    /// The directory in which the master keeps everything. Also RELOOP_DATA_DIR.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The master's config file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(command: StoreCommand) -> Exit {
    let (place, file, is_import) = match command {
        StoreCommand::Export { place, file } => (place, file, false),
        StoreCommand::Import { place, file } => (place, file, true),
    };
    let flags = Overrides { data_dir: place.data_dir, ..Overrides::default() };
    let config = match Config::load(place.config.as_deref(), flags) {
        Ok(config) => config,
        Err(error) => {
            complain(&error.to_string());
            return Exit::Config;
        }
    };
    let dir = config.data_dir.join("store");
    let done = if is_import {
        transfer::import(&dir, KIND, &file).map(|records| {
            format!(
                "{records} records imported into {}: start the master, and if it has run since the export, \
                 `reloop restore confirm`",
                dir.display()
            )
        })
    } else {
        transfer::export(&dir, KIND, &file, records::explain)
            .map(|records| format!("{records} records exported from {}", dir.display()))
    };
    match done {
        Ok(text) => {
            remark(&text);
            Exit::Ok
        }
        Err(error) => {
            complain(&error.to_string());
            exit_of(&error)
        }
    }
}

fn exit_of(error: &TransferError) -> Exit {
    match error {
        TransferError::Text(TextError::NotEmpty { .. } | TextError::Store(StoreError::Locked { .. })) => {
            Exit::Conflict
        }
        TransferError::Text(TextError::Store(_) | TextError::Write(_) | TextError::Place { .. }) => {
            Exit::Storage
        }
        TransferError::Text(TextError::NoStore { .. }) => Exit::NotFound,
        TransferError::Text(TextError::Line { .. } | TextError::Read(_))
        | TransferError::Create { .. }
        | TransferError::Open { .. } => Exit::Error,
    }
}
