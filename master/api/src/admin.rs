//! What only an admin asks for: tokens for clients, tokens for slaves, and a restored master.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Page, Word, schema};

/// What a token's bearer may do; each role may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads everything, and changes nothing.
    Viewer,
    /// Places orders, and cancels, pauses, resumes and releases jobs.
    Client,
    /// Does everything about jobs and slaves.
    Operator,
    /// Makes tokens, enrols and revokes slaves, and confirms a restored master.
    Admin,
}

impl Role {
    /// Every role, the lowest first.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Client, Self::Operator, Self::Admin];

    /// The word that people and programs see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Client => "client",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A client's token to be made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// Whose it is, for people.
    #[schema(schema_with = schema::name)]
    pub name: String,
    /// What the token permits.
    #[schema(schema_with = schema::role)]
    pub role: Word,
}

/// A client's token, without its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// The token's id.
    pub id: String,
    /// Whose it is, for people.
    pub name: String,
    /// What the token permits.
    #[schema(schema_with = schema::role)]
    pub role: Word,
    /// When it was made.
    #[schema(format = DateTime)]
    pub created_at: String,
}

/// A client token that was just made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NewToken {
    /// What is known of it later too.
    #[serde(flatten)]
    pub info: Token,
    /// Its text, which is shown this once.
    pub token: String,
}

/// The tokens, without their text.
pub type TokenPage = Page<Token>;

/// An enrolment token to be made.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnrollTokenRequest {
    /// Only a slave of this name may use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::name)]
    pub name: Option<String>,
    /// How long it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::ttl_seconds)]
    pub ttl_seconds: Option<u64>,
    /// How many slaves it enrols.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::uses)]
    pub uses: Option<u32>,
}

/// A new enrolment token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EnrollToken {
    /// Its text, which is shown this once.
    pub token: String,
    /// The only name that a slave may have that uses it.
    pub name: Option<String>,
    /// How many slaves it enrols.
    pub uses: i64,
    /// When it is worth nothing any more.
    #[schema(format = DateTime)]
    pub expires_at: String,
}

/// A person's word that this master was restored.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreRequest {
    /// Also if no slave doubts this master: those that could tell are away.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = bool, required = false, default = false)]
    pub force: Option<bool>,
}

/// The master after a confirmed restore.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Restored {
    /// The master's id.
    pub master: String,
    /// Its new epoch.
    pub epoch: u32,
}
