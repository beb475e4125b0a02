//! Which network is this machine in? A *context*: a text that is the same whenever the machine is
//! there and differs elsewhere. It is never sent; the observer key is derived from it, so that what
//! one machine says at home and at the office cannot be put together.
//!
//! The context is the link address of the default gateway. Where there is none to be seen (a
//! tunnel, a point-to-point line, IPv6 alone) it is left to the collector's first word of the
//! network we come from.

use std::{fs, net::Ipv4Addr, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often the routes are looked at. A move is noticed within this time, and nothing is signed
/// with the old network's key after it.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The network as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Network {
    /// Its name; `None` when only a collector can tell.
    pub context: Option<String>,
    /// Whether there is a default route; `None` where that cannot be seen.
    pub route: Option<bool>,
    via: Option<Via>,
}

/// The way out: the default route's device and gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Via {
    device: String,
    gateway: Ipv4Addr,
}

impl Network {
    /// The network that the user names, or else the one that the kernel's tables show.
    #[must_use]
    pub fn now(named: Option<&str>) -> Self {
        Self::default().next(named)
    }

    /// The gateway of the default route, where it is one that can be spoken to.
    #[must_use]
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        let via = self.via.as_ref()?;
        (!via.gateway.is_unspecified()).then_some(via.gateway)
    }

    /// Whether the default route leads into a tunnel, by the usual names of such devices.
    #[must_use]
    pub fn is_tunnel(&self) -> bool {
        const NAMES: [&str; 8] = ["tun", "tap", "wg", "ppp", "ipsec", "vpn", "nordlynx", "proton"];
        let device = self.via.as_ref().map(|via| via.device.as_str());
        device.is_some_and(|device| NAMES.iter().any(|name| device.starts_with(name)))
    }

    fn next(&self, named: Option<&str>) -> Self {
        let read = |path| fs::read_to_string(path).ok();
        let tables = (read("/proc/net/route"), read("/proc/net/arp"), read("/proc/net/ipv6_route"));
        let (Some(routes), arp, v6) = tables else {
            return Self { context: named.map(str::to_owned), ..Self::default() };
        };
        let seen = self.seen(&routes, &arp.unwrap_or_default(), &v6.unwrap_or_default());
        match named {
            Some(named) => Self { context: Some(named.to_owned()), ..seen },
            None => seen,
        }
    }

    /// What follows when the tables look like this. Without a way out the machine is nowhere else
    /// yet: the context stays until another way out is there.
    fn seen(&self, routes: &str, arp: &str, v6: &str) -> Self {
        let route = Some(default_v4(routes).is_some() || default_v6(v6));
        let Some(via) = default_v4(routes) else { return Self { route, ..self.clone() } };
        let link = link_address(arp, via.gateway);
        let context = match link {
            Some(link) => Some(format!("gateway {link}")),
            // The neighbour table forgets a gateway that is not spoken to.
            None if self.via.as_ref() == Some(&via) => self.context.clone(),
            None => None,
        };
        Self { context, route, via: Some(via) }
    }
}

/// The default route of the least metric (`/proc/net/route`: device, destination, gateway, flags,
/// two counters, metric, mask; addresses in host order).
fn default_v4(routes: &str) -> Option<Via> {
    let defaults = routes.lines().skip(1).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [device, "00000000", gateway, _, _, _, metric, "00000000", ..] = words[..] else {
            return None;
        };
        let gateway = u32::from_str_radix(gateway, 16).ok()?;
        let gateway = Ipv4Addr::from(gateway.to_le_bytes());
        let metric: u32 = metric.parse().ok()?;
        Some((metric, Via { device: device.to_owned(), gateway }))
    });
    defaults.min_by_key(|(metric, _)| *metric).map(|(_, via)| via)
}

/// Whether there is a default route for IPv6 off loopback (`/proc/net/ipv6_route`: destination,
/// its prefix length, and at the end the device).
#[must_use]
pub fn default_v6(routes: &str) -> bool {
    routes.lines().any(|line| {
        let mut words = line.split_whitespace();
        let zero = words.next().is_some_and(|to| to.bytes().all(|digit| digit == b'0'));
        zero && words.next() == Some("00") && words.next_back() != Some("lo")
    })
}

fn link_address(arp: &str, gateway: Ipv4Addr) -> Option<String> {
    let gateway = gateway.to_string();
    let link = arp.lines().skip(1).find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(&gateway)).then(|| words.nth(2)).flatten()
    })?;
    (link != "00:00:00:00:00:00").then(|| link.to_owned())
}

/// Follows the network until the shutdown.
pub async fn follow(
    named: Option<String>,
    network: watch::Sender<Network>,
    shutdown: CancellationToken,
) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let next = network.borrow().next(named.as_deref());
        network.send_if_modified(|network| {
            let changed = *network != next;
            *network = next;
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n";
    const ARP: &str = "IP address HW type Flags HW address Mask Device\n\
        192.0.2.1 0x1 0x2 02:fc:00:00:00:05 * eth0\n\
        198.51.100.1 0x1 0x0 00:00:00:00:00:00 * wlan0\n";

    fn route(device: &str, gateway: &str, metric: u32) -> String {
        format!("{device} 00000000 {gateway} 0003 0 0 {metric} 00000000 0 0 0\n")
    }

    #[test]
    fn the_gateway_names_the_network() {
        let home = format!("{HEAD}{}", route("eth0", "010200C0", 0));
        let at_home = Network::default().seen(&home, ARP, "");
        assert_eq!(at_home.context.as_deref(), Some("gateway 02:fc:00:00:00:05"));
        assert_eq!(at_home.route, Some(true));
        // The neighbour table may forget the gateway, and the line may drop: we are still here.
        assert_eq!(at_home.seen(&home, "", ""), at_home);
        let down = at_home.seen(HEAD, ARP, "");
        assert_eq!((&down.context, down.route), (&at_home.context, Some(false)));
        assert_eq!(down.seen(&home, ARP, ""), at_home);
    }

    #[test]
    fn another_way_out_is_another_network() {
        let home = format!("{HEAD}{}", route("eth0", "010200C0", 0));
        let at_home = Network::default().seen(&home, ARP, "");
        // A tunnel over the same line has no gateway to be seen: the collector will name it.
        let tunnel =
            format!("{HEAD}{}{}", route("eth0", "010200C0", 100), route("tun0", "00000000", 50));
        assert_eq!(at_home.seen(&tunnel, ARP, "").context, None);
        assert!(at_home.seen(&tunnel, ARP, "").is_tunnel() && !at_home.is_tunnel());
        // A gateway that has not answered yet has no name yet.
        let away = format!("{HEAD}{}", route("wlan0", "016433C6", 0));
        assert_eq!(at_home.seen(&away, ARP, "").context, None);
        assert_eq!(Network::default().seen(HEAD, ARP, "").route, Some(false));
    }

    #[test]
    fn ipv6_counts_as_a_way_out() {
        let zeros = "0".repeat(32);
        let lo = format!("{zeros} 00 {zeros} 00 {zeros} ffffffff 1 0 200200 lo\n");
        let eth = format!("{zeros} 00 {zeros} 00 fe80 400 1 0 3 eth0\n");
        assert_eq!(Network::default().seen(HEAD, "", &lo).route, Some(false));
        assert_eq!(Network::default().seen(HEAD, "", &eth).route, Some(true));
    }
}
