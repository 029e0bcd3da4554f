//! `serve` with what nodes with a certificate need: SolarIn, their certificates, and the brokers.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use chrono::{TimeDelta, Utc};
use solarnet_sim::{Authority, Broker, NodeCertificate, Sim, SolarIn};

/// Which of it is wanted.
#[derive(clap::Args)]
pub(crate) struct Nodes {
    /// Plays SolarIn too: HTTPS with client certificates. Port 0 takes a free one, which is printed.
    #[arg(long, value_name = "ADDRESS", requires = "in_files")]
    in_listen: Option<SocketAddr>,
    /// Folder for what nodes need: `ca.pem`, for the agent's `solarnet.ca_file`, and for each node of the seed
    /// `node-ID.pem` (its certificate and the authority's) and `node-ID.key`.
    #[arg(long, value_name = "FOLDER", requires = "in_listen")]
    in_files: Option<PathBuf>,
    /// How long certificates of nodes are good, those of a renewal as well: 10m, 12h or 90d; else about two years.
    #[arg(long, value_name = "TIME", requires = "in_listen", value_parser = life)]
    in_certificates_last: Option<TimeDelta>,
    /// Starts an MQTT broker for SolarIn (the program mosquitto) on a free port, which is printed. Instructions are
    /// pushed through it first.
    #[arg(long, requires = "in_listen")]
    mqtt: bool,
    /// Starts a broker for SolarFlux as well.
    #[arg(long, requires = "in_listen")]
    flux: bool,
}

/// What runs. Dropping it ends it.
pub(crate) struct Running {
    _solarin: SolarIn,
    _brokers: Vec<Broker>,
}

impl Nodes {
    /// Starts what is wanted, and hands what there is to be told to `announce`.
    pub(crate) fn start(
        self,
        sim: &Sim,
        authority: &Authority,
        announce: impl Fn(&str) -> anyhow::Result<()>,
    ) -> anyhow::Result<Option<Running>> {
        let (Some(address), Some(folder)) = (self.in_listen, self.in_files) else {
            return Ok(None);
        };
        let solarin = SolarIn::start_at(sim, authority, address)?;
        let life = self.in_certificates_last;
        if let Some(life) = life {
            sim.set_certificate_life(life);
        }
        write_files(&folder, authority, &sim.nodes(), life)
            .with_context(|| format!("cannot write to {}", folder.display()))?;
        let shown = folder.display();
        announce(&format!("solarin at {}, certificates in {shown}", solarin.url()))?;
        let mut brokers = Vec::new();
        if self.mqtt {
            let broker = Broker::start(sim, authority)?;
            let (url, plain) = (broker.url(), broker.plain_url());
            announce(&format!("mqtt broker at {url}, without certificates at {plain}"))?;
            brokers.push(broker);
        }
        if self.flux {
            let broker = Broker::start_flux(sim, authority)?;
            announce(&format!("solarflux broker at {}", broker.url()))?;
            brokers.push(broker);
        }
        Ok(Some(Running { _solarin: solarin, _brokers: brokers }))
    }
}

/// A number of minutes, hours or days.
fn life(text: &str) -> Result<TimeDelta, String> {
    let (unit, number): (fn(i64) -> TimeDelta, _) = match text.char_indices().last() {
        Some((at, 'm')) => (TimeDelta::minutes, &text[..at]),
        Some((at, 'h')) => (TimeDelta::hours, &text[..at]),
        Some((at, 'd')) => (TimeDelta::days, &text[..at]),
        _ => return Err("expected minutes, hours or days, such as 10m".to_owned()),
    };
    match number.parse() {
        Ok(number @ 1..=36_500) => Ok(unit(number)),
        _ => Err("expected a number from 1 to 36500 before the unit".to_owned()),
    }
}

fn write_files(
    folder: &Path,
    authority: &Authority,
    nodes: &[i64],
    life: Option<TimeDelta>,
) -> anyhow::Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("ca.pem"), authority.pem())?;
    let now = Utc::now();
    for node in nodes {
        let wanted = match life {
            Some(life) => NodeCertificate::between(*node, now, now + life),
            None => NodeCertificate::around(*node, now),
        };
        let identity = authority.issue_node(&wanted)?;
        fs::write(folder.join(format!("node-{node}.pem")), identity.chain_pem())?;
        let key = folder.join(format!("node-{node}.key"));
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(key)?.write_all(identity.key_pem().as_bytes())?;
    }
    Ok(())
}
