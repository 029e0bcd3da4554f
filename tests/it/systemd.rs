//! The daemon as a service of a real systemd: installed as the README says, in its sandbox, with its journal,
//! and what systemd does when it dies, hangs or is configured wrongly.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    time::Duration,
};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;
use solarnet_sim::{InstructionState as State, NewInstruction, Sim, Site, Unit};
use solarnode_agent::observe::journal::message_id;

use crate::support::{
    agent::{NODE, SECRET, TOKEN, eventually, link, meter, seed, solarnet},
    systemd::Box,
};

const SHOW: &str = "systemctl show solarnode-agent --value --property";

/// What the README has people do, with files of the box's own. Debian has the program in `/usr/bin` by then.
const INSTALL: &str = "
    set -e
    install -m 0644 /shipped/solarnode-agent.service /etc/systemd/system/
    install -m 0644 /shipped/solarnode-agent-reboot.path /shipped/solarnode-agent-reboot.service /etc/systemd/system/
    install -m 0644 /shipped/solarnode-agent.sysusers /usr/lib/sysusers.d/solarnode-agent.conf
    install -m 0644 /shipped/solarnode-agent.tmpfiles /usr/lib/tmpfiles.d/solarnode-agent.conf
    install -m 0644 /shipped/solarnode-agent.modules-load /usr/lib/modules-load.d/solarnode-agent.conf
    install -m 0644 /shipped/solarnode-agent.catalog /usr/lib/systemd/catalog/
    systemd-sysusers /usr/lib/sysusers.d/solarnode-agent.conf
    systemd-tmpfiles --create /usr/lib/tmpfiles.d/solarnode-agent.conf
    journalctl --update-catalog
    systemctl daemon-reload
";

/// A server, a site, and a box in which the service is installed and not started.
struct Bench {
    sim: Sim,
    site: Site,
    systemd: Box,
}

impl Bench {
    fn new(binds: &[String]) -> Self {
        let sim = Sim::start(seed()).expect("a simulator");
        let site = Site::start(vec![Unit::meter(1)]).expect("a site");
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
        let mut all = vec![
            format!("{}:/shipped", shipped.display()),
            format!("{}:/usr/bin/solarnode-agent", env!("CARGO_BIN_EXE_solarnode-agent")),
        ];
        all.extend_from_slice(binds);
        let systemd = Box::boot(&all);
        systemd.ask(INSTALL);
        let bench = Self { sim, site, systemd };
        bench.configure("200ms");
        bench
    }

    fn configure(&self, every: &str) {
        let config = solarnet(&self.sim) + &link(&self.site) + &meter(1, "/site/meter", every);
        assert!(!config.contains('\''), "it is quoted for the shell");
        self.systemd.ask(&format!(
            "install -m 0640 -g solarnode-agent /dev/null /etc/solarnode-agent/agent.toml && \
             printf %s '{config}' > /etc/solarnode-agent/agent.toml"
        ));
    }

    fn import_token(&self) {
        self.systemd.ask(&format!(
            "printf %s {SECRET} | solarnode-agent token import site --token-id {TOKEN}"
        ));
    }

    fn show(&self, property: &str) -> String {
        self.systemd.ask(&format!("{SHOW} {property}"))
    }

    fn readings_arrive(&self) {
        let before = self.sim.ledger_count().datum;
        eventually("readings arrive", || self.sim.ledger_count().datum > before);
    }

    /// Lines of the journal with this event.
    fn events(&self, event: &str) -> Vec<Value> {
        let lines = self
            .systemd
            .ask(&format!("journalctl --output json --no-pager SOLARNODE_EVENT={event} | cat"));
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

#[test]
#[ignore = "needs root"]
fn the_service_works_in_its_sandbox_and_the_journal_explains_its_events() {
    let bench = Bench::new(&[]);
    bench.systemd.ask("systemctl enable --now solarnode-agent");
    // Type=notify: it is ready when this returns, and can be asked.
    bench.systemd.ask("solarnode-agent status --json");
    bench.import_token();
    bench.readings_arrive();
    bench.systemd.until(&format!("{SHOW} StatusText | cut -d, -f1"), "1 of 1 sources answer");

    let process = bench.show("MainPID");
    let status = bench.systemd.ask(&format!("cat /proc/{process}/status"));
    for (name, value) in [("Seccomp", "2"), ("NoNewPrivs", "1"), ("CapEff", "0000000000000000")] {
        let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
        assert_eq!(line.map(str::trim), Some(value), "{name}");
    }
    let user = bench.systemd.ask(&format!("stat -c %U /proc/{process}"));
    assert_eq!(user, "solarnode-agent");
    let inside = |line: &str| {
        bench.systemd.run(&format!("nsenter --target {process} --mount {line}")).status.success()
    };
    assert!(!inside("touch /etc/x") && !inside("touch /usr/x"), "the system cannot be written");
    assert!(inside("touch /var/lib/solarnode-agent/x"), "its own folder can");
    bench.systemd.ask("systemd-analyze security --threshold=20 solarnode-agent");

    let started = &bench.events("agent.started")[0];
    for (field, value) in [
        ("MESSAGE", "agent started"),
        ("MESSAGE_ID", &message_id("agent.started")),
        ("PRIORITY", "5"),
        ("SYSLOG_IDENTIFIER", "solarnode-agent"),
        ("_SYSTEMD_UNIT", "solarnode-agent.service"),
        ("SOLARNODE_VERSION", env!("CARGO_PKG_VERSION")),
    ] {
        assert_eq!(started[field], value, "{field}: {started}");
    }
    let missing = bench.systemd.ask("journalctl -x --no-pager SOLARNODE_EVENT=credential.missing");
    for words in [
        "Subject: credential.missing",
        "What to do: Solarnode-agent token import NAME",
        "token: site",
    ] {
        assert!(missing.contains(words), "{words} is not in {missing}");
    }

    // Support's archive has the journal with its fields, and what systemd says of the unit.
    bench.systemd.ask("cd /root && solarnode-agent bundle --output b.tar.gz && tar xzf b.tar.gz");
    let journal = bench.systemd.ask("cat /root/solarnode-agent-bundle/journal.txt");
    assert!(journal.contains("warning: ") || journal.contains("err: "), "{journal}");
    assert!(journal.contains("event=\"credential.missing\"") && journal.contains("token=\"site\""));
    assert!(!journal.contains(SECRET));
    let machine = bench.systemd.ask("cat /root/solarnode-agent-bundle/machine.txt");
    assert!(machine.contains("ActiveState=active"), "{machine}");

    bench.systemd.ask("systemctl stop solarnode-agent");
    assert_eq!(
        (bench.show("Result"), bench.show("ExecMainStatus")),
        ("success".into(), "0".into())
    );
}

#[test]
#[ignore = "needs root"]
fn systemd_starts_it_again_after_a_crash_or_a_hang_and_not_after_a_wrong_configuration() {
    let bench = Bench::new(&[]);
    bench.import_token();
    bench.systemd.ask(
        "mkdir -p /etc/systemd/system/solarnode-agent.service.d && \
         printf '[Service]\\nRestartSec=200ms\\nWatchdogSec=6s\\n' > /etc/systemd/system/solarnode-agent.service.d/quick.conf && \
         systemctl daemon-reload && systemctl start solarnode-agent",
    );
    bench.readings_arrive();
    bench.systemd.ask("systemctl kill --kill-who=main --signal=KILL solarnode-agent");
    bench.systemd.until(&format!("{SHOW} NRestarts"), "1");
    bench.systemd.until("systemctl is-active solarnode-agent", "active");
    bench.readings_arrive();

    bench.systemd.ask("systemctl kill --kill-who=main --signal=STOP solarnode-agent");
    bench.systemd.until(&format!("{SHOW} NRestarts"), "2");
    bench.systemd.until("systemctl is-active solarnode-agent", "active");
    let said = bench.systemd.ask("journalctl --no-pager --unit solarnode-agent --grep 'atchdog'");
    assert!(said.contains("solarnode-agent.service: Watchdog timeout"), "{said}");
    bench.readings_arrive();

    bench.configure("300ms");
    bench.systemd.ask("systemctl kill --kill-who=main --signal=HUP solarnode-agent");
    eventually("the change is taken over", || !bench.events("config.reloaded").is_empty());
    assert_eq!(bench.show("NRestarts"), "2");

    bench.configure("often");
    let restart = bench.systemd.run("systemctl restart solarnode-agent");
    assert!(!restart.status.success());
    bench.systemd.until("systemctl is-failed solarnode-agent", "failed");
    assert_eq!(bench.show("ExecMainStatus"), "78");
    let restarts = bench.show("NRestarts");
    std::thread::sleep(Duration::from_secs(1)); // five times as long as a restart would take
    assert_eq!((bench.show("NRestarts"), bench.show("ActiveState")), (restarts, "failed".into()));
    let said = bench.systemd.ask("journalctl --no-pager --unit solarnode-agent --lines 20");
    assert!(said.contains("modbus[0].unit[0].every"), "{said}");
}

/// In the daemon's own sandbox: the instruction that restarts it, and the one that reboots the machine, up to the
/// reboot itself.
#[test]
#[ignore = "needs root"]
fn instructions_restart_the_service_and_reach_the_unit_that_reboots() {
    let bench = Bench::new(&[]);
    let allow = "[instructions]\nallow = [\"SystemRestart\", \"SystemReboot\"]";
    bench.systemd.ask(&format!(
        "sed -i 's/^.instructions.$/{}/' /etc/solarnode-agent/agent.toml && \
         mkdir -p /etc/systemd/system/solarnode-agent.service.d /etc/systemd/system/solarnode-agent-reboot.service.d && \
         printf '[Service]\\nRestartSec=200ms\\n' > /etc/systemd/system/solarnode-agent.service.d/quick.conf && \
         printf '[Service]\\nExecStart=\\nExecStart=/bin/rm /run/solarnode-agent/reboot\\nExecStart=/bin/touch /root/rebooted\\n' \
           > /etc/systemd/system/solarnode-agent-reboot.service.d/harmless.conf && systemctl daemon-reload",
        allow.replace('\n', "\\n")
    ));
    bench.import_token();
    bench.systemd.ask("systemctl start solarnode-agent");
    bench.readings_arrive();
    let ask = |topic: &str| {
        bench.sim.add_instruction(NewInstruction {
            node: NODE,
            topic: topic.to_owned(),
            ..NewInstruction::default()
        })
    };
    let state = |id: i64| bench.sim.instruction(id).expect("an instruction").state;

    let id = ask("SystemRestart");
    bench.systemd.until(&format!("{SHOW} NRestarts"), "1");
    bench.systemd.until("systemctl is-active solarnode-agent", "active");
    assert_eq!(state(id), State::Completed);
    let said = bench.systemd.ask("journalctl --no-pager --unit solarnode-agent");
    assert!(!said.contains("Failed with result"), "{said}");
    bench.readings_arrive();

    // Nobody has enabled it yet.
    let id = ask("SystemReboot");
    eventually("it is declined", || state(id) == State::Declined);
    bench.systemd.ask("systemctl enable --now solarnode-agent-reboot.path");
    assert!(!bench.systemd.run("test -e /root/rebooted").status.success());
    let id = ask("SystemReboot");
    eventually("the unit is started", || {
        bench.systemd.run("test -e /root/rebooted").status.success()
    });
    assert_eq!(state(id), State::Executing);
    bench.systemd.ask("systemctl stop solarnode-agent");
}

/// The sandbox with another program in it: what it may do with a serial port is what the daemon may do.
///
/// The port is one end of a pseudo terminal under the name of a USB adapter, with such an adapter's owner and
/// mode. What is tried: the folder of devices, the group, the user namespace, the system calls of a
/// terminal. What a box cannot try is `DeviceAllow=`, see there.
#[test]
#[ignore = "needs root"]
fn a_serial_port_of_the_group_dialout_can_be_used_in_the_sandbox() {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo terminal");
    grantpt(&master).expect("granted");
    unlockpt(&master).expect("unlocked");
    let port = ptsname(&master, Vec::new()).expect("its name");
    let port = port.to_str().expect("text");
    let bench = Bench::new(&[format!("{port}:/dev/ttyUSB7")]);
    let dialout = bench.systemd.ask("getent group dialout | cut -d: -f3");
    chown(port, Some(0), Some(dialout.parse().expect("a number"))).expect("root");
    let mode = |mode| {
        fs::set_permissions(port, fs::Permissions::from_mode(mode)).expect("a mode");
    };
    let try_it = |more: &str| {
        bench.systemd.ask(&format!(
            "mkdir -p /run/systemd/system/solarnode-agent.service.d && \
             printf '[Service]\\nType=oneshot\\nRestart=no\\nRestartForceExitStatus=\\nExecStart=\\nExecStart=/bin/sh -c \"stty -F /dev/ttyUSB7 \
             raw 9600 && echo ready > /dev/ttyUSB7\"\\n{more}\\n' > /run/systemd/system/solarnode-agent.service.d/try.conf && \
             systemctl daemon-reload"
        ));
        bench.systemd.run("systemctl start solarnode-agent").status.success()
    };
    mode(0o660);
    assert!(try_it(""), "the port of an adapter");
    let mut said = [0; 6];
    rustix::io::read(&master, &mut said).expect("what was written to the port");
    assert_eq!(&said, b"ready\n");
    // That it depends on what the unit says:
    assert!(!try_it("SupplementaryGroups="), "not without the group");
    assert!(!try_it("PrivateDevices=yes"), "not without the devices");
    mode(0o600);
    assert!(!try_it(""), "not a port of root's alone");
}
