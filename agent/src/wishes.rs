//! Which sites are to be left alone, as the snapshots that operators signed say, and where owners of sites can read what
//! these requests are.

use tocsin_proto::{catalogue::Catalogue, sign::PublicKey, snapshot::Public, time::Timestamp};

use crate::{
    engine::courtesy::{Quiet, RETRY_AFTER_S_MAX},
    spool::{Spool, SpoolError},
};

/// How often the snapshots that were kept are looked through, ms. They come hourly.
pub const EVERY_MS: u64 = 1_200_000;

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

/// The targets that are to be left alone for as long as anybody can ask at once.
#[must_use]
pub fn quiets(catalogue: &Catalogue, wishes: &[Public], now: Timestamp) -> Vec<Quiet> {
    let until = now.plus_ms(u64::from(RETRY_AFTER_S_MAX) * 1_000);
    let wanted = |host: &str| wishes.iter().any(|wish| wish.left_alone.has(host));
    let targets = catalogue.targets().values().filter(|target| wanted(&target.host));
    targets.map(|target| Quiet { target: target.index, until }).collect()
}

/// The page for owners of sites, of the first operator that names one. It goes into every request, so only what cannot be
/// anything else than an address is taken.
#[must_use]
pub fn page(wishes: &[Public]) -> Option<String> {
    let plain = |url: &&String| {
        let scheme = url.strip_prefix("https://").or(url.strip_prefix("http://"));
        let of_address = |c: u8| c.is_ascii_alphanumeric() || b".-:/[]_~".contains(&c);
        url.len() <= 120
            && scheme.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(of_address))
    };
    let url = wishes.iter().filter_map(|wish| wish.url.as_ref()).find(plain)?;
    Some(format!("{}/probes", url.trim_end_matches('/')))
}

#[cfg(test)]
mod tests {
    use tocsin_proto::snapshot::LeftAlone;

    use super::*;

    fn wish(hosts: &[&str], url: Option<&str>) -> Public {
        let hosts = hosts.iter().map(ToString::to_string).collect();
        Public {
            left_alone: LeftAlone::new(hosts).unwrap(),
            url: url.map(str::to_owned),
            contact: None,
        }
    }

    #[test]
    fn a_host_and_all_below_it_are_left_alone_and_nothing_beside() {
        let catalogue = Catalogue::builtin();
        let github = catalogue.find("github.com").unwrap();
        let of = |hosts: &[&str]| quiets(catalogue, &[wish(hosts, None)], Timestamp::EPOCH);
        let until = Timestamp::from_s(u64::from(RETRY_AFTER_S_MAX));
        let left = of(&["github.com"]);
        assert!(left.contains(&Quiet { target: github.index, until }), "{left:?}");
        let host = |quiet: &Quiet| &catalogue.target(quiet.target).unwrap().host;
        assert!(
            left.iter().map(host).all(|host| host == "github.com" || host.ends_with(".github.com"))
        );
        assert_eq!(of(&["hub.com"]), [], "part of a name is no name above it");
        assert_eq!(of(&["www.github.com", ""]), []);
        let all_of_com = of(&["com"]).len();
        let com = catalogue.targets().values().filter(|target| target.host.ends_with(".com"));
        assert_eq!(all_of_com, com.count(), "its operator can have it");
    }

    #[test]
    fn only_an_address_becomes_part_of_a_request() {
        let page = |url| page(&[wish(&[], None), wish(&[], Some(url))]);
        assert_eq!(page("https://t.example/").as_deref(), Some("https://t.example/probes"));
        for bad in [
            "t.example",
            "https://",
            "https://t.example\r\nCookie: a",
            "https://a b",
            "javascript:1",
        ] {
            assert_eq!(page(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_list_without_end_is_cut() {
        let many: Vec<String> = (0..1_000).map(|n| format!("h{n}.example")).collect();
        assert_eq!(LeftAlone::new(many.clone()), None);
        let hostile: LeftAlone = serde_json::from_value(serde_json::json!(many)).unwrap();
        assert!(hostile.has("h0.example") && !hostile.has("h900.example"));
    }
}
