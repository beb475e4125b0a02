//! The TLS phase: one handshake, verified against the Mozilla roots and those of the
//! configuration, with sessions resumed unless a full handshake is wanted.

use std::{io, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, ClientConnection, Error as TlsError, HandshakeKind,
    RootCertStore, client::Resumption,
};
use rustls_pki_types::{CertificateDer, ServerName};
use tocsin_proto::outcome::Outcome;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{ProbeSetupError, tcp::Counted};

/// Servers whose sessions are remembered: every target of a full catalogue, with some redirects.
const SESSIONS_MAX: usize = 1024;

/// The client configurations.
pub(super) struct Connectors {
    resuming: TlsConnector,
    full: TlsConnector,
    bare: TlsConnector,
}

impl Connectors {
    pub(super) fn new(extra_roots: Vec<CertificateDer<'static>>) -> Result<Self, ProbeSetupError> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        for root in extra_roots {
            roots.add(root).map_err(ProbeSetupError::ExtraRoot)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut resuming = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(ProbeSetupError::Protocols)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        resuming.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        resuming.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        let mut full = resuming.clone();
        full.resumption = Resumption::disabled();
        let mut bare = full.clone();
        bare.alpn_protocols.clear();
        Ok(Self {
            resuming: Arc::new(resuming).into(),
            full: Arc::new(full).into(),
            bare: Arc::new(bare).into(),
        })
    }

    /// For protocols other than HTTP: names none, resumes nothing.
    pub(super) fn bare(&self) -> TlsConnector {
        self.bare.clone()
    }

    /// Shakes hands. The caller keeps the deadline.
    pub(super) async fn handshake(
        &self,
        stream: Counted,
        host: &str,
        full: bool,
    ) -> Result<TlsStream<Counted>, Outcome> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| Outcome::TlsCertName)?;
        let connector = if full { &self.full } else { &self.resuming };
        connector.connect(name, stream).await.map_err(|error| outcome(&error))
    }
}

/// The error of rustls inside an error of the stream.
pub(super) fn inner(error: &io::Error) -> Option<&TlsError> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

pub(super) fn is_resumed(connection: &ClientConnection) -> bool {
    connection.handshake_kind() == Some(HandshakeKind::Resumed)
}

fn outcome(error: &io::Error) -> Outcome {
    match inner(error) {
        Some(TlsError::AlertReceived(_)) => Outcome::TlsAlert,
        Some(TlsError::InvalidCertificate(reason)) => certificate(reason),
        Some(TlsError::NoCertificatesPresented) => Outcome::TlsCertUntrusted,
        _ => Outcome::TlsHandshake,
    }
}

fn certificate(reason: &CertificateError) -> Outcome {
    match reason {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => Outcome::TlsCertExpired,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Outcome::TlsCertName
        }
        _ => Outcome::TlsCertUntrusted,
    }
}
