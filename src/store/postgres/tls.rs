//! Encryption towards the database, and whom to trust for it.

use std::path::Path;
use std::sync::Arc;

use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::url::Trust;
use crate::store::OpenError;

/// What encrypts. The server's certificate must be of a trusted authority and
/// of the name that the URL says.
pub(super) fn connector(trust: &Trust) -> Result<MakeRustlsConnect, OpenError> {
    let mut roots = RootCertStore::empty();
    match trust {
        // Not asked for: the connection is not encrypted.
        Trust::Plain => {}
        Trust::System => {
            let found = rustls_native_certs::load_native_certs();
            let (added, _) = roots.add_parsable_certificates(found.certs);
            if added == 0 {
                return Err(OpenError(
                    "the system names no certificate authority: say `sslrootcert=FILE` in the \
                     store's URL"
                        .to_owned(),
                ));
            }
        }
        Trust::File(path) => add(&mut roots, path)?,
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| OpenError(format!("TLS cannot be used: {error}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

fn add(roots: &mut RootCertStore, path: &Path) -> Result<(), OpenError> {
    let failed = |why: &dyn std::fmt::Display| {
        let path = path.display();
        OpenError(format!("`sslrootcert`: {path} holds no authority: {why}"))
    };
    let found = CertificateDer::pem_file_iter(path).map_err(|error| failed(&error))?;
    for certificate in found {
        let certificate = certificate.map_err(|error| failed(&error))?;
        roots.add(certificate).map_err(|error| failed(&error))?;
    }
    if roots.is_empty() {
        return Err(failed(&"there is no certificate in it"));
    }
    Ok(())
}
