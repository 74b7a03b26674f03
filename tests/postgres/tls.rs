//! Encryption, and whom it trusts.

use claudepool::store::Cluster;
use claudepool::store::conformance::fixture::{queued, submit};
use claudepool::store::postgres::Postgres;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::server::{Server, give, open};

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_trusted_by_its_authority_and_its_name_alone() {
    let server = Server::start();
    let (ours, other) = (authority(), authority());
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &ours).unwrap();
    let data = server.dir.join("data");
    let write = |name: &str, text: String| {
        let path = data.join(name);
        std::fs::write(&path, text).unwrap();
        give(&path);
    };
    write("server.crt", certificate.pem());
    write("server.key", key.serialize_pem());
    server.configure("ssl = on");
    std::fs::write(
        data.join("pg_hba.conf"),
        "local all all trust\nhostssl all all 127.0.0.1/32 trust\n",
    )
    .unwrap();
    server.reload();
    let roots = tempfile::tempdir().unwrap();
    let root = |name: &str, text: String| {
        let path = roots.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (right, wrong) = (
        root("right.pem", ours.pem()),
        root("wrong.pem", other.pem()),
    );
    let url = |host: &str, rest: &str| {
        format!(
            "postgres://postgres:secret@{host}:{}/postgres?{rest}",
            server.port
        )
    };

    let store = open(&url(
        "localhost",
        &format!("sslmode=verify-full&sslrootcert={right}"),
    ))
    .await;
    submit(&store, queued()).await;
    // The connection for wakes, too.
    assert!(store.told().await.everything);

    for refused in [
        url("localhost", &format!("sslmode=require&sslrootcert={wrong}")),
        // Its certificate is of another name.
        url("127.0.0.1", &format!("sslrootcert={right}")),
        url("localhost", "sslmode=disable"),
        url("localhost", "sslrootcert=/absent.pem"),
    ] {
        let said = match Postgres::open(&refused).await {
            Ok(_) => panic!("{refused} must not open"),
            Err(said) => said.to_string(),
        };
        assert!(
            !said.contains("secret") && said.lines().count() == 1,
            "{said}"
        );
    }
}
