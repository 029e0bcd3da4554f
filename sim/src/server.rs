//! A listening socket on a thread of its own, which can go away and come back on the same port.
//!
//! The thread has its own runtime, so a server can be used from plain tests as well as from inside of
//! another runtime. Dropping the handle closes the port, cuts all connections and ends the thread.

use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::port::Port;

/// How long to wait before asking again for a port that cannot be listened on.
const BIND_AGAIN: Duration = Duration::from_millis(100);

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// No thread or runtime to be had.
    #[error("cannot start the simulator's thread")]
    Thread(#[source] std::io::Error),
    /// No folder for contents to be had.
    #[error("cannot make a folder for temporary files")]
    Folder(#[source] std::io::Error),
}

type Done = std::sync::mpsc::Sender<std::io::Result<()>>;

#[derive(Debug)]
enum Order {
    /// Closes the listener and cuts every connection.
    Down(Done),
    /// Listens again.
    Up(Done),
    /// Down now, up again after a while.
    Outage(Duration),
    /// Ends the thread.
    Stop,
}

/// Orders from inside a connection.
#[derive(Debug, Clone)]
pub(crate) struct Orders(mpsc::UnboundedSender<Order>);

impl Orders {
    /// Goes away for a while, and cuts the connection that asks too, once it has written what it has ready.
    pub(crate) fn outage(&self, length: Duration) {
        // The thread that receives is the one that runs the connection.
        drop(self.0.send(Order::Outage(length)));
    }
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    port: Port,
    orders: Orders,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens, and handles each connection with the future that `serve` makes of it.
    pub(crate) fn start<F>(
        name: &str,
        address: SocketAddr,
        serve: impl Fn(TcpStream, Orders) -> F + Send + 'static,
    ) -> Result<Self, StartError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let bind = |source| StartError::Bind { address, source };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(StartError::Thread)?;
        let port = Port::reserve(address).map_err(bind)?;
        let address = port.address();
        let listener = std::net::TcpListener::bind(address).map_err(bind)?;
        listener.set_nonblocking(true).map_err(bind)?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener).map_err(bind)?
        };
        let (sender, received) = mpsc::unbounded_channel();
        let orders = Orders(sender);
        let inside = orders.clone();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                runtime.block_on(run(listener, address, received, |stream| {
                    serve(stream, inside.clone())
                }));
            })
            .map_err(StartError::Thread)?;
        Ok(Self { port, orders, thread: Some(thread) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Refuses and cuts all connections.
    pub(crate) fn go_down(&self) {
        // Closing cannot fail, and the thread lives as long as this handle.
        drop(self.order(Order::Down));
    }

    /// Listens again on the same port.
    pub(crate) fn come_back(&self) -> std::io::Result<()> {
        self.order(Order::Up)
    }

    fn order(&self, order: impl FnOnce(Done) -> Order) -> std::io::Result<()> {
        let gone = || std::io::Error::other("the simulator's thread has ended");
        // A plain channel, because tokio's blocking receive panics inside a runtime, where tests may be.
        let (done, wait) = std::sync::mpsc::channel();
        self.orders.0.send(order(done)).map_err(|_| gone())?;
        wait.recv().unwrap_or_else(|_| Err(gone()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A closed channel means that the thread is over already.
        drop(self.orders.0.send(Order::Stop));
        if let Some(thread) = self.thread.take() {
            // A panic in there was already reported by the thread itself.
            drop(thread.join());
        }
    }
}

async fn run<F>(
    listener: TcpListener,
    address: SocketAddr,
    mut orders: mpsc::UnboundedReceiver<Order>,
    serve: impl Fn(TcpStream) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    let mut up_again: Option<Instant> = None;
    loop {
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        let outage_over = async {
            match up_again {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            order = orders.recv() => match order {
                None | Some(Order::Stop) => break,
                Some(Order::Down(done)) => {
                    (listener, up_again) = (None, None);
                    connections.shutdown().await;
                    // Whoever asked may have given up; it is down all the same.
                    drop(done.send(Ok(())));
                }
                Some(Order::Outage(length)) => {
                    listener = None;
                    connections.shutdown().await;
                    up_again = Some(Instant::now() + length);
                }
                Some(Order::Up(done)) => {
                    up_again = None;
                    let result = match listener {
                        Some(_) => Ok(()),
                        None => TcpListener::bind(address).await.map(|bound| listener = Some(bound)),
                    };
                    drop(done.send(result));
                }
            },
            () = outage_over => match TcpListener::bind(address).await {
                Ok(bound) => (listener, up_again) = (Some(bound), None),
                Err(_) => up_again = Some(Instant::now() + BIND_AGAIN),
            },
            accepted = accepted => {
                // An error here is a client that has left already.
                if let Ok((stream, _)) = accepted {
                    // A connection that cannot be tuned still works.
                    drop(stream.set_nodelay(true));
                    connections.spawn(serve(stream));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}
