//! What an agent weighs beside what people use instead: blackbox_exporter and monit, in one run, on the same sites at the
//! same rate, with certificates checked by all. No test: it measures, and prints a table. `tests/weigh` runs it.

use std::{
    fs,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tocsin_agent::clock::monotonic;
use tocsin_tests::streets::{End, Told};

use super::{Home, home};

/// Sites that each looks at once a minute.
const SITES: usize = 12;
/// How long each is watched once it has looked at everything once: full handshakes are behind it then.
const WARM: Duration = Duration::from_secs(75);
const WATCHED: Duration = Duration::from_secs(180);
const PORT: u16 = 9_115;

/// What one of them came to.
struct Weight {
    name: String,
    program_bytes: u64,
    ready: Duration,
    rss_kib: u64,
    peak_kib: u64,
    cpu_ms: f64,
    probes: f64,
    bytes: u64,
}

/// A program that is watched; it ends with this.
struct Watched {
    child: Child,
    name: &'static str,
}

impl Drop for Watched {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Watched {
    /// The process itself: `ip netns exec` becomes the program that it starts.
    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }

    fn kib(&self, what: &str) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find(|line| line.starts_with(what)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Processor time so far, ms: user and system, of itself and of the children that it waited for, in ticks of 10 ms
    /// (proc(5), fields 14 to 17 of stat).
    fn cpu_ms(&self) -> f64 {
        let stat = self.proc("stat");
        let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
        let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
        (11..=14).map(ticks).sum::<f64>() * 10.0
    }
}

/// Bytes that the home's link has carried, both ways.
fn carried(home: &Home) -> u64 {
    let mut command = Command::new("cat");
    command.args(["/proc/net/dev"]);
    let table = home.streets.at_home(&command).unwrap().stdout;
    let table = String::from_utf8(table).unwrap();
    let of = |line: &str| {
        let (name, counts) = line.split_once(':')?;
        let counts: Vec<u64> = counts.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        (name.trim() != "lo").then(|| counts[0] + counts[8])
    };
    table.lines().filter_map(of).sum()
}

/// What stands there over plain HTTP in the home, by `curl`.
fn fetch(home: &Home, path: &str) -> Option<String> {
    let mut command = Command::new("curl");
    command.args(["-s", "-m", "8", &format!("http://127.0.0.1:{PORT}{path}")]);
    let output = home.streets.at_home(&command).unwrap();
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Nothing is waited for but time: this measures.
fn pass(time: Duration) {
    let (_quiet, nothing) = std::sync::mpsc::channel::<()>();
    nothing.recv_timeout(time).unwrap_err();
}

fn sites(home: &Home) -> Vec<String> {
    home.streets.told.sites.iter().flatten().take(SITES).cloned().collect()
}

/// Starts one, waits until it serves, and watches it. `drive` is called for each second, with what is to be scraped then.
fn weigh(
    home: &Home,
    name: &'static str,
    command: &Command,
    program: &Path,
    ready: impl Fn() -> bool,
    mut drive: impl FnMut(u64),
    probes: impl Fn() -> f64,
) -> Weight {
    let began = monotonic();
    let mut started = home.streets.command(command);
    started.stdout(Stdio::null()).stderr(Stdio::null());
    let watched = Watched { child: started.spawn().unwrap(), name };
    while !ready() {
        assert!(began.elapsed() < Duration::from_secs(30), "{} does not come up", watched.name);
        pass(Duration::from_millis(2));
    }
    let took = began.elapsed();
    let mut spend = |time: Duration| {
        for second in 0..time.as_secs() {
            let until = monotonic() + Duration::from_secs(1);
            drive(second);
            pass(until.saturating_duration_since(monotonic()));
        }
    };
    spend(WARM);
    let (cpu, bytes, made) = (watched.cpu_ms(), carried(home), probes());
    spend(WATCHED);
    Weight {
        name: name.to_owned(),
        program_bytes: fs::metadata(program).unwrap().len(),
        ready: took,
        rss_kib: watched.kib("VmRSS:"),
        peak_kib: watched.kib("VmHWM:"),
        cpu_ms: watched.cpu_ms() - cpu,
        probes: probes() - made,
        bytes: carried(home) - bytes,
    }
}

fn counted(text: &str, of: impl Fn(&str) -> bool) -> f64 {
    let value = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
    text.lines().filter(|line| of(line)).filter_map(value).sum()
}

/// The agent, at as many looks a minute as there are sites, reporting to the collector; or at its default rate.
fn tocsin(home: &Home, program: &Path, per_minute: usize, name: &'static str) -> Weight {
    let path = home.config();
    let text = fs::read_to_string(&path).unwrap();
    let of_rate = format!(
        "probes_per_minute_max = {per_minute}\nmetrics = '127.0.0.1:{PORT}'\nprofile = 'modern'\n"
    );
    fs::write(&path, text.replace("probes_per_minute_max = 60\n", &of_rate)).unwrap();
    let mut command = Command::new(program);
    command.arg("--config").arg(&path).arg("run");
    let made = || {
        let text = fetch(home, "/metrics").unwrap_or_default();
        counted(&text, |line| line.starts_with("tocsin_probes_total{"))
    };
    let ready = || fetch(home, "/metrics").is_some();
    weigh(home, name, &command, program, ready, |_| (), made)
}

fn blackbox(home: &Home, program: &Path, ca: &Path) -> Weight {
    let config = home.dir.path().join("blackbox.yml");
    let text = format!(
        "modules:\n  https:\n    prober: http\n    timeout: 6s\n    http:\n      preferred_ip_protocol: ip4\n      \
         tls_config:\n        ca_file: {}\n",
        ca.display()
    );
    fs::write(&config, text).unwrap();
    let mut command = Command::new(program);
    command.arg(format!("--config.file={}", config.display()));
    command.arg(format!("--web.listen-address=127.0.0.1:{PORT}"));
    let sites = sites(home);
    let made = std::cell::Cell::new(0.0);
    let failed = std::cell::Cell::new(0);
    let drive = |second: u64| {
        // Each site once a minute, one after another.
        let every = 60 / SITES as u64;
        if !second.is_multiple_of(every) {
            return;
        }
        let site = &sites[(second / every) as usize % sites.len()];
        let page = fetch(home, &format!("/probe?module=https&target=https://{site}/"));
        let success = page.is_some_and(|page| page.contains("\nprobe_success 1"));
        failed.set(failed.get() + u32::from(!success));
        made.set(made.get() + 1.0);
    };
    let ready = || fetch(home, "/-/healthy").is_some();
    let weight = weigh(home, "blackbox_exporter", &command, program, ready, drive, || made.get());
    assert_eq!(failed.get(), 0, "it is set up so that it succeeds");
    weight
}

fn monit(home: &Home, program: &Path, ca: &Path) -> Weight {
    let config = home.dir.path().join("monitrc");
    let state = home.dir.path().join("monit");
    let mut text = format!(
        "set daemon 60\nset ssl options {{ verify: enable, cacertificatefile: {:?} }}\nset httpd port {PORT} \
         address 127.0.0.1 allow localhost\nset idfile {state:?}\nset statefile {:?}\n",
        ca.display().to_string(),
        state.with_extension("state"),
    );
    for site in sites(home) {
        text += &format!(
            "check host {site} with address {site}\n  if failed port 443 protocol https request \"/\" with timeout 6 seconds then alert\n"
        );
    }
    fs::write(&config, text).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    let mut command = Command::new(program);
    command.arg("-I").arg("-c").arg(&config).arg("-p").arg(state.with_extension("pid"));
    let began = monotonic();
    let ready = || fetch(home, "/_status?format=text").is_some();
    // It says how many checks it made nowhere: a cycle a minute of every site.
    let made = || began.elapsed().as_secs_f64() / 60.0 * SITES as f64;
    weigh(home, "monit", &command, program, ready, |_| (), made)
}

#[test]
#[ignore = "measures for a quarter of an hour: `tests/weigh` runs it"]
fn of_agents() {
    let program = |name: &str| -> PathBuf {
        std::env::var_os(name)
            .unwrap_or_else(|| panic!("{name} is not set: run tests/weigh"))
            .into()
    };
    let (own, others) = (program("TOCSIN_WEIGHED"), program("TOCSIN_WEIGHED_BLACKBOX"));
    let monit_program = program("TOCSIN_WEIGHED_MONIT");
    let mut weights = Vec::new();
    {
        let home = home();
        weights.push(tocsin(&home, &own, SITES, "tocsin"));
    }
    {
        let home = home();
        let Told { ca, resolver, .. } = &home.streets.told;
        // `ip netns exec` puts this in the place of the system's file.
        let server = resolver.parse::<SocketAddr>().unwrap().ip();
        let _file =
            Resolver::new(home.streets.name(End::Home), server.to_string().parse().unwrap());
        weights.push(blackbox(&home, &others, ca));
        weights.push(monit(&home, &monit_program, ca));
    }
    {
        let home = home();
        weights.push(tocsin(&home, &own, 3, "tocsin, 3 a minute"));
    }
    let mut table = String::from(
        "| | program, MB | ready after, ms | RSS, MiB | at most | CPU ms a probe | bytes a probe | MB a day at this rate |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for Weight { name, program_bytes, ready, rss_kib, peak_kib, cpu_ms, probes, bytes } in weights {
        table += &format!(
            "| {name} | {:.1} | {} | {:.1} | {:.1} | {:.2} | {:.0} | {:.1} |\n",
            program_bytes as f64 / 1e6,
            ready.as_millis(),
            rss_kib as f64 / 1024.0,
            peak_kib as f64 / 1024.0,
            cpu_ms / probes,
            bytes as f64 / probes,
            bytes as f64 / WATCHED.as_secs_f64() * 86_400.0 / 1e6,
        );
    }
    std::io::stdout().write_all(table.as_bytes()).unwrap();
}

/// The resolver of a namespace, for programs that read the system's file (ip-netns(8)).
struct Resolver(PathBuf);

impl Resolver {
    fn new(namespace: &str, server: Ipv4Addr) -> Self {
        let dir = Path::new("/etc/netns").join(namespace);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("resolv.conf"), format!("nameserver {server}\n")).unwrap();
        Self(dir)
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}
