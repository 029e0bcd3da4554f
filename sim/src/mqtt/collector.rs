//! The server's end of the broker: a client on the loopback listener, on a thread of its own.
//!
//! ```text
//! node/+/datum        ─▶ intake ─▶ ledger     quality of service 1, the broker keeps the session while it is away
//! node/+/datum/0/#    ─▶ what was shown live  (a SolarFlux broker)
//! new instructions    ─▶ node/{id}/instr      while connected; otherwise they are Queued, to be asked for over HTTP
//! ```
//!
//! A message is acknowledged when it is in the ledger.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::packet::{self, Packet};
use super::{Push, cbor};
use crate::http::{Shared, lock};

/// Its client ID, to which the broker keeps the session.
pub(super) const CLIENT: &str = "solarnet-sim";
/// What it sends itself: once it comes back, all that the broker had taken before is in the ledger.
const MARK: &str = "node/0/datum";
/// How often it looks for new instructions, and for the broker while there is none.
const TICK: Duration = Duration::from_millis(20);
/// Under the keep-alive that it announces.
const PING: Duration = Duration::from_secs(20);

/// What a node showed on SolarFlux.
#[derive(Debug, Clone, PartialEq)]
pub struct FluxMessage {
    /// All of it: `node/{id}/datum/0/{source}`.
    pub topic: String,
    /// What the payload means; null when it is no CBOR.
    pub content: serde_json::Value,
    /// The payload as it came.
    pub payload: Vec<u8>,
}

impl FluxMessage {
    fn new(topic: String, payload: Vec<u8>) -> Self {
        let content = cbor::read(&payload).map(|item| item.to_json(false)).unwrap_or_default();
        Self { topic, content, payload }
    }
}

/// Which of the two brokers it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Datum,
    Flux,
}

impl Role {
    fn topic(self) -> &'static str {
        match self {
            Self::Datum => "node/+/datum",
            Self::Flux => "node/+/datum/0/#",
        }
    }
}

/// Message to be given to the broker; `done` is told when the broker has it.
struct Order {
    topic: String,
    payload: Vec<u8>,
    done: std::sync::mpsc::Sender<()>,
}

/// What others see of it.
#[derive(Debug, Default)]
struct Seen {
    connected: bool,
    flux: Vec<FluxMessage>,
    /// Messages that will come to nothing.
    lose: usize,
}

/// The running collector. Dropping it ends its thread.
#[derive(Debug)]
pub(super) struct Collector {
    orders: Option<mpsc::UnboundedSender<Order>>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

fn look(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Collector {
    pub(super) fn start(world: Shared, broker: SocketAddr, role: Role) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (orders, received) = mpsc::unbounded_channel();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let work = Work {
            world,
            role,
            seen: seen.clone(),
            orders: received,
            waiting: BTreeMap::new(),
            marks: VecDeque::new(),
            last_id: 0,
        };
        let thread = std::thread::Builder::new()
            .name("solarnet-sim-mqtt".to_owned())
            .spawn(move || runtime.block_on(work.run(broker)))?;
        Ok(Self { orders: Some(orders), seen, thread: Some(thread) })
    }

    pub(super) fn is_connected(&self) -> bool {
        look(&self.seen).connected
    }

    pub(super) fn lose(&self, count: usize) {
        look(&self.seen).lose = count;
    }

    pub(super) fn flux(&self) -> Vec<FluxMessage> {
        look(&self.seen).flux.clone()
    }

    /// Waits until everything that the broker has acknowledged so far was taken; false when it is not there.
    pub(super) fn catch_up(&self) -> bool {
        self.publish(MARK, b"")
    }

    /// Publishes, and waits until the broker has it; false when it is not there.
    pub(super) fn publish(&self, topic: &str, payload: &[u8]) -> bool {
        let (done, wait) = std::sync::mpsc::channel();
        let order = Order { topic: topic.to_owned(), payload: payload.to_vec(), done };
        let sent = self.orders.as_ref().is_some_and(|orders| orders.send(order).is_ok());
        sent && wait.recv().is_ok()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A panic in there was already reported by the thread itself.
            drop(thread.join());
        }
    }
}

/// Asks as a new subscriber what the broker has retained. What there is comes before the answer to a ping.
pub(super) fn retained(broker: SocketAddr, filter: &str) -> io::Result<Vec<FluxMessage>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut stream = TcpStream::connect(broker).await?;
        stream.write_all(&packet::connect("solarnet-sim-looks", true)).await?;
        let mut found = Vec::new();
        loop {
            match packet::read(&mut stream).await? {
                Packet::Connected => stream.write_all(&packet::subscribe(&[filter])).await?,
                Packet::Subscribed => stream.write_all(&packet::ping()).await?,
                Packet::Message { topic, payload, retained: true, .. } => {
                    found.push(FluxMessage::new(topic, payload));
                }
                Packet::Pong => return Ok(found),
                Packet::Message { .. } | Packet::Acknowledged(_) => {}
            }
        }
    })
}

struct Work {
    world: Shared,
    role: Role,
    seen: Arc<Mutex<Seen>>,
    orders: mpsc::UnboundedReceiver<Order>,
    /// What waits for which acknowledgement.
    waiting: BTreeMap<u16, Waiting>,
    /// Who waits for a mark to come back.
    marks: VecDeque<std::sync::mpsc::Sender<()>>,
    last_id: u16,
}

enum Waiting {
    Caller(std::sync::mpsc::Sender<()>),
    /// That of this ID was pushed.
    Instruction(i64),
}

/// Nobody holds the handle any more.
struct Over;

impl Work {
    async fn run(mut self, broker: SocketAddr) {
        loop {
            if let Ok(stream) = TcpStream::connect(broker).await
                && let Ok(Over) = self.converse(stream).await
            {
                return;
            }
            look(&self.seen).connected = false;
            self.marks.clear();
            for (_, waiting) in std::mem::take(&mut self.waiting) {
                if let Waiting::Instruction(id) = waiting {
                    lock(&self.world).push_failed(id);
                }
            }
            // Nothing can be pushed, and no order carried out.
            let end = Instant::now() + TICK;
            loop {
                self.push_in_vain();
                tokio::select! {
                    order = self.orders.recv() => match order {
                        None => return,
                        Some(order) => drop(order),
                    },
                    () = tokio::time::sleep_until(end) => break,
                }
            }
        }
    }

    /// Until the connection ends, which is an error, or the work.
    async fn converse(&mut self, stream: TcpStream) -> io::Result<Over> {
        stream.set_nodelay(true)?;
        let (mut read, mut write) = stream.into_split();
        write.write_all(&packet::connect(CLIENT, false)).await?;
        if packet::read(&mut read).await? != Packet::Connected {
            return Err(io::ErrorKind::InvalidData.into());
        }
        write.write_all(&packet::subscribe(&[self.role.topic()])).await?;
        // Reading goes on in a task of its own, because a packet that is half read must not be forgotten.
        let (sender, mut packets) = mpsc::channel(64);
        let reader = tokio::spawn(reading(read, sender));
        let result = self.serve(&mut packets, &mut write).await;
        reader.abort();
        result
    }

    async fn serve(
        &mut self,
        packets: &mut mpsc::Receiver<io::Result<Packet>>,
        write: &mut OwnedWriteHalf,
    ) -> io::Result<Over> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pinged = Instant::now();
        loop {
            tokio::select! {
                packet = packets.recv() => {
                    let packet = packet.ok_or(io::ErrorKind::UnexpectedEof)??;
                    self.take(packet, write).await?;
                }
                order = self.orders.recv() => match order {
                    None => return Ok(Over),
                    Some(order) => {
                        let id = self.send(write, &order.topic, &order.payload).await?;
                        if order.topic == MARK {
                            self.marks.push_back(order.done);
                        } else {
                            self.waiting.insert(id, Waiting::Caller(order.done));
                        }
                    }
                },
                _ = tick.tick() => {
                    let due = match self.role {
                        Role::Datum => lock(&self.world).due_pushes(),
                        Role::Flux => Vec::new(),
                    };
                    for Push { id, node, message } in due {
                        let payload = cbor::instructions(&[message]);
                        let topic = format!("node/{node}/instr");
                        let packet = self.send(write, &topic, &payload).await?;
                        self.waiting.insert(packet, Waiting::Instruction(id));
                    }
                    if pinged.elapsed() > PING {
                        pinged = Instant::now();
                        write.write_all(&packet::ping()).await?;
                    }
                }
            }
        }
    }

    async fn take(&mut self, packet: Packet, write: &mut OwnedWriteHalf) -> io::Result<()> {
        match packet {
            Packet::Message { topic, payload, id, .. } => {
                match self.role {
                    Role::Datum if topic == MARK => {
                        if let Some(done) = self.marks.pop_front() {
                            done.send(()).ok();
                        }
                    }
                    Role::Datum if self.loses() => {}
                    Role::Datum => lock(&self.world).take_message(&topic, &payload),
                    Role::Flux => {
                        look(&self.seen).flux.push(FluxMessage::new(topic, payload));
                    }
                }
                if let Some(id) = id {
                    write.write_all(&packet::acknowledge(id)).await?;
                }
            }
            Packet::Acknowledged(id) => {
                if let Some(Waiting::Caller(done)) = self.waiting.remove(&id) {
                    // Whoever waited may have given up.
                    done.send(()).ok();
                }
            }
            Packet::Subscribed => look(&self.seen).connected = true,
            Packet::Connected | Packet::Pong => {}
        }
        Ok(())
    }

    fn loses(&self) -> bool {
        let mut seen = look(&self.seen);
        let loses = seen.lose > 0;
        seen.lose = seen.lose.saturating_sub(1);
        loses
    }

    async fn send(
        &mut self,
        write: &mut OwnedWriteHalf,
        topic: &str,
        payload: &[u8],
    ) -> io::Result<u16> {
        self.last_id = self.last_id % u16::MAX + 1;
        write.write_all(&packet::publish(topic, self.last_id, payload)).await?;
        Ok(self.last_id)
    }

    fn push_in_vain(&self) {
        if self.role == Role::Datum {
            let mut world = lock(&self.world);
            for push in world.due_pushes() {
                world.push_failed(push.id);
            }
        }
    }
}

async fn reading(mut read: OwnedReadHalf, packets: mpsc::Sender<io::Result<Packet>>) {
    loop {
        let packet = packet::read(&mut read).await;
        let ends = packet.is_err();
        if packets.send(packet).await.is_err() || ends {
            return;
        }
    }
}
