//! The agent, from its start to its end.
//!
//! The order is store, machine, master: the agent knows its jobs and has asked the machine about them before anybody can give
//! it a new one. However the agent ends, no machine is touched.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use reloop_node::clock::{unix_ms, wall_ms};
use reloop_node::driver;
use reloop_node::durable::create_dir_all_synced;
use reloop_node::entropy::random;
use reloop_node::store::{Options, Store};
use reloop_protocol::id::{JobId, StoreId};
use reloop_protocol::message::Reason;
use reloop_protocol::slave::{self, Event, Fact, Job, RunKey, Settings, Slave, TrustClock};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::driver::{Driver, INBOX, Input, Parts};
use crate::identity::{self, Identity};
use crate::link::{self, Dialer};
use crate::local;
use crate::machine::Machines;
use crate::records::{self, LoadError, Loaded};

/// A setting or a file is wrong: starting again would not help (`EX_CONFIG`).
pub const EXIT_CONFIG: u8 = 78;

/// The disk fails: another start may find it mended (`EX_IOERR`).
pub const EXIT_STORAGE: u8 = 74;

/// A slave's records have some hundred kilobytes, and a small box has little memory.
const STORE: Options = Options { cache_bytes: 1 << 20, min_free_bytes: 8 << 20 };

/// The time from a failed write to the end of the agent, which a supervisor starts again: long enough to tell the master why
/// the link is closed, and for a person to read the status; and short, because no job is managed until then. The machine goes
/// on all the time.
const STORAGE_GRACE: Duration = Duration::from_secs(30);

/// How long the end of the link may take: it waits 2 s for the master's answer to its close.
const GOODBYE: Duration = Duration::from_secs(3);

/// Facts that wait for the driver; the machines' threads wait while it is full.
const FACTS: usize = 64;

pub(crate) fn store_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("store")
}

/// Runs the agent until it is told to stop, or cannot go on. The exit status says which.
///
/// # Errors
/// The agent cannot start, and a person has to do something: the caller exits with [`EXIT_CONFIG`].
pub async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new().context("the system lets no signals be heard")?;
    let dialer = Dialer::new(&config)?;
    make_state_dir(&config.state_dir).with_context(|| format!("state_dir = {:?}", config.state_dir))?;
    let identity = Identity::find_or_make(&config.state_dir)?;
    let boot = config.boot_id().context("boot_id_file")?;
    let fingerprint = identity::fingerprint(&config.machine_id_file).context("machine_id_file")?;
    let (store, loaded) = match open(&config.state_dir) {
        Ok(opened) => opened,
        Err(LoadError::Newer(schema)) => return Err(LoadError::Newer(schema).into()),
        Err(LoadError::Store(error)) => {
            tracing::error!(%error, "the agent can't start");
            return Ok(ExitCode::from(EXIT_STORAGE));
        }
    };

    let (facts, heard) = mpsc::channel(FACTS);
    let machines = Machines::new(&config, facts).context("the machines can't be driven")?;
    let settings = settings(&config, &identity, &machines);
    let Loaded { records, damage, set_aside } = loaded;
    let state = slave::recover(settings, new_store_id(), records);
    if let Some(broken) = slave::broken_invariant(&state) {
        tracing::error!(broken, "the records contradict each other");
    }
    tracing::info!(
        name = config.name,
        key = state.settings.key.fingerprint(),
        store = %state.node.store,
        jobs = state.jobs.len(),
        master = dialer.peer(),
        version = env!("CARGO_PKG_VERSION"),
        "the agent starts"
    );
    let (known_key, next_store) = (identity.is_known(), new_store_id());
    let unfit = unfit(&state, &machines);
    let started = Event::AgentStarted { boot, fingerprint, known_key, next_store, damage, unfit };
    let (inbox, inputs) = mpsc::channel(INBOX);
    inbox.send(Input::Started(started, set_aside)).await.context("the driver is gone before it began")?;
    let (broken, mut breakage) = watch::channel(None);
    let driver = Driver::new(Parts {
        state,
        machines,
        identity,
        state_dir: config.state_dir.clone(),
        clock_sync_file: (config.trust_clock == TrustClock::Synchronized)
            .then(|| config.clock_sync_file.clone()),
        url: dialer.peer(),
        store: store.clone(),
        inbox: inbox.downgrade(),
        broken,
    });

    let listener = local::listen(&config.state_dir)
        .with_context(|| format!("the socket {}", local::socket_path(&config.state_dir).display()))?;
    let (halt, halted) = watch::channel(false);
    let nudge = Arc::new(Notify::new());
    tokio::spawn(pass_on(heard, inbox.clone()));
    let end = CancellationToken::new();
    let at_machine =
        local::serve(config.state_dir.clone(), listener, inbox.clone(), Arc::clone(&nudge), end.clone());
    let at_machine = tokio::spawn(at_machine);
    if let Some(period) = sd_notify::watchdog_enabled() {
        tokio::spawn(watchdog(inbox.clone(), period));
    }
    let linked = tokio::spawn(link::run(
        dialer,
        link::Loop { config: config.clone(), inbox: inbox.clone(), halt: halted, nudge },
    ));
    notify(&[NotifyState::Ready]);

    let stop = async {
        tokio::select! {
            name = signals.next() => tracing::info!(signal = name, "the agent stops; its job goes on"),
            () = async {
                // The sender is in the driver, which outlives this.
                let _ = breakage.wait_for(Option::is_some).await;
                // No more connections until the supervisor has started a new agent.
                halt.send_replace(true);
                tokio::time::sleep(STORAGE_GRACE).await;
            } => tracing::error!("the agent ends, so that a new one can find a store that works"),
        }
        notify(&[NotifyState::Stopping]);
    };
    let ended = driver::run(driver, store.clone(), inputs, stop).await;
    halt.send_replace(true);
    let code = match ended {
        Ok(mut driver) => {
            driver.say_goodbye();
            ExitCode::SUCCESS
        }
        Err(_) => ExitCode::from(EXIT_STORAGE),
    };
    if timeout(GOODBYE, linked).await.is_err() {
        tracing::debug!("the master does not answer the goodbye");
    }
    end.cancel();
    if at_machine.await.is_err() {
        tracing::error!("the local commands have died");
    }
    if let Err(error) = store.close() {
        tracing::error!(%error, "the store could not be closed");
        return Ok(ExitCode::from(EXIT_STORAGE));
    }
    Ok(code)
}

fn make_state_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        create_dir_all_synced(parent)?;
    }
    create_dir_all_synced(dir)?;
    std::fs::set_permissions(dir, Permissions::from_mode(0o700))
}

fn open(state_dir: &Path) -> Result<(Store, Loaded), LoadError> {
    let opened = Store::open(&store_dir(state_dir), STORE)?;
    if let Some(aside) = opened.set_aside {
        tracing::error!(
            aside = %aside.display(),
            "the store could not be read and is set aside: nothing starts until a person has looked at the machine"
        );
    }
    let loaded = records::load(&opened.store, wall_ms())?;
    Ok((opened.store, loaded))
}

fn new_store_id() -> StoreId {
    StoreId::from_parts(unix_ms(), u128::from_le_bytes(random()))
}

fn settings(config: &Config, identity: &Identity, machines: &Machines) -> Settings {
    Settings {
        name: config.name.clone(),
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        key: identity.key(),
        programs: machines.programs().map(str::to_owned).collect(),
        labels: config.labels.clone(),
        capacity: config.capacity.into(),
        deferred_capacity: config.deferred_capacity.into(),
        release: config.release,
        after_failure: config.after_failure,
        trust_clock: config.trust_clock,
        late_tolerance: config.late_tolerance,
        max_interruptions: config.max_interruptions,
        max_failures_in_row: config.max_failures_in_row,
        // It is read for each connection.
        token: None,
    }
}

/// Of the jobs that it holds, those that the programs of today cannot do, and why.
fn unfit(state: &Slave, machines: &Machines) -> BTreeMap<JobId, Reason> {
    let reason = |job: &Job| {
        let rejection = machines.check(&job.spec.program, &job.spec.params).err()?;
        Some((job.report.job, rejection.reason()))
    };
    state.jobs.values().filter_map(reason).collect()
}

async fn pass_on(mut heard: mpsc::Receiver<(RunKey, Fact)>, inbox: mpsc::Sender<Input>) {
    while let Some((key, fact)) = heard.recv().await {
        if inbox.send(Input::Machine(key, fact)).await.is_err() {
            return;
        }
    }
}

/// Tells the supervisor again and again that the driver still takes inputs.
async fn watchdog(inbox: mpsc::Sender<Input>, period: Duration) {
    loop {
        let (reply, replied) = oneshot::channel();
        if inbox.send(Input::Alive(reply)).await.is_err() || replied.await.is_err() {
            return;
        }
        notify(&[NotifyState::Watchdog]);
        tokio::time::sleep(period / 2).await;
    }
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the supervisor was not told");
    }
}

struct Signals {
    term: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
