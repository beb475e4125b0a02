//! The page: tables made of what was played, and of nothing else.

use std::{collections::BTreeMap, fmt::Write};

use super::{
    Line, Result, Section,
    background::Day,
    cells::{CROWDS, Cell, FRACTIONS, MEASURED, RATES},
    outage::Came,
    plot,
    said::Said,
};
use crate::sim::quiet::Quiet;

/// Seconds to confirm of the prototype in which asking back was designed, median and maximum: by
/// provider and fraction, for 1,000, 300 and 100 observers. `None` where it did not confirm most.
type Prototype = (&'static str, i64, [Option<(u32, u32)>; 3]);
const PROTOTYPE: &[Prototype] = &[
    ("p0", 1_000, [Some((8, 9)), Some((8, 11)), Some((8, 11))]),
    ("p0", 500, [Some((8, 10)), Some((9, 12)), Some((10, 19))]),
    ("p0", 300, [Some((10, 11)), Some((11, 16)), Some((11, 19))]),
    ("p0", 200, [Some((15, 19)), Some((18, 24)), Some((21, 37))]),
    ("p0", 100, [Some((22, 39)), Some((31, 50)), Some((54, 120))]),
    ("p5", 1_000, [Some((10, 12)), Some((13, 19)), Some((16, 36))]),
    ("p5", 500, [Some((16, 24)), Some((20, 28)), Some((28, 57))]),
    ("p5", 300, [Some((20, 39)), Some((27, 56)), Some((48, 100))]),
    ("p5", 200, [Some((29, 46)), Some((59, 112)), Some((104, 254))]),
    ("p5", 100, [Some((91, 413)), Some((183, 552)), None]),
    ("p9", 1_000, [Some((8, 10)), Some((11, 18)), Some((16, 32))]),
    ("p9", 500, [Some((10, 14)), Some((14, 31)), Some((28, 48))]),
    ("p9", 300, [Some((12, 23)), Some((22, 41)), Some((35, 110))]),
    ("p9", 200, [Some((27, 41)), Some((42, 113)), Some((110, 294))]),
    ("p9", 100, [Some((77, 332)), Some((138, 600)), None]),
    ("p10", 1_000, [Some((11, 13)), Some((12, 15)), Some((15, 25))]),
    ("p10", 500, [Some((16, 20)), Some((20, 29)), Some((33, 68))]),
    ("p10", 300, [Some((28, 44)), Some((36, 78)), Some((52, 116))]),
    ("p10", 200, [Some((45, 70)), Some((61, 124)), Some((107, 244))]),
    ("p10", 100, [None, None, None]),
];

/// What providers of the standard catalogue are, in words.
fn words(provider: &str) -> &'static str {
    match provider {
        "p0" => "largest edge (120 of 200 sites)",
        "p5" => "smallest edge (8 sites)",
        "p9" => "names (12 sites, 9 of them behind the largest edge)",
        "p10" => "challenge (30 sites, 24 of them behind the largest edge)",
        "p1" => "edge of 24 sites",
        "p2" => "edge of 16 sites",
        _ => "",
    }
}

struct Times {
    all: usize,
    confirmed: Vec<f64>,
    suspected: Vec<f64>,
    wrong: usize,
}

impl Times {
    fn of(came: &[&Came]) -> Self {
        let mut confirmed: Vec<f64> = came.iter().filter_map(|came| came.confirmed_s).collect();
        let mut suspected: Vec<f64> =
            came.iter().filter_map(|came| came.suspected_s).map(|s| s.max(0.0)).collect();
        confirmed.sort_by(f64::total_cmp);
        suspected.sort_by(f64::total_cmp);
        let wrong = came.iter().filter(|came| !came.wrong.is_empty()).count();
        Self { all: came.len(), confirmed, suspected, wrong }
    }

    /// The value below which this part of all plays lies; none where so many were not confirmed.
    fn at(&self, percent: usize) -> Option<f64> {
        let place = (self.all * percent).div_ceil(100).saturating_sub(1);
        self.confirmed.get(place).copied()
    }

    fn cell(&self) -> String {
        let second = |s: Option<f64>| s.map_or("–".to_owned(), |s| format!("{s:.0}"));
        if self.all == 0 {
            return "not played".to_owned();
        }
        let mut text = format!(
            "{} ({}, {})",
            second(self.at(50)),
            second(self.at(95)),
            second(self.confirmed.last().copied())
        );
        if self.confirmed.len() < self.all {
            write!(text, ", {} of {}", self.confirmed.len(), self.all).ok();
        }
        if self.wrong > 0 {
            write!(text, ", **{} wrong**", self.wrong).ok();
        }
        text
    }
}

struct Played<'a> {
    came: BTreeMap<(Section, String), Vec<&'a Came>>,
    days: BTreeMap<&'a str, Vec<&'a Day>>,
    quiet: BTreeMap<&'a str, Vec<&'a Quiet>>,
    lines: &'a [Line],
}

impl<'a> Played<'a> {
    fn new(lines: &'a [Line]) -> Self {
        let (mut came, mut days, mut quiet) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for line in lines {
            match &line.result {
                Result::Came(one) => {
                    came.entry((line.section, line.cell.clone())).or_insert_with(Vec::new).push(one)
                }
                Result::Day(one) => {
                    days.entry(line.cell.as_str()).or_insert_with(Vec::new).push(one.as_ref());
                }
                Result::Quiet(one) => {
                    quiet.entry(line.cell.as_str()).or_insert_with(Vec::new).push(one);
                }
                Result::Scenario { .. } => {}
            }
        }
        Self { came, days, quiet, lines }
    }

    fn of(&self, section: Section, cell: &str) -> &[&'a Came] {
        self.came.get(&(section, cell.to_owned())).map_or(&[], Vec::as_slice)
    }
}

fn table(out: &mut String, head: &[&str], rows: &[Vec<String>]) {
    writeln!(out, "| {} |", head.join(" | ")).ok();
    writeln!(out, "|{}", "---|".repeat(head.len())).ok();
    for row in rows {
        writeln!(out, "| {} |", row.join(" | ")).ok();
    }
    out.push('\n');
}

fn times(out: &mut String, played: &Played<'_>) {
    out.push_str(
        "## Seconds to confirm\n\nFrom the first failure to the confirmation on the collector: median (95th of a hundred, \
         maximum), then how many were confirmed within 20 minutes where not all were. Half of the failures of edges are \
         time-outs; resolvers keep names for up to five minutes. In brackets what the prototype took, median (maximum).\n\n",
    );
    let (mut behind, mut goals) = (Vec::new(), Vec::new());
    for (provider, _) in MEASURED {
        writeln!(out, "### {provider}: {}\n", words(provider)).ok();
        let mut rows = Vec::new();
        for fraction in FRACTIONS {
            let prototype = PROTOTYPE.iter().find(|(p, f, _)| (*p, *f) == (provider, fraction));
            let mut row = vec![format!("{} %", fraction / 10)];
            let crowds = CROWDS.iter().copied().chain([10_000]);
            for (place, observers) in crowds.enumerate() {
                let cell = format!("{provider}|{fraction}|{observers}");
                let times = Times::of(played.of(Section::Time, &cell));
                let known = prototype.and_then(|(.., by)| by.get(place).copied());
                let was = match known {
                    Some(Some((median, most))) => format!(" [{median} ({most})]"),
                    Some(None) => " [mostly not]".to_owned(),
                    None => String::new(),
                };
                if times.all == 0 && observers == 10_000 {
                    row.push(String::new());
                    continue;
                }
                if let (Some(Some((median, most))), true) = (known, times.all > 0) {
                    let cell = format!("{provider} at {} % with {observers}", fraction / 10);
                    if times.at(50).is_none_or(|own| own > f64::from(median) + 0.5) {
                        behind.push(cell);
                    } else if times.at(100).is_none_or(|own| own > f64::from(most) + 0.5) {
                        behind.push(format!("{cell} (its maximum)"));
                    }
                }
                if (fraction, observers) == (300, 1_000) && times.all > 0 {
                    let (median, most) = (times.at(50), times.at(100));
                    let met = |of: Option<f64>, goal: f64| of.is_some_and(|s| s <= goal);
                    let word = if met(median, 20.0) && met(most, 40.0) { "met" } else { "missed" };
                    goals.push(format!("{provider} {word}"));
                }
                row.push(times.cell() + &was);
            }
            rows.push(row);
        }
        table(out, &["failing", "1,000 observers", "300", "100", "10,000"], &rows);
    }
    writeln!(
        out,
        "The goal, a median of 20 s and a maximum of 40 s where 30 % fail and 1,000 observe: {}.\n\n\
         Behind the prototype by more than half a second in the median, or in the maximum: {}.\n\n{}\n",
        goals.join(", "),
        if behind.is_empty() { "none".to_owned() } else { behind.join("; ") },
        if behind.is_empty() { "" } else { BEHIND }
    )
    .ok();
    suspicions(out, played);
    let all: Vec<&Came> = MEASURED
        .iter()
        .flat_map(|(p, _)| FRACTIONS.iter().map(move |f| (p, f)))
        .flat_map(|(p, f)| CROWDS.iter().map(move |n| format!("{p}|{f}|{n}")))
        .flat_map(|cell| played.of(Section::Time, &cell).to_vec())
        .collect();
    let times = Times::of(&all);
    let first = times.suspected.get(times.suspected.len() / 2).copied().unwrap_or(0.0);
    writeln!(
        out,
        "Of {} outages {} named something else before or instead (a play ends with the right verdict; what is named besides is under Attribution); the median of the suspicions came after {first:.0} s.\n",
        times.all, times.wrong
    )
    .ok();
}

/// What is known of why cells are behind the prototype.
const BEHIND: &str = "Where they are, the likely reasons: the prototype's world had no resolvers that keep names for five minutes and no \
    loss of answers; here who was asked and has not answered counts as a no until its answer is due, a narrow majority waits \
    for the answers that are to come, and a verdict needs more proof against chance.\n";

/// Seconds to suspect, and what an agent's day costs while something is broken.
fn suspicions(out: &mut String, played: &Played<'_>) {
    out.push_str(
        "Seconds to the first suspicion, median; and megabytes of an agent and day, at the pace of the half hour in which it was \
         measured, which is the first of all agents' lives: each site is met with a full handshake then:\n\n",
    );
    let mut rows = Vec::new();
    for (provider, _) in MEASURED {
        for fraction in FRACTIONS {
            let mut row = vec![format!("{provider} at {} %", fraction / 10)];
            for observers in CROWDS {
                let came = played.of(Section::Time, &format!("{provider}|{fraction}|{observers}"));
                let times = Times::of(came);
                let first = times.suspected.get(times.suspected.len() / 2);
                let first = first.map_or("–".to_owned(), |s| format!("{s:.0} s"));
                let sum: f64 = came.iter().map(|came| came.megabytes_per_agent_day).sum();
                row.push(match came.is_empty() {
                    true => "not played".to_owned(),
                    false => format!("{first}, {:.1} MB", sum / came.len() as f64),
                });
            }
            rows.push(row);
        }
    }
    table(out, &["what fails", "1,000 observers", "300", "100"], &rows);
}

/// Two outages, one after the other.
fn pairs(out: &mut String, played: &Played<'_>, cells: &[Cell]) {
    out.push_str(
        "## Two outages\n\nThe second begins two minutes after the first: how often both were named and no third, and after how many \
         seconds of its own the second was, median (maximum).\n\n",
    );
    let mut rows: Vec<Vec<String>> = Vec::new();
    for cell in cells.iter().filter(|cell| cell.section == Section::Pairs) {
        let name = cell.name.split('|').next().unwrap_or("").to_owned();
        let second = name.rsplit(' ').next().unwrap_or("");
        let came = played.of(Section::Pairs, &cell.name);
        let good = |came: &&&Came| {
            came.each_s.len() == 2
                && came.each_s.get(second).is_some_and(|at| *at >= 120.0)
                && !came.wrong.iter().any(Said::is_worldwide)
        };
        let mut later: Vec<f64> =
            came.iter().filter_map(|came| came.each_s.get(second)).map(|s| s - 120.0).collect();
        later.sort_by(f64::total_cmp);
        let at = |place: usize| later.get(place).map_or("–".to_owned(), |s| format!("{s:.0}"));
        let text = match came.len() {
            0 => "not played".to_owned(),
            n => format!(
                "{} of {n}, {} ({})",
                came.iter().filter(good).count(),
                at(later.len() / 2),
                at(later.len().saturating_sub(1))
            ),
        };
        match rows.iter_mut().find(|row| row.first() == Some(&name)) {
            Some(row) => row.push(text),
            None => rows.push(vec![name, text]),
        }
    }
    table(out, &["outages", "1,000 observers", "300", "100"], &rows);
}

/// Other rates of scheduled probes.
fn rates(out: &mut String, played: &Played<'_>) {
    out.push_str(
        "## Fewer probes, or more\n\nSeconds to confirm where 30 % fail, by scheduled probes a minute, and megabytes of an agent and \
         day.\n\n",
    );
    for observers in [1_000, 100] {
        writeln!(out, "{observers} observers:\n").ok();
        let mut rows = Vec::new();
        for rate in RATES {
            let mut row = vec![rate.to_string()];
            let mut megabytes = Vec::new();
            for (provider, _) in MEASURED {
                let came = played.of(Section::Rates, &format!("{provider}|{rate}|{observers}"));
                megabytes.extend(came.iter().map(|came| came.megabytes_per_agent_day));
                row.push(Times::of(came).cell());
            }
            let mean = megabytes.iter().sum::<f64>() / megabytes.len().max(1) as f64;
            row.push(format!("{mean:.1}"));
            rows.push(row);
        }
        let head: Vec<&str> = std::iter::once("a minute")
            .chain(MEASURED.iter().map(|(provider, _)| *provider))
            .chain(["MB"])
            .collect();
        table(out, &head, &rows);
    }
}

/// What rules are there for.
fn guards(out: &mut String, played: &Played<'_>, cells: &[Cell]) {
    out.push_str(
        "## With a rule left out\n\nHow often something false was said of the world in twenty minutes, with 300 observers: with the \
         rule, and with the numbers that leave it out.\n\n",
    );
    let mut rows: Vec<Vec<String>> = Vec::new();
    for cell in cells.iter().filter(|cell| cell.section == Section::Guards) {
        let (name, state) = cell.name.split_once('|').unwrap_or((&cell.name, ""));
        let came = played.of(Section::Guards, &cell.name);
        let wrong = came.iter().filter(|came| came.wrong.iter().any(Said::is_worldwide)).count();
        let text = format!("{wrong} of {}", came.len());
        match (state, rows.last_mut()) {
            ("off", Some(row)) => row.push(text),
            _ => rows.push(vec![name.to_owned(), text]),
        }
    }
    table(out, &["rule: what happens", "with it", "without"], &rows);
}

/// Days on which nothing is broken.
fn quiet(out: &mut String, played: &Played<'_>) {
    out.push_str(
        "## Days on which nothing is broken\n\nOnly lines and machines as they are every day: bad minutes on the radio, broken and blocked \
         observers, nights.\n\n",
    );
    let mut rows = Vec::new();
    for observers in [1_000, 300, 100] {
        let name = observers.to_string();
        let Some(days) = played.quiet.get(name.as_str()) else { continue };
        let mean = |of: fn(&Quiet) -> f64| {
            days.iter().map(|day| of(day)).sum::<f64>() / days.len().max(1) as f64
        };
        rows.push(vec![
            name,
            days.len().to_string(),
            days.iter().map(|day| day.confirmed.len()).sum::<usize>().to_string(),
            format!("{:.1}", mean(|day| day.suspected as f64)),
            format!("{:.1}", mean(|day| day.asks_per_agent_day)),
            format!("{:.0}", mean(|day| day.probes_per_agent_day)),
            format!("{:.1}", mean(|day| day.megabytes_per_agent_day)),
        ]);
    }
    let head = ["observers", "days", "confirmed", "suspicions a day", "asks", "probes", "MB"];
    table(out, &head, &rows);
}

fn shapes(out: &mut String, played: &Played<'_>, cells: &[Cell]) {
    for (section, title, lead) in [
        (Section::TimeOuts, "Every failure a time-out", "Seconds to confirm, as above."),
        (
            Section::Subset,
            "A fixed part of the sites",
            "Every request to some of the sites fails, none to the others. Two sites of eight are two sites: then nothing \
             is said of the provider, on purpose.",
        ),
    ] {
        writeln!(out, "## {title}\n\n{lead}\n").ok();
        let mut rows: Vec<Vec<String>> = Vec::new();
        for cell in cells.iter().filter(|cell| cell.section == section) {
            let mut parts = cell.name.split('|');
            let (provider, share) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
            let share: i64 = share.parse().unwrap_or(0);
            let name = format!("{} at {} %", words(provider), share as f64 / 10.0);
            let times = Times::of(played.of(section, &cell.name)).cell();
            match rows.iter_mut().find(|row| row.first() == Some(&name)) {
                Some(row) => row.push(times),
                None => rows.push(vec![name, times]),
            }
        }
        table(out, &["what fails", "1,000 observers", "300", "100"], &rows);
    }
}

fn providers(out: &mut String, played: &Played<'_>, cells: &[Cell]) {
    out.push_str("## Attribution\n\nEvery provider of the built-in catalogue with three sites or more, in each role, down altogether or for 30 % of the requests, 1,000 observers, watched for eight minutes. Wrong is whatever other provider or site was confirmed in them, besides or instead.\n\n");
    let (mut right, mut wrong, mut missed) = (0, Vec::new(), Vec::new());
    for cell in cells.iter().filter(|cell| cell.section == Section::Providers) {
        for came in played.of(Section::Providers, &cell.name) {
            if !came.wrong.is_empty() {
                let named: Vec<String> = came.wrong.iter().map(ToString::to_string).collect();
                wrong.push(format!("{} ({})", cell.name.replace('|', ", "), named.join(", ")));
            } else if came.confirmed_s.is_some() {
                right += 1;
            } else {
                missed.push(cell.name.replace('|', ", "));
            }
        }
    }
    let list = |of: &[String]| if of.is_empty() { "none".to_owned() } else { of.join("; ") };
    writeln!(
        out,
        "Right: {right}. Wrong: {}. Not confirmed by then: {}.\n",
        list(&wrong),
        list(&missed)
    )
    .ok();
    out.push_str("Traps, none of which is a worldwide outage of a provider: how often one was named, of how many plays of 20 minutes; and how often what is broken was found, where there is something.\n\n");
    let mut rows: Vec<Vec<String>> = Vec::new();
    for cell in cells.iter().filter(|cell| cell.section == Section::Traps) {
        let name = cell.name.split('|').next().unwrap_or("").to_owned();
        let came = played.of(Section::Traps, &cell.name);
        // A group of observers that is named is right; a provider or another site is not.
        let named = came.iter().filter(|came| came.wrong.iter().any(Said::is_worldwide)).count();
        let found = came.iter().filter(|came| came.confirmed_s.is_some()).count();
        let text = match &cell.play {
            super::cells::Play::Outage(play) if !play.expected.is_empty() => {
                format!("{named} of {}, found in {found}", came.len())
            }
            _ => format!("{named} of {}", came.len()),
        };
        match rows.iter_mut().find(|row| row.first() == Some(&name)) {
            Some(row) => row.push(text),
            None => rows.push(vec![name, text]),
        }
    }
    table(out, &["trap", "1,000 observers", "300", "100"], &rows);
}

fn corpus(out: &mut String, played: &Played<'_>, cells: &[Cell]) {
    out.push_str("## Real outages\n\n`tests/data/incidents.toml`, 1,000 observers.\n\n");
    let mut rows = Vec::new();
    let (mut passed, mut all) = (0, 0);
    for cell in cells.iter().filter(|cell| cell.section == Section::Corpus) {
        let (mut ok, mut n, mut times, mut wrong) = (0, 0, Vec::new(), Vec::new());
        let (mut most_incidents, mut relapses) = (0, 0);
        for line in played.lines.iter().filter(|line| line.section == Section::Corpus) {
            let Result::Scenario { verdicts, pass, confirmed_s, incidents, reopened, .. } =
                &line.result
            else {
                continue;
            };
            if line.cell != cell.name {
                continue;
            }
            n += 1;
            ok += usize::from(*pass);
            times.extend(*confirmed_s);
            (most_incidents, relapses) = (most_incidents.max(*incidents), relapses.max(*reopened));
            if !pass {
                let told =
                    if verdicts.is_empty() { "nothing".to_owned() } else { verdicts.join(", ") };
                wrong.push(format!("{told} (seed {})", line.seed));
            }
        }
        (passed, all) = (passed + ok, all + n);
        times.sort_by(f64::total_cmp);
        let middle = times.get(times.len() / 2).map_or("–".to_owned(), |s| format!("{s:.0}"));
        let most = times.last().map_or("–".to_owned(), |s| format!("{s:.0}"));
        rows.push(vec![
            cell.name.clone(),
            format!("{ok} of {n}"),
            format!("{middle} ({most})"),
            most_incidents.to_string(),
            relapses.to_string(),
            wrong.join("; "),
        ]);
    }
    writeln!(out, "{passed} of {all} passed.\n").ok();
    let head = [
        "outage",
        "passed",
        "confirmed after, s: median (maximum)",
        "incidents at most",
        "relapses at most",
        "otherwise",
    ];
    table(out, &head, &rows);
}

/// Whether an attack came to nothing worldwide.
pub(super) fn resisted(attack: &str, came: &Came) -> bool {
    let nobody = !came.wrong.iter().any(Said::is_worldwide);
    match attack.split(' ').next() {
        Some("hide") => nobody && came.confirmed_s.is_some(),
        Some("frame") => nobody && came.confirmed_s.is_some(),
        Some("force") if attack.contains("while") => nobody && came.confirmed_s.is_some(),
        // Twenty minutes of outage, a quarter of an hour until it recovers (half where it flaps), two hours that
        // liars may hold it.
        Some("hold") => nobody && came.resolved_s.is_some_and(|s| s < 3.0 * 3_600.0),
        _ => nobody,
    }
}

fn liars(out: &mut String, played: &Played<'_>, cells: &[Cell]) {
    out.push_str(
        "## Liars\n\nThe largest share of the observers that lied in vain, of those that were tried (20, 25, 30, 35 %, and 10 % of 100; overheard 20 and 30 %), every \
         play of it and of all smaller shares; then the plays that were resisted, by share. Resisted is that what was hidden was named within twenty minutes, that an outage of twenty minutes which was held open was \
         resolved within three hours, and that nothing false was \
         said of the world; of a region that liars crowd into they can say what they like, and the bound of the verdict says how many it \
         takes. Liars are always awake, have full \
         tenure and a prefix each, and answer at once. Crowded is into the four thinnest zones. *Overheard* is without asking back.\n\n",
    );
    type Row = BTreeMap<usize, BTreeMap<i64, (usize, usize)>>;
    let mut rows: BTreeMap<(usize, String, String), Row> = BTreeMap::new();
    let mut forced: Vec<Vec<String>> = Vec::new();
    for (at, cell) in cells.iter().enumerate().filter(|(_, cell)| cell.section == Section::Liars) {
        let parts: Vec<&str> = cell.name.split('|').collect();
        let [attack, spread, share, observers, asks] = parts[..] else { continue };
        let came = played.of(Section::Liars, &cell.name);
        if came.is_empty() {
            continue;
        }
        let (share, observers) = (share.parse().unwrap_or(0), observers.parse().unwrap_or(0));
        if attack == "force panels" {
            let most = came.iter().map(|came| came.asked_per_agent_day).fold(0.0, f64::max);
            forced.push(vec![
                observers.to_string(),
                format!("{} %, {spread}", share / 10),
                format!("{most:.0}"),
            ]);
        }
        let first = rows.keys().find(|(_, a, s)| a == attack && *s == format!("{spread}, {asks}"));
        let key = first.cloned().unwrap_or((at, attack.to_owned(), format!("{spread}, {asks}")));
        let ok = came.iter().filter(|came| resisted(attack, came)).count();
        rows.entry(key).or_default().entry(observers).or_default().insert(share, (ok, came.len()));
    }
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|((_, attack, how), by)| {
            let mut row = vec![attack, how];
            for observers in CROWDS {
                let Some(shares) = by.get(&observers) else {
                    row.push("not played".to_owned());
                    continue;
                };
                let held = shares.iter().take_while(|(_, (ok, n))| ok == n).last();
                let most = held.map_or("none".to_owned(), |(share, _)| format!("{} %", share / 10));
                let detail: Vec<String> =
                    shares.values().map(|(ok, n)| format!("{ok}/{n}")).collect();
                row.push(format!("**{most}** ({})", detail.join(", ")));
            }
            row
        })
        .collect();
    table(out, &["attack", "how", "1,000 observers", "300", "100"], &rows);
    out.push_str("Asked probes of an agent and day that liars can force, over four hours, the initial budget included. The agent itself makes at most 900.\n\n");
    table(out, &["observers", "liars", "asked"], &forced);
}

fn keys(out: &mut String, played: &Played<'_>, cells: &[Cell]) {
    out.push_str(
        "## Ten thousand keys\n\nBeside 1,000 observers 10,000 keys of one hand lie for twenty minutes, known for a year and always \
         awake, in few places: a prefix has one vote, a network 2 % of all.\n\n",
    );
    let mut rows = Vec::new();
    for cell in cells.iter().filter(|cell| cell.section == Section::Keys) {
        let Some((attack, place)) = cell.name.split_once('|') else { continue };
        let came = played.of(Section::Keys, &cell.name);
        let ok = came.iter().filter(|came| resisted(attack, came)).count();
        let times = Times::of(came);
        let seconds = if attack.starts_with("hide") { times.cell() } else { "–".to_owned() };
        rows.push(vec![
            attack.to_owned(),
            place.to_owned(),
            format!("{ok} of {}", came.len()),
            seconds,
        ]);
    }
    table(out, &["attack", "where", "resisted", "confirmed after, s"], &rows);
}

fn days(out: &mut String, played: &Played<'_>) {
    out.push_str(
        "## Days on which much is broken somewhere\n\nNetworks, countries, zones, resolvers, releases and sites go down, some 42 times a day, \
         and lines get worse together; no provider is down worldwide. The built-in catalogue.\n\n",
    );
    let mut rows = Vec::new();
    let (mut falsely, mut all, mut wrong) = (0, 0, Vec::new());
    for observers in [1_000, 300, 100] {
        let name = observers.to_string();
        let Some(days) = played.days.get(name.as_str()) else { continue };
        let n = days.len();
        let sum = |of: fn(&Day) -> usize| days.iter().map(|day| of(day)).sum::<usize>();
        let mean =
            |of: fn(&Day) -> f64| days.iter().map(|day| of(day)).sum::<f64>() / n.max(1) as f64;
        let worldwide = sum(|day| day.false_global.len());
        falsely += worldwide;
        all += n;
        wrong.extend(days.iter().flat_map(|day| &day.false_global).take(20).cloned());
        rows.push(vec![
            name,
            n.to_string(),
            sum(|day| day.events).to_string(),
            format!("**{worldwide}**"),
            format!("{:.1}", sum(|day| day.suspected) as f64 / n.max(1) as f64),
            format!("{:.1}", mean(|day| day.panels as f64)),
            format!("{:.0}", mean(|day| day.asked_per_agent)),
            format!("{:.1}", mean(|day| day.megabytes_per_agent)),
            format!("{} / {}", sum(|day| day.sites.1), sum(|day| day.sites.0 + day.sites.1)),
            format!("{} / {}", sum(|day| day.sites_down.0), sum(|day| day.sites_down.1)),
            format!("{} / {}", sum(|day| day.groups.1), sum(|day| day.groups.0 + day.groups.1)),
            format!("{} / {}", sum(|day| day.networks_down.0), sum(|day| day.networks_down.1)),
            format!(
                "{} / {}",
                sum(|day| day.regional.1),
                sum(|day| day.regional.0 + day.regional.1)
            ),
        ]);
    }
    let head = [
        "observers",
        "days",
        "events",
        "false worldwide verdicts",
        "suspicions a day",
        "panels a day",
        "asked probes an agent",
        "MB an agent",
        "sites named wrongly / named",
        "sites found / down",
        "groups wrongly / named",
        "networks found / down",
        "regions wrongly / named",
    ];
    table(out, &head, &rows);
    writeln!(
        out,
        "{falsely} false worldwide verdicts in {all} days{}. None in D days bounds the rate at 3 / D a day (95 %).\n",
        if wrong.is_empty() { String::new() } else { format!(": {}", wrong.join("; ")) }
    )
    .ok();
}

/// The picture beside the page: medians with 1,000 observers, of what was confirmed.
pub(super) fn picture(lines: &[Line]) -> String {
    let played = Played::new(lines);
    let of = |provider: &str| {
        let point = |fraction: &i64| {
            let cell = format!("{provider}|{fraction}|1000");
            let median = Times::of(played.of(Section::Time, &cell)).at(50)?;
            Some((*fraction as f64 / 10.0, median))
        };
        let points = FRACTIONS.iter().filter(|f| **f >= 100).filter_map(point).collect();
        plot::Series { name: words(provider).split(" (").next().unwrap_or("").to_owned(), points }
    };
    let series: Vec<_> = MEASURED.iter().map(|(provider, _)| of(provider)).collect();
    plot::times("Seconds to confirm an outage, median, 1,000 observers", &series)
}

/// The page.
pub(super) fn page(cells: &[Cell], lines: &[Line]) -> String {
    let played = Played::new(lines);
    let planned: u64 = cells.iter().map(|cell| cell.seeds).sum();
    let mut out = String::from("# Scorecard\n\n");
    writeln!(
        out,
        "Made by `tocsin-sim scorecard`, never typed, at version {} of the detector's parameters. {} of {planned} plays; a cell's seeds \
         count from {}. Everything here is simulated, \
         in the world that `docs/DETECTION.md` describes: the real planner, classifier, budget, admission and detector on a virtual clock.\n",
        tocsin_collector::engine::params::VERSION,
        lines.len(),
        super::FIRST_SEED
    )
    .ok();
    times(&mut out, &played);
    out.push_str("![Seconds to confirm, by how many requests fail](scorecard.svg)\n\n");
    shapes(&mut out, &played, cells);
    providers(&mut out, &played, cells);
    pairs(&mut out, &played, cells);
    rates(&mut out, &played);
    corpus(&mut out, &played, cells);
    liars(&mut out, &played, cells);
    keys(&mut out, &played, cells);
    guards(&mut out, &played, cells);
    out.push_str("What an observation and an evaluation cost is measured in [BENCHMARKS.md](BENCHMARKS.md).\n\n");
    quiet(&mut out, &played);
    days(&mut out, &played);
    out
}
