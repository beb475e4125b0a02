//! The TLS phase: one handshake, verified against the Mozilla roots and those of the
//! configuration, with sessions resumed unless a full handshake is wanted.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustls::{
    CertificateError, ClientConfig, ClientConnection, Error as TlsError, HandshakeKind,
    RootCertStore, SupportedProtocolVersion, client::Resumption, crypto::aws_lc_rs::kx_group,
};
use rustls_pki_types::{CertificateDer, ServerName};
use tocsin_proto::outcome::Outcome;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{ProbeSetupError, profile::Profile, tcp::Counted};

/// Servers whose sessions are remembered: every target of a full catalogue, with some redirects.
const SESSIONS_MAX: usize = 1024;

/// The client configurations.
pub(super) struct Connectors {
    /// Remembers sessions. Another one stands in its place in another network.
    resuming: Mutex<TlsConnector>,
    full: TlsConnector,
    bare: TlsConnector,
}

impl Connectors {
    pub(super) fn new(
        extra_roots: Vec<CertificateDer<'static>>,
        profile: Profile,
    ) -> Result<Self, ProbeSetupError> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        for root in extra_roots {
            roots.add(root).map_err(ProbeSetupError::ExtraRoot)?;
        }
        let roots = Arc::new(roots);
        let mut full = client(Arc::clone(&roots), profile)?;
        full.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        full.resumption = Resumption::disabled();
        let mut bare = client(roots, Profile::Modern)?;
        bare.resumption = Resumption::disabled();
        Ok(Self {
            resuming: Mutex::new(remembering(&full)),
            full: Arc::new(full).into(),
            bare: Arc::new(bare).into(),
        })
    }

    /// This machine is in another network: a session of the one before would tell its server that both are one machine.
    pub(super) fn moved(&self) {
        *self.resuming() = remembering(self.full.config());
    }

    fn resuming(&self) -> MutexGuard<'_, TlsConnector> {
        // A connector is put in whole, or not at all.
        self.resuming.lock().unwrap_or_else(PoisonError::into_inner)
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
        let connector = if full { self.full.clone() } else { self.resuming().clone() };
        connector.connect(name, stream).await.map_err(|error| outcome(&error))
    }
}

/// The same, with sessions that are remembered from here on.
fn remembering(full: &ClientConfig) -> TlsConnector {
    let mut config = full.clone();
    config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
    Arc::new(config).into()
}

/// A client that names no protocol.
fn client(roots: Arc<RootCertStore>, profile: Profile) -> Result<ClientConfig, ProbeSetupError> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    let versions: &[&SupportedProtocolVersion] = match profile {
        Profile::Modern => rustls::DEFAULT_VERSIONS,
        Profile::Classic => {
            provider.kx_groups = vec![kx_group::SECP256R1, kx_group::SECP384R1];
            provider.cipher_suites.retain(|suite| suite.tls13().is_none());
            provider.cipher_suites.reverse();
            &[&rustls::version::TLS12]
        }
    };
    Ok(ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .map_err(ProbeSetupError::Protocols)?
        .with_root_certificates(roots)
        .with_no_client_auth())
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
