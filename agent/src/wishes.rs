//! Which sites are to be left alone, as the snapshots that operators signed say.

use std::collections::BTreeSet;

use tocsin_proto::{
    catalogue::Catalogue, id::TargetIndex, sign::PublicKey, snapshot::Public, time::Timestamp,
};

use crate::{
    engine::courtesy::{Quiet, RETRY_AFTER_S_MAX},
    spool::{Spool, SpoolError},
};

/// How often the snapshots that were kept are looked through, ms. They come hourly.
pub const EVERY_MS: u64 = 1_200_000;
/// And where a new one has come, not sooner than this after the last time, ms.
pub const AGAIN_MS: u64 = 60_000;
/// Of the catalogue's targets one in so many may be left alone for one operator.
const PART: usize = 20;

/// What an operator last said of itself and of sites; nothing where no snapshot was kept. It was verified before it was kept.
///
/// # Errors
/// When the outbox fails.
pub fn of(spool: &Spool, operator: &PublicKey) -> Result<Public, SpoolError> {
    #[derive(Default, serde::Deserialize)]
    struct Head {
        #[serde(default)]
        public: Public,
    }
    let kept = spool.snapshot(operator)?;
    let head = kept.and_then(|(kept, _)| serde_json::from_slice(&kept.document).ok());
    Ok(head.unwrap_or_else(Head::default).public)
}

/// The targets that are to be left alone for as long as anybody can ask at once. Of one operator's list no more than a
/// twentieth of the catalogue is honoured, the first of it: more is no list of exceptions, and would blind this agent towards
/// every other operator too.
#[must_use]
pub fn quiets(catalogue: &Catalogue, wishes: &[Public], now: Timestamp) -> Vec<Quiet> {
    let until = now.plus_ms(u64::from(RETRY_AFTER_S_MAX) * 1_000);
    let most = (catalogue.targets().len() / PART).max(1);
    let of = |wish: &Public| -> Vec<TargetIndex> {
        let targets = catalogue.targets().values();
        let wanted = targets.filter(|target| wish.left_alone.has(&target.host));
        let wanted: Vec<TargetIndex> = wanted.map(|target| target.index).collect();
        if wanted.len() > most {
            tracing::warn!(
                wanted = wanted.len(),
                most,
                "an operator wants too many sites left alone"
            );
        }
        wanted.into_iter().take(most).collect()
    };
    let targets: BTreeSet<TargetIndex> = wishes.iter().flat_map(of).collect();
    targets.into_iter().map(|target| Quiet { target, until }).collect()
}

#[cfg(test)]
mod tests {
    use tocsin_proto::snapshot::LeftAlone;

    use super::*;

    fn wish(hosts: &[&str]) -> Public {
        let hosts = hosts.iter().map(ToString::to_string).collect();
        Public { left_alone: LeftAlone::new(hosts).unwrap(), contact: None }
    }

    #[test]
    fn a_host_and_all_below_it_are_left_alone_and_nothing_beside() {
        let catalogue = Catalogue::builtin();
        let github = catalogue.find("github.com").unwrap();
        let of = |hosts: &[&str]| quiets(catalogue, &[wish(hosts)], Timestamp::EPOCH);
        let until = Timestamp::from_s(u64::from(RETRY_AFTER_S_MAX));
        let left = of(&["github.com"]);
        assert!(left.contains(&Quiet { target: github.index, until }), "{left:?}");
        let host = |quiet: &Quiet| &catalogue.target(quiet.target).unwrap().host;
        assert!(
            left.iter().map(host).all(|host| host == "github.com" || host.ends_with(".github.com"))
        );
        assert_eq!(of(&["hub.com"]), [], "part of a name is no name above it");
        assert_eq!(of(&["www.github.com", ""]), []);
        assert_eq!(of(&["com"]), [], "a top-level domain is nobody's site");
        let hosts: Vec<&str> = catalogue.targets().values().map(|of| of.host.as_str()).collect();
        let most = catalogue.targets().len() / PART;
        assert_eq!(of(&hosts[..256.min(hosts.len())]).len(), most, "nor is most of the catalogue");
    }

    #[test]
    fn a_list_without_end_is_cut() {
        let many: Vec<String> = (0..1_000).map(|n| format!("h{n}.example")).collect();
        assert_eq!(LeftAlone::new(many.clone()), None);
        let hostile: LeftAlone = serde_json::from_value(serde_json::json!(many)).unwrap();
        assert!(hostile.has("h0.example") && !hostile.has("h900.example"));
    }
}
