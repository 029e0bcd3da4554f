//! The keeper beside a store that others change, with a server that says yes when it is told to.

use std::time::Duration;

use chrono::TimeDelta;
use solarnet_sim::{Authority, NodeCertificate as Wanted, NodeIdentity};
use tempfile::TempDir;
use tokio::sync::Semaphore;

use super::*;
use crate::identity::calls::Trouble;

const NODE: i64 = 123;

/// Never answers a request for a renewal, and accepts a certificate for each permit.
#[derive(Clone)]
struct Server {
    accepts: Arc<Semaphore>,
    /// One for each request for a renewal.
    asked: Arc<Semaphore>,
}

impl IdentityCalls for Server {
    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }

    async fn prove(&self, _: &Arc<NodeCertificate>) -> Result<(), Trouble> {
        self.accepts.acquire().await.expect("it is never closed").forget();
        Ok(())
    }

    async fn ask(&self, _: &Arc<NodeCertificate>) -> Result<(), Trouble> {
        self.asked.add_permits(1);
        std::future::pending().await
    }
}

/// A keeper at work, and all that is around it.
struct Bench {
    _dir: TempDir,
    authority: Authority,
    first: NodeIdentity,
    store: Store,
    identity: Identity,
    reload: Arc<Notify>,
    installer: Installer,
    server: Server,
    status: watch::Receiver<Status>,
    stop: CancellationToken,
}

impl Bench {
    /// With this certificate in the store.
    fn start(first: impl FnOnce(&Authority) -> NodeIdentity) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let authority = Authority::new().expect("an authority");
        let store = Store::new(dir.path(), None);
        let first = first(&authority);
        save(&store, &first);
        let (installer, arrivals) = Installer::channel();
        let (status, shown) = watch::channel(Status::default());
        let (identity, reload) = (Identity::new(), Arc::new(Notify::new()));
        let none = || Arc::new(Semaphore::new(0));
        let server = Server { accepts: none(), asked: none() };
        let stop = CancellationToken::new();
        let keeper = Keeper {
            node: NodeId::try_from(NODE).expect("a node"),
            needed: true,
            terms: Terms { allowed: true, before: TimeDelta::days(60) },
            store: store.clone(),
            state_dir: dir.path().to_owned(),
            identity: identity.clone(),
            clock: Clock::system(),
            calls: server.clone(),
            reload: reload.clone(),
            arrivals,
            contact: Box::new(|| None),
            status,
            pulse: Pulse::unheard(),
            stop: stop.clone(),
        };
        tokio::spawn(keeper.run());
        Self {
            _dir: dir,
            authority,
            first,
            store,
            identity,
            reload,
            installer,
            server,
            status: shown,
            stop,
        }
    }

    /// What may follow the first one.
    fn renewed(&self) -> NodeIdentity {
        let until = Utc::now() + TimeDelta::days(900);
        let wanted = Wanted::between(NODE, Utc::now() - TimeDelta::days(1), until);
        self.authority.renew_node(&wanted, &self.first).expect("renewed")
    }

    fn used(&self) -> Option<Vec<u8>> {
        self.identity.current().map(|current| current.leaf().der().to_vec())
    }

    async fn until(&mut self, what: &str, mut holds: impl FnMut(&Status) -> bool) {
        let waiting = self.status.wait_for(|status| holds(status));
        let came = tokio::time::timeout(Duration::from_secs(120), waiting).await;
        drop(came.expect(what).expect("the keeper runs"));
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn of_node(authority: &Authority, node: i64) -> NodeIdentity {
    authority.issue_node(&Wanted::around(node, Utc::now())).expect("issued")
}

fn save(store: &Store, identity: &NodeIdentity) {
    let pem = identity.chain_pem() + &identity.key_pem();
    store.save_identity(Slot::Current, pem.as_bytes()).expect("saved");
}

#[tokio::test]
async fn the_certificate_of_another_node_is_as_good_as_none() {
    let mut bench = Bench::start(|authority| of_node(authority, 124));
    bench.until("the complaint", |status| status.because.contains("node 124, and `node.id`")).await;
    assert_eq!(bench.used(), None);

    let own = of_node(&bench.authority, NODE);
    save(&bench.store, &own);
    bench.reload.notify_one();
    bench.until("this node's own is used", |status| status.subject.is_some()).await;
    assert_eq!(bench.used().as_deref(), Some(own.der()));

    // Another node's is put in beside the running daemon.
    save(&bench.store, &of_node(&bench.authority, 124));
    bench.reload.notify_one();
    bench.until("it is not used any more", |status| status.subject.is_none()).await;
    assert_eq!(bench.used(), None);
    assert!(bench.status.borrow().because.contains("change `node.id`"));
}

#[tokio::test]
async fn an_import_while_a_renewed_certificate_is_proved_is_not_overwritten() {
    let mut bench = Bench::start(|authority| of_node(authority, NODE));
    bench.until("it is used", |status| status.subject.is_some()).await;
    let present = load(&bench.store, Slot::Current).expect("readable").expect("there").0;
    let renewed = bench.renewed();
    let installer = bench.installer.clone();
    let installing = tokio::spawn(async move { installer.install(renewed.chain_pem()).await });
    let waits = async {
        while !bench.store.identity_path(Slot::Next).exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), waits).await.expect("it is being proved");

    let imported = of_node(&bench.authority, NODE);
    save(&bench.store, &imported);
    bench.server.accepts.add_permits(1);
    let said = installing.await.expect("it ends").expect_err("the import counts");
    assert!(said.contains("another certificate was put in"), "{said}");
    let stored = load(&bench.store, Slot::Current).expect("readable").expect("there").0;
    assert_ne!(stored, present);
    assert_eq!(stored.leaf().der().as_ref(), imported.der());
    assert_eq!(bench.used().as_deref(), Some(imported.der()));
    assert!(!bench.store.identity_path(Slot::Next).exists(), "it belongs to the one before");
}

#[tokio::test]
async fn a_renewed_certificate_that_comes_before_the_answer_is_not_kept_waiting() {
    let month = TimeDelta::days(30);
    let bench = Bench::start(|authority| {
        let wanted = Wanted::between(NODE, Utc::now() - month * 23, Utc::now() + month);
        authority.issue_node(&wanted).expect("issued")
    });
    let patience = Duration::from_secs(30);
    let asked = tokio::time::timeout(patience, bench.server.asked.acquire()).await;
    drop(asked.expect("it is asked for").expect("never closed"));
    let renewed = bench.renewed();
    bench.server.accepts.add_permits(1);
    let installing = bench.installer.install(renewed.chain_pem());
    let installed = tokio::time::timeout(patience, installing).await.expect("without the answer");
    assert!(installed.is_ok_and(|said| said.contains("is in use until")));
    assert_eq!(bench.used().as_deref(), Some(renewed.der()));
}
