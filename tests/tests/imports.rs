//! The directions of imports, read from the sources: proto knows no IO, agent
//! and collector do not know each other, engines know nothing of the world, and the codec, the
//! signatures and the clock have one file each.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Crates that engines may name, and those that one file of them may name.
const ENGINE_CRATES: &[&str] = &["tocsin_proto", "serde", "thiserror", "ipnet", "zstd"];
const ENGINE_CRATES_IN: &[(&str, &str)] = &[("maxminddb", "locate"), ("serde_json", "classify")];
/// What no engine touches of std.
const WORLD: &[&str] = &[
    "std::fs",
    "std::env",
    "std::thread",
    "std::process",
    "std::os",
    "std::net::UdpSocket",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::ToSocketAddrs",
    "std::time::Instant",
    "std::time::SystemTime",
];
const PROTO_NEVER: &[&str] = &["tokio", "quinn", "rusqlite", "rustls", "socket2"];

/// A source as the compiler sees it: no comments, no text, no tests.
fn code(source: &str) -> String {
    let mut out = String::new();
    let text: Vec<char> = source.chars().collect();
    let mut at = 0;
    let is =
        |at: usize, what: &str| what.chars().enumerate().all(|(n, c)| text.get(at + n) == Some(&c));
    while at < text.len() {
        let before = out.chars().last();
        let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
        if is(at, "//") {
            while at < text.len() && text[at] != '\n' {
                at += 1;
            }
        } else if is(at, "/*") {
            let mut depth = 0;
            while at < text.len() {
                if is(at, "/*") {
                    depth += 1;
                } else if is(at, "*/") {
                    depth -= 1;
                }
                at += if is(at, "/*") || is(at, "*/") { 2 } else { 1 };
                if depth == 0 {
                    break;
                }
            }
        } else if text[at] == 'r' && !in_word && (is(at, "r\"") || is(at, "r#")) && raw(&text, at) {
            let hashes = text[at + 1..].iter().take_while(|c| **c == '#').count();
            let end = format!("\"{}", "#".repeat(hashes));
            at += 2 + hashes;
            while at < text.len() && !is(at, &end) {
                at += 1;
            }
            at += end.len();
            out.push_str("\"\"");
        } else if text[at] == '"' {
            at += 1;
            while at < text.len() && text[at] != '"' {
                at += if text[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
            out.push_str("\"\"");
        } else if text[at] == '\'' && (is(at + 1, "\\") || text.get(at + 2) == Some(&'\'')) {
            at += if is(at + 1, "\\") { 3 } else { 2 };
            while at < text.len() && text[at] != '\'' {
                at += 1;
            }
            at += 1;
            out.push_str("' '");
        } else {
            out.push(text[at]);
            at += 1;
        }
    }
    without_tests(&out)
}

fn raw(text: &[char], at: usize) -> bool {
    let hashes = text[at + 1..].iter().take_while(|c| **c == '#').count();
    text.get(at + 1 + hashes) == Some(&'"')
}

/// Takes out each item behind `#[cfg(test)]`, with its braces.
fn without_tests(code: &str) -> String {
    const TEST: &str = "#[cfg(test)]";
    let mut out = String::new();
    let mut rest = code;
    while let Some((before, behind)) = rest.split_once(TEST) {
        out.push_str(before);
        let end = behind.find([';', '{']).unwrap_or(behind.len());
        if behind[end..].starts_with('{') {
            let mut depth = 0usize;
            let close = behind[end..].char_indices().find_map(|(at, c)| {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                (depth == 0).then_some(end + at + 1)
            });
            rest = &behind[close.unwrap_or(behind.len())..];
        } else {
            rest = behind.get(end + 1..).unwrap_or_default();
        }
    }
    out.push_str(rest);
    out
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Every path that the code names, `use` trees spelled out.
fn paths(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut plain = String::new();
    let mut rest = code;
    while let Some(at) = rest.find("use ") {
        let alone = rest[..at].chars().last().is_none_or(|c| !is_word(c));
        let (before, behind) = rest.split_at(at);
        plain.push_str(before);
        match behind.find(';') {
            Some(end) if alone => {
                tree("", &behind[4..end], &mut found);
                rest = &behind[end + 1..];
            }
            _ => {
                plain.push_str("use ");
                rest = &behind[4..];
            }
        }
    }
    plain.push_str(rest);
    let mut path = String::new();
    for c in plain.chars().chain([' ']) {
        if is_word(c) || c == ':' {
            path.push(c);
            continue;
        }
        let whole = path.trim_matches(':');
        if whole.contains("::") {
            found.insert(whole.to_owned());
        }
        path.clear();
    }
    found
}

fn tree(prefix: &str, text: &str, found: &mut BTreeSet<String>) {
    let text = text.trim();
    let joined = |leaf: &str| {
        let leaf = leaf.split(" as ").next().unwrap_or_default().trim();
        if prefix.is_empty() { leaf.to_owned() } else { format!("{prefix}::{leaf}") }
    };
    let Some((head, body)) = text.split_once('{') else {
        found.insert(joined(text));
        return;
    };
    let head = joined(head.trim().trim_end_matches("::"));
    let head = head.trim_end_matches("::");
    let body = body.rsplit_once('}').map_or(body, |(body, _)| body);
    let (mut depth, mut start) = (0usize, 0);
    for (at, c) in body.char_indices().chain([(body.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !body[start..at].trim().is_empty() {
                    tree(head, &body[start..at], found);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

fn below(path: &str, prefix: &str) -> bool {
    path == prefix || path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with("::"))
}

fn names(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().last().is_none_or(|c| !is_word(c));
        before && code[at + word.len()..].chars().next().is_none_or(|c| !is_word(c))
    })
}

/// What is wrong with one file, by its path in the project. `crates` are all that there are.
fn breaches(file: &str, source: &str, crates: &BTreeSet<String>) -> Vec<String> {
    let code = code(source);
    let paths = paths(&code);
    let mut wrong = Vec::new();
    let mut breach = |what: &str| wrong.push(format!("{file}: {what}"));
    let only_in = |word: &str, home: &str| names(&code, word) && file != home;
    for (word, home) in [("bincode", "proto/src/wire.rs"), ("ed25519_dalek", "proto/src/sign.rs")] {
        if only_in(word, home) {
            breach(&format!("names {word}; only {home} may"));
        }
    }
    let clock = ["SystemTime::now", "Instant::now"];
    if !file.ends_with("/clock.rs") && clock.iter().any(|read| code.contains(read)) {
        breach("reads a clock; only clock.rs may");
    }
    let (krate, module) = file.split_once("/src/").unwrap();
    let never: &[&str] = match krate {
        "proto" => &["tocsin_agent", "tocsin_collector"],
        "agent" => &["tocsin_collector", "tocsin_tests"],
        _ => &["tocsin_agent", "tocsin_tests"],
    };
    for name in never.iter().filter(|name| names(&code, name)) {
        breach(&format!("names {name}"));
    }
    if krate == "proto" {
        for path in &paths {
            let never = PROTO_NEVER.iter().chain(WORLD).find(|never| below(path, never));
            if let Some(never) = never {
                breach(&format!("{path} is of {never}, and proto does no IO and reads no clock"));
            }
        }
    }
    if krate != "proto" && module.starts_with("engine/") {
        // `engine/mod.rs` is one deep, `engine/x.rs` two, `engine/x/y.rs` three.
        let deep = module.matches('/').count() + usize::from(!module.ends_with("/mod.rs"));
        for path in &paths {
            let root = path.split("::").next().unwrap_or_default();
            let supers = path.split("::").take_while(|part| *part == "super").count();
            let here = ENGINE_CRATES_IN
                .iter()
                .any(|(name, place)| root == *name && module.contains(place));
            if WORLD.iter().any(|world| below(path, world)) || path == "std::net::*" {
                breach(&format!("{path} is of the world"));
            } else if below(path, "crate") && !below(path, "crate::engine") {
                breach(&format!("{path} is of the shell"));
            } else if supers >= deep {
                breach(&format!("{path} leads out of the engine"));
            } else if crates.contains(root) && !ENGINE_CRATES.contains(&root) && !here {
                breach(&format!("{path} is of a crate that engines do not use"));
            }
        }
    }
    wrong
}

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every crate that any of the manifests names.
fn crates() -> BTreeSet<String> {
    let text = fs::read_to_string(project().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = toml::from_str(&text).unwrap();
    let all = manifest["workspace"]["dependencies"].as_table().unwrap();
    all.keys().map(|name| name.replace('-', "_")).collect()
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Whether the module around it takes the file in for tests alone.
fn is_of_tests(path: &Path) -> bool {
    let Some(around) = path.parent().filter(|_| path.ends_with("tests.rs")) else { return false };
    [around.join("mod.rs"), around.with_extension("rs")].iter().any(|module| {
        fs::read_to_string(module).is_ok_and(|text| text.contains("#[cfg(test)]\nmod tests;"))
    })
}

#[test]
fn imports_go_one_way() {
    let (project, crates) = (project(), crates());
    let mut files = Vec::new();
    for krate in ["proto", "agent", "collector"] {
        sources(&project.join(krate).join("src"), &mut files);
    }
    files.retain(|file| !is_of_tests(file));
    files.sort();
    assert!(files.len() > 60, "only {} files were found", files.len());
    let wrong: Vec<String> = files
        .iter()
        .flat_map(|path| {
            let file = path.strip_prefix(&project).unwrap().to_str().unwrap();
            breaches(file, &fs::read_to_string(path).unwrap(), &crates)
        })
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn each_breach_is_found() {
    let crates = crates();
    let check = |file: &str, source: &str, expect: usize| {
        let wrong = breaches(file, source, &crates);
        assert_eq!(wrong.len(), expect, "{file}: {source}: {wrong:?}");
    };
    check("proto/src/a.rs", "use tokio::sync::mpsc;", 1);
    check("proto/src/a.rs", "use std::{collections::BTreeMap, net::{IpAddr, UdpSocket}};", 1);
    check("proto/src/a.rs", "fn f() { std::fs::read(\"a\"); }", 1);
    check("proto/src/a.rs", "use std::time::{Duration, SystemTime};", 1);
    check("proto/src/a.rs", "use bincode::config;", 1);
    check("proto/src/wire.rs", "use bincode::config;", 0);
    check("collector/src/keys.rs", "use ed25519_dalek::SigningKey;", 1);
    check("agent/src/lib.rs", "use tocsin_collector::Collector;", 1);
    check("collector/src/lib.rs", "fn f() { tocsin_agent::run(); }", 1);
    check("collector/src/lib.rs", "fn f() { Instant::now(); }", 1);
    check("collector/src/clock.rs", "fn f() { Instant::now(); }", 0);
    let engine = "collector/src/engine/a.rs";
    check(engine, "use std::{fs, net::IpAddr};", 1);
    check(engine, "use std::net::TcpStream as S;", 1);
    check(engine, "use crate::store::Row;", 1);
    check(engine, "use crate::engine::plan::Plan; use super::plan::Plan;", 0);
    check(engine, "use super::super::store::Row;", 1);
    check("collector/src/engine/mod.rs", "use super::store::Row;", 1);
    check("collector/src/engine/locate/a.rs", "use super::super::plan::Plan;", 0);
    check(engine, "fn f() { rusqlite::Connection::open(); }", 1);
    check(engine, "use maxminddb::Reader;", 1);
    check("collector/src/engine/locate.rs", "use maxminddb::Reader;", 0);
    check("agent/src/engine/judge.rs", "use serde_json::Value;", 1);
    check("agent/src/engine/a.rs", "fn f() -> u64 { getrandom::u64() }", 1);
    // Comments, texts and tests are no code.
    check(engine, "// use std::fs;\n/* tokio::spawn */ const A: &str = \"std::fs::read\";", 0);
    check(engine, "#[cfg(test)]\nmod tests { use std::fs; fn f() {} }\nfn g() {}", 0);
    check(engine, "#[cfg(test)]\nmod tests { fn f() {} }\nuse std::fs;", 1);
    check(engine, "const A: char = '\"'; use std::env; const B: char = '\"';", 1);
    check(engine, "const A: &str = r#\" \" use std::env; \"#;", 0);
}
