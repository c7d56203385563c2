//! Evidence that does not hold: nobody is asked about it, and nothing is given.

use steeple_plugin::Code;

use super::*;

/// The refusal of evidence that must not get as far as a look-up.
async fn refusal(fixture: &Fixture, payload: &[u8]) -> (Code, String) {
    let before = fixture.cloud.asked().len();
    let refusal = refused(fixture.attest(payload).await);
    assert_eq!(fixture.cloud.asked().len(), before, "nobody was asked");
    refusal
}

async fn fixture() -> Fixture {
    Fixture::new("", |_| described(INSTANCE_XML)).await
}

/// SPIRE up to 1.14.5 verified the content of the signed message and used another document.
#[tokio::test]
async fn the_document_that_is_used_is_the_one_that_was_signed() {
    let fixture = fixture().await;
    let own = document().to_string();
    let signature = fixture.signer.sign(own.as_bytes());
    let mut forged = document();
    forged["instanceId"] = "i-victim".into();
    let (code, text) = refusal(&fixture, &payload(&forged.to_string(), &signature)).await;
    assert_eq!(code, Code::InvalidArgument);
    assert_eq!(text, "instance identity document does not match the verified PKCS7 content");
    // Another text for the same is another document, too.
    let (_, text) = refusal(&fixture, &payload(&format!("{own} "), &signature)).await;
    assert_eq!(text, "instance identity document does not match the verified PKCS7 content");
}

#[tokio::test]
async fn forged_signatures_are_refused() {
    let fixture = fixture().await;
    let text = document().to_string();
    let other = DocumentSigner::new();
    let failed = "failed verification of instance identity cryptographic signature: ";
    let (code, why) = refusal(&fixture, &payload(&text, &other.sign(text.as_bytes()))).await;
    assert_eq!(code, Code::InvalidArgument);
    assert_eq!(why, format!("{failed}crypto/rsa: verification error"));
    let older = Fixture::with(DocumentSigner::valid_until(2025), "", |_| described("")).await;
    let (code, why) = refusal(&older, &older.evidence()).await;
    assert_eq!(code, Code::InvalidArgument);
    assert_eq!(why, format!("{failed}x509: certificate has expired or is not yet valid"));
}

#[tokio::test]
async fn a_region_is_vouched_for_by_its_own_certificate() {
    let fixture = fixture().await;
    let mut elsewhere = document();
    // Published: the signature is none of its key's.
    elsewhere["region"] = "us-east-1".into();
    let (code, why) = refusal(&fixture, &fixture.evidence_of(&elsewhere)).await;
    assert_eq!(code, Code::InvalidArgument);
    assert!(why.ends_with("pkcs7: No certificate for signer"), "{why}");
    for unknown in ["xx-test-2", "", "evil.test/"] {
        elsewhere["region"] = unknown.into();
        let (code, why) = refusal(&fixture, &fixture.evidence_of(&elsewhere)).await;
        assert_eq!(code, Code::Internal);
        let expected = format!(
            "failed to load the AWS CA certificate for region {unknown:?}: unsupported region \
             {unknown:?}"
        );
        assert_eq!(why, expected);
    }
}

#[tokio::test]
async fn evidence_without_the_long_signature_is_refused() {
    let fixture = fixture().await;
    let text = document().to_string();
    let (code, why) = refusal(&fixture, &payload(&text, "")).await;
    assert_eq!(code, Code::InvalidArgument);
    assert!(why.contains("the RSA-1024 one is not accepted"), "{why}");
    let none = json!({ "document": text }).to_string();
    let (code, why) = refusal(&fixture, none.as_bytes()).await;
    assert_eq!(code, Code::InvalidArgument);
    assert_eq!(why, "instance identity cryptographic signature is required");
}

#[tokio::test]
async fn malformed_and_oversized_evidence_is_told_what_is_wrong() {
    let fixture = fixture().await;
    let own = document().to_string();
    let long = "x".repeat(70_000);
    let mut wide = document();
    wide["imageId"] = "x".repeat(300).into();
    let attestation = "failed to unmarshal the attestation data: ";
    let iid = "failed to unmarshal the IID: ";
    let signature = "failed to parse the instance identity cryptographic signature";
    for (bad, expected) in [
        (b"malformed payload".to_vec(), attestation),
        (b"[]".to_vec(), attestation),
        (payload(&own, &long), attestation),
        (payload("", "x"), iid),
        (payload(r#"{"region": 1}"#, "x"), iid),
        (fixture.evidence_of(&wide), iid),
        (payload(&own, "bad signature"), signature),
        (payload(&own, "MIA="), signature),
        (payload(&own, "%"), "failed to decode the instance identity cryptographic signature"),
    ] {
        let (code, why) = refusal(&fixture, &bad).await;
        assert_eq!(code, Code::InvalidArgument, "{why}");
        assert!(why.starts_with(expected), "{why}");
        assert!(why.len() < 500, "{why}");
    }
    let (code, why) = refusal(&fixture, b"").await;
    assert_eq!((code, why.as_str()), (Code::InvalidArgument, "missing attestation payload"));
}

#[tokio::test]
async fn every_truncation_is_refused() {
    let fixture = fixture().await;
    let evidence = fixture.evidence();
    for length in (0..evidence.len()).step_by(7) {
        let (code, _) = refusal(&fixture, &evidence[..length]).await;
        assert_eq!(code, Code::InvalidArgument);
    }
    let document = document().to_string();
    let signature = fixture.signer.sign(document.as_bytes());
    for length in (0..signature.len()).step_by(5) {
        let (code, _) = refusal(&fixture, &payload(&document, &signature[..length])).await;
        assert_eq!(code, Code::InvalidArgument);
    }
}
