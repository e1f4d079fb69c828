//! Bearer tokens: who may do what. Each is 256 random bits; only its SHA-256 is kept, in `tokens.json`.
//!
//! The first start makes an admin token and writes it to `admin.token`, readable by the owner alone. Whoever wants to
//! choose it puts the file there before the first start. Once other tokens exist, both the file and its token may go.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use reloop_api::{Role, Token};
use reloop_node::clock::wall_ms;
use reloop_node::digest::{from_hex, sha256, to_hex};
use reloop_node::durable;
use reloop_node::entropy::random;
use reloop_protocol::time::Time;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

use crate::rest::view;

/// A token that a person chose is at least as long as 128 random bits in hexadecimal.
pub const TOKEN_MIN: usize = 32;
/// Nothing longer is hashed.
pub const TOKEN_MAX: usize = 256;
/// How many tokens there may be: each request is compared with all of them.
pub const TOKENS_LIMIT: usize = 1000;
/// Where the first start writes its token, in the data directory.
pub const ADMIN_TOKEN_FILE: &str = "admin.token";

const TOKENS_FILE: &str = "tokens.json";
const VERSION: u32 = 1;

/// Whose request it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    pub id: String,
    pub role: Role,
}

/// The tokens can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// A file can't be read or written.
    #[error("{}: {why}", file.display())]
    Io {
        file: PathBuf,
        /// What the system said.
        why: io::Error,
    },
    /// A file does not say what it should.
    #[error("{}: {why}", file.display())]
    Content {
        file: PathBuf,
        /// What is wrong, and what helps.
        why: String,
    },
    /// There are as many tokens as there may be.
    #[error("there are {TOKENS_LIMIT} tokens already: revoke one that nobody uses")]
    TooMany,
    /// Without it nobody could make tokens any more.
    #[error("it is the last admin token: make another one first")]
    LastAdmin,
    /// There is no such token.
    #[error("there is no token {0}")]
    Unknown(String),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    id: String,
    name: String,
    role: Role,
    sha256: String,
    created_at: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    tokens: Vec<Stored>,
}

#[derive(Debug, Clone)]
struct Known {
    stored: Stored,
    hash: [u8; 32],
}

/// The tokens of a master.
#[derive(Debug)]
pub struct Tokens {
    file: PathBuf,
    known: RwLock<Vec<Known>>,
    /// One change at a time goes to the file.
    changing: std::sync::Mutex<()>,
}

impl Tokens {
    /// Reads the tokens of a data directory, or makes the first one there. Blocks on the disk.
    pub fn open(data_dir: &Path) -> Result<Self, TokensError> {
        let file = data_dir.join(TOKENS_FILE);
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::first(data_dir, file),
            Err(why) => return Err(TokensError::Io { file, why }),
        };
        let content = |why: String| TokensError::Content {
            file: file.clone(),
            why: format!(
                "{why}; put the file back from a backup, or remove it and {ADMIN_TOKEN_FILE} and start again: then \
                 there is one new admin token and no other"
            ),
        };
        let read: File = serde_json::from_str(&text).map_err(|error| content(error.to_string()))?;
        if read.version != VERSION {
            return Err(content(format!("version {} is not known to this release", read.version)));
        }
        let known = read.tokens.into_iter().map(|stored| {
            let hash = from_hex(&stored.sha256).and_then(|hash| hash.try_into().ok());
            let hash =
                hash.ok_or_else(|| content(format!("{}: sha256 is not 64 hexadecimal digits", stored.id)))?;
            Ok(Known { stored, hash })
        });
        let known = known.collect::<Result<Vec<_>, _>>()?;
        Ok(Self { file, known: RwLock::new(known), changing: std::sync::Mutex::new(()) })
    }

    fn first(data_dir: &Path, file: PathBuf) -> Result<Self, TokensError> {
        let admin = data_dir.join(ADMIN_TOKEN_FILE);
        let io = |file: &Path| {
            let file = file.to_path_buf();
            move |why| TokensError::Io { file, why }
        };
        let text = match std::fs::read_to_string(&admin) {
            Ok(text) => text.trim().to_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = new_text();
                durable::write_file(&admin, format!("{text}\n").as_bytes(), 0o600).map_err(io(&admin))?;
                text
            }
            Err(why) => return Err(TokensError::Io { file: admin, why }),
        };
        if !(TOKEN_MIN..=TOKEN_MAX).contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_graphic())
        {
            let why = format!(
                "a token is one line of {TOKEN_MIN} to {TOKEN_MAX} printable characters without spaces; mend the \
                 file, or remove it to get a new token"
            );
            return Err(TokensError::Content { file: admin, why });
        }
        let tokens = Self { file, known: RwLock::new(vec![]), changing: std::sync::Mutex::new(()) };
        tokens.change(|known| {
            known.push(Known::new("admin", Role::Admin, &text));
            Ok(())
        })?;
        Ok(tokens)
    }

    /// Whose token this is. Takes as long for a wrong one as for a right one.
    pub fn bearer(&self, text: &str) -> Option<Bearer> {
        if !(TOKEN_MIN..=TOKEN_MAX).contains(&text.len()) {
            return None;
        }
        let hash = sha256(text.as_bytes());
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut found = None;
        for token in known.iter() {
            if bool::from(token.hash.ct_eq(&hash)) {
                found = Some(token);
            }
        }
        found.map(|token| Bearer { id: token.stored.id.clone(), role: token.stored.role })
    }

    /// Whether the token of that id is still good: it has not been revoked.
    pub fn holds(&self, id: &str) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().any(|token| token.stored.id == id)
    }

    /// All tokens, the oldest first.
    pub fn list(&self) -> Vec<Token> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|token| token.stored.info()).collect()
    }

    /// Makes a token; its text is known to whoever gets this answer and to nobody else. Blocks on the disk.
    pub fn create(&self, name: &str, role: Role) -> Result<(Token, String), TokensError> {
        let text = new_text();
        let token = Known::new(name, role, &text);
        let info = token.stored.info();
        self.change(|known| {
            if known.len() >= TOKENS_LIMIT {
                return Err(TokensError::TooMany);
            }
            known.push(token);
            Ok(())
        })?;
        Ok((info, text))
    }

    /// Makes a token worthless. Blocks on the disk.
    pub fn revoke(&self, id: &str) -> Result<(), TokensError> {
        self.change(|known| {
            let at = known.iter().position(|token| token.stored.id == id);
            let at = at.ok_or_else(|| TokensError::Unknown(id.to_owned()))?;
            let role = known[at].stored.role;
            if role == Role::Admin && known.iter().filter(|token| token.stored.role == role).count() == 1 {
                return Err(TokensError::LastAdmin);
            }
            known.remove(at);
            Ok(())
        })
    }

    /// Changes the list on disk, and then here.
    fn change(
        &self,
        edit: impl FnOnce(&mut Vec<Known>) -> Result<(), TokensError>,
    ) -> Result<(), TokensError> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = self.known.read().unwrap_or_else(PoisonError::into_inner).clone();
        edit(&mut next)?;
        let tokens = next.iter().map(|token| token.stored.clone()).collect();
        let text = serde_json::to_vec_pretty(&File { version: VERSION, tokens })
            .expect("strings and numbers are JSON");
        durable::write_file(&self.file, &text, 0o600)
            .map_err(|why| TokensError::Io { file: self.file.clone(), why })?;
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }
}

impl Known {
    fn new(name: &str, role: Role, text: &str) -> Self {
        let hash = sha256(text.as_bytes());
        let stored = Stored {
            id: format!("tok_{}", to_hex(&random::<8>())),
            name: name.to_owned(),
            role,
            sha256: to_hex(&hash),
            created_at: view::time(Time(wall_ms())),
        };
        Self { stored, hash }
    }
}

impl Stored {
    fn info(&self) -> Token {
        Token {
            id: self.id.clone(),
            name: self.name.clone(),
            role: self.role.name().into(),
            created_at: self.created_at.clone(),
        }
    }
}

fn new_text() -> String {
    format!("xtok1.{}", to_hex(&random::<32>()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn admin(dir: &Path) -> String {
        std::fs::read_to_string(dir.join(ADMIN_TOKEN_FILE)).unwrap().trim().to_owned()
    }

    #[test]
    fn the_first_start_writes_an_admin_token_that_only_its_owner_reads() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(dir.path()).unwrap();
        let mode = std::fs::metadata(dir.path().join(ADMIN_TOKEN_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(tokens.bearer(&admin(dir.path())).unwrap().role, Role::Admin);
        let kept = std::fs::read_to_string(dir.path().join(TOKENS_FILE)).unwrap();
        assert!(!kept.contains(&admin(dir.path())), "only its hash is kept");
    }

    #[test]
    fn tokens_outlive_a_restart_and_revoked_ones_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(dir.path()).unwrap();
        let (kept, kept_text) = tokens.create("wall", Role::Viewer).unwrap();
        let (gone, gone_text) = tokens.create("old", Role::Operator).unwrap();
        tokens.revoke(&gone.id).unwrap();
        assert!(tokens.bearer(&gone_text).is_none());
        let again = Tokens::open(dir.path()).unwrap();
        assert_eq!(again.bearer(&kept_text), Some(Bearer { id: kept.id, role: Role::Viewer }));
        assert!(again.bearer(&gone_text).is_none());
        assert!(again.bearer(&admin(dir.path())).is_some(), "the first token is still the same");
    }

    #[test]
    fn an_admin_token_that_was_put_there_before_the_first_start_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let text = "0123456789abcdef0123456789abcdef";
        std::fs::write(dir.path().join(ADMIN_TOKEN_FILE), format!("{text}\n")).unwrap();
        assert!(Tokens::open(dir.path()).unwrap().bearer(text).is_some());
    }

    #[test]
    fn a_short_admin_token_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(ADMIN_TOKEN_FILE), "secret\n").unwrap();
        let error = Tokens::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("admin.token: a token is one line of 32"), "{error}");
    }

    #[test]
    fn a_token_that_differs_in_one_character_is_nobodys() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(dir.path()).unwrap();
        let mut text = admin(dir.path());
        let last = text.pop().unwrap();
        text.push(if last == '0' { '1' } else { '0' });
        assert!(tokens.bearer(&text).is_none());
        assert!(tokens.bearer("").is_none());
        assert!(tokens.bearer(&"x".repeat(TOKEN_MAX + 1)).is_none());
    }

    #[test]
    fn the_last_admin_token_stays() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(dir.path()).unwrap();
        let first = tokens.list()[0].id.clone();
        assert!(matches!(tokens.revoke(&first), Err(TokensError::LastAdmin)));
        tokens.create("second", Role::Admin).unwrap();
        tokens.revoke(&first).unwrap();
        assert!(matches!(tokens.revoke(&first), Err(TokensError::Unknown(_))));
    }

    #[test]
    fn a_token_file_that_cannot_be_read_says_what_helps() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(TOKENS_FILE), "{\"version\": 1, \"tokens\": [{}]}").unwrap();
        let error = Tokens::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("tokens.json") && error.contains("from a backup"), "{error}");
    }
}
