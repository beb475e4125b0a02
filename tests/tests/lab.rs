//! The lab's faults, with the real program: exactly the expected is confirmed, within 90 s.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::{
    process::Command,
    sync::{Mutex, PoisonError},
};

/// A lab's clock means something only while no other lab shares the cores.
static ALONE: Mutex<()> = Mutex::new(());

fn play(fault: &str) {
    play_with(fault, &[]);
}

fn play_with(fault: &str, more: &[&str]) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let lab = env!("CARGO_BIN_EXE_tocsin-lab");
    let output = Command::new(lab).args(["--fault", fault, "--json"]).args(more).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let last: serde_json::Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    assert_eq!(last["event"], "verdict", "{told}{errors}");
    assert!(output.status.success() && last["pass"] == true, "{fault}:\n{told}{errors}");
}

macro_rules! faults {
    ($($name:ident = $fault:literal;)*) => {
        $(#[test]
        fn $name() {
            play($fault);
        })*
    };
}

faults! {
    an_edge_that_answers_500 = "edge-500";
    an_edge_whose_challenge_host_fails = "edge-refusal";
    an_edge_that_cannot_be_connected_to = "tcp-timeout";
    an_edge_that_ends_handshakes = "tls-alert";
    half_of_the_sites_of_an_edge = "edge-half";
    a_dns_provider_that_cannot_answer = "dns-servfail";
    one_site = "one-site";
    challenges_are_no_outage = "edge-challenge";
    one_network_is_not_the_world = "one-network";
    nothing_is_nothing = "none";
}

/// Reports, asks and answers travel over TCP alike.
#[test]
fn an_edge_that_answers_500_to_a_crowd_on_tcp() {
    play_with("edge-500", &["--tcp"]);
}
