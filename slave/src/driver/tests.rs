use std::path::Path;

use reloop_node::link::{Counted, Timing};
use reloop_node::store::Options;
use reloop_protocol::id::{BootId, Generation, MasterId, StoreId};
use reloop_protocol::message::{Challenge, MasterBinding, Mode, OperatingMode, PROTOCOL, Welcome};
use reloop_protocol::slave::{Damage, LATE_TOLERANCE, Settings, TrustClock};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;
use crate::config::{Config, Overrides};

const LINK: LinkId = LinkId(1);

fn driver(dir: &Path) -> Driver {
    let text = format!("name = \"mill\"\nmaster = \"ws://m/v1/link\"\nstate_dir = {dir:?}\n");
    let config = Config::parse(&text, Path::new("slave.toml"), Overrides::default()).unwrap();
    let identity = Identity::find_or_make(dir).unwrap();
    let settings = Settings {
        name: "mill".into(),
        agent: "test".into(),
        key: identity.key(),
        programs: vec![],
        labels: BTreeMap::new(),
        capacity: 4,
        deferred_capacity: 16,
        release: config.release,
        after_failure: config.after_failure,
        trust_clock: TrustClock::Never,
        late_tolerance: LATE_TOLERANCE,
        max_interruptions: 3,
        max_failures_in_row: 3,
        token: None,
    };
    let options = Options { cache_bytes: 1 << 20, min_free_bytes: 0 };
    Driver::new(Parts {
        state: slave::recover(settings, StoreId([9; 16]), []),
        machines: Machines::new(&config, mpsc::channel(1).0).unwrap(),
        identity,
        state_dir: dir.to_owned(),
        clock_sync_file: None,
        url: config.master,
        store: Store::open(&dir.join("store"), options).unwrap().store,
        inbox: mpsc::channel(1).0.downgrade(),
        broken: watch::channel(None).0,
    })
}

/// The node's end of a link on which nobody answers.
async fn outbox() -> Outbox {
    let (ours, theirs) = tokio::io::duplex(1024);
    let socket = WebSocketStream::from_raw_socket(Counted::new(ours), Role::Client, None).await;
    let limit = Duration::from_secs(60);
    let timing = Timing { heartbeat: limit, dead_after: limit, handshake: limit };
    let (give, given) = oneshot::channel();
    tokio::spawn(async move {
        let settled = watch::channel(true).1;
        reloop_node::link::run(socket, timing, settled, |_| async { Ok(()) }, |outbox| answer(give, outbox))
            .await;
        drop(theirs);
    });
    given.await.unwrap()
}

/// Steps and performs, as if every commit were on disk at once.
fn happen(driver: &mut Driver, input: Input) {
    let (_, effects) = driver.step(input);
    effects.into_iter().for_each(|effect| driver.perform(effect));
}

fn started() -> Input {
    let started = slave::Event::AgentStarted {
        boot: BootId([3; 16]),
        fingerprint: None,
        known_key: false,
        next_store: StoreId([8; 16]),
        damage: Damage::default(),
        unfit: BTreeMap::new(),
    };
    Input::Started(started, vec![])
}

fn binding() -> MasterBinding {
    MasterBinding {
        master: MasterId([2; 16]),
        epoch: Default::default(),
        incarnation: Default::default(),
        commit: Commit(1),
    }
}

fn challenge(nonce: [u8; 32]) -> Message {
    let MasterBinding { master, epoch, commit, .. } = binding();
    let (begun, time) = (vec![], Time(1000));
    Message::Challenge(Challenge { protocol: PROTOCOL, master, epoch, commit, begun, nonce, time })
}

fn frame(session: Session, message: Message) -> Input {
    Input::Frame { link: LINK, frame: Frame { session, commit: Commit(1), message, signature: None } }
}

#[tokio::test]
async fn a_handshake_is_over_when_its_end_is_durable_and_not_when_it_is_decided() {
    let dir = tempfile::tempdir().unwrap();
    let mut driver = driver(dir.path());
    happen(&mut driver, started());
    let (settle, settled) = watch::channel(false);
    let up = Input::LinkUp { link: LINK, outbox: outbox().await, settled: settle, token: None };
    happen(&mut driver, up);
    let binding = binding();
    happen(&mut driver, frame(Session(0), challenge([0; 32])));
    let session = driver.state.node.session;
    let welcome = Message::Welcome(Welcome {
        protocol: 1,
        session,
        binding,
        operating_mode: OperatingMode { generation: Generation(0), mode: Mode::Production },
        rulings: vec![],
    });
    let (ops, effects) = driver.step(frame(session, welcome));
    assert!(matches!(driver.state.link, Link::Live { .. }), "the handshake ended: {:?}", driver.state.link);
    assert!(!ops.is_empty(), "the end is to be written");
    assert!(!*settled.borrow(), "it is not on disk yet");
    effects.into_iter().for_each(|effect| driver.perform(effect));
    assert!(*settled.borrow());
}

#[tokio::test]
async fn a_hello_is_signed_over_the_challenge_that_the_rules_took() {
    let dir = tempfile::tempdir().unwrap();
    let mut driver = driver(dir.path());
    happen(&mut driver, started());
    for link in [LinkId(7), LINK] {
        let settled = watch::channel(false).0;
        happen(&mut driver, Input::LinkUp { link, outbox: outbox().await, settled, token: None });
    }
    let nonce = |driver: &Driver, link| driver.links[&link].nonce;
    let late = Frame { session: Session(0), commit: Commit(1), message: challenge([1; 32]), signature: None };
    happen(&mut driver, Input::Frame { link: LinkId(7), frame: late });
    assert_eq!(nonce(&driver, LinkId(7)), None, "another link was opened since");
    happen(&mut driver, frame(Session(0), challenge([2; 32])));
    happen(&mut driver, frame(Session(0), challenge([3; 32])));
    assert_eq!(nonce(&driver, LINK), Some([2; 32]), "a second Challenge on a link is ignored");
}

#[test]
fn a_clock_is_kept_by_a_time_service_once_the_file_that_says_so_exists() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("synchronized");
    assert!(!now(Some(&file)).synchronized);
    std::fs::write(&file, "").unwrap();
    assert_eq!((now(Some(&file)).synchronized, now(None).synchronized), (true, false));
}
