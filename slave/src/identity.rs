//! Who this slave is: its key, the box it stands on, and the token that enrols it.
//!
//! The key is made at the first start and is the slave's identity from then on; the name is only a label. It becomes
//! final (`identity.key`) when the first record is on disk: a box that loses its power in between starts again as new,
//! and not as one that has lost its memory.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use reloop_node::digest::sha256;
use reloop_node::durable;
use reloop_protocol::id::SlaveKey;
use reloop_protocol::wire::Signature;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

const KEY: &str = "identity.key";
const DRAFT: &str = "identity.key.new";
const TOKEN: &str = "enroll.token";

/// A secret is for its owner alone.
const SECRET: u32 = 0o600;

/// The longest enrolment token: they are some 50 characters long.
const TOKEN_LIMIT: usize = 1024;

/// The slave's key pair.
pub struct Identity {
    pair: Ed25519KeyPair,
    dir: PathBuf,
    known: bool,
}

impl Identity {
    /// The key of this state directory, if it has one.
    ///
    /// # Errors
    /// It can't be read, or is no key.
    pub fn find(state_dir: &Path) -> io::Result<Option<Self>> {
        for (name, known) in [(KEY, true), (DRAFT, false)] {
            let path = state_dir.join(name);
            let secret = match fs::read(&path) {
                Ok(secret) => secret,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => {
                    return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display())));
                }
            };
            let pair = Ed25519KeyPair::from_pkcs8(&secret).map_err(|why| {
                io::Error::other(format!(
                    "{}: not an Ed25519 key ({why}); put it back from a copy, or remove it and enrol the slave anew",
                    path.display()
                ))
            })?;
            return Ok(Some(Self { pair, dir: state_dir.to_path_buf(), known }));
        }
        Ok(None)
    }

    /// The key of this state directory; a new one if it has none.
    ///
    /// # Errors
    /// It can't be read or written, or is no key.
    pub fn find_or_make(state_dir: &Path) -> io::Result<Self> {
        if let Some(found) = Self::find(state_dir)? {
            return Ok(found);
        }
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .map_err(|_| io::Error::other("the operating system gives no randomness"))?;
        let path = state_dir.join(DRAFT);
        durable::write_file(&path, made.as_ref(), SECRET)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        Self::find(state_dir)?.ok_or_else(|| io::Error::other(format!("{} has vanished", path.display())))
    }

    /// It is older than this start, and had a memory before.
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// From here on it counts as known.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn settle(&mut self) -> io::Result<()> {
        if !self.known {
            fs::rename(self.dir.join(DRAFT), self.dir.join(KEY))?;
            durable::sync_dir(&self.dir)?;
            self.known = true;
        }
        Ok(())
    }

    /// The public half.
    pub fn key(&self) -> SlaveKey {
        let mut key = [0; 32];
        key.copy_from_slice(self.pair.public_key().as_ref());
        SlaveKey(key)
    }

    /// An Ed25519 signature (RFC 8032).
    pub fn sign(&self, bytes: &[u8]) -> Signature {
        let signature = self.pair.sign(bytes);
        let (mut first, mut second) = ([0; 32], [0; 32]);
        let (head, tail) = signature.as_ref().split_at(32);
        first.copy_from_slice(head);
        second.copy_from_slice(tail);
        Signature(first, second)
    }
}

/// What tells this box from another, if it says so itself: a hash, because the id is meant to stay on the box.
///
/// # Errors
/// The file is there and can't be read.
pub fn fingerprint(machine_id_file: &Path) -> io::Result<Option<[u8; 16]>> {
    let text = match fs::read(machine_id_file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(io::Error::new(error.kind(), format!("{}: {error}", machine_id_file.display())));
        }
    };
    let id = text.trim_ascii();
    if id.is_empty() {
        return Ok(None);
    }
    let hash = sha256(&[b"reloop box\0", id].concat());
    Ok(hash.first_chunk().copied())
}

/// Keeps a token for the next Hello. It belongs to whoever the state directory belongs to: root may write it there for
/// an agent that runs as somebody else.
///
/// # Errors
/// It is no token, or the disk refuses.
pub fn keep_token(state_dir: &Path, text: &str) -> io::Result<PathBuf> {
    let path = state_dir.join(TOKEN);
    durable::write_file(&path, check_token(text)?.as_bytes(), SECRET)?;
    let (dir, file) = (fs::metadata(state_dir)?, fs::metadata(&path)?);
    if (dir.uid(), dir.gid()) != (file.uid(), file.gid()) && rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(dir.uid()), Some(dir.gid()))?;
    }
    Ok(path)
}

/// The token to show: what a person gave to `enroll`, else what the settings name.
///
/// # Errors
/// A file that is there can't be read, or holds no token.
pub fn token(state_dir: &Path, configured: Option<&Path>) -> io::Result<Option<String>> {
    for path in [Some(state_dir.join(TOKEN).as_path()), configured].into_iter().flatten() {
        let about = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        match fs::read_to_string(path) {
            Ok(text) => return check_token(&text).map(|token| Some(token.to_owned())).map_err(about),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(about(error)),
        }
    }
    Ok(None)
}

/// The master has taken the slave in: what a person gave to `enroll` has done its work.
///
/// # Errors
/// The disk refuses.
pub fn forget_token(state_dir: &Path) -> io::Result<()> {
    match fs::remove_file(state_dir.join(TOKEN)) {
        Ok(()) => durable::sync_dir(state_dir),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn check_token(text: &str) -> io::Result<&str> {
    let token = text.trim();
    if token.is_empty() || token.len() > TOKEN_LIMIT || token.contains(|c: char| c.is_control() || c == ' ') {
        return Err(io::Error::new(
            ErrorKind::InvalidData,
            "not an enrolment token; `reloop slave enroll-token` at the master makes one",
        ));
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use ring::signature::{ED25519, UnparsedPublicKey};

    use super::*;

    #[test]
    fn a_key_is_made_once_and_known_only_after_it_was_settled() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Identity::find(dir.path()).unwrap().is_none());
        let first = Identity::find_or_make(dir.path()).unwrap();
        let mut again = Identity::find_or_make(dir.path()).unwrap();
        assert_eq!(first.key(), again.key());
        assert!(!again.is_known(), "a start that did not come far counts for nothing");
        again.settle().unwrap();
        let later = Identity::find_or_make(dir.path()).unwrap();
        assert!(later.is_known());
        assert_eq!(first.key(), later.key());
        let mode = fs::metadata(dir.path().join(KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, SECRET);
    }

    #[test]
    fn a_signature_is_that_of_the_public_key() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::find_or_make(dir.path()).unwrap();
        let Signature(first, second) = identity.sign(b"text");
        let key = UnparsedPublicKey::new(&ED25519, identity.key().0);
        key.verify(b"text", &[first, second].concat()).unwrap();
        key.verify(b"other", &[first, second].concat()).unwrap_err();
    }

    #[test]
    fn a_damaged_key_is_an_error_and_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(KEY), b"no key").unwrap();
        let error = Identity::find_or_make(dir.path()).err().unwrap().to_string();
        assert!(error.contains("identity.key") && error.contains("enrol"), "{error}");
        assert_eq!(fs::read(dir.path().join(KEY)).unwrap(), b"no key");
    }

    #[test]
    fn a_persons_token_beats_the_configured_one_until_it_has_done_its_work() {
        let dir = tempfile::tempdir().unwrap();
        let configured = dir.path().join("configured");
        assert_eq!(token(dir.path(), Some(&configured)).unwrap(), None);
        fs::write(&configured, "from-config\n").unwrap();
        keep_token(dir.path(), " given\n").unwrap();
        assert_eq!(token(dir.path(), Some(&configured)).unwrap().as_deref(), Some("given"));
        forget_token(dir.path()).unwrap();
        forget_token(dir.path()).unwrap();
        assert_eq!(token(dir.path(), Some(&configured)).unwrap().as_deref(), Some("from-config"));
        for bad in ["", " \n", "two words", "a\nb", &"x".repeat(2000)] {
            keep_token(dir.path(), bad).unwrap_err();
        }
    }

    #[test]
    fn a_token_that_root_gives_can_be_read_by_the_owner_of_the_state_directory() {
        let dir = tempfile::tempdir().unwrap();
        let (uid, gid) = (54_321, 54_322);
        if std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid)).is_err() {
            let text = "left out: a directory of another user takes root";
            return std::io::Write::write_all(&mut io::stderr(), text.as_bytes()).unwrap();
        }
        let path = keep_token(dir.path(), "given").unwrap();
        let kept = fs::metadata(path).unwrap();
        assert_eq!((kept.uid(), kept.gid(), kept.permissions().mode() & 0o777), (uid, gid, SECRET));
    }

    #[test]
    fn a_box_has_a_fingerprint_if_it_has_an_id() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("machine-id");
        assert_eq!(fingerprint(&path).unwrap(), None);
        fs::write(&path, "\n").unwrap();
        assert_eq!(fingerprint(&path).unwrap(), None);
        fs::write(&path, "4c0f\n").unwrap();
        let one = fingerprint(&path).unwrap();
        fs::write(&path, "4c0f").unwrap();
        assert!(one.is_some() && one == fingerprint(&path).unwrap());
        fs::write(&path, "4c10").unwrap();
        assert_ne!(one, fingerprint(&path).unwrap());
    }
}
