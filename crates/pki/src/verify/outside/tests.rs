use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CidrSubnet, CustomExtension, DnType,
    GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose, NameConstraints, SanType,
};

use super::*;

type Issuer = Arc<CertifiedIssuer<'static, KeyPair>>;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = (now() - Duration::from_secs(3600)).into();
    params.not_after = (now() + Duration::from_secs(3600)).into();
    params.use_authority_key_identifier_extension = true;
    params
}

fn ca(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn root(name: &str) -> (Certificate, Issuer) {
    let issuer = CertifiedIssuer::self_signed(ca(name), KeyPair::generate().unwrap()).unwrap();
    (Certificate::from_der(issuer.der().to_vec()).unwrap(), Arc::new(issuer))
}

fn below(params: CertificateParams, by: &Issuer) -> (Certificate, Issuer) {
    let key = KeyPair::generate().unwrap();
    let issuer = CertifiedIssuer::signed_by(params, key, by).unwrap();
    (Certificate::from_der(issuer.der().to_vec()).unwrap(), Arc::new(issuer))
}

fn find(
    leaf: &Certificate,
    intermediates: &[&Certificate],
    roots: &[&Certificate],
) -> Result<Vec<Vec<Certificate>>, PathError> {
    let own = |list: &[&Certificate]| list.iter().copied().cloned().collect::<Vec<_>>();
    paths(leaf, &own(intermediates), &own(roots), &PathRules::at(now()))
}

fn refusal(leaf: &Certificate, over: &[&Certificate], roots: &[&Certificate]) -> String {
    find(leaf, over, roots).unwrap_err().to_string()
}

#[test]
fn every_path_is_found_whatever_the_order_and_a_root_may_be_the_leaf() {
    let (root_a, by_a) = root("root a");
    let (root_b, by_b) = root("root b");
    // One intermediate's key and name, signed by both roots.
    let key = KeyPair::generate().unwrap();
    let copy = KeyPair::from_pem(&key.serialize_pem()).unwrap();
    let under_a = CertifiedIssuer::signed_by(ca("middle"), key, &by_a).unwrap();
    let under_b = CertifiedIssuer::signed_by(ca("middle"), copy, &by_b).unwrap();
    let middle_a = Certificate::from_der(under_a.der().to_vec()).unwrap();
    let middle_b = Certificate::from_der(under_b.der().to_vec()).unwrap();
    let (leaf, _) = below(params("leaf"), &Arc::new(under_a));

    let one = find(&leaf, &[&middle_b, &middle_a], &[&root_a]).unwrap();
    assert_eq!(one, [[leaf.clone(), middle_a.clone(), root_a.clone()]]);
    let both = find(&leaf, &[&middle_a, &middle_b], &[&root_b, &root_a]).unwrap();
    assert_eq!(both.len(), 2);
    // An intermediate may itself be trusted.
    let short = find(&leaf, &[], &[&middle_a]).unwrap();
    assert_eq!(short, [[leaf.clone(), middle_a]]);
    assert_eq!(find(&leaf, &[], &[&leaf]).unwrap(), [[leaf.clone()]]);

    let unknown = "x509: certificate signed by unknown authority";
    assert_eq!(refusal(&leaf, &[], &[&root_a]), unknown);
    assert_eq!(refusal(&leaf, &[&middle_b], &[&root_a]), unknown);
    assert_eq!(refusal(&leaf, &[&middle_b], &[]), unknown);
}

#[test]
fn an_authority_of_the_same_name_and_another_key_is_named_in_the_refusal() {
    let (_, by) = root("the CA");
    let (impostor, _) = root("the CA");
    let (leaf, _) = below(params("leaf"), &by);
    assert_eq!(
        refusal(&leaf, &[], &[&impostor]),
        "x509: certificate signed by unknown authority (possibly because of \"x509: ECDSA \
         verification failure\" while trying to verify candidate authority certificate \"the CA\")"
    );
}

#[test]
fn what_is_no_ca_or_too_far_up_or_unreadable_signs_nothing() {
    let (root, by) = root("root");
    let (not_ca, by_not_ca) = below(params("not a ca"), &by);
    let (leaf, _) = below(params("leaf"), &by_not_ca);
    assert!(refusal(&leaf, &[&not_ca], &[&root]).contains("parent certificate cannot sign"));

    let mut short = ca("short");
    short.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let (short, by_short) = below(short, &by);
    let (deeper, by_deeper) = below(ca("deeper"), &by_short);
    let (near, _) = below(params("near"), &by_short);
    let (far, _) = below(params("far"), &by_deeper);
    find(&near, &[&short], &[&root]).unwrap();
    let too_many = "x509: too many intermediates for path length constraint";
    assert_eq!(refusal(&far, &[&deeper, &short], &[&root]), too_many);

    let mut strange = ca("strange");
    let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999], vec![5, 0]);
    extension.set_criticality(true);
    strange.custom_extensions.push(extension.clone());
    let (strange, by_strange) = below(strange, &by);
    let (leaf, _) = below(params("leaf"), &by_strange);
    let unhandled = "x509: unhandled critical extension";
    assert_eq!(refusal(&leaf, &[&strange], &[&root]), unhandled);

    let mut judged = params("judged");
    judged.custom_extensions.push(extension);
    let (judged, _) = below(judged, &by);
    assert_eq!(refusal(&judged, &[], &[&root]), unhandled);
    let own = judged.unhandled_critical().next().unwrap().to_vec();
    let rules = PathRules { judged: &[&own], ..PathRules::at(now()) };
    paths(&judged, &[], &[root], &rules).unwrap();
}

#[test]
fn out_of_its_time_no_certificate_makes_a_path() {
    let (root, by) = root("root");
    let mut old = ca("old");
    old.not_after = (now() - Duration::from_secs(60)).into();
    let (old, by_old) = below(old, &by);
    let (leaf, _) = below(params("leaf"), &by_old);
    let expired = "x509: certificate has expired or is not yet valid: current time \
                   2027-01-15T08:00:00Z is after 2027-01-15T07:59:00Z";
    assert_eq!(refusal(&leaf, &[&old], &[&root]), expired);
    let mut early = params("early");
    early.not_before = (now() + Duration::from_secs(60)).into();
    let (early, _) = below(early, &by);
    assert!(refusal(&early, &[], &[&root]).ends_with("is before 2027-01-15T08:01:00Z"));
}

#[test]
fn purposes_are_asked_of_the_whole_path() {
    let (root, by) = root("root");
    let mut servers = ca("servers");
    servers.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let (servers, by_servers) = below(servers, &by);
    let (leaf, _) = below(params("leaf"), &by_servers);
    let ask = |usage| {
        let rules = PathRules { usage: Some(usage), ..PathRules::at(now()) };
        paths(&leaf, std::slice::from_ref(&servers), std::slice::from_ref(&root), &rules)
    };
    ask(ExtKeyUsage::ServerAuth).unwrap();
    let refused = ask(ExtKeyUsage::ClientAuth).unwrap_err().to_string();
    assert_eq!(refused, "x509: certificate specifies an incompatible key usage");
}

#[test]
fn a_constrained_authority_signs_for_its_names_only() {
    let (root, by) = root("root");
    let mut constrained = ca("constrained");
    constrained.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![
            GeneralSubtree::DnsName("example.org".into()),
            GeneralSubtree::IpAddress(CidrSubnet::V4([10, 0, 0, 0], [255, 0, 0, 0])),
        ],
        excluded_subtrees: vec![GeneralSubtree::DnsName("secret.example.org".into())],
    });
    let (constrained, by_it) = below(constrained, &by);
    let named = |names: Vec<SanType>| {
        let mut leaf = params("leaf");
        leaf.subject_alt_names = names;
        let (leaf, _) = below(leaf, &by_it);
        find(&leaf, &[&constrained], &[&root]).map(drop).map_err(|error| error.to_string())
    };
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    named(vec![]).unwrap();
    named(vec![dns("a.example.org"), dns("example.org")]).unwrap();
    named(vec![SanType::IpAddress([10, 1, 2, 3].into())]).unwrap();
    for (name, said) in [
        (dns("notexample.org"), "DNS name \"notexample.org\" is not permitted by any constraint"),
        (
            dns("b.secret.example.org"),
            "DNS name \"b.secret.example.org\" is excluded by constraint \"secret.example.org\"",
        ),
        (dns("*.example.org"), "excluded by constraint"),
        (SanType::IpAddress([11, 1, 2, 3].into()), "IP address \"11.1.2.3\" is not permitted"),
    ] {
        let refused = named(vec![name]).unwrap_err();
        assert!(refused.contains("not authorized to sign for this name: "), "{refused}");
        assert!(refused.contains(said), "{refused}");
    }
}

#[test]
fn constraints_that_nobody_reads_are_kept_by_nobody() {
    let (root, by) = root("root");
    let mut constrained = ca("constrained");
    let mut name = rcgen::DistinguishedName::new();
    name.push(DnType::OrganizationName, "somebody");
    constrained.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DirectoryName(name)],
        excluded_subtrees: vec![],
    });
    let (constrained, by_it) = below(constrained, &by);
    let (leaf, _) = below(params("leaf"), &by_it);
    assert!(refusal(&leaf, &[&constrained], &[&root]).contains("cannot be understood"));
}

#[test]
fn more_than_the_rules_allow_is_refused_before_any_signature() {
    let (root, by) = root("root");
    let (leaf, _) = below(params("leaf"), &by);
    let many = vec![root.clone(); 5];
    let roots = std::slice::from_ref(&root);
    let error = paths(&leaf, &many, roots, &PathRules::at(now())).unwrap_err();
    assert!(matches!(error, PathError::TooManyIntermediates));

    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_3072);
    let big = params("big").signed_by(&rsa.unwrap(), &by).unwrap();
    let big = Certificate::from_der(big.der().to_vec()).unwrap();
    let rules = PathRules { max_rsa_bits: 2048, ..PathRules::at(now()) };
    let error = paths(&big, &[], roots, &rules).unwrap_err();
    assert!(matches!(error, PathError::KeyTooLarge(0)));
    let error = paths(&leaf, std::slice::from_ref(&big), roots, &rules).unwrap_err();
    assert!(matches!(error, PathError::KeyTooLarge(1)));
    paths(&big, &[], roots, &PathRules::at(now())).unwrap();
}

#[test]
fn a_thicket_of_names_costs_no_more_than_a_look_at_each_by_each_root() {
    // Every certificate names every other as its issuer, and the root as well.
    let trusted = root("same").0;
    let thicket: Vec<Certificate> = (0..20).map(|_| root("same").0).collect();
    let rules = PathRules { max_intermediates: 20, ..PathRules::at(now()) };
    let leaf = below(params("leaf"), &root("same").1).0;
    let vouched = Vouched::from_roots(&leaf, &thicket, std::slice::from_ref(&trusted));
    assert!(vouched.edges.is_empty() && !vouched.limited);
    let error = paths(&leaf, &thicket, std::slice::from_ref(&trusted), &rules).unwrap_err();
    assert!(matches!(error, PathError::UnknownAuthority(Some(_))), "{error}");
    // With as many roots of that name, there is an end all the same.
    let roots: Vec<Certificate> = (0..20).map(|_| root("same").0).collect();
    let error = paths(&leaf, &thicket, &roots, &rules).unwrap_err();
    assert!(matches!(error, PathError::Limit), "{error}");
}

#[test]
fn as_many_trusted_ways_as_there_may_be_end_as_well() {
    // One key under twenty certificates of one name, all by one root: a stolen CA key's work.
    let (root, by) = root("root");
    let key = KeyPair::generate().unwrap();
    let copies: Vec<_> = (0..20)
        .map(|number: u8| {
            let mut params = ca("middle");
            params.serial_number = Some(vec![number + 1].into());
            let copy = KeyPair::from_pem(&key.serialize_pem()).unwrap();
            CertifiedIssuer::signed_by(params, copy, &by).unwrap()
        })
        .collect();
    let of =
        |it: &CertifiedIssuer<'static, KeyPair>| Certificate::from_der(it.der().to_vec()).unwrap();
    let sent: Vec<Certificate> = copies.iter().map(of).collect();
    let (leaf, _) = below(params("leaf"), &Arc::new(copies.into_iter().next().unwrap()));
    let rules = PathRules { max_intermediates: 20, ..PathRules::at(now()) };
    let found = paths(&leaf, &sent, &[root], &rules).unwrap();
    assert_eq!(found.len(), 20);
}

#[test]
fn the_other_form_of_a_certificate_is_as_good_and_its_other_form_is_the_first() {
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ECDSA_P521_SHA512,
    ] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let issuer = Arc::new(CertifiedIssuer::self_signed(ca("root"), key).unwrap());
        let root = Certificate::from_der(issuer.der().to_vec()).unwrap();
        let (leaf, _) = below(params("leaf"), &issuer);
        let other = leaf.in_other_form(root.public_key()).unwrap();
        assert_ne!(other, leaf);
        find(&other, &[], &[&root]).unwrap();
        assert_eq!(other.in_other_form(root.public_key()).unwrap(), leaf);
    }
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let issuer = Arc::new(CertifiedIssuer::self_signed(ca("root"), key).unwrap());
    let (leaf, _) = below(params("leaf"), &issuer);
    let root = Certificate::from_der(issuer.der().to_vec()).unwrap();
    assert!(leaf.in_other_form(root.public_key()).is_none());
}
