//! The lab's certificate authority, and a certificate with key per edge. Made anew at every start
//! and held in memory only.

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use std::sync::Arc;

/// A certificate authority that nobody but the lab's agents trusts.
#[derive(Debug)]
pub struct LabCa {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl LabCa {
    /// Makes a key and a self-signed certificate.
    ///
    /// # Errors
    /// When the cryptographic library refuses to make them.
    pub fn new() -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "Tocsin lab CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key).context("signing the lab CA")?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// Its certificate, for the agents' extra roots.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The TLS side of a server for some host names: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1, and
    /// session tickets.
    ///
    /// # Errors
    /// When a host name cannot stand in a certificate, or the library refuses.
    pub fn server(&self, hosts: Vec<String>) -> anyhow::Result<Arc<ServerConfig>> {
        let mut params = CertificateParams::new(hosts)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let leaf = params.signed_by(&key, &self.issuer).context("signing a certificate")?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer = aws_lc_rs::Ticketer::new()?;
        Ok(Arc::new(config))
    }
}
