//! Does something answer in the place of sites? Asked over plain HTTP, as captive portals want it (RFC 8952
//! section 1): a site that is reached sends its visitor on to itself over https; a portal sends it elsewhere,
//! or answers itself. Only asked where https was not answered, which alone settles it.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tocsin_proto::observation::Family;
use tokio::time::timeout;

use super::{Attempt, Prober, tcp};

/// The port of plain HTTP.
const PORT: u16 = 80;

/// What answered over plain HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// The site itself, as far as can be told.
    Site,
    /// Something else in its place.
    Other,
    /// Nobody.
    Nobody,
}

impl Prober {
    /// Asks a site for its page over plain HTTP, within a time. Connects to nothing that a probe would not
    /// connect to.
    pub async fn plain(&self, host: &str, family: Family, within: Duration) -> Answered {
        let asked = timeout(within, self.ask_plainly(host, family, within)).await;
        asked
            .ok()
            .flatten()
            .map_or(Answered::Nobody, |(status, location)| judge(host, status, location.as_deref()))
    }

    async fn ask_plainly(
        &self,
        host: &str,
        family: Family,
        within: Duration,
    ) -> Option<(StatusCode, Option<String>)> {
        let attempt = Attempt::new(Some(within));
        let deadline = attempt.deadline(within);
        let resolved = self.resolver.system(host, family, deadline, &attempt.traffic).await.ok()?;
        let address: IpAddr = *self.may_connect(&resolved.addresses).first()?;
        let stream = tcp::connect(
            (address, PORT).into(),
            self.source_of(address),
            &Arc::clone(&attempt.traffic),
        )
        .await
        .ok()?;
        let io = TokioIo::new(stream);
        let (mut send, connection) = hyper::client::conn::http1::handshake(io).await.ok()?;
        let request = Request::get("/")
            .header(header::HOST, host)
            .header(header::USER_AGENT, &self.user_agent)
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .ok()?;
        let answer = async {
            let answer = send.send_request(request).await.ok()?;
            let location = answer.headers().get(header::LOCATION);
            let location = location.and_then(|value| value.to_str().ok()).map(str::to_owned);
            Some((answer.status(), location))
        };
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            // Where the connection ends first the answer may be in already.
            _ = connection => answer.await,
        }
    }
}

/// What an answer tells. A site that is on https alone redirects there; one that answers a plain request with a page
/// while nobody answers over https is not the site.
fn judge(host: &str, status: StatusCode, location: Option<&str>) -> Answered {
    let own = |location: &str| {
        let uri: Option<http::Uri> = location.parse().ok();
        let to = uri.as_ref().and_then(http::Uri::host).unwrap_or(host).to_ascii_lowercase();
        site(&to) == site(&host.to_ascii_lowercase())
    };
    match location.filter(|_| status.is_redirection()) {
        Some(location) if own(location) => Answered::Site,
        // A server that has nothing on this port but errors stands in for nobody.
        None if status.is_client_error() && status != StatusCode::UNAUTHORIZED => Answered::Site,
        None if status.is_server_error() && status.as_u16() != 511 => Answered::Site,
        Some(_) | None => Answered::Other,
    }
}

/// The last two labels, or three under a short second-level domain such as `co.uk`: near enough for "the same site".
fn site(host: &str) -> &str {
    let host = host.trim_end_matches('.');
    let dots: Vec<usize> = host.match_indices('.').map(|(at, _)| at).collect();
    let from = |back: usize| dots.len().checked_sub(back).and_then(|at| dots.get(at)).copied();
    let Some(two) = from(2) else { return host };
    let second = from(1).and_then(|last| host.get(two + 1..last)).unwrap_or("");
    let cut = if second.len() <= 3 { from(3).map(|at| at + 1).unwrap_or(0) } else { two + 1 };
    host.get(cut..).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portal_sends_its_visitors_elsewhere_or_answers_itself() {
        let said = |status: u16, location| {
            judge("www.example.com", StatusCode::from_u16(status).unwrap(), location)
        };
        assert_eq!(said(301, Some("https://www.example.com/")), Answered::Site);
        assert_eq!(said(308, Some("https://example.com/fr")), Answered::Site);
        assert_eq!(said(302, Some("/login")), Answered::Site);
        assert_eq!(said(302, Some("http://wifi.hotel.example/login")), Answered::Other);
        assert_eq!(said(307, Some("http://192.0.2.1/portal?to=x")), Answered::Other);
        assert_eq!(said(200, None), Answered::Other);
        assert_eq!(said(511, None), Answered::Other);
        assert_eq!(said(404, None), Answered::Site);
        assert_eq!(said(503, None), Answered::Site);
    }

    #[test]
    fn sites_are_told_by_their_registered_name() {
        assert_eq!(site("www.example.com"), "example.com");
        assert_eq!(site("example.com."), "example.com");
        assert_eq!(site("a.b.example.co.uk"), "example.co.uk");
        assert_eq!(site("example.co.uk"), "example.co.uk");
        assert_eq!(site("localhost"), "localhost");
    }
}
