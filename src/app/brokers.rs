//! The sessions with brokers: SolarNetwork's queue and the live feed. All that can fail comes when they are
//! made; they are started afterwards.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{part::Base, task::Task};
use crate::{
    clock::Clock,
    config::{
        Settings,
        settings::{Broker, Via},
    },
    domain::{BrokerUrl, InvalidBrokerUrl},
    flux::{self, Feed},
    identity::{
        Identity,
        network::{self, Network},
    },
    mqtt::{self, Client, Deliver, Handle, Session, Subscription, Surroundings},
    net::{Net, NetError, Tls},
    pulse::{Bound, During, Pulse},
    solarin::arrival,
};

/// Messages of the live feed want no acknowledgement; so many are taken at a time.
const FEED_AT_ONCE: u16 = 32;

/// How long the line of the live feed may be silent.
const FEED_KEEP_ALIVE: Duration = Duration::from_secs(60);

/// A session that is made and does nothing yet.
pub(super) struct IdleSession {
    session: Session<Services>,
    handle: Handle,
    pulse: Pulse,
    /// In a reload this takes as long as the parts that end need.
    waiting: During,
    stop: CancellationToken,
}

/// A session at work, with what belongs to it.
pub(super) struct Live {
    pub(super) tasks: Vec<Task>,
    pub(super) handle: Handle,
}

impl IdleSession {
    /// Connects.
    pub(super) fn start(self) -> Live {
        drop(self.waiting);
        let task = Task::spawn_sure(&self.pulse, self.stop, self.session.run());
        Live { tasks: vec![task], handle: self.handle }
    }

    /// Connects, and publishes every datum from now on.
    pub(super) fn start_feed(self, base: &Base, settings: &Settings) -> Live {
        let mut live = self.start();
        let (pulse, stop) = (base.pulses.of("feed"), CancellationToken::new());
        let feed = Feed {
            node: settings.node,
            retain: settings.flux.as_ref().is_some_and(|flux| flux.retain),
            queue: base.queue.for_task(&pulse),
            broker: live.handle.clone(),
            clock: base.clock.clone(),
            status: base.board.flux.clone(),
            pulse: pulse.clone(),
            stop: stop.clone(),
        };
        live.tasks.push(Task::spawn_sure(&pulse, stop, feed.run()));
        live
    }
}

/// What a session asks of SolarNetwork.
struct Services {
    /// The broker, where the configuration says so.
    url: Option<BrokerUrl>,
    /// The session that has its broker for itself.
    ahead: Option<watch::Receiver<mqtt::Status>>,
    network: Network,
    /// The broker's name in the network identity document.
    name: &'static str,
    net: Net,
    in_url: String,
}

impl Surroundings for Services {
    async fn find_broker(&self) -> Result<BrokerUrl, String> {
        let url = self.wanted().await?;
        // Two sessions of one node end each other there.
        let taken = self.ahead.as_ref().and_then(|ahead| ahead.borrow().broker.clone());
        if taken.and_then(|taken| taken.parse().ok()).is_some_and(|taken| url.is_at(&taken)) {
            return Err(format!(
                "{url} is the broker of [mqtt], which has one session for this node: `flux.url` must name another one"
            ));
        }
        Ok(url)
    }

    async fn learn_time(&self) {
        self.net.probe_date(&self.in_url).await;
    }
}

impl Services {
    async fn wanted(&self) -> Result<BrokerUrl, String> {
        if let Some(url) = &self.url {
            return Ok(url.clone());
        }
        let (in_url, name) = (&self.in_url, self.name);
        let url = self.network.service_url(name).await;
        let url = url.ok_or_else(|| {
            format!("{in_url} does not say where `{name}` is, or does not answer: `url` may say so")
        })?;
        broker(&url).map_err(|error| format!("{in_url} says that `{name}` is at {url}: {error}"))
    }
}

/// A broker's address as a server says it. Nobody here has decided that others may read what goes there.
fn broker(url: &str) -> Result<BrokerUrl, String> {
    let url: BrokerUrl = url.parse().map_err(|error: InvalidBrokerUrl| error.to_string())?;
    if url.is_readable_on_the_way() {
        let reason = "anybody on the way could read and change what is sent; it is used only if `url` says so";
        return Err(reason.to_owned());
    }
    Ok(url)
}

/// Instructions that are pushed.
struct Pushed(mpsc::Sender<(Instant, Value)>);

impl Deliver for Pushed {
    fn deliver(&mut self, payload: &[u8]) -> Result<(), String> {
        arrival::deliver(&self.0, &arrival::read(payload)?);
        Ok(())
    }
}

/// What a broker is trusted by, and the certificate that it is shown.
///
/// # Errors
///
/// If a file of authorities cannot be used; `table` is where the configuration names it.
pub(super) fn tls(
    table: &'static str,
    settings: &Settings,
    broker: &Broker,
    clock: Clock,
    identity: Option<&Identity>,
) -> Result<Tls, NetError> {
    let (key, ca_file) = match &broker.ca_file {
        Some(file) => (if table == "flux" { "flux.ca_file" } else { "mqtt.ca_file" }, Some(file)),
        None => ("solarnet.ca_file", settings.solarnet.ca_file.as_ref()),
    };
    let identity = identity.map(|identity| Arc::new(identity.clone()) as Arc<_>);
    Tls::new(key, ca_file, clock, identity)
}

/// The session with SolarNetwork's queue, where that is the way in.
///
/// # Errors
///
/// If it cannot be made as configured.
pub(super) fn mqtt(base: &Base, settings: &Settings) -> Result<Option<IdleSession>, NetError> {
    if settings.upload.via != Via::Mqtt {
        return Ok(None);
    }
    let node = settings.node;
    let client = Client {
        link: "mqtt",
        id: node.to_string(),
        username: None,
        topic: format!("node/{node}/datum"),
        broker: settings.mqtt.broker.clone(),
        keep_alive: settings.mqtt.keep_alive,
        in_flight: settings.upload.in_flight,
    };
    let mut idle = session(base, settings, client, network::MQTT, None)?;
    let deliver = Box::new(Pushed(base.inbox_sender.clone()));
    let topic = format!("node/{node}/instr");
    idle.session = idle.session.listening(Subscription { topic, deliver });
    Ok(Some(idle))
}

/// The session with the live feed's broker, where one is wanted.
///
/// # Errors
///
/// If it cannot be made as configured.
pub(super) fn flux(base: &Base, settings: &Settings) -> Result<Option<IdleSession>, NetError> {
    let Some(flux) = &settings.flux else { return Ok(None) };
    let client = Client {
        link: "flux",
        id: settings.node.to_string(),
        username: Some(flux::USERNAME),
        topic: String::new(),
        broker: flux.broker.clone(),
        keep_alive: FEED_KEEP_ALIVE,
        in_flight: FEED_AT_ONCE,
    };
    let ahead = (settings.upload.via == Via::Mqtt).then(|| base.board.mqtt.subscribe());
    session(base, settings, client, network::FLUX, ahead).map(Some)
}

fn session(
    base: &Base,
    settings: &Settings,
    mut client: Client,
    name: &'static str,
    ahead: Option<watch::Receiver<mqtt::Status>>,
) -> Result<IdleSession, NetError> {
    let (solarnet, clock, link) = (&settings.solarnet, base.clock.clone(), client.link);
    let (pulse, stop) = (base.pulses.of(link), CancellationToken::new());
    let tls = tls(link, settings, &client.broker, clock.clone(), Some(&base.identity))?;
    let net = Net::new(solarnet.ca_file.as_ref(), solarnet.timeout, clock.clone())?;
    let network = Network::new(&solarnet.in_url, net.clone(), clock.clone(), &settings.state_dir);
    let (url, in_url) = (client.broker.url.take(), solarnet.in_url.clone());
    let services = Services { url, ahead, network, name, net, in_url };
    let status = match link {
        "flux" => base.board.flux_broker.clone(),
        _ => base.board.mqtt.clone(),
    };
    let (session, handle) = Session::new(client, tls, services, clock, status, (&pulse, &stop));
    let session = session.following(base.identity.changed());
    let waiting = pulse.enter("waiting to be started", Bound::Open);
    Ok(IdleSession { session, handle, pulse, waiting, stop })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_a_server_names_is_used_only_where_nobody_can_listen() {
        assert!(broker("mqtts://queue.solarnetwork.net:8883").is_ok());
        assert!(broker("mqtt://127.0.0.1:1883").is_ok());
        assert!(broker("mqtt://192.0.2.1").is_err_and(|reason| reason.contains("`url`")));
        assert!(broker("https://192.0.2.1").is_err());
    }
}
