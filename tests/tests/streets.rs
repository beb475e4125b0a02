//! Whose fault is it? `tocsin why` on a machine behind a router, in network namespaces, while one thing after another
//! breaks on the way: the answer must name exactly that. Needs root, as CI has.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "streets/weight.rs"]
mod weight;

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;
use tocsin_agent::clock::monotonic;
use tocsin_collector::{
    Collector,
    clock::Clock,
    config::{Config, RawConfig, RawOverride},
    keys::Keys,
};
use tocsin_tests::{
    internet::{Fault, Internet},
    peer::Programs,
    streets::{CAFE, COLLECTOR, End, GROUND, HOME, LIAR, SERVES, SLOW, Streets, Told},
};
use tokio_util::sync::CancellationToken;

/// An answer takes no longer, ms: three seconds by promise, and what it takes to start a program on a busy machine.
const ANSWER_MS: u128 = 4_500;

fn dir() -> PathBuf {
    PathBuf::from(std::env::var_os("TOCSIN_STREETS_DIR").expect("started by the streets"))
}

/// Waits until nobody speaks to this process any more; each line goes to `hear`.
fn until_left(mut hear: impl FnMut(&str)) {
    let mut out = std::io::stdout();
    writeln!(out, "{SERVES}").unwrap();
    out.flush().unwrap();
    for line in std::io::stdin().lines() {
        hear(&line.unwrap());
    }
}

/// Answers every plain request as sites do: by sending it to https.
fn plain(answer: impl Fn(&str) -> String + Send + Sync + 'static) {
    let listener = TcpListener::bind("0.0.0.0:80").unwrap();
    let answer = std::sync::Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, answer) = (stream.unwrap(), std::sync::Arc::clone(&answer));
            std::thread::spawn(move || {
                let mut request = [0; 2048];
                let length = stream.read(&mut request).unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..length]).to_ascii_lowercase();
                let host = request.lines().find_map(|line| line.strip_prefix("host: "));
                drop(stream.write_all(answer(host.unwrap_or("x")).as_bytes()));
            });
        }
    });
}

/// A name server that passes questions on after a while, or answers them with an address of nobody.
fn resolver(address: IpAddr, real: SocketAddr, wait: Option<Duration>) {
    let socket = UdpSocket::bind((address, 53)).unwrap();
    std::thread::spawn(move || {
        let mut query = [0; 1500];
        loop {
            let Ok((length, peer)) = socket.recv_from(&mut query) else { continue };
            let (query, back) = (query[..length].to_vec(), socket.try_clone().unwrap());
            std::thread::spawn(move || {
                let reply = match wait {
                    Some(wait) => {
                        // A slow server, not a test that waits: nobody says anything for so long.
                        let (_quiet, nothing) = std::sync::mpsc::channel::<()>();
                        nothing.recv_timeout(wait).unwrap_err();
                        let own = UdpSocket::bind("0.0.0.0:0").unwrap();
                        own.send_to(&query, real).unwrap();
                        let mut reply = [0; 1500];
                        let length = own.recv(&mut reply).unwrap();
                        reply[..length].to_vec()
                    }
                    None => lie(&query),
                };
                drop(back.send_to(&reply, peer));
            });
        }
    });
}

/// `0.0.0.0` to whatever is asked: the question again, as an answer with one record (RFC 1035 section 4.1).
fn lie(query: &[u8]) -> Vec<u8> {
    // The question ends with its name's last label, its type and its class.
    let name = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 1;
    let mut reply = query[..name + 4].to_vec();
    reply[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 0, 0, 0, 0]);
    reply
}

#[test]
#[ignore = "a server, no test: `cargo nextest run --test streets` starts it in a namespace"]
fn internet() {
    let dir = dir();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stop = CancellationToken::new();
    let internet = runtime.block_on(Internet::start_at(7, GROUND, stop.clone())).unwrap();
    let catalogue = dir.join("catalogue.toml");
    std::fs::write(&catalogue, &internet.catalogue_toml).unwrap();
    let ca = dir.join("ca.pem");
    std::fs::write(&ca, &internet.ca_pem).unwrap();
    let data_dir = dir.join("collector");
    Keys::init(&data_dir, Clock.wall()).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut raw = RawConfig {
        data_dir,
        listen: vec![(COLLECTOR, 4433).into(), (GROUND.v6_of(COLLECTOR).unwrap(), 4433).into()],
        web_listen: any,
        operator_listen: any,
        catalogue_file: Some(catalogue.clone()),
        ..RawConfig::default()
    };
    let cidr = format!("{HOME}/24").parse().unwrap();
    raw.schedule.probes_per_minute = 60;
    raw.schedule.report_interval_s = 10;
    raw.location.overrides =
        vec![RawOverride { cidr, country: "FR".parse().unwrap(), asn: 64_500 }];
    let config = Config::try_from(raw).unwrap();
    let collector = runtime.block_on(Collector::bind(config)).unwrap();
    let line = collector.addresses().line.to_string();
    runtime.spawn(collector.serve(stop.clone()));
    plain(|host| {
        format!("HTTP/1.1 301 x\r\nLocation: https://{host}/\r\nContent-Length: 0\r\n\r\n")
    });
    resolver(LIAR.into(), internet.resolver, None);
    resolver(SLOW.into(), internet.resolver, Some(Duration::from_millis(1_100)));
    let sites = (0..internet.edges.len())
        .map(|edge| internet.world.sites_of(edge).map(|site| site.host.clone()).collect())
        .collect();
    let told = Told {
        line,
        catalogue,
        ca,
        resolver: internet.resolver.to_string(),
        roots: internet.roots.iter().map(ToString::to_string).collect(),
        allowed: internet.allowed.iter().map(ToString::to_string).collect(),
        sites,
    };
    std::fs::write(dir.join("world.json"), serde_json::to_string(&told).unwrap()).unwrap();
    until_left(|line| {
        let fault: Fault = line.parse().unwrap();
        runtime.block_on(internet.break_it(fault)).unwrap();
        std::fs::write(dir.join("done"), line).unwrap();
    });
    stop.cancel();
}

#[test]
#[ignore = "a server, no test: `cargo nextest run --test streets` starts it in a namespace"]
fn portal_that_redirects() {
    plain(|_| {
        "HTTP/1.1 302 x\r\nLocation: http://login.hotel.test/\r\nContent-Length: 0\r\n\r\n".into()
    });
    until_left(|_| ());
}

#[test]
#[ignore = "a server, no test: `cargo nextest run --test streets` starts it in a namespace"]
fn portal_that_answers_itself() {
    plain(|_| "HTTP/1.1 200 x\r\nContent-Length: 7\r\n\r\nwelcome".into());
    until_left(|_| ());
}

/// Writes down every IPv4 packet that comes by, each behind its length.
#[test]
#[ignore = "a server, no test: `cargo nextest run --test streets` starts it in a namespace"]
fn wire() {
    // Of all protocols (packet(7), ETH_P_ALL in network byte order).
    let all = socket2::Protocol::from(i32::from(3_u16.to_be()));
    let socket =
        socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::RAW, Some(all)).unwrap();
    let mut file = std::fs::File::create(dir().join("wire")).unwrap();
    std::thread::spawn(move || {
        let mut frame = [0; 65_536];
        while let Ok(length) = (&socket).read(&mut frame) {
            if length > 14 && frame[12..14] == [8, 0] {
                let packet =
                    [&u32::try_from(length - 14).unwrap().to_be_bytes(), &frame[14..length]];
                file.write_all(&packet.concat()).unwrap();
            }
        }
    });
    until_left(|_| ());
}

/// A packet of [`wire`], as far as it is of use.
struct Packet {
    ends: [(IpAddr, u16); 2],
    is_udp: bool,
    payload: Vec<u8>,
}

/// What [`wire`] has written down so far.
fn packets(dir: &Path) -> Vec<Packet> {
    let bytes = std::fs::read(dir.join("wire")).unwrap();
    let (mut rest, mut packets) = (&bytes[..], Vec::new());
    while let Some((length, more)) = rest.split_first_chunk() {
        let Some((ip, more)) = more.split_at_checked(u32::from_be_bytes(*length) as usize) else {
            break;
        };
        rest = more;
        let header = usize::from(ip[0] & 15) * 4;
        let (is_udp, body) =
            (ip[9] == 17, &ip[header..usize::from(ip[2]) << 8 | usize::from(ip[3])]);
        if !is_udp && ip[9] != 6 {
            continue;
        }
        let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&ip[at..at + 4]).unwrap());
        let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
        let start = if is_udp { 8 } else { usize::from(body[12] >> 4) * 4 };
        packets.push(Packet {
            ends: [(address(12), port(0)), (address(16), port(2))],
            is_udp,
            payload: body[start..].to_vec(),
        });
    }
    packets
}

/// The extensions of a ClientHello at the beginning of a stream (RFC 8446 section 4.1.2); of anything else none.
fn hello_extensions(stream: &[u8]) -> Vec<u16> {
    if !matches!(stream, [22, 3, _, _, _, 1, ..]) {
        return Vec::new();
    }
    // Record and handshake headers, version and random; then session, suites and compressions, each behind its length.
    let mut at = 5 + 4 + 2 + 32;
    at += 1 + usize::from(stream[at]);
    at += 2 + usize::from(u16::from_be_bytes([stream[at], stream[at + 1]]));
    at += 1 + usize::from(stream[at]);
    at += 2;
    let (mut found, mut rest) = (Vec::new(), &stream[at..]);
    while let [a, b, c, d, more @ ..] = rest {
        found.push(u16::from_be_bytes([*a, *b]));
        rest = more.get(usize::from(u16::from_be_bytes([*c, *d]))..).unwrap_or_default();
    }
    found
}

/// The home of one test.
struct Home {
    streets: Streets,
    programs: Programs,
    dir: tempfile::TempDir,
    resolver: String,
    with_collector: bool,
    families: &'static str,
    /// What stands before the program: `faketime` and how wrong the clock is.
    wrapped: Vec<&'static str>,
}

/// One that has IPv4 alone.
fn home() -> Home {
    let home = home_of_both();
    home.streets.set(End::Home, "-6 route del default").unwrap();
    home.streets.set(End::Home, "-6 addr flush dev eth0 scope global").unwrap();
    Home { families: "\"v4\"", ..home }
}

fn home_of_both() -> Home {
    let dir = tempfile::tempdir().unwrap();
    let streets = Streets::new(dir.path(), "internet").unwrap();
    let resolver = streets.told.resolver.clone();
    let programs = Programs::find().unwrap();
    programs.agree(&dir.path().join("state")).unwrap();
    let (families, wrapped) = ("\"v4\", \"v6\"", Vec::new());
    Home { streets, programs, dir, resolver, with_collector: true, families, wrapped }
}

impl Home {
    fn site(&self) -> &str {
        &self.streets.told.sites[0][0]
    }

    fn config(&self) -> PathBuf {
        let Told { line, catalogue, ca, roots, allowed, .. } = &self.streets.told;
        let collectors = if self.with_collector { format!("\"{line}\"") } else { String::new() };
        let text = format!(
            "state_dir = {:?}\ncollectors = [{collectors}]\nfamilies = [{}]\nresolvers = [\"{}\"]\n\
             independent_roots = {roots:?}\nextra_roots_file = {ca:?}\nallowed_ranges = {allowed:?}\n\
             catalogue_file = {catalogue:?}\nprobes_per_minute_max = 60\n",
            self.dir.path().join("state"),
            self.families,
            self.resolver,
        );
        let path = self.dir.path().join("tocsin.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    fn agent(&self, words: &[&str]) -> Command {
        let mut command = self.programs.agent();
        if let [program, words @ ..] = &self.wrapped[..] {
            let agent = command.get_program().to_owned();
            command = Command::new(program);
            command.args(words).arg(agent);
        }
        command.arg("--config").arg(self.config()).args(words);
        command
    }

    /// Asks, and checks how long the answer took.
    fn why(&self, site: &str) -> (Value, i32) {
        let command = self.agent(&["why", "--json", site]);
        let began = monotonic();
        let output = self.streets.at_home(&command).unwrap();
        let took = began.elapsed().as_millis();
        let errors = String::from_utf8_lossy(&output.stderr);
        let answer: Value = serde_json::from_slice(&output.stdout).expect(&errors);
        assert!(took < ANSWER_MS, "{took} ms: {answer:#}");
        (answer, output.status.code().unwrap())
    }

    /// Asks about a site, and what the answer must be.
    fn expect(&self, works: &str, cause: &str, exit: i32) -> Value {
        let (answer, code) = self.why(self.site());
        let got = (answer["works"].as_str().unwrap(), answer["cause"]["kind"].as_str().unwrap());
        assert_eq!((got, code), ((works, cause), exit), "{answer:#}");
        assert_eq!(answer["schema"], 1);
        answer
    }
}

/// An agent that runs in a home; it ends with its test.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A check of the own line, and what it must come to; `None` is not measured.
type Expected<'a> = &'a [(&'a str, Option<bool>)];

impl Home {
    fn run(&self) -> Running {
        let mut command = self.streets.command(&self.agent(&["run"]));
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        Running(command.spawn().unwrap())
    }

    /// Asks the agent how it stands until its vector is the expected one.
    fn stands(&self, expected: Expected<'_>) -> Value {
        let until = monotonic() + Duration::from_secs(90);
        loop {
            let command = self.agent(&["status", "--json"]);
            let output = self.streets.at_home(&command).unwrap();
            // While it starts there is nothing to read yet.
            let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let checks = status["state"]["checks"].as_array().cloned().unwrap_or_default();
            let of = |name: &str| {
                let own = checks.iter().find(|check| check["name"] == name);
                own.and_then(|check| check["ok"].as_bool())
            };
            if !checks.is_empty() && expected.iter().all(|(name, ok)| of(name) == *ok) {
                return status;
            }
            if monotonic() > until {
                let told = self.streets.at_home(&self.agent(&["show", "--sent"])).unwrap();
                let told = String::from_utf8(told.stdout).unwrap();
                panic!("{expected:?} is not so: {status:#}\n{told}");
            }
        }
    }

    /// The vector of the newest report that waits or was sent says the same.
    fn reports(&self, expected: Expected<'_>) {
        let until = monotonic() + Duration::from_secs(90);
        loop {
            let command = self.agent(&["show", "--sent", "--json"]);
            let output = self.streets.at_home(&command).unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let of = |line: &str| serde_json::from_str::<Value>(line).unwrap()["health"].clone();
            let vectors: Vec<Value> = text.lines().filter(|l| !l.is_empty()).map(of).collect();
            let same =
                |vector: &Value| expected.iter().all(|(name, ok)| vector[name].as_bool() == *ok);
            if vectors.iter().any(same) {
                return;
            }
            assert!(monotonic() < until, "{expected:?} was not reported: {vectors:#?}");
        }
    }
}

fn done(dir: &Path, what: &str) {
    let path = dir.join("done");
    let until = monotonic() + tocsin_tests::streets::PATIENCE;
    while std::fs::read_to_string(&path).unwrap_or_default() != what {
        assert!(monotonic() < until, "{what} is not in force");
        std::thread::yield_now();
    }
}

#[test]
fn all_is_well() {
    let home = home();
    let answer = home.expect("yes", "nothing", 0);
    assert_eq!(answer["line"]["collector"], true);
    assert_eq!(answer["line"]["gateway"], true);
    assert_eq!(answer["news"][0]["live"], true);
    // A site that the catalogue does not have is looked at too.
    let (answer, _) = home.why("nowhere.test");
    assert_eq!((&answer["works"], &answer["cause"]["why"]), (&"no".into(), &"unlisted".into()));
    // In words, in French.
    let command = home.agent(&["why", "--lang", "fr", home.site()]);
    let output = home.streets.at_home(&command).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("fonctionne d’ici."), "{text}");
    // And as a monitoring system wants it.
    let command = home.agent(&["why", "--nagios", home.site()]);
    let output = home.streets.at_home(&command).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("TOCSIN OK - ") && text.contains(" | 'time_v4'="), "{text}");
}

#[test]
fn nothing_on_the_wire_tells_that_who_moved_is_the_same_machine() {
    let mut home = home();
    home.streets.start(End::Router, "wire").unwrap();
    let _running = home.run();
    let observers = || {
        let output = home.streets.at_home(&home.agent(&["show", "--sent", "--json"])).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.lines().filter(|line| !line.is_empty());
        let of = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap();
            // What waits is not signed yet.
            Some(line["observer"].as_str()?.to_owned())
        };
        lines.filter_map(of).collect::<BTreeSet<String>>()
    };
    let until = |what: &str, held: &dyn Fn() -> bool| {
        let until = monotonic() + Duration::from_secs(120);
        while !held() {
            assert!(monotonic() < until, "{what}");
        }
    };
    let dir = home.dir.path();
    let from = |at: IpAddr| {
        let mut all = packets(dir);
        all.retain(|packet| packet.ends.iter().any(|(end, _)| *end == at));
        all
    };
    // To sites whose sessions it remembers it says so, here.
    let resumes = |at: IpAddr| {
        let hello = |packet: &Packet| !packet.is_udp && packet.ends[0].0 == at;
        from(at)
            .iter()
            .filter(|packet| hello(packet))
            .any(|packet| hello_extensions(&packet.payload).contains(&41))
    };
    until("a report from home", &|| !observers().is_empty());
    until("a session is resumed", &|| resumes(HOME.into()));
    let at_home = observers();
    home.streets.move_on().unwrap();
    until("a report from elsewhere", &|| observers().len() > at_home.len());
    let (before, after) = (from(HOME.into()), from(CAFE.into()));
    // No eight bytes that went between it and the collector are the same, nor a port.
    let collector = |packets: &[Packet]| {
        let theirs = |packet: &&Packet| {
            packet.is_udp && packet.ends.iter().any(|(end, _)| *end == IpAddr::from(COLLECTOR))
        };
        let packets: Vec<&Packet> = packets.iter().filter(theirs).collect();
        let bytes: BTreeSet<Vec<u8>> =
            packets.iter().flat_map(|p| p.payload.windows(8).map(<[u8]>::to_vec)).collect();
        let ports: BTreeSet<u16> = packets
            .iter()
            .flat_map(|packet| packet.ends)
            .filter(|(end, _)| *end != IpAddr::from(COLLECTOR))
            .map(|(_, port)| port)
            .collect();
        (bytes, ports)
    };
    let ((bytes, ports), (others, other_ports)) = (collector(&before), collector(&after));
    assert!(bytes.len() > 1_000 && others.len() > 1_000, "{} {}", bytes.len(), others.len());
    let both: Vec<_> = bytes.intersection(&others).collect();
    assert!(both.is_empty(), "{both:x?}");
    assert!(ports.is_disjoint(&other_ports), "{ports:?} {other_ports:?}");
    // No first packet there shows a token of a connection before (RFC 9000 section 17.2.2).
    let initial = after.iter().find(|packet| {
        packet.is_udp && packet.ends[0].0 == IpAddr::from(CAFE) && packet.payload[0] >> 4 == 0xc
    });
    let initial = &initial.unwrap().payload;
    let source = 6 + usize::from(initial[5]);
    assert_eq!(initial[source + 1 + usize::from(initial[source])], 0, "a token");
    // And no site is shown a session that began at home: the first hello to each has none.
    let mut met = BTreeSet::new();
    for packet in after.iter().filter(|packet| !packet.is_udp) {
        let [(source, _), site] = packet.ends;
        let extensions = hello_extensions(&packet.payload);
        if source == IpAddr::from(CAFE) && !extensions.is_empty() && met.insert(site) {
            assert!(!extensions.contains(&41), "a session for {site:?}");
        }
    }
    assert!(!met.is_empty());
}

#[test]
fn the_link_is_down() {
    let home = home();
    home.streets.set(End::Home, "link set eth0 down").unwrap();
    let answer = home.expect("no", "link", 2);
    assert_eq!(answer["line"]["route"], false);
}

#[test]
fn there_is_no_default_route() {
    let home = home();
    home.streets.set(End::Home, "route del default").unwrap();
    home.expect("no", "link", 2);
}

#[test]
fn the_gateway_is_dead() {
    let home = home();
    home.streets.set(End::Router, "addr flush dev home").unwrap();
    home.streets.set(End::Home, "neigh flush all").unwrap();
    let answer = home.expect("no", "gateway", 2);
    assert_eq!(answer["line"]["gateway"], false);
}

#[test]
fn the_line_behind_the_router_is_dead() {
    let home = home();
    home.streets.set(End::Router, "link set wan down").unwrap();
    let answer = home.expect("no", "line", 2);
    assert_eq!(answer["line"]["gateway"], true);
    assert_eq!(answer["line"]["collector"], false);
}

#[test]
fn the_line_swallows_everything() {
    let home = home();
    home.streets.set(End::Router, "route add blackhole 10.2.0.0/15").unwrap();
    home.streets.set(End::Router, "route add blackhole 10.4.0.0/16").unwrap();
    home.expect("no", "line", 2);
}

#[test]
fn the_resolver_is_dead() {
    let home = home();
    home.streets.set(End::Router, "route add blackhole 10.3.0.53/32").unwrap();
    let answer = home.expect("no", "resolver", 2);
    assert!(answer["answer"][0].as_str().unwrap().contains("10.3.0.53"), "{answer:#}");
}

#[test]
fn the_resolver_is_dead_and_all_other_names_are_closed() {
    let home = home();
    home.streets.set(End::Router, "route add blackhole 10.3.0.0/16").unwrap();
    home.expect("no", "resolver", 2);
}

#[test]
fn the_resolver_lies() {
    let mut home = home();
    home.resolver = format!("{LIAR}:53");
    home.expect("no", "resolver", 2);
}

#[test]
fn a_slow_resolver_is_no_outage() {
    let mut home = home();
    home.resolver = format!("{SLOW}:53");
    home.expect("yes", "nothing", 0);
}

#[test]
fn a_portal_redirects() {
    let mut home = home();
    home.streets.start(End::Portal, "portal_that_redirects").unwrap();
    home.streets.set(End::Router, "route add 10.2.0.0/16 via 10.7.0.2").unwrap();
    home.streets.set(End::Router, "route add blackhole 10.4.0.0/16").unwrap();
    home.expect("no", "portal", 2);
}

#[test]
fn a_portal_answers_itself() {
    let mut home = home();
    home.streets.start(End::Portal, "portal_that_answers_itself").unwrap();
    home.streets.set(End::Router, "route add 10.2.0.0/16 via 10.7.0.2").unwrap();
    home.expect("no", "portal", 2);
}

#[test]
fn udp_to_the_collector_is_blocked() {
    let home = home();
    home.streets.set(End::Router, "rule add prio 10 ipproto udp dport 4433 blackhole").unwrap();
    let answer = home.expect("yes", "nothing", 0);
    assert_eq!(answer["news"][0]["live"], true, "over TCP");
}

#[test]
fn everything_but_443_is_blocked() {
    let home = home();
    home.streets
        .set(End::Router, "rule add prio 10 iif home ipproto udp dport 53 lookup main")
        .unwrap();
    home.streets
        .set(End::Router, "rule add prio 11 iif home ipproto tcp dport 443 lookup main")
        .unwrap();
    home.streets.set(End::Router, "rule add prio 12 iif home blackhole").unwrap();
    let answer = home.expect("yes", "nothing", 0);
    assert_eq!(answer["line"]["collector"], false);
}

#[test]
fn one_operator_of_the_controls_is_down() {
    let mut home = home();
    home.streets.tell("edge-500").unwrap();
    done(home.dir.path(), "edge-500");
    // A site of another edge is fine, whatever the control behind the broken one says.
    let (answer, code) = home.why(&home.streets.told.sites[1][0].clone());
    assert_eq!((&answer["works"], code), (&"yes".into(), 0), "{answer:#}");
    // And of one behind it too few have told yet.
    let answer = home.expect("no", "unknown", 2);
    assert_eq!(answer["cause"]["why"], "too_few");
}

#[test]
fn without_a_collector_it_is_said_that_nobody_knows() {
    let mut home = home();
    home.with_collector = false;
    home.expect("yes", "nothing", 0);
    home.streets.tell("edge-500").unwrap();
    done(home.dir.path(), "edge-500");
    let answer = home.expect("no", "unknown", 2);
    assert_eq!(answer["cause"]["why"], "no_collector");
}

#[test]
fn what_was_kept_is_told_with_its_age() {
    let home = home();
    home.expect("yes", "nothing", 0);
    home.streets.set(End::Router, "route add blackhole 10.4.0.0/16").unwrap();
    let answer = home.expect("yes", "nothing", 0);
    assert_eq!(answer["news"][0]["live"], false);
    assert!(answer["news"][0]["age_ms"].as_u64().unwrap() < 60_000, "{answer:#}");
    assert_eq!(answer["unreached"].as_array().unwrap().len(), 1);
}

const WELL: Expected<'static> = &[
    ("unrelated", Some(true)),
    ("system_resolver", Some(true)),
    ("ipv4", Some(true)),
    ("route", Some(true)),
    ("gateway", Some(true)),
    ("captive", Some(true)),
    ("clock", Some(true)),
    ("udp", Some(true)),
    ("budget", Some(true)),
];

#[test]
fn a_running_agent_knows_its_line_and_reports_it() {
    let home = home();
    let _running = home.run();
    let status = home.stands(WELL);
    assert_eq!(status["running"], true);
    assert_eq!(status["state"]["sessions"][0]["asn"], 64_500);
    home.reports(WELL);
    // The router's other side goes; then the router.
    home.streets.set(End::Router, "link set wan down").unwrap();
    let dead = [
        ("unrelated", Some(false)),
        ("route", Some(true)),
        ("gateway", Some(true)),
        ("ipv4", Some(false)),
    ];
    home.stands(&dead);
    home.reports(&dead);
    home.streets.set(End::Router, "addr flush dev home").unwrap();
    home.streets.set(End::Home, "neigh flush all").unwrap();
    let dead = [("unrelated", Some(false)), ("route", Some(true)), ("gateway", Some(false))];
    home.stands(&dead);
    home.streets.set(End::Home, "link set eth0 down").unwrap();
    home.stands(&[("unrelated", Some(false)), ("route", Some(false))]);
}

#[test]
fn a_running_agent_knows_that_its_resolver_is_dead() {
    let home = home();
    let _running = home.run();
    home.stands(WELL);
    home.streets.set(End::Router, "route add blackhole 10.3.0.53/32").unwrap();
    let dead = [
        ("system_resolver", Some(false)),
        ("independent_path", Some(true)),
        ("gateway", Some(true)),
        ("route", Some(true)),
    ];
    home.stands(&dead);
    home.reports(&dead);
}

#[test]
fn a_running_agent_knows_a_portal() {
    let mut home = home();
    let _running = home.run();
    home.stands(WELL);
    home.streets.start(End::Portal, "portal_that_redirects").unwrap();
    home.streets.set(End::Router, "route add 10.2.0.0/16 via 10.7.0.2").unwrap();
    home.stands(&[("unrelated", Some(false)), ("captive", Some(false)), ("route", Some(true))]);
    home.streets.set(End::Router, "route del 10.2.0.0/16 via 10.7.0.2").unwrap();
    home.stands(&[("unrelated", Some(true)), ("captive", Some(true))]);
}

#[test]
fn a_running_agent_knows_that_udp_is_blocked() {
    let home = home();
    home.streets.set(End::Router, "rule add prio 10 ipproto udp dport 4433 blackhole").unwrap();
    let _running = home.run();
    let blocked = [("udp", Some(false)), ("unrelated", Some(true)), ("ipv4", Some(true))];
    home.stands(&blocked);
    home.reports(&blocked);
}

/// The vector where both families work.
const BOTH: Expected<'static> = &[
    ("unrelated", Some(true)),
    ("system_resolver", Some(true)),
    ("ipv4", Some(true)),
    ("ipv6", Some(true)),
    ("route", Some(true)),
    ("gateway", Some(true)),
];

#[test]
fn one_family_is_dead_and_the_other_is_fine() {
    let home = home_of_both();
    let _running = home.run();
    home.stands(BOTH);
    home.streets.set(End::Router, "-6 route add blackhole fd10::/64").unwrap();
    let answer = home.expect("partly", "family", 1);
    assert_eq!((&answer["not_over"], &answer["cause"]["family"]), (&"v6".into(), &"v6".into()));
    let dead = [("ipv6", Some(false)), ("ipv4", Some(true)), ("system_resolver", Some(true))];
    home.stands(&dead);
    home.reports(&dead);
}

#[test]
fn ipv4_is_dead_and_ipv6_is_fine() {
    let mut home = home_of_both();
    let resolver: SocketAddr = home.resolver.parse().unwrap();
    let IpAddr::V4(address) = resolver.ip() else { panic!("it has one of each") };
    home.resolver = format!("[{}]:53", GROUND.v6_of(address).unwrap());
    let _running = home.run();
    home.stands(BOTH);
    home.streets.set(End::Router, "route add blackhole 10.0.0.0/13").unwrap();
    let answer = home.expect("partly", "family", 1);
    assert_eq!((&answer["not_over"], &answer["cause"]["family"]), (&"v4".into(), &"v4".into()));
    assert_eq!(answer["line"]["collector"], true, "over IPv6");
    home.stands(&[("ipv4", Some(false)), ("ipv6", Some(true)), ("system_resolver", Some(true))]);
}

/// Whatever is longer than 600 bytes vanishes on its way home, and nobody is told: the usual of a tunnel whose router keeps
/// ICMP back (RFC 2923 section 2.1).
fn swallow_long_packets(home: &Home) {
    // Packets that the kernel would cut up behind the device pass any device; so none are made.
    home.streets.set(End::World, "link set eth0 gso_max_segs 1").unwrap();
    home.streets.set(End::Router, "link set wan mtu 600").unwrap();
}

#[test]
fn long_packets_vanish() {
    let home = home();
    let _running = home.run();
    home.stands(WELL);
    swallow_long_packets(&home);
    let answer = home.expect("no", "line", 2);
    assert_eq!(answer["line"]["gateway"], true);
    let looks = answer["looks"].as_array().unwrap();
    assert!(looks.iter().all(|look| look["outcome"] == "tls_timeout"), "{answer:#}");
    let dead = [
        ("unrelated", Some(false)),
        ("route", Some(true)),
        ("gateway", Some(true)),
        ("system_resolver", Some(true)),
    ];
    home.stands(&dead);
}

#[test]
fn the_clock_is_ten_minutes_wrong() {
    let mut home = home();
    home.wrapped = vec!["faketime", "-f", "+10m"];
    let answer = home.expect("yes", "nothing", 0);
    assert_eq!(answer["line"]["clock"], false, "{answer:#}");
    let _running = home.run();
    let wrong = [("clock", Some(false)), ("unrelated", Some(true)), ("ipv4", Some(true))];
    home.stands(&wrong);
    home.reports(&wrong);
}

#[test]
fn a_tunnel_is_named_where_nothing_comes_through_it() {
    let home = home();
    for words in [
        "link set eth0 down",
        "link set eth0 name tun0",
        "link set tun0 up",
        "route add default via 10.9.0.1",
    ] {
        home.streets.set(End::Home, words).unwrap();
    }
    let answer = home.expect("yes", "nothing", 0);
    assert_eq!(answer["line"]["tunnel"], true);
    home.streets.set(End::Router, "link set wan down").unwrap();
    let answer = home.expect("no", "line", 2);
    assert!(answer["answer"].to_string().contains("VPN"), "{answer:#}");
}

#[test]
fn nothing_is_probed_before_somebody_has_agreed() {
    let home = home();
    std::fs::remove_file(home.dir.path().join("state").join(tocsin_agent::consent::FILE)).unwrap();
    for words in [&["why", "x.test"][..], &["run"], &["probe", "x.test"]] {
        let output = home.streets.at_home(&home.agent(words)).unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{errors}");
        assert!(errors.contains("tocsin init"), "{errors}");
    }
    // Nobody is there to be asked.
    let output = home.streets.at_home(&home.agent(&["init"])).unwrap();
    assert_eq!(output.status.code(), Some(3));
}
