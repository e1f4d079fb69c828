//! A headless Chromium, driven over its DevTools protocol: enough to open the page and to read what it shows.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::client::Client;
use crate::daemon::{WorkDir, ignore_gone};
use crate::install::left_out;
use crate::wait::eventually;

/// The first start creates a profile; the box may be busy.
const START_DEADLINE: Duration = Duration::from_secs(40);
/// The page answers at once unless the browser hangs.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);
/// The names under which Debian, Fedora and Google install it.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
/// No first-run dialogs, no background requests.
const FLAGS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
];

/// A browser with one page, which is killed on drop.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    socket: WebSocketStream<TcpStream>,
    asked: u64,
    _profile: WorkDir,
}

impl Browser {
    /// Starts a browser with an empty profile. Returns `None`, with a line on stderr, if none is installed.
    pub async fn start() -> Option<Self> {
        let Some(program) = find() else {
            left_out("Chromium is not installed");
            return None;
        };
        let profile = WorkDir::new("reloop-browser-");
        let child = Command::new(program)
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("the browser can be run");
        // The first line is the port. The file appears when the browser listens.
        let told = profile.path().join("DevToolsActivePort");
        let socket = eventually("the browser to open its page", START_DEADLINE, async || {
            let text = fs::read_to_string(&told).map_err(|error| error.to_string())?;
            let port = text.lines().next().and_then(|line| line.parse::<u16>().ok()).ok_or("no port yet")?;
            connect(port).await.map_err(|error| format!("{error:#}"))
        })
        .await;
        Some(Self { child, socket, asked: 0, _profile: profile })
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.asked += 1;
        let (id, question) = (self.asked, json!({ "id": self.asked, "method": method, "params": params }));
        self.socket.send(Message::text(question.to_string())).await.expect("the browser listens");
        let answer = async {
            while let Some(message) = self.socket.next().await {
                let message = message.expect("the browser speaks");
                let Ok(text) = message.into_text() else { continue };
                let said: Value = serde_json::from_str(&text).expect("it speaks JSON");
                // Events may come before the answer.
                if said["id"] == id {
                    return said;
                }
            }
            panic!("the browser is gone");
        };
        let answer = tokio::time::timeout(ANSWER_DEADLINE, answer).await.expect("the browser answers");
        assert!(answer["error"].is_null(), "{method}: {answer:#}");
        answer["result"].clone()
    }

    pub async fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({ "url": url })).await;
    }

    /// Evaluates a script's expression in the page.
    pub async fn value(&mut self, script: &str) -> Value {
        let params = json!({ "expression": script, "returnByValue": true });
        let answer = self.call("Runtime.evaluate", params).await;
        assert!(answer["exceptionDetails"].is_null(), "{script}: {answer:#}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true in the page. A failure shows the page's text.
    pub async fn until(&mut self, what: &str, script: &str) {
        eventually(what, START_DEADLINE, async || {
            if self.value(script).await == true {
                return Ok(());
            }
            Err(self.value("document.body.innerText.slice(0, 2000)").await)
        })
        .await;
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its helper processes are in its process group.
        ignore_gone(rustix::process::kill_process_group(Pid::from_child(&self.child), Signal::KILL));
        let _ = self.child.wait();
    }
}

fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    NAMES.iter().flat_map(|name| dirs.iter().map(move |dir| dir.join(name))).find(|program| program.is_file())
}

async fn connect(port: u16) -> anyhow::Result<WebSocketStream<TcpStream>> {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let pages = Client::new(addr, None).get("/json/list").await?.body;
    let page = pages.as_array().into_iter().flatten().find(|page| page["type"] == "page");
    let url = page.and_then(|page| page["webSocketDebuggerUrl"].as_str());
    let url = url.ok_or_else(|| anyhow::anyhow!("it has no page yet"))?;
    Ok(client_async(url, TcpStream::connect(addr).await?).await?.0)
}
