//! An etcd that asks who is there.

use std::fs;
use std::path::PathBuf;

use catalog::{Catalog, CatalogError, Consistency, Etcd, EtcdSettings};
use futures_lite::future::block_on;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use suites::{Etcds, until};

use super::{put, text, write};

fn try_open(address: &str) -> Result<Etcd, CatalogError> {
    block_on(Etcd::open(&address.parse().unwrap(), EtcdSettings::default()))
}

#[test]
fn a_password_is_asked_for_and_its_token_is_renewed() {
    let Some(mut etcds) = Etcds::start(1) else { return };
    let early = super::open(&etcds);
    write(&early, vec![put("k", "x")]);
    etcds.require_password("p@ss");
    let refused = block_on(early.get(&["k".into()], Consistency::Quorum));
    assert!(matches!(refused, Err(CatalogError::Refused { .. })), "{refused:?}");
    let address = |user: &str| etcds.address().replace("etcd://", &format!("etcd://{user}@"));
    let wrong = try_open(&address("root:wrong"));
    assert!(matches!(wrong, Err(CatalogError::Refused { .. })), "{wrong:?}");
    let node = try_open(&address("root:p%40ss")).unwrap();
    write(&node, vec![put("k", "y")]);
    assert_eq!(text(&node, "k").as_deref(), Some("y"));
    assert_eq!(until("a count", || block_on(node.count("", Consistency::Quorum)).ok()), 1);
    // A member that starts anew knows none of the tokens that it gave.
    etcds.kill(0);
    etcds.restart(0);
    until("a read after the restart", || {
        block_on(node.get(&["k".into()], Consistency::Quorum)).ok().filter(|found| found.entries[0].is_some())
    });
}

#[test]
fn connections_are_encrypted_and_both_ends_are_known() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| -> PathBuf {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = file("ca", authority.self_signed(&authority_key).unwrap().pem());
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = file("cert", params.signed_by(&key, &issuer).unwrap().pem());
    let key = file("key", key.serialize_pem());

    let files = [ca.clone(), certificate.clone(), key.clone()];
    let Some(etcds) = Etcds::start_secured(1, files) else { return };
    let named = format!("{}?ca={}", etcds.address(), ca.display());
    let address = format!("{named}&cert={}&key={}", certificate.display(), key.display());
    let node = until("etcd that speaks TLS", || try_open(&address).ok());
    write(&node, vec![put("k", "x")]);
    assert_eq!(text(&node, "k").as_deref(), Some("x"));
    assert_eq!(
        until("a count", || block_on(node.count("", Consistency::Quorum)).ok()),
        1,
        "watches are, too"
    );
    assert!(try_open(&named).is_err(), "without a certificate");
    assert!(try_open(&etcds.address()).is_err(), "without TLS");
}
