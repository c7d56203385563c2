//! Documents that Azure did not sign, and how the authorities between are found.

use rcgen::ExtendedKeyUsagePurpose;

use super::pki::{Wish, authority, make, message, signed_message};
use super::*;

#[tokio::test]
async fn content_is_believed_of_the_one_who_signed_it_and_of_no_other_in_the_bag() {
    // SPIRE before 1.15.1 checked name and chain of the first certificate in the bag.
    let cloud = Cloud::new();
    let genuine = &cloud.azure.service;
    for dns in [&["attacker.example.test"][..], &["eastus.metadata.azure.com"]] {
        let attacker = make(&Wish { name: "attacker", dns, ..Wish::default() }, None);
        for bag in [[genuine, &attacker], [&attacker, genuine]] {
            let refused = cloud.refusal(&attacker, &bag).await;
            let expected = match dns[0] {
                "attacker.example.test" => "signing certificate validation failed: ",
                _ => "certificate chain validation failed: ",
            };
            assert!(refused.starts_with(expected), "{refused}");
        }
    }
}

#[tokio::test]
async fn a_certificate_that_bears_the_signers_name_and_number_is_not_the_signer() {
    let cloud = Cloud::new();
    let wish = Wish { serial: Some(7), ..Wish::default() };
    let genuine = cloud.azure.another(&wish);
    // Same issuer's name and serial number, other keys.
    let issuer = make(&authority("Test Issuing CA"), None);
    let attacker = make(&wish, Some(&issuer));
    for bag in [[&genuine, &attacker], [&attacker, &genuine]] {
        let refused = cloud.refusal(&attacker, &bag).await;
        let chain = "certificate chain validation failed: ";
        let signature = "signature verification failed: ";
        assert!(refused.starts_with(chain) || refused.starts_with(signature), "{refused}");
    }
}

#[tokio::test]
async fn what_comes_with_the_message_is_no_authority() {
    let cloud = Cloud::new();
    let root = make(&authority("Test Root"), None);
    let issuing = make(&authority("Test Issuing CA"), Some(&root));
    let service = make(&Wish::default(), Some(&issuing));
    let refused = cloud.refusal(&service, &[&service, &issuing, &root]).await;
    let expected = "certificate chain validation failed: signing certificate was not issued by \
                    intermediate certificate";
    assert_eq!(refused, expected);
}

#[tokio::test]
async fn a_signer_is_azures_metadata_service_in_its_time_and_a_tls_server() {
    let cloud = Cloud::new();
    let refusal = async |wish: Wish<'_>| {
        let signer = cloud.azure.another(&wish);
        cloud.refusal(&signer, &[&signer]).await
    };
    for dns in [&[][..], &["wrong.domain.com"], &["xmetadata.azure.com"], &["azure.com"]] {
        let refused = refusal(Wish { dns, ..Wish::default() }).await;
        let expected = "signing certificate validation failed: certificate does not have any \
                        valid domain in SAN (found SANs=[";
        assert!(refused.starts_with(expected), "{refused}");
        assert!(refused.ends_with("], allowed domains=[metadata.azure.com])"), "{refused}");
    }
    let path = "certificate chain validation failed: unable to verify signing certificate against \
                root CAs: x509: ";
    let usage = ExtendedKeyUsagePurpose::ClientAuth;
    let refused = refusal(Wish { usage, ..Wish::default() }).await;
    assert_eq!(refused, format!("{path}certificate specifies an incompatible key usage"));
    for (from, until) in [(NOW - 20, NOW - 10), (NOW + 10, NOW + 20)] {
        let refused = refusal(Wish { from, until, ..Wish::default() }).await;
        let expected = format!("{path}certificate has expired or is not yet valid: ");
        assert!(refused.starts_with(&expected), "{refused}");
    }
    for dns in [["metadata.azure.com"], ["sub.eastus.metadata.azure.com"]] {
        let signer = cloud.azure.another(&Wish { dns: &dns, ..Wish::default() });
        let respond = |nonce: &str, _| {
            cloud.payload(&document(content(nonce).as_bytes(), &signer, &[&signer]))
        };
        cloud.attest_with(respond).await.unwrap();
    }
}

#[tokio::test]
async fn the_metadata_domains_are_the_operators() {
    let mut cloud = Cloud::new();
    cloud.settings += "\nallowed_metadata_domains = [\"metadata.azure.us\", \"x.test\"]";
    let service = &cloud.azure.service;
    let refused = cloud.refusal(service, &[service]).await;
    assert!(refused.ends_with("allowed domains=[metadata.azure.us x.test])"), "{refused}");
    let dns = ["usgovvirginia.metadata.azure.us"];
    let signer = cloud.azure.another(&Wish { dns: &dns, ..Wish::default() });
    let respond =
        |nonce: &str, _| cloud.payload(&document(content(nonce).as_bytes(), &signer, &[&signer]));
    cloud.attest_with(respond).await.unwrap();
}

#[tokio::test]
async fn a_changed_document_says_what_was_signed_or_nothing() {
    use base64::Engine as _;
    let cloud = Cloud::new();
    let service = &cloud.azure.service;
    let server = cloud.server();
    let attest_changed = async |change: &(dyn Fn(Vec<u8>) -> Vec<u8> + Send + Sync)| {
        let respond = |nonce: &str| {
            let whole = change(message(content(nonce).as_bytes(), service, &[service]));
            let text = base64::engine::general_purpose::STANDARD.encode(whole);
            cloud.payload(&text).to_json()
        };
        attest(&server, respond).await
    };
    let honest = attest_changed(&|whole| whole).await.unwrap();
    let len = message(content(&"n".repeat(32)).as_bytes(), service, &[service]).len();
    for at in (0..len).step_by(3) {
        let flip = move |mut whole: Vec<u8>| {
            let at = at.min(whole.len() - 1);
            whole[at] ^= 1;
            whole
        };
        // What nobody vouches for, such as a version, may be anything.
        match attest_changed(&flip).await {
            Ok(changed) => assert_eq!(changed, honest, "changed at {at}"),
            Err((code, text)) => {
                assert_eq!(code, Code::InvalidArgument);
                assert!(text.starts_with("failed to validate"), "changed at {at}: {text}");
            }
        }
        let cut = move |whole: Vec<u8>| whole[..at.min(whole.len() - 1)].to_vec();
        let (_, text) = attest_changed(&cut).await.unwrap_err();
        assert!(text.starts_with("failed to validate"), "cut at {at}: {text}");
    }
}

#[tokio::test]
async fn the_signature_of_one_document_does_not_hold_for_another() {
    use base64::Engine as _;
    let cloud = Cloud::new();
    let service = &cloud.azure.service;
    let respond = |nonce: &str, _| {
        let signature = service.sign(content(nonce).as_bytes());
        let other = content_of("00000000-e29b-41d4-a716-446655440000", SUBSCRIPTION, nonce);
        let moved = signed_message(other.as_bytes(), &signature, service, &[service]);
        cloud.payload(&base64::engine::general_purpose::STANDARD.encode(moved))
    };
    let (code, text) = cloud.attest_with(respond).await.unwrap_err();
    assert_eq!(code, Code::InvalidArgument);
    assert!(text.contains("document: signature verification failed: "), "{text}");
}

#[tokio::test]
async fn who_signed_must_be_clear() {
    let cloud = Cloud::new();
    let service = &cloud.azure.service;
    let refused = cloud.refusal(service, &[]).await;
    assert_eq!(refused, "expected exactly one signer certificate in PKCS7 signature");
    let respond = |_: &str, _| cloud.payload("not-valid-base64!!!");
    let (_, text) = cloud.attest_with(respond).await.unwrap_err();
    assert!(text.contains("document: failed to decode signature: "), "{text}");
    let respond = |_: &str, _| cloud.payload("bm90IGEgbWVzc2FnZQ==");
    let (_, text) = cloud.attest_with(respond).await.unwrap_err();
    assert!(text.contains("document: failed to parse PKCS7 signature: "), "{text}");
    let respond = |_: &str, _| cloud.payload(&document(b"not valid json", service, &[service]));
    let (_, text) = cloud.attest_with(respond).await.unwrap_err();
    assert!(text.contains("document: failed to unmarshal attested document payload: "), "{text}");
}

#[tokio::test]
async fn authorities_certificates_are_fetched_from_microsoft_only() {
    let cloud = Cloud::new();
    let refusal = async |aia: Option<&str>| {
        let signer = cloud.azure.another(&Wish { aia, ..Wish::default() });
        let text = cloud.refusal(&signer, &[&signer]).await;
        text.strip_prefix("failed to get intermediate certificate: ").unwrap().to_owned()
    };
    let extract = "failed to extract CA Issuers URL: ";
    for aia in [None, Some("")] {
        let expected = format!("{extract}no CA Issuers URL found in certificate");
        assert_eq!(refusal(aia).await, expected);
    }
    let refused = refusal(Some(":://invalid-url")).await;
    assert!(
        refused.starts_with(&format!("{extract}failed to parse CA Issuers URL: ")),
        "{refused}"
    );
    for (url, host) in [
        ("https://example.com/cert.crt", "example.com"),
        ("http://169.254.169.254/metadata/instance", "169.254.169.254"),
        ("http://www.microsoft.com.evil.test/", "www.microsoft.com.evil.test"),
        ("http://www.microsoft.com@evil.test/", "evil.test"),
        ("http://www.microsoft.com:8080/", "www.microsoft.com:8080"),
        ("http://evil.test\\@www.microsoft.com/", "evil.test"),
        ("file:///etc/passwd", ""),
    ] {
        let expected = format!(
            "CA Issuers URL host {host:?} does not match expected value \"www.microsoft.com\""
        );
        assert_eq!(refusal(Some(url)).await, expected, "{url}");
    }
    for url in ["ftp://www.microsoft.com/x", "http://user:pass@www.microsoft.com/x"] {
        assert!(refusal(Some(url)).await.ends_with("plain http or https URL"), "{url}");
    }
    let long = format!("http://www.microsoft.com/{}", "x".repeat(2000));
    assert_eq!(refusal(Some(&long)).await, format!("{extract}the URL is too long"));
    assert!(cloud.recorded.asked().is_empty());
}

#[tokio::test]
async fn an_authority_is_fetched_once_and_a_bad_one_is_not_kept() {
    let cloud = Cloud::new();
    let url = format!("GET {AIA}");
    let server = cloud.server();
    let respond = |nonce: &str| cloud.respond(nonce).to_json();
    let refused = async || {
        let (code, text) = attest(&server, respond).await.unwrap_err();
        assert_eq!(code, Code::InvalidArgument);
        text.replacen("failed to validate attested document: ", "", 1)
    };
    let get = "failed to get intermediate certificate: ";
    cloud.recorded.on(&url, 302, "");
    let expected = "failed to fetch intermediate certificate, status: 302";
    assert_eq!(refused().await, format!("{get}{expected}"));
    cloud.recorded.on(&url, 200, "<html>");
    let expected = "failed to decode intermediate certificate as PEM";
    assert_eq!(refused().await, format!("{get}{expected}"));
    cloud.recorded.on(&url, 200, vec![0; 65 * 1024]);
    assert!(refused().await.ends_with("the answer is larger than 65536 bytes"));
    cloud.recorded.on(&url, 200, cloud.azure.root.certificate.der().to_vec());
    assert!(refused().await.contains("was not issued by intermediate certificate"));
    cloud.recorded.forget(&url);
    assert!(refused().await.ends_with("no complete answer within 10s"));
    // In PEM, this time.
    cloud.recorded.on(&url, 200, cloud.azure.issuing.certificate.pem());
    for _ in 0..5 {
        attest(&server, respond).await.unwrap();
    }
    assert_eq!(cloud.recorded.count("www.microsoft.com"), 6);
    cloud.clock.advance(Duration::from_mins(50));
    cloud.recorded.forget(&url);
    attest(&server, respond).await.unwrap();
}

#[tokio::test]
async fn an_issuing_authority_among_the_roots_is_not_fetched() {
    let cloud = Cloud::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bundle.pem");
    std::fs::write(&path, cloud.azure.issuing.certificate.pem()).unwrap();
    let mut cloud = cloud;
    cloud.settings += &format!("\ntrust_bundle_path = {path:?}");
    cloud.attest().await.unwrap();
    assert_eq!(cloud.recorded.count("www.microsoft.com"), 0);
}

#[tokio::test]
async fn an_unknown_root_is_none() {
    let mut cloud = Cloud::new();
    let answer = HashMap::from([("other", Azure::new())]);
    let other = &answer["other"];
    cloud.recorded.on(&format!("GET {AIA}"), 200, other.issuing.certificate.der().to_vec());
    cloud.settings = TENANTS.to_owned();
    let refused = cloud.refusal(&other.service, &[&other.service]).await;
    assert!(refused.contains("against root CAs: x509: certificate signed by unknown authority"));
}
