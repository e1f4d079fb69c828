//! A thin client of the master's REST interface: JSON in, status and JSON out.
//!
//! Only a request without an answer is an error; a refusal is an answer. Answers that the interface describes by a type
//! are checked against that type: all of its fields and no others.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reloop_api::{
    Explanation, Job, JobCommand, JobEventPage, JobPage, Order, OrderCommand, OrderPage, Problem,
    ReceiptPage, Slave, SlaveCommand, SlavePage, header,
};
use reqwest::Method;
use reqwest::header::{ACCEPT, HeaderMap};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A running master answers much sooner; a request that takes longer has met a dead or stopped process.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// The master is down, or it died during the request.
pub type Unanswered = reqwest::Error;

#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    /// JSON; other text as a JSON string; `null` if it is empty.
    pub body: Value,
}

impl Reply {
    /// Returns the body. Panics if the status is another one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "the master answered {:#}", self.body);
        self.body
    }

    /// The answer, after a check that it is a `T`, or a problem if it is a refusal. Text is not checked: it comes from
    /// a proxy.
    #[track_caller]
    fn checked<T: Serialize + DeserializeOwned>(self) -> Self {
        if self.body.is_object() {
            let same = if self.status < 300 { same::<T>(&self.body) } else { same::<Problem>(&self.body) };
            same.unwrap_or_else(|why| {
                panic!("{why}; the master answered {} with {:#}", self.status, self.body)
            });
        }
        self
    }
}

/// An error unless the value is a `T` with no further fields.
fn same<T: Serialize + DeserializeOwned>(value: &Value) -> Result<(), String> {
    let read = T::deserialize(value).map_err(|error| error.to_string())?;
    let again = serde_json::to_value(read).map_err(|error| error.to_string())?;
    if again == *value { Ok(()) } else { Err(format!("it is read as {again:#}")) }
}

#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    master: SocketAddr,
    token: Option<String>,
}

impl Client {
    /// Without a token it sends no credentials.
    pub fn new(master: SocketAddr, token: Option<String>) -> Self {
        // The tests speak plain HTTP to this machine, but the library requires a TLS setting.
        let tls =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("ring knows the default TLS versions")
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            // A pooled connection would fail once after a restart of the master.
            .pool_max_idle_per_host(0)
            .build()
            .expect("a client with these settings");
        Self { http, master, token }
    }

    pub fn with_token(&self, token: impl Into<String>) -> Self {
        Self { token: Some(token.into()), ..self.clone() }
    }

    /// `path` begins with a slash and may contain a query.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Reply, Unanswered> {
        let mut request = self.start(method, path).timeout(REQUEST_DEADLINE);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let text = answer.text().await?;
        let body = match text.as_str() {
            "" => Value::Null,
            text => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())),
        };
        Ok(Reply { status, headers, body })
    }

    pub async fn get(&self, path: &str) -> Result<Reply, Unanswered> {
        self.request(Method::GET, path, &[], None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<Reply, Unanswered> {
        self.request(Method::POST, path, &[], Some(body)).await
    }

    pub async fn place(&self, order: &Value, idempotency_key: Option<&str>) -> Result<Reply, Unanswered> {
        let key = idempotency_key.map(|key| (header::IDEMPOTENCY_KEY, key));
        Ok(self.request(Method::POST, "/v1/orders", key.as_slice(), Some(order)).await?.checked::<Order>())
    }

    pub async fn order(&self, id: &str) -> Result<Reply, Unanswered> {
        Ok(self.get(&format!("/v1/orders/{id}")).await?.checked::<Order>())
    }

    /// `query` is the text after the question mark.
    pub async fn orders(&self, query: &str) -> Result<Reply, Unanswered> {
        Ok(self.get(&format!("/v1/orders?{query}")).await?.checked::<OrderPage>())
    }

    pub async fn cancel_order(&self, id: &str, body: &Value) -> Result<Reply, Unanswered> {
        Ok(self.post(&format!("/v1/orders/{id}/cancel"), body).await?.checked::<OrderCommand>())
    }

    pub async fn job(&self, id: &str) -> Result<Reply, Unanswered> {
        Ok(self.get(&format!("/v1/jobs/{id}")).await?.checked::<Job>())
    }

    /// `query` is the text after the question mark.
    pub async fn jobs(&self, query: &str) -> Result<Reply, Unanswered> {
        Ok(self.get(&format!("/v1/jobs?{query}")).await?.checked::<JobPage>())
    }

    pub async fn explain(&self, job: &str) -> Result<Reply, Unanswered> {
        Ok(self.get(&format!("/v1/jobs/{job}/explain")).await?.checked::<Explanation>())
    }

    pub async fn job_events(&self, job: &str) -> Result<Reply, Unanswered> {
        Ok(self.get(&format!("/v1/jobs/{job}/events")).await?.checked::<JobEventPage>())
    }

    /// `query` is the text after the question mark.
    pub async fn job_log(&self, job: &str, query: &str) -> Result<Reply, Unanswered> {
        self.get(&format!("/v1/jobs/{job}/log?{query}")).await
    }

    /// `verb`: `cancel`, `pause`, `resume`, `release`, `reschedule`, `retry`, `resolve` or `abandon`.
    pub async fn job_command(&self, job: &str, verb: &str, body: &Value) -> Result<Reply, Unanswered> {
        Ok(self.post(&format!("/v1/jobs/{job}/{verb}"), body).await?.checked::<JobCommand>())
    }

    pub async fn slaves(&self) -> Result<Reply, Unanswered> {
        Ok(self.get("/v1/slaves").await?.checked::<SlavePage>())
    }

    pub async fn slave(&self, name: &str) -> Result<Reply, Unanswered> {
        Ok(self.get(&format!("/v1/slaves/{name}")).await?.checked::<Slave>())
    }

    pub async fn receipts(&self, slave: &str) -> Result<Reply, Unanswered> {
        Ok(self.get(&format!("/v1/slaves/{slave}/receipts")).await?.checked::<ReceiptPage>())
    }

    /// `verb`: `ready`, `clear`, `mode`, `approve` or `forget`.
    pub async fn slave_command(&self, slave: &str, verb: &str, body: &Value) -> Result<Reply, Unanswered> {
        Ok(self.post(&format!("/v1/slaves/{slave}/{verb}"), body).await?.checked::<SlaveCommand>())
    }

    pub async fn livez(&self) -> Result<Reply, Unanswered> {
        self.get("/livez").await
    }

    pub async fn readyz(&self) -> Result<Reply, Unanswered> {
        self.get("/readyz").await
    }

    /// The stream of events from now on.
    pub async fn events(&self) -> Result<Events, Unanswered> {
        let request = self.start(Method::GET, "/v1/events").header(ACCEPT, "text/event-stream");
        let answer = request.send().await?;
        assert_eq!(answer.status().as_u16(), 200, "the master refused the stream of events");
        Ok(Events { answer, unread: Vec::new() })
    }

    fn start(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("http://{}{path}", self.master));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }
}

/// A stream of server-sent events (WHATWG HTML, section 9.2). Dropping it closes the connection.
#[derive(Debug)]
pub struct Events {
    answer: reqwest::Response,
    unread: Vec<u8>,
}

impl Events {
    /// Waits for the next event and returns its data; `None` if the master has closed the stream. Comments are skipped.
    pub async fn next(&mut self) -> Result<Option<Value>, Unanswered> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.unread.drain(..end + 2).collect();
                if let Some(data) = data_of(&String::from_utf8_lossy(&block)) {
                    return Ok(Some(data));
                }
                continue;
            }
            match self.answer.chunk().await? {
                Some(chunk) => self.unread.extend(chunk.iter().filter(|byte| **byte != b'\r')),
                None => return Ok(None),
            }
        }
    }
}

/// An event's data: JSON, or other text as a JSON string. `None` for a comment.
fn data_of(block: &str) -> Option<Value> {
    let lines = block.lines().filter_map(|line| line.strip_prefix("data:"));
    let data: Vec<_> = lines.map(|data| data.strip_prefix(' ').unwrap_or(data)).collect();
    let text = (!data.is_empty()).then(|| data.join("\n"))?;
    Some(serde_json::from_str(&text).unwrap_or(Value::String(text)))
}
