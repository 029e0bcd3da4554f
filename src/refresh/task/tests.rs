use std::{
    fs,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::Days;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::{
    credential::{Remembered, SigningKey, TokenSecret, signing_key},
    policy::Policy,
    solarnet::{CallError, Cause},
};

/// A server that knows one token, and the device that holds its key.
struct Site {
    dir: TempDir,
    store: Store,
    signer: Signer,
    reload: Arc<Notify>,
    status: watch::Receiver<Status>,
    server: Server,
}

/// Counts calls; refuses them with a cause, or never answers the one it is told.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<Behaviour>>);

#[derive(Default)]
struct Behaviour {
    calls: usize,
    refuses: Option<Cause>,
    silent_from: Option<usize>,
}

impl Server {
    fn change(&self) -> MutexGuard<'_, Behaviour> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn secret() -> TokenSecret {
    "Zq3.v7X_k9-LmN2pRsT4uVwYz".parse().expect("a secret")
}

fn today() -> NaiveDate {
    Utc::now().date_naive()
}

fn name() -> TokenName {
    "site".parse().expect("a name")
}

fn credential(days_ago: u64, keep_secret: bool) -> Credential {
    let token_id = "abc".parse().expect("a token ID");
    Credential::derive(token_id, secret(), today() - Days::new(days_ago), keep_secret)
}

impl RefreshCalls for Server {
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }

    async fn fetch(
        &self,
        credential: &Credential,
        day: NaiveDate,
    ) -> Result<SigningKey, CallError> {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let (refuses, silent) = {
            let mut behaviour = self.change();
            behaviour.calls += 1;
            let silent = behaviour.silent_from.is_some_and(|from| behaviour.calls >= from);
            (behaviour.refuses, silent)
        };
        if silent {
            std::future::pending::<()>().await;
        }
        let known =
            (0..7).any(|ago| signing_key(&secret(), today() - Days::new(ago)) == credential.key);
        match refuses {
            None if known => Ok(signing_key(&secret(), day)),
            cause => Err(CallError {
                method: "GET",
                path: "/r".to_owned(),
                cause: cause.unwrap_or(Cause::BadCredentials),
                refusal: None,
                detail: None,
            }),
        }
    }
}

impl Site {
    fn with(stored: Option<&Credential>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = Store::new(dir.path(), None);
        if let Some(stored) = stored {
            store.save(&name(), stored).expect("saved");
        }
        let (signer, reload) = (Signer::new(None), Arc::default());
        let status = watch::Sender::new(Status::default()).subscribe();
        Self { dir, store, signer, reload, status, server: Server::default() }
    }

    /// Starts the daemon's part, as after a power cut.
    fn start(&mut self) -> JoinHandle<()> {
        let (status, receiver) = watch::channel(Status::default());
        (self.signer, self.status) = (Signer::new(None), receiver);
        let refresher = Refresher {
            needed: true,
            pulse: crate::pulse::Pulse::unheard(),
            name: name(),
            store: self.store.clone(),
            signer: self.signer.clone(),
            clock: Clock::system(),
            calls: self.server.clone(),
            reload: self.reload.clone(),
            status,
            stop: CancellationToken::new(),
        };
        tokio::spawn(refresher.run())
    }

    async fn until(&mut self, what: &str, check: impl FnMut(&Status) -> bool) -> Status {
        let waited = tokio::time::timeout(Duration::from_secs(7200), self.status.wait_for(check));
        waited.await.unwrap_or_else(|_| panic!("{what}")).expect("the task runs").clone()
    }

    fn stored(&self) -> Credential {
        self.store.load_stored(&name()).expect("readable").expect("there")
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_ends_before_its_key_is_told_with_its_date() {
    for (keep_secret, days, told) in [(false, 2, true), (false, 20, false), (true, 20, true)] {
        let credential = credential(0, keep_secret);
        let mut site = Site::with(Some(&credential));
        let end = (Utc::now() + Days::new(days)).timestamp_millis();
        let policy = Policy { not_after: Some(end), ..Policy::default() };
        let seen = Remembered::new(&credential.token_id, "User", &policy, Utc::now());
        site.store.remember(&name(), &seen).expect("written");
        site.start();
        let status = site.until("well", |status| status.next_attempt.is_some()).await;
        assert_eq!(status.because.contains("notAfter"), told, "{status:?}");
        let ends = status.ends.map(|at| at.timestamp_millis());
        assert_eq!(ends == Some(end), told, "{status:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_old_key_is_renewed_on_disk_and_in_use() {
    let mut site = Site::with(Some(&credential(5, false)));
    site.start();
    let status = site.until("renewed", |status| status.key_date == Some(today())).await;
    assert_eq!(site.stored(), credential(0, false));
    assert_eq!(site.signer.current().as_deref(), Some(&credential(0, false)));
    assert_eq!(status.ends, Some(credential(0, false).ends()));
    assert_eq!(site.server.change().calls, 2, "fetched and proved");
}

#[tokio::test(start_paused = true)]
async fn killed_at_every_step_a_working_key_stays_and_the_next_start_renews_it() {
    let (old, new) = (credential(5, false), credential(0, false));
    for silent_from in [1, 2] {
        let mut site = Site::with(Some(&old));
        site.server.change().silent_from = Some(silent_from);
        let task = site.start();
        site.until("in use", |status| status.key_date.is_some()).await;
        while site.server.change().calls < silent_from {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        task.abort();
        assert_eq!(site.stored(), old, "not proved, so not stored");
        // A power cut in the middle of the write leaves this beside the whole file.
        fs::write(site.dir.path().join("credentials/site.json.new"), "{\"tok").expect("written");

        site.server.change().silent_from = None;
        site.start();
        site.until("renewed", |status| status.key_date == Some(today())).await;
        assert_eq!(site.stored(), new);
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_ran_out_says_so_and_an_import_repairs_it_without_a_restart() {
    for told in [true, false] {
        let mut site = Site::with(Some(&credential(7, false)));
        site.start();
        let status = site.until("run out", |status| !status.because.is_empty()).await;
        assert!(status.because.contains("token import site"), "{status:?}");
        assert!(status.ends.is_some_and(|ends| ends <= Utc::now()), "{status:?}");
        assert_eq!(site.server.change().calls, 0, "nobody can renew it");

        let mut changed = site.signer.changed();
        site.store.save(&name(), &credential(1, false)).expect("imported");
        if told {
            site.reload.notify_one();
        }
        changed.changed().await.expect("the task runs");
        site.until("renewed", |status| status.key_date == Some(today())).await;
        assert_eq!(site.stored(), credential(0, false));
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_there_and_nothing_readable_are_said_and_mended_by_an_import() {
    let mut site = Site::with(None);
    site.start();
    let status = site.until("missing", |status| !status.because.is_empty()).await;
    assert!(status.because.contains("no token `site`"), "{status:?}");

    site.store.save(&name(), &credential(0, false)).expect("made the folder");
    fs::write(site.store.path(&name()), "{").expect("written");
    site.reload.notify_one();
    let status = site.until("unreadable", |status| status.last_error.is_some()).await;
    assert!(status.because.contains("site.json"), "{status:?}");

    site.store.save(&name(), &credential(0, false)).expect("imported");
    site.reload.notify_one();
    site.until("in use", |status| status.token_id.is_some()).await;
    assert!(site.signer.current().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_policy_without_renewal_names_the_date_on_which_it_ends() {
    let mut site = Site::with(Some(&credential(2, false)));
    site.server.change().refuses = Some(Cause::AccessDenied);
    site.start();
    let status = site.until("known", |status| status.last_error.is_some()).await;
    assert!(status.because.contains("refreshAllowed"), "{status:?}");
    assert_eq!(status.ends, Some(credential(2, false).ends()));
    assert_eq!(site.signer.current().as_deref(), Some(&credential(2, false)), "used until then");

    // The policy is changed: nobody has to tell the daemon.
    site.server.change().refuses = None;
    site.until("renewed", |status| status.key_date == Some(today())).await;
}

#[tokio::test(start_paused = true)]
async fn a_kept_secret_needs_no_server() {
    let mut site = Site::with(Some(&credential(30, true)));
    site.server.change().silent_from = Some(0);
    site.start();
    let status = site.until("made", |status| status.key_date == Some(today())).await;
    assert_eq!((status.ends, status.secret_kept), (None, true));
    assert_eq!(site.stored(), credential(0, true));
    assert_eq!(site.server.change().calls, 0);
}

#[tokio::test(start_paused = true)]
async fn an_import_during_a_renewal_is_not_undone() {
    let mut site = Site::with(Some(&credential(5, false)));
    site.start();
    site.until("in use", |status| status.key_date.is_some()).await;
    let mut other = credential(0, false);
    other.token_id = "other".parse().expect("a token ID");
    site.store.save(&name(), &other).expect("imported while the first call is under way");
    site.until("taken", |status| status.token_id.as_deref() == Some("other")).await;
    assert_eq!(site.stored(), other);
}
