//! What needs a person, and how many there are of everything.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Page, Word, schema};

/// Something that needs a person.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Need {
    /// A stable word for programs.
    #[schema(schema_with = schema::need)]
    pub need: Word,
    /// The slave's name.
    pub slave: Option<String>,
    /// The slave's key.
    pub slave_key: Option<String>,
    /// The job's id. Null if it is about the slave.
    pub job: Option<String>,
    /// Why a person is needed, for people.
    pub text: String,
    /// The command that ends it, in one word.
    #[schema(value_type = String)]
    pub action: Word,
    /// The whole command line that ends it.
    pub command: String,
    /// What can go wrong with that.
    #[schema(value_type = String)]
    pub risk: Word,
}

/// What needs a person, the most urgent first.
pub type NeedPage = Page<Need>;

/// How many there are of everything, by the master's own numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Counts {
    /// Jobs that have not ended, by state.
    #[schema(schema_with = schema::unended_jobs)]
    pub jobs: BTreeMap<Word, usize>,
    /// Slaves that belong here or want to, by link.
    #[schema(schema_with = schema::slaves_by_link)]
    pub slaves: BTreeMap<Word, usize>,
    /// How much needs a person.
    pub needs: usize,
}
