//! A TCP link between the agent and a server, which is cut, slow or silent on demand.
//!
//! ```text
//! let wire = Wire::to(solarin.address());            the agent is told wire.address()
//! wire.cut_after(Way::Back, 100);                    the answer breaks off after 100 bytes
//! wire.delay(Duration::from_millis(300)); wire.throttle(Some(8_000));
//! wire.hush(true);                                   nothing passes, nothing is refused, nothing is lost
//! wire.censor(Some("secret"));                       whoever says that to the server is cut off
//! ```
//!
//! It passes bytes and knows nothing else of what they mean. As TCP hides loss, a link that loses packets is one that falls
//! silent for a while.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
    thread::JoinHandle,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

/// The most that passes at once.
const PIECE: usize = 4096;
/// How many pieces are on their way, as in the buffers of a link.
const ON_THE_WAY: usize = 64;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// To the server.
    There,
    /// To the agent.
    Back,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Manner {
    delay: Duration,
    /// Bytes a second, each way and on each connection.
    rate: Option<u64>,
    hush: bool,
    refuse: bool,
    /// Counts the cuts.
    cuts: u64,
}

#[derive(Debug, Default)]
struct Counts {
    connections: usize,
    passed: [u64; 2],
    /// How much may still pass before the next cut.
    left: [Option<u64>; 2],
    /// What nobody may say to the server.
    censored: Option<Vec<u8>>,
}

/// The link. Dropping it cuts everything.
pub(crate) struct Wire {
    address: SocketAddr,
    manner: watch::Sender<Manner>,
    counts: Arc<Mutex<Counts>>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// A link to a server, which need not be there yet.
    pub(crate) fn to(server: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let listener = listener.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (manner, manners) = watch::channel(Manner::default());
        let counts = Arc::<Mutex<Counts>>::default();
        let end = End { manner: manner.clone(), manners, counts: counts.clone() };
        let thread = std::thread::spawn(move || runtime.block_on(end.accept(listener, server)));
        // The thread ends when the only sender outside of it is gone.
        Self { address, manner, counts, thread: Some(thread) }
    }

    /// Where the agent is to connect to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection.
    pub(crate) fn cut(&self) {
        self.manner.send_modify(|manner| manner.cuts += 1);
    }

    /// Ends every connection when so many more bytes have passed that way, once.
    pub(crate) fn cut_after(&self, way: Way, bytes: u64) {
        count(&self.counts).left[way as usize] = Some(bytes);
    }

    /// While there is such a word, whoever says it to the server is cut off before it arrives.
    pub(crate) fn censor(&self, word: Option<&str>) {
        count(&self.counts).censored = word.map(|word| word.as_bytes().to_vec());
    }

    /// Lets bytes arrive this much later.
    pub(crate) fn delay(&self, delay: Duration) {
        self.manner.send_modify(|manner| manner.delay = delay);
    }

    /// Lets only so many bytes a second pass, each way and on each connection.
    pub(crate) fn throttle(&self, rate: Option<u64>) {
        self.manner.send_modify(|manner| manner.rate = rate);
    }

    /// While it is so nothing passes, and nothing is refused. What is on its way arrives afterwards.
    pub(crate) fn hush(&self, hush: bool) {
        self.manner.send_modify(|manner| manner.hush = hush);
    }

    /// While it is so new connections end at once, and those that stand go on.
    pub(crate) fn refuse(&self, refuse: bool) {
        self.manner.send_modify(|manner| manner.refuse = refuse);
    }

    /// How many bytes have passed that way.
    pub(crate) fn passed(&self, way: Way) -> u64 {
        count(&self.counts).passed[way as usize]
    }

    /// How many connections were made so far.
    pub(crate) fn connections(&self) -> usize {
        count(&self.counts).connections
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.manner.send_modify(|manner| manner.cuts = u64::MAX);
        if let Some(thread) = self.thread.take() {
            // Its panic is on the terminal already.
            thread.join().ok();
        }
    }
}

fn count(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().expect("no panic while counting")
}

/// What a connection knows of the link.
#[derive(Clone)]
struct End {
    manner: watch::Sender<Manner>,
    manners: watch::Receiver<Manner>,
    counts: Arc<Mutex<Counts>>,
}

impl End {
    async fn accept(mut self, listener: TcpListener, server: SocketAddr) {
        let mut connections = JoinSet::new();
        let mut manners = self.manners.clone();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let Ok((stream, _)) = accepted else { continue };
                    if self.now().refuse {
                        continue;
                    }
                    count(&self.counts).connections += 1;
                    let cuts = self.now().cuts;
                    connections.spawn(self.clone().pass(stream, server, cuts));
                }
                _ = manners.wait_for(|manner| manner.cuts == u64::MAX) => return,
                Some(_) = connections.join_next() => {}
            }
        }
    }

    fn now(&mut self) -> Manner {
        *self.manners.borrow_and_update()
    }

    /// One connection, until an end closes it or there are more cuts than when it was made.
    async fn pass(self, agent: TcpStream, server: SocketAddr, cuts: u64) {
        let mut manners = self.manners.clone();
        let both = async {
            let server = TcpStream::connect(server).await?;
            agent.set_nodelay(true)?;
            server.set_nodelay(true)?;
            let (from_agent, to_agent) = agent.into_split();
            let (from_server, to_server) = server.into_split();
            let there = self.clone().one_way(Way::There, from_agent, to_server);
            let back = self.clone().one_way(Way::Back, from_server, to_agent);
            tokio::try_join!(there, back).map(|_| ())
        };
        tokio::select! {
            // Both ends may have their reasons.
            _ = both => {}
            _ = manners.wait_for(|manner| manner.cuts != cuts) => {}
        }
    }

    /// Reading goes on while what was read is on its way. Ends when its source ends.
    async fn one_way(
        mut self,
        way: Way,
        mut from: OwnedReadHalf,
        to: OwnedWriteHalf,
    ) -> io::Result<()> {
        let (sender, arriving) = mpsc::channel(ON_THE_WAY);
        let mut end = self.clone();
        let reading = async move {
            let mut piece = [0; PIECE];
            loop {
                let manner = end.now();
                // Small pieces on a slow link, so that it flows evenly.
                let most = manner.rate.map_or(PIECE, |rate| (rate / 20).clamp(1, 4096) as usize);
                let length = from.read(&mut piece[..most]).await?;
                if length == 0 {
                    return Ok(());
                }
                if let Some(rate) = manner.rate {
                    sleep(Duration::from_secs_f64(length as f64 / rate as f64)).await;
                }
                let arrives = Instant::now() + manner.delay;
                if sender.send((arrives, piece[..length].to_vec())).await.is_err() {
                    return Err(io::Error::from(io::ErrorKind::BrokenPipe));
                }
            }
        };
        let (_, written) = tokio::try_join!(reading, self.arrive(way, arriving, to))?;
        Ok(written)
    }

    async fn arrive(
        &mut self,
        way: Way,
        mut arriving: mpsc::Receiver<(Instant, Vec<u8>)>,
        mut to: OwnedWriteHalf,
    ) -> io::Result<()> {
        // A word may come in two pieces.
        let mut said = Vec::new();
        while let Some((at, piece)) = arriving.recv().await {
            sleep_until(at).await;
            if way == Way::There && self.is_censored(&mut said, &piece) {
                return Err(io::Error::from(io::ErrorKind::PermissionDenied));
            }
            // The sender is ours as well, so there always is one.
            self.manners.wait_for(|manner| !manner.hush).await.map_err(io::Error::other)?;
            let may_pass = self.count(way, piece.len());
            to.write_all(&piece[..may_pass]).await?;
            if may_pass < piece.len() {
                self.manner.send_modify(|manner| manner.cuts += 1);
                return Err(io::Error::from(io::ErrorKind::ConnectionAborted));
            }
        }
        to.shutdown().await
    }

    /// Whether a piece, with the end of what was said before it, holds the word that nobody may say.
    fn is_censored(&self, said: &mut Vec<u8>, piece: &[u8]) -> bool {
        let counts = count(&self.counts);
        let Some(word) = &counts.censored else { return false };
        said.extend_from_slice(piece);
        let found = said.windows(word.len()).any(|part| part == word);
        said.drain(..said.len().saturating_sub(word.len() - 1));
        found
    }

    /// How much of a piece passes before a cut that was asked for.
    fn count(&self, way: Way, length: usize) -> usize {
        let mut counts = count(&self.counts);
        let left = &mut counts.left[way as usize];
        let may_pass = match *left {
            Some(bytes) if bytes < length as u64 => {
                *left = None;
                bytes as usize
            }
            Some(bytes) => {
                *left = Some(bytes - length as u64);
                length
            }
            None => length,
        };
        counts.passed[way as usize] += may_pass as u64;
        may_pass
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
        time::Instant,
    };

    use super::*;

    /// A server that says back what it hears, and a link to it.
    fn echo() -> Wire {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let wire = Wire::to(listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || io::copy(&mut stream.try_clone().unwrap(), &mut stream));
            }
        });
        wire
    }

    fn connect(wire: &Wire) -> TcpStream {
        let stream = TcpStream::connect(wire.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    /// What comes back until it ends.
    fn said(stream: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
        stream.write_all(bytes).unwrap();
        let mut out = Vec::new();
        // A connection that was cut may end with an error.
        stream.take(bytes.len() as u64).read_to_end(&mut out).ok();
        out
    }

    #[test]
    fn what_passes_is_whole_and_late_and_slow_as_asked() {
        let wire = echo();
        let bytes: Vec<u8> = (0..100_000u32).map(|number| number as u8).collect();
        assert_eq!(said(&mut connect(&wire), &bytes), bytes);
        assert_eq!((wire.passed(Way::There), wire.passed(Way::Back)), (100_000, 100_000));
        let begun = Instant::now();
        wire.delay(Duration::from_millis(100));
        wire.throttle(Some(1_000));
        assert_eq!(said(&mut connect(&wire), &bytes[..200]), bytes[..200]);
        assert!(begun.elapsed() >= Duration::from_millis(400));
    }

    #[test]
    fn a_cut_comes_after_as_many_bytes_as_asked_and_once() {
        let wire = echo();
        for way in [Way::There, Way::Back] {
            wire.cut_after(way, 7);
            assert!(said(&mut connect(&wire), &[1; 9]).len() <= 7);
            assert_eq!(said(&mut connect(&wire), &[1; 9]).len(), 9);
        }
        let mut stream = connect(&wire);
        assert_eq!(said(&mut stream, &[1; 9]).len(), 9);
        wire.cut();
        assert_eq!(said(&mut stream, &[1; 9]).len(), 0);
    }

    #[test]
    fn who_says_the_word_is_cut_off_and_others_are_not() {
        let wire = echo();
        wire.censor(Some("secret"));
        let (mut one, mut other) = (connect(&wire), connect(&wire));
        assert_eq!(said(&mut one, b"a sec"), b"a sec");
        assert_eq!(said(&mut other, b"rets"), b"rets");
        assert_eq!(said(&mut one, b"rets"), b"");
        assert_eq!(said(&mut other, b"all is well"), b"all is well");
        wire.censor(None);
        assert_eq!(said(&mut connect(&wire), b"secret"), b"secret");
    }

    #[test]
    fn a_silent_link_loses_nothing_and_a_closed_one_lets_no_one_in() {
        let wire = echo();
        let mut stream = connect(&wire);
        wire.hush(true);
        stream.write_all(&[1; 5]).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert!(stream.read(&mut [0; 5]).is_err(), "nothing comes while it is silent");
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        wire.hush(false);
        assert_eq!(said(&mut stream, &[]).len(), 0);
        let mut five = [0; 5];
        stream.read_exact(&mut five).unwrap();
        wire.refuse(true);
        assert_eq!(connect(&wire).read(&mut five).unwrap_or(0), 0);
        assert_eq!(wire.connections(), 1);
    }
}
