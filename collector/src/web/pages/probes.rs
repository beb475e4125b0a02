//! The page for owners of sites: what these requests are, and how to have them stop.

use askama::Template;
use tocsin_proto::limits::{TARGET_HOUR_MAX, TARGET_MINUTE_MAX};

use super::{Foot, render};
use crate::feed::Published;

#[derive(Template)]
#[template(path = "probes.html", whitespace = "minimize")]
struct ProbesPage<'a> {
    foot: Foot,
    minute: usize,
    hour: usize,
    contact: Option<&'a str>,
    left_alone: Vec<&'a str>,
}

/// Makes it.
#[must_use]
pub fn probes(published: &Published) -> String {
    let public = &published.snapshot.public;
    render(&ProbesPage {
        foot: Foot::new(&published.snapshot),
        minute: TARGET_MINUTE_MAX,
        hour: TARGET_HOUR_MAX,
        contact: public.contact.as_deref(),
        left_alone: public.left_alone.hosts().collect(),
    })
}
