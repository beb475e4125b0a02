//! Three network namespaces in a row, made for one test and gone with it: an agent's machine, the router of its home,
//! and a small internet with a collector. What breaks breaks at the router or in the home, as it does for people.
//!
//! It needs Linux and root, as CI has. Nothing outside of the namespaces is touched, and nothing leaves them: they have
//! no way out.

use std::{
    io::{BufRead, BufReader, Write},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::internet::Ground;

/// The agent's machine.
pub const HOME: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// The router, as the home sees it.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// The router, as the internet sees it.
const UPSTREAM: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);
const WORLD: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 2);
/// The collector.
pub const COLLECTOR: Ipv4Addr = Ipv4Addr::new(10, 4, 0, 1);
/// A resolver that answers every name with an address of nobody.
pub const LIAR: Ipv4Addr = Ipv4Addr::new(10, 3, 0, 66);
/// One that takes more than a second for each answer.
pub const SLOW: Ipv4Addr = Ipv4Addr::new(10, 3, 0, 77);
/// Where a portal stands that answers in the place of sites.
const PORTAL: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 2);
/// The router of another network that the machine may move to, and the machine there.
const CAFE_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 9, 1, 1);
/// The agent's machine after [`Streets::move_on`].
pub const CAFE: Ipv4Addr = Ipv4Addr::new(10, 9, 1, 2);
const PORTAL_SIDE: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 1);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Where one end of a street is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The agent's machine.
    Home,
    /// The router.
    Router,
    /// The internet.
    World,
    /// The portal's.
    Portal,
}

/// What the internet says of itself once it serves; written to `world.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Told {
    /// The collector's line.
    pub line: String,
    /// The file of the catalogue.
    pub catalogue: PathBuf,
    /// The file of the authority's certificate.
    pub ca: PathBuf,
    /// The system's resolver.
    pub resolver: String,
    /// The root servers.
    pub roots: Vec<String>,
    /// Networks that may be probed.
    pub allowed: Vec<String>,
    /// Hosts by edge.
    pub sites: Vec<Vec<String>>,
}

/// The namespaces, with what runs in them.
#[derive(Debug)]
pub struct Streets {
    names: [String; 4],
    dir: PathBuf,
    servers: Vec<(Child, ChildStdin)>,
    /// What the internet told.
    pub told: Told,
}

fn run(program: &str, words: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program).args(words).output().with_context(|| program.to_owned())?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {told}", words.join(" "));
    Ok(())
}

impl Streets {
    /// Lays them out, and starts the internet: this same test binary, with the test `server` of it, in the namespace
    /// of the world. `dir` is where its files go.
    ///
    /// # Errors
    /// When it is not root, or something of it fails.
    pub fn new(dir: &Path, server: &str) -> anyhow::Result<Self> {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let tag = format!("tc{:x}{n}", std::process::id());
        let names = ["h", "r", "w", "p"].map(|end| format!("{tag}{end}"));
        let told = Told {
            line: String::new(),
            catalogue: PathBuf::new(),
            ca: PathBuf::new(),
            resolver: String::new(),
            roots: Vec::new(),
            allowed: Vec::new(),
            sites: Vec::new(),
        };
        let mut streets = Self { names, dir: dir.to_owned(), servers: Vec::new(), told };
        streets.lay().context("laying out network namespaces; this needs root")?;
        streets.start(End::World, server)?;
        let told =
            std::fs::read_to_string(dir.join("world.json")).context("the internet's word")?;
        streets.told = serde_json::from_str(&told)?;
        Ok(streets)
    }

    /// What the namespace of one end is called.
    #[must_use]
    pub fn name(&self, end: End) -> &str {
        let [home, router, world, portal] = &self.names;
        match end {
            End::Home => home,
            End::Router => router,
            End::World => world,
            End::Portal => portal,
        }
    }

    fn lay(&self) -> anyhow::Result<()> {
        let [home, router, world, portal] = &self.names;
        for name in &self.names {
            run("ip", &["netns", "add", name])?;
            self.ip(name, &["link", "set", "lo", "up"])?;
        }
        let street = |a: (&str, &str, Ipv4Addr), b: (&str, &str, Ipv4Addr)| {
            let peer = ["peer", "name", b.1, "netns", b.0];
            let mut words = vec!["link", "add", a.1, "netns", a.0, "type", "veth"];
            words.extend(peer);
            run("ip", &words)?;
            for (name, device, address) in [a, b] {
                self.ip(name, &["addr", "add", &format!("{address}/24"), "dev", device])?;
                self.ip(name, &["link", "set", device, "up"])?;
            }
            anyhow::Ok(())
        };
        street((home, "eth0", HOME), (router, "home", GATEWAY))?;
        street((home, "eth1", CAFE), (router, "cafe", CAFE_GATEWAY))?;
        self.ip(home, &["link", "set", "eth1", "down"])?;
        street((router, "wan", UPSTREAM), (world, "eth0", WORLD))?;
        street((router, "side", PORTAL_SIDE), (portal, "eth0", PORTAL))?;
        self.ip(home, &["route", "add", "default", "via", &GATEWAY.to_string()])?;
        self.ip(world, &["route", "add", "default", "via", &UPSTREAM.to_string()])?;
        self.ip(portal, &["route", "add", "default", "via", &PORTAL_SIDE.to_string()])?;
        self.ip(router, &["route", "add", "default", "via", &WORLD.to_string()])?;
        let v6 = |name: &str, device: &str, end: u8, street: u8| {
            let address = format!("fd0{street}::{end}/64");
            self.ip(name, &["addr", "add", &address, "dev", device, "nodad"])
        };
        v6(home, "eth0", 2, 9)?;
        v6(router, "home", 1, 9)?;
        v6(router, "wan", 1, 8)?;
        v6(world, "eth0", 2, 8)?;
        self.ip(home, &["-6", "route", "add", "default", "via", "fd09::1"])?;
        self.ip(world, &["-6", "route", "add", "default", "via", "fd08::1"])?;
        self.ip(router, &["-6", "route", "add", "default", "via", "fd08::2"])?;
        let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding";
        run("ip", &["netns", "exec", router, "sh", "-c", forward])?;
        // Every /24 of the world is its own.
        for range in ["10.2.0.0/16", "10.3.0.0/16", "10.4.0.0/16"] {
            self.ip(world, &["route", "add", "local", range, "dev", "lo"])?;
        }
        self.ip(world, &["-6", "route", "add", "local", "fd10::/64", "dev", "lo"])?;
        // Over IPv6 a local route alone does not let a server have the address (ip-sysctl, ip_nonlocal_bind).
        let all = "echo 1 > /proc/sys/net/ipv6/ip_nonlocal_bind";
        run("ip", &["netns", "exec", world, "sh", "-c", all])?;
        self.ip(portal, &["route", "add", "local", "10.2.0.0/16", "dev", "lo"])
    }

    fn ip(&self, name: &str, words: &[&str]) -> anyhow::Result<()> {
        let mut all = vec!["-n", name];
        all.extend(words);
        run("ip", &all)
    }

    /// Runs `ip` at one end: routes, links, rules.
    ///
    /// # Errors
    /// When it refuses.
    pub fn set(&self, end: End, words: &str) -> anyhow::Result<()> {
        let words: Vec<&str> = words.split(' ').collect();
        self.ip(self.name(end), &words)
    }

    /// Takes the machine from its home to another network, behind another router's address.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn move_on(&self) -> anyhow::Result<()> {
        // As whoever gives it its addresses does, they are taken away with the network.
        self.set(End::Home, "addr flush dev eth0")?;
        self.set(End::Home, "link set eth0 down")?;
        self.set(End::Home, "link set eth1 up")?;
        self.set(End::Home, &format!("route add default via {CAFE_GATEWAY}"))
    }

    /// Starts the test `server` of this binary at one end, and waits until it says that it serves.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(&mut self, end: End, server: &str) -> anyhow::Result<()> {
        let mut child = Command::new("ip")
            .args(["netns", "exec", self.name(end)])
            .arg(std::env::current_exe()?)
            .args(["--ignored", "--exact", server, "--nocapture"])
            .env("TOCSIN_STREETS_DIR", &self.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("its output")?;
        let stdin = child.stdin.take().context("its input")?;
        self.servers.push((child, stdin));
        let mut lines = BufReader::new(stdout).lines();
        for line in lines.by_ref() {
            if line?.ends_with(SERVES) {
                // What is not read would end it: after a minute a test says that it is slow.
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(());
            }
        }
        bail!("{server} did not come up")
    }

    /// Tells the last server that was started to do something: one line.
    ///
    /// # Errors
    /// When it is gone.
    pub fn tell(&mut self, what: &str) -> anyhow::Result<()> {
        let (_, stdin) = self.servers.last_mut().context("a server")?;
        writeln!(stdin, "{what}")?;
        Ok(())
    }

    /// Runs a program in the agent's machine, to its end.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn at_home(&self, command: &Command) -> anyhow::Result<Output> {
        let mut here = self.command(command);
        Ok(here.output()?)
    }

    /// The same program in the agent's machine.
    #[must_use]
    pub fn command(&self, command: &Command) -> Command {
        let mut here = Command::new("ip");
        here.args(["netns", "exec", self.name(End::Home)])
            .arg(command.get_program())
            .args(command.get_args());
        here
    }
}

impl Drop for Streets {
    fn drop(&mut self) {
        for (mut child, stdin) in self.servers.drain(..) {
            // They end when nobody speaks to them any more.
            drop(stdin);
            drop(child.wait());
        }
        for name in &self.names {
            drop(Command::new("ip").args(["netns", "del", name]).output());
        }
    }
}

/// What a server prints once it serves.
pub const SERVES: &str = "serves now";

/// The ground of the internet here.
pub const GROUND: Ground = Ground::NETWORK;

/// For a server to come up.
pub const PATIENCE: Duration = Duration::from_secs(20);
