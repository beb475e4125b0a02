//! TLS as it is over either transport. Any certificate with an Ed25519 key is taken in the
//! handshake: who it is, the delegation in the Greeting says, and that the peer holds the key, the
//! handshake's signature proves.

use std::sync::Arc;

use rustls::{
    CipherSuite, ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tocsin_proto::{limits::ALPN, sign::PublicKey};

/// The DER of an Ed25519 SubjectPublicKeyInfo before its 32 bytes of key (RFC 8410 section 4).
const ED25519_SPKI: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// What a collector is called where a name must stand; it is not sent.
pub(super) const NAME: &str = "collector.tocsin.invalid";

#[derive(Debug)]
struct AnyEd25519(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyEd25519 {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let key = key_of(end_entity);
        key.map(|_| ServerCertVerified::assertion())
            .ok_or_else(|| rustls::CertificateError::BadEncoding.into())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

fn key_of(certificate: &CertificateDer<'_>) -> Option<PublicKey> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    let spki = certificate.subject_public_key_info();
    let key = spki.as_ref().strip_prefix(&ED25519_SPKI)?;
    Some(PublicKey::from_bytes(key.try_into().ok()?))
}

/// The key of the first certificate that a peer showed.
pub(super) fn transport_key(certificates: &[CertificateDer<'_>]) -> Option<PublicKey> {
    certificates.first().and_then(key_of)
}

/// How this agent speaks TLS to collectors.
pub(super) fn config() -> Result<ClientConfig, rustls::Error> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| {
        matches!(
            suite.suite(),
            CipherSuite::TLS13_AES_128_GCM_SHA256 | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
        )
    });
    // Hardware with AES runs it faster than ChaCha20, so it comes first; QUIC needs it anyhow.
    provider.cipher_suites.sort_by_key(|s| s.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    let provider = Arc::new(provider);
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyEd25519(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = false;
    // A ticket would link the networks that a machine moves between.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}
