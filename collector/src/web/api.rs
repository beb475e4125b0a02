//! The JSON of the public API: the signed snapshot as it is, and its parts for those who need no
//! proof. Pure, but for the wrapping into responses.

use std::sync::Arc;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER};
use serde::Serialize;
use tocsin_proto::{
    delegation::{Delegation, KeyRole},
    human::HumanSuspicion,
    incident::{Incident, SCHEMA},
    message::SignedSnapshot,
    sign::PublicKey,
    snapshot::Cell,
    time::Timestamp,
    wire,
};

use super::matrix::Rows;
use crate::{
    engine::people::BUCKET_MS,
    feed::{PeopleCurve, Published},
};

/// The bytes that were signed, shared and not copied.
struct Document(Arc<SignedSnapshot>);

impl AsRef<[u8]> for Document {
    fn as_ref(&self) -> &[u8] {
        &self.0.document
    }
}

/// The exact signed bytes, with the signature beside them.
pub(super) fn snapshot(published: &Published) -> Response {
    let signature = format!("ed25519=:{}:", BASE64.encode(&published.signed.signature.0));
    let bytes = Bytes::from_owner(Document(Arc::clone(&published.signed)));
    let headers = [
        ("content-type", "application/json".to_owned()),
        ("tocsin-signature", signature),
        ("tocsin-sequence", published.snapshot.sequence.to_string()),
    ];
    (headers, bytes).into_response()
}

/// Every number of the detector that is in force.
pub(super) fn parameters(published: &Published) -> Response {
    let body = published.parameters.as_bytes().to_vec();
    ([("content-type", "application/json")], body).into_response()
}

#[derive(Serialize)]
struct Incidents<'a> {
    schema: u16,
    sequence: u64,
    at: Timestamp,
    incidents: &'a [Incident],
}

/// Open and lately ended incidents.
pub(super) fn incidents(published: &Published) -> Response {
    let snapshot = &published.snapshot;
    json(&Incidents {
        schema: SCHEMA,
        sequence: snapshot.sequence,
        at: snapshot.at,
        incidents: &snapshot.incidents,
    })
}

#[derive(Serialize)]
struct People<'a> {
    schema: u16,
    sequence: u64,
    at: Timestamp,
    /// Length of a point, seconds.
    point_s: u64,
    raised: &'a [HumanSuspicion],
    curves: &'a [PeopleCurve],
}

/// What people say of sites, beside what probes measure: the curves of a day.
pub(super) fn people(published: &Published) -> Response {
    let snapshot = &published.snapshot;
    json(&People {
        schema: SCHEMA,
        sequence: snapshot.sequence,
        at: snapshot.at,
        point_s: BUCKET_MS / 1_000,
        raised: &snapshot.people,
        curves: &published.people,
    })
}

/// A window over which cells are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Span {
    #[default]
    FiveMinutes,
    Hour,
}

impl Span {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "5m" => Some(Self::FiveMinutes),
            "1h" => Some(Self::Hour),
            _ => None,
        }
    }

    pub(super) const fn cells(self, published: &Published) -> &Vec<Cell> {
        match self {
            Self::FiveMinutes => &published.cells_5m,
            Self::Hour => &published.cells_1h,
        }
    }

    const fn seconds(self) -> u32 {
        match self {
            Self::FiveMinutes => 300,
            Self::Hour => 3600,
        }
    }
}

/// What of the cells was asked for; `subject: None` is both kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Question {
    pub(super) span: Span,
    pub(super) subject: Option<Rows>,
}

impl Question {
    /// Reads a query string.
    ///
    /// # Errors
    /// What is wrong with it, and what is allowed, in a sentence.
    pub(super) fn parse(query: &[(String, String)]) -> Result<Self, String> {
        let mut question = Self::default();
        for (name, value) in query {
            let shown = || value.chars().take(40).collect::<String>();
            match name.as_str() {
                "window" => {
                    question.span = Span::parse(value).ok_or_else(|| {
                        format!("window={:?} is not known; it is 5m or 1h.", shown())
                    })?;
                }
                "subject" => {
                    question.subject = Some(match value.as_str() {
                        "provider" => Rows::Providers,
                        "target" => Rows::Targets,
                        _ => {
                            return Err(format!(
                                "subject={:?} is not known; it is provider or target.",
                                shown()
                            ));
                        }
                    });
                }
                _ => {
                    let name: String = name.chars().take(40).collect();
                    return Err(format!(
                        "{name:?} is no parameter; there are window (5m or 1h) and subject \
                         (provider or target)."
                    ));
                }
            }
        }
        Ok(question)
    }
}

#[derive(Serialize)]
struct Cells<'a> {
    schema: u16,
    sequence: u64,
    at: Timestamp,
    window_s: u32,
    cells: Vec<&'a Cell>,
}

/// The cells that were asked for.
pub(super) fn cells(published: &Published, question: Question) -> Response {
    let Question { span, subject } = question;
    let asked = |cell: &&Cell| subject.is_none_or(|rows| rows.has(&cell.subject));
    json(&Cells {
        schema: SCHEMA,
        sequence: published.snapshot.sequence,
        at: published.snapshot.at,
        window_s: span.seconds(),
        cells: span.cells(published).iter().filter(asked).collect(),
    })
}

#[derive(Serialize)]
struct Keys {
    schema: u16,
    operator: String,
    delegations: Vec<Delegated>,
}

#[derive(Serialize)]
struct Delegated {
    /// What is signed, and its signature by the operator key: lower-case hex.
    body: String,
    signature: String,
    /// The same decoded, for people; verify `body` instead. Absent where it does not decode.
    #[serde(flatten)]
    decoded: Option<Decoded>,
}

#[derive(Serialize)]
struct Decoded {
    role: KeyRole,
    key: String,
    serial: u64,
    not_after: String,
    not_after_ms: u64,
}

/// The operator key and what it delegates.
pub(super) fn keys(published: &Published) -> Response {
    let delegations = published.delegations.iter().map(|signed| Delegated {
        body: HEXLOWER.encode(&signed.body),
        signature: HEXLOWER.encode(&signed.signature.0),
        decoded: wire::decode::<Delegation>(&signed.body).ok().map(|delegation| Decoded {
            role: delegation.role,
            key: key_text(&delegation.key),
            serial: delegation.serial,
            not_after: delegation.not_after.to_string(),
            not_after_ms: delegation.not_after.as_ms(),
        }),
    });
    json(&Keys {
        schema: SCHEMA,
        operator: key_text(&published.snapshot.operator),
        delegations: delegations.collect(),
    })
}

/// Keys are written as in the `tocsin://` line: base32.
fn key_text(key: &PublicKey) -> String {
    key.to_string()
}

#[derive(Serialize)]
struct Problem<'a> {
    title: &'a str,
    status: u16,
    detail: &'a str,
}

/// An error as RFC 9457 says it.
pub(super) fn problem(status: StatusCode, detail: &str) -> Response {
    let title = status.canonical_reason().unwrap_or("Error");
    let mut response = json(&Problem { title, status: status.as_u16(), detail });
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn json<T: Serialize>(value: &T) -> Response {
    axum::Json(value).into_response()
}
