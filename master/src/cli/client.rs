//! Asks a master over REST.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reloop_api::limits::PAGE_LIMIT;
use reloop_api::{Page, Problem, header};
use reqwest::{Certificate, Method, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Exit;
use super::args::ClientArgs;
use super::table::clean;
use crate::config::DEFAULT_DATA_DIR;
use crate::rest::tokens::ADMIN_TOKEN_FILE;

/// The master answers at once or says why not; it may itself wait for a slave's answer for ten seconds.
const REQUEST_PATIENCE: Duration = Duration::from_secs(30);
/// A master that is there takes the connection at once.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// How many pages are looked through for a part of an id.
const SEARCH_PAGES: usize = 10;
/// Entries that are asked for at a time.
const PAGE: u32 = PAGE_LIMIT as u32;
/// Of a part of an id that is not its beginning: shorter ones fit too much by chance.
const SUFFIX_MIN: usize = 4;

/// Why a command did not do what it should.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    /// For people; nothing if all was said.
    pub(super) text: String,
}

impl Failure {
    pub(super) fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into() }
    }
}

/// What the master answered: shown as it came where somebody wants the JSON, with what this release does not know, and
/// read as one of the shared types otherwise.
#[derive(Debug)]
pub(super) struct Answer(Value);

impl Answer {
    /// The answer as this release understands it.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        T::deserialize(&self.0).map_err(|error| {
            Failure::new(Exit::Error, format!("the master does not answer as this release expects: {error}"))
        })
    }

    /// The JSON over several lines.
    pub(super) fn pretty(&self) -> String {
        format!("{:#}\n", self.0)
    }

    /// The JSON on one line.
    pub(super) fn line(&self) -> String {
        self.0.to_string()
    }
}

/// An entry of a list of which only the id matters.
#[derive(Deserialize)]
struct Known {
    id: String,
}

/// A client of one master.
pub(super) struct Client {
    http: reqwest::Client,
    master: Url,
    token: Option<String>,
    doubt: Mutex<Option<String>>,
}

impl Client {
    pub(super) fn new(args: &ClientArgs) -> Result<Self, Failure> {
        let usage = |text: String| Failure::new(Exit::Usage, text);
        let master = Url::parse(&args.master).map_err(|error| {
            usage(format!("--master {:?}: {error}; expected http://host:port", args.master))
        })?;
        if !matches!(master.scheme(), "http" | "https") || master.host().is_none() {
            return Err(usage(format!(
                "--master {:?}: expected http://host:port or https://host",
                args.master
            )));
        }
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_PATIENCE)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("reloop/", env!("CARGO_PKG_VERSION")));
        if master.scheme() == "http" {
            // Without TLS nobody's certificate is needed, and a box that has none is no obstacle.
            let tls = rustls::ClientConfig::builder_with_provider(Arc::new(
                rustls::crypto::ring::default_provider(),
            ))
            .with_safe_default_protocol_versions()
            .expect("ring knows the default versions")
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
            builder = builder.tls_backend_preconfigured(tls);
        } else if let Some(file) = &args.ca_file {
            builder = builder.tls_certs_merge(certificates(file)?);
        }
        let http = builder.build().map_err(|error| Failure::new(Exit::Error, chain(&error)))?;
        Ok(Self { http, master, token: token(args.token_file.as_deref())?, doubt: Mutex::default() })
    }

    /// What the master's last answer said about slaves that doubt it.
    pub(super) fn doubt(&self) -> Option<String> {
        self.doubt.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks, and gives whatever came back without an error; the text says what is wrong otherwise.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Response, Failure> {
        let base = self.master.as_str().trim_end_matches('/');
        let mut request = self.http.request(method, format!("{base}{path}")).timeout(REQUEST_PATIENCE);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
        let doubt = answer.headers().get(header::DOUBTED).and_then(|doubt| doubt.to_str().ok()).map(clean);
        *self.doubt.lock().unwrap_or_else(PoisonError::into_inner) = doubt;
        if answer.status().is_success() { Ok(answer) } else { Err(self.refused(answer).await) }
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let text = format!(
            "no answer from {}: {}; jobs at the machines go on without it",
            self.master,
            chain(error)
        );
        Failure::new(Exit::Unreachable, text)
    }

    async fn refused(&self, answer: Response) -> Failure {
        let status = answer.status();
        let exit = exit_of(status);
        // What stands between the client and the master may answer in its own way.
        let (mut text, errors) = match answer.json::<Problem>().await {
            Ok(problem) => (problem.detail, problem.errors),
            Err(_) => (status.to_string(), vec![]),
        };
        for error in errors.iter().skip(1) {
            text.push_str(&format!("\n  {}: {}", error.field, error.detail));
        }
        if exit == Exit::Auth && self.token.is_none() {
            text.push_str("\n  give one with --token-file, RELOOP_TOKEN_FILE or RELOOP_TOKEN");
        }
        Failure::new(exit, text)
    }

    /// Reads the body of an answer as JSON.
    pub(super) async fn answer(&self, answer: Response) -> Result<Answer, Failure> {
        let text = answer.text().await.map_err(|error| self.unreachable(&error))?;
        serde_json::from_str(&text).map(Answer).map_err(|error| {
            Failure::new(Exit::Error, format!("{} does not answer as a master does: {error}", self.master))
        })
    }

    pub(super) async fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.answer(self.send(Method::GET, path, &[], None).await?).await
    }

    pub(super) async fn post(&self, path: &str, request: &impl Serialize) -> Result<Answer, Failure> {
        let body = serde_json::to_value(request).expect("requests are texts and numbers");
        self.answer(self.send(Method::POST, path, &[], Some(&body)).await?).await
    }

    /// A list's first entries, as one page; `query` starts with `&` or is empty.
    pub(super) async fn list(&self, path: &str, query: &str, limit: u32) -> Result<Answer, Failure> {
        let mut all = Page::<Value>::whole(vec![]);
        loop {
            let left = limit.saturating_sub(u32::try_from(all.data.len()).unwrap_or(u32::MAX));
            if left == 0 {
                break;
            }
            let from = all.next_cursor.iter().map(|cursor| format!("&cursor={}", escape(cursor)));
            let path = format!("{path}?limit={}{query}{}", left.min(PAGE), from.collect::<String>());
            let page: Page<Value> = self.get(&path).await?.read()?;
            all.data.extend(page.data);
            all.next_cursor = page.next_cursor;
            if all.next_cursor.is_none() {
                break;
            }
        }
        Ok(Answer(serde_json::to_value(all).expect("a page of JSON is JSON")))
    }

    /// The whole id of a job or an order (`kind` is `job` or `order`) of which somebody gave a part.
    pub(super) async fn resolve(&self, kind: &str, prefix: &str, part: &str) -> Result<String, Failure> {
        const ULID_LEN: usize = 26;
        let bare = part.strip_prefix(prefix).unwrap_or(part).to_ascii_uppercase();
        if bare.len() == ULID_LEN {
            return Ok(format!("{prefix}{bare}"));
        }
        if bare.is_empty() {
            return Err(Failure::new(Exit::Usage, format!("{part:?} is no part of an id")));
        }
        let fits = |id: &str| {
            let id = id.strip_prefix(prefix).unwrap_or(id);
            id.starts_with(&bare) || (bare.len() >= SUFFIX_MIN && id.ends_with(&bare))
        };
        let path = format!("/v1/{kind}s");
        let (mut found, mut cursor) = (Vec::new(), String::new());
        for _ in 0..SEARCH_PAGES {
            let page: Page<Known> = self.get(&format!("{path}?limit={PAGE}{cursor}")).await?.read()?;
            found.extend(page.data.into_iter().map(|one| one.id).filter(|id| fits(id)));
            match page.next_cursor {
                Some(next) if found.len() < 2 => cursor = format!("&cursor={}", escape(&next)),
                _ => break,
            }
        }
        match found.as_slice() {
            [only] => Ok(only.clone()),
            [] => Err(Failure::new(Exit::NotFound, format!("no recent {kind} has {part:?} in its id"))),
            [first, second, ..] => {
                let text =
                    format!("{part:?} is not enough: {first} and {second} have it; give more of the id");
                Err(Failure::new(Exit::Usage, text))
            }
        }
    }
}

fn exit_of(status: StatusCode) -> Exit {
    match status {
        StatusCode::NOT_FOUND => Exit::NotFound,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Exit::Auth,
        StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY => Exit::Conflict,
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => Exit::Usage,
        // A reverse proxy whose master is away.
        StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => Exit::Unreachable,
        _ => Exit::Error,
    }
}

/// An error with everything that caused it: the library's own first line says next to nothing.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// For a part of a path or a value in a query (RFC 3986, section 2.1).
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

fn certificates(file: &Path) -> Result<Vec<Certificate>, Failure> {
    let usage = |why: &dyn std::fmt::Display| {
        let text = format!("--ca-file {}: {why}; expected certificates in PEM", file.display());
        Failure::new(Exit::Usage, text)
    };
    let pem = std::fs::read(file).map_err(|error| usage(&error))?;
    let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| usage(&chain(&error)))?;
    if certificates.is_empty() { Err(usage(&"there is none")) } else { Ok(certificates) }
}

/// The flag, the environment, or the admin token of a master on this box.
fn token(flag: Option<&Path>) -> Result<Option<String>, Failure> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let named = flag.map(Path::to_path_buf).or_else(|| variable("RELOOP_TOKEN_FILE").map(PathBuf::from));
    if let Some(file) = named {
        let text = std::fs::read_to_string(&file)
            .map_err(|error| Failure::new(Exit::Auth, format!("{}: {error}", file.display())))?;
        return Ok(Some(text.trim().to_owned()));
    }
    if let Some(token) = variable("RELOOP_TOKEN") {
        return Ok(Some(token.to_string_lossy().trim().to_owned()));
    }
    // A file that is not there or not for this user only means that there is no token here.
    let near = [Path::new("data"), Path::new(DEFAULT_DATA_DIR)];
    let near = near.into_iter().find_map(|dir| std::fs::read_to_string(dir.join(ADMIN_TOKEN_FILE)).ok());
    Ok(near.map(|text| text.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_plain_letter_is_escaped() {
        assert_eq!(escape("mill-3 ü/?"), "mill-3%20%C3%BC%2F%3F");
    }

    #[test]
    fn exit_codes_tell_refusals_apart() {
        for (status, exit) in [(404, 3), (401, 4), (403, 4), (409, 5), (422, 5), (400, 2), (503, 1), (502, 6)]
        {
            assert_eq!(exit_of(StatusCode::from_u16(status).unwrap()) as u8, exit, "{status}");
        }
    }
}
