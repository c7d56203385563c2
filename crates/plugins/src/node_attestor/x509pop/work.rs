//! What a stranger's message may cost before anything is proved.

use rcgen::{CertifiedIssuer, KeyPair, RsaKeySize};
use steeple_pki::Certificate;
use steeple_pki::verify::{self, PathRules, Work};

use super::tests::{ca, mute, now, params, payload_of, root, server_for};
use super::*;

fn certificate(of: &CertifiedIssuer<'static, KeyPair>) -> Certificate {
    Certificate::from_der(of.der().to_vec()).unwrap()
}

/// Intermediates of the root's own name with large keys: each might have signed each other, the
/// leaf, and itself, and each might have been signed by the root.
#[tokio::test]
async fn the_worst_message_costs_one_signature_of_the_roots_key_for_each_certificate() {
    let root = root("root");
    let impostor = super::tests::root("root");
    let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_4096).unwrap();
    let mut thicket = Vec::new();
    for number in 1..=4_u8 {
        let key = KeyPair::from_pem(&key.serialize_pem()).unwrap();
        let by = thicket.last().unwrap_or(&impostor);
        let mut params = ca("root");
        params.serial_number = Some(vec![number].into());
        thicket.push(CertifiedIssuer::signed_by(params, key, by).unwrap());
    }
    let leaf =
        CertifiedIssuer::signed_by(params("leaf"), KeyPair::generate().unwrap(), &thicket[3]);
    let leaf = leaf.unwrap();
    let sent: Vec<Certificate> = thicket.iter().map(certificate).collect();
    let mut work = Work::default();
    let rules = PathRules::at(now());
    let roots = [certificate(&root)];
    verify::paths_counted(&certificate(&leaf), &sent, &roots, &rules, &mut work).unwrap_err();
    // By the root's key of P-256; none of RSA with 4096 bits.
    assert_eq!(work, Work { signatures: 5, steps: 0 });

    let server = server_for(&[&root], "");
    let chain: Vec<_> = std::iter::once(&leaf).chain(&thicket).collect();
    let error = server.attest(&payload_of(&chain), &mut mute()).await.unwrap_err();
    assert_eq!(error.code, Code::PermissionDenied);
}

/// A chain of public certificates, which everyone may have, with a leaf of one's own.
#[test]
fn real_intermediates_under_a_forged_leaf_cost_a_signature_for_each_link() {
    let root = root("root");
    let mut above = Vec::new();
    for number in 0..4 {
        let by = above.last().unwrap_or(&root);
        let name = format!("level {number}");
        let key = KeyPair::generate().unwrap();
        above.push(CertifiedIssuer::signed_by(ca(&name), key, by).unwrap());
    }
    let forger = CertifiedIssuer::self_signed(ca("level 3"), KeyPair::generate().unwrap()).unwrap();
    let leaf = CertifiedIssuer::signed_by(params("leaf"), KeyPair::generate().unwrap(), &forger);
    let sent: Vec<Certificate> = above.iter().map(certificate).collect();
    let mut work = Work::default();
    let rules = PathRules::at(now());
    let leaf = certificate(&leaf.unwrap());
    verify::paths_counted(&leaf, &sent, &[certificate(&root)], &rules, &mut work).unwrap_err();
    assert_eq!(work, Work { signatures: 5, steps: 0 });
}
