//! TLS as agents meet it over either transport: the pinned transport key behind a certificate that
//! says nothing else, two suites, no tickets and no early data.

use std::sync::Arc;

use rustls::{
    crypto::{CryptoProvider, aws_lc_rs as suites},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tocsin_proto::{limits::ALPN, sign::SecretKey};

use super::endpoint::EndpointError;

/// DER of a PKCS#8 Ed25519 private key (RFC 8410 section 7) up to the 32 secret bytes.
const PKCS8_ED25519: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// AES-128-GCM and ChaCha20 only: SHA-384 of the AES-256 suite was 13 % of the handshake when
/// measured.
fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            suites::cipher_suite::TLS13_AES_128_GCM_SHA256,
            suites::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..suites::default_provider()
    }
}

/// The settings of both transports.
pub(super) fn config(transport: &SecretKey) -> Result<rustls::ServerConfig, EndpointError> {
    let der = [PKCS8_ED25519.as_slice(), transport.seed().as_slice()].concat();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der));
    let pair = rcgen::KeyPair::from_der_and_sign_algo(&key, &rcgen::PKCS_ED25519)
        .map_err(EndpointError::Certificate)?;
    let mut params = rcgen::CertificateParams::new(vec!["collector.tocsin.invalid".to_owned()])
        .map_err(EndpointError::Certificate)?;
    // Agents pin the key and do not look at the dates; these are the widest that are usual.
    params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    params.not_after = rcgen::date_time_ymd(9999, 12, 31);
    let certificate = params.self_signed(&pair).map_err(EndpointError::Certificate)?;
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(EndpointError::Tls)?
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(certificate)], key)
        .map_err(EndpointError::Tls)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}
