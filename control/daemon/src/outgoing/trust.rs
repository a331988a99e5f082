//! Whose word about servers is taken: the roots of certificates.

use std::sync::Arc;

use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Certificates that vouch for servers: the system's, and what the operator has named beside them.
#[derive(Clone, Default)]
pub(crate) struct Trust {
    own: Vec<CertificateDer<'static>>,
    connector: Arc<OnceCell<TlsConnector>>,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Trust").field("own", &self.own.len()).finish_non_exhaustive()
    }
}

impl Trust {
    /// Takes these certificates, in PEM form, beside the system's.
    pub(crate) fn beside_system(pem: &str) -> Result<Self, String> {
        let own: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
        let own = own.map_err(|error| format!("it is not in PEM form: {error}"))?;
        let mut store = RootCertStore::empty();
        for certificate in &own {
            store.add(certificate.clone()).map_err(|error| format!("one of its certificates: {error}"))?;
        }
        if own.is_empty() {
            return Err("it has no certificate in PEM form".into());
        }
        Ok(Self { own, connector: Arc::default() })
    }

    /// What makes connections secure. The system's certificates are read when this is first wanted.
    pub(super) async fn connector(&self) -> Result<&TlsConnector, String> {
        let make = || async {
            let own = self.own.clone();
            let made = tokio::task::spawn_blocking(move || connector(own)).await;
            made.unwrap_or_else(|_| Err("the system's certificates cannot be read".into()))
        };
        self.connector.get_or_try_init(make).await
    }
}

fn connector(own: Vec<CertificateDer<'static>>) -> Result<TlsConnector, String> {
    let mut store = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    // Systems have certificates that are older than the rules for them.
    store.add_parsable_certificates(system.certs.into_iter().chain(own));
    if store.is_empty() {
        return Err(
            "this machine has no root certificates; install them or name some with --source-ca".into()
        );
    }
    let versions = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions();
    let builder = versions.map_err(|error| error.to_string())?;
    let mut config = builder.with_root_certificates(store).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}
