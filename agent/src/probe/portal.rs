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
/// while nobody answers over https is not the site. An error stands in for nobody.
fn judge(host: &str, status: StatusCode, location: Option<&str>) -> Answered {
    let login = status.as_u16() == 511;
    if (status.is_client_error() || status.is_server_error()) && !login {
        return Answered::Nobody;
    }
    let to = location.filter(|_| status.is_redirection()).and_then(|location| {
        let uri: http::Uri = location.parse().ok()?;
        Some(uri.host()?.to_ascii_lowercase())
    });
    match to.is_some_and(|to| is_same_site(&to, &host.to_ascii_lowercase())) {
        true => Answered::Site,
        false => Answered::Other,
    }
}

/// Whether one of two hosts is the other, or below it, with or without `www.`.
fn is_same_site(a: &str, b: &str) -> bool {
    let [a, b] = [a, b].map(|host| host.trim_end_matches('.'));
    let [a, b] = [a, b].map(|host| host.strip_prefix("www.").unwrap_or(host));
    let below = |low: &str, high: &str| {
        low.strip_suffix(high).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    below(a, b) || below(b, a)
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
        assert_eq!(said(302, Some("/login")), Answered::Other);
        assert_eq!(said(302, Some("http://a b/\"")), Answered::Other);
        assert_eq!(said(302, Some("http://wifi.hotel.example/login")), Answered::Other);
        assert_eq!(said(307, Some("http://192.0.2.1/portal?to=x")), Answered::Other);
        assert_eq!(said(200, None), Answered::Other);
        assert_eq!(said(511, None), Answered::Other);
        assert_eq!(said(404, None), Answered::Nobody);
        assert_eq!(said(503, None), Answered::Nobody);
    }

    #[test]
    fn a_site_is_itself_and_what_is_below_it() {
        assert!(is_same_site("www.web.de", "web.de") && is_same_site("web.de", "www.web.de"));
        assert!(is_same_site("m.example.co.uk", "example.co.uk"));
        assert!(is_same_site("example.com", "login.example.com."));
        assert!(!is_same_site("example.com", "notexample.com"));
        assert!(!is_same_site("wifi.hotel.example", "example.com"));
    }
}
