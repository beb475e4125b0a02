//! Does the gateway answer? By an echo request where the system lets everybody send one (ping sockets,
//! `net.ipv4.ping_group_range`), and by the neighbour table: a gateway that does not answer for its address
//! is gone, whatever it thinks of echo requests.

use std::{fs, io, net::Ipv4Addr, time::Duration};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::{net::UdpSocket, time::timeout};

use crate::clock::monotonic;

/// How often the neighbour table is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Echo request, RFC 792: type 8, code 0; the kernel fills in the identifier and the checksum.
const ECHO: [u8; 12] = [8, 0, 0, 0, 0, 0, 0, 1, b't', b'c', b's', b'n'];
/// A port where nothing listens (discard, RFC 863): what is sent there makes the kernel ask for the neighbour.
const DISCARD: u16 = 9;

/// Whether the gateway answers; `None` where that cannot be told.
pub async fn answers(gateway: Ipv4Addr, within: Duration) -> Option<bool> {
    let until = monotonic() + within;
    // Whatever becomes of it, it makes the kernel look for the neighbour.
    drop(poke(gateway).await);
    let echo = timeout(within, echo(gateway));
    let echo = match echo.await {
        Ok(Ok(())) => return Some(true),
        Ok(Err(_)) => None,
        Err(_) => Some(false),
    };
    // Where nobody may send an echo request only the table tells; it takes a while to be filled.
    loop {
        let table = fs::read_to_string("/proc/net/arp").unwrap_or_default();
        match (neighbour(&table, gateway), echo) {
            // It is known from before, and may be gone since: many answer no echo request.
            (Some(true), Some(false)) => return None,
            (known, _) if known == Some(true) || monotonic() >= until => return known,
            _ => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

async fn poke(gateway: Ipv4Addr) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.send_to(&[0], (gateway, DISCARD)).await.map(drop)
}

async fn echo(gateway: Ipv4Addr) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::ICMPV4))?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::from(std::net::SocketAddrV4::new(gateway, 0)))?;
    let socket = UdpSocket::from_std(socket.into())?;
    socket.send(&ECHO).await?;
    socket.recv(&mut [0; 64]).await.map(drop)
}

/// What the neighbour table says of an address: its link address is known, was asked for in vain, or neither.
/// (`/proc/net/arp`: address, type, flags, link address, mask, device; flag 2 is `ATF_COM`, complete.)
fn neighbour(table: &str, gateway: Ipv4Addr) -> Option<bool> {
    let gateway = gateway.to_string();
    table.lines().skip(1).find_map(|line| {
        let mut words = line.split_whitespace();
        let own = words.next() == Some(&gateway);
        let flags = words.nth(1).and_then(|flags| flags.strip_prefix("0x"));
        let flags = u32::from_str_radix(flags?, 16).ok()?;
        own.then_some(flags & 2 != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_neighbour_table_tells_who_answers() {
        let table = "IP address HW type Flags HW address Mask Device\n\
            192.0.2.1 0x1 0x2 02:fc:00:00:00:05 * eth0\n\
            192.0.2.9 0x1 0x0 00:00:00:00:00:00 * eth0\n";
        assert_eq!(neighbour(table, Ipv4Addr::new(192, 0, 2, 1)), Some(true));
        assert_eq!(neighbour(table, Ipv4Addr::new(192, 0, 2, 9)), Some(false));
        assert_eq!(neighbour(table, Ipv4Addr::new(192, 0, 2, 7)), None);
        assert_eq!(neighbour("", Ipv4Addr::new(192, 0, 2, 7)), None);
    }
}
