//! The relationships that flags describe, or the JSON file of `-data`, and a relationship as text.

use serde::Deserialize;
use serde_json::Value;
use steeple_proto::spire::api::types::federation_relationship::BundleEndpointProfile as Profile;
use steeple_proto::spire::api::types::{
    Bundle, FederationRelationship, HttpsWebProfile, HttpsspiffeProfile,
};
use steeple_spiffe::SpiffeId;

use super::bundle_text::{self, Format};
use super::entry_file::fold_keys;
use crate::dispatch::Failure;
use crate::json;
use crate::{Env, FlagSet};

const WEB: &str = "https_web";
const SPIFFE: &str = "https_spiffe";

/// The flags that describe a relationship, other than the bundle's format.
const FIELDS: [&str; 5] = [
    "trustDomain",
    "bundleEndpointURL",
    "bundleEndpointProfile",
    "endpointSpiffeID",
    "trustDomainBundlePath",
];

pub(super) fn declare(flags: &mut FlagSet) {
    flags.text(
        "data",
        "",
        "Path to a file containing federation relationships in JSON format (optional). If set to \
         '-', read the JSON from stdin.",
    );
    flags.text("trustDomain", "", "Name of the trust domain to federate with (e.g., example.org)");
    flags.text(
        "bundleEndpointURL",
        "",
        "URL of the SPIFFE bundle endpoint that provides the trust bundle (must use the HTTPS \
         protocol)",
    );
    flags.text(
        "bundleEndpointProfile",
        "",
        "Endpoint profile type (either \"https_web\" or \"https_spiffe\")",
    );
    flags.text(
        "endpointSpiffeID",
        "",
        "SPIFFE ID of the SPIFFE bundle endpoint server. Only used for 'spiffe' profile.",
    );
    flags.text("trustDomainBundlePath", "", "Path to the trust domain bundle data (optional).");
    flags.text(
        "trustDomainBundleFormat",
        "pem",
        "The format of the bundle data (optional). Either \"pem\" or \"spiffe\".",
    );
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct File {
    federationrelationships: Vec<Record>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Record {
    trustdomain: String,
    bundleendpointurl: String,
    bundleendpointprofile: String,
    endpointspiffeid: String,
    trustdomainbundle: Option<Value>,
    trustdomainbundleformat: String,
    /// Only by flag.
    #[serde(skip)]
    bundle_path: String,
}

/// What the command line asks for: the relationships of a file, or the one that flags describe.
pub(super) fn relationships(
    flags: &FlagSet,
    env: &mut Env,
) -> Result<Vec<FederationRelationship>, Failure> {
    let path = flags.str("data");
    if path.is_empty() {
        let record = Record {
            trustdomain: flags.str("trustDomain").to_owned(),
            bundleendpointurl: flags.str("bundleEndpointURL").to_owned(),
            bundleendpointprofile: flags.str("bundleEndpointProfile").to_owned(),
            endpointspiffeid: flags.str("endpointSpiffeID").to_owned(),
            trustdomainbundle: None,
            trustdomainbundleformat: flags.str("trustDomainBundleFormat").to_owned(),
            bundle_path: flags.str("trustDomainBundlePath").to_owned(),
        };
        return Ok(vec![convert(record, env)?]);
    }
    let described = FIELDS.iter().any(|field| !flags.str(field).is_empty());
    if described || flags.str("trustDomainBundleFormat") != "pem" {
        return Err(
            "cannot use other flags to specify relationship fields when 'data' flag is set".into(),
        );
    }
    let content = env.read(path).map_err(|error| Failure(error.to_string()))?;
    let records =
        parse(&content).map_err(|error| Failure::from(error).context("failed to parse JSON"))?;
    let records = records.into_iter().enumerate();
    records
        .map(|(index, record)| {
            let doing = format!("could not parse item {index}");
            convert(record, env).map_err(|error| error.context(&doing))
        })
        .collect()
}

fn parse(content: &[u8]) -> Result<Vec<Record>, String> {
    let value = json::value(content)?;
    let file: File = serde_json::from_value(fold_keys(value)).map_err(|error| error.to_string())?;
    Ok(file.federationrelationships)
}

fn convert(record: Record, env: &mut Env) -> Result<FederationRelationship, Failure> {
    if record.trustdomain.is_empty() {
        return Err("trust domain is required".into());
    }
    if record.bundleendpointurl.is_empty() {
        return Err("bundle endpoint URL is required".into());
    }
    // As in SPIRE, the bundle of an endpoint with an SVID is named after the SVID's trust domain.
    let mut bundle_of = record.trustdomain.clone();
    let profile = match record.bundleendpointprofile.as_str() {
        WEB => Profile::HttpsWeb(HttpsWebProfile {}),
        SPIFFE => {
            if record.endpointspiffeid.is_empty() {
                return Err(
                    "endpoint SPIFFE ID is required if 'https_spiffe' endpoint profile is \
                            set"
                    .into(),
                );
            }
            let id = SpiffeId::parse(&record.endpointspiffeid).map_err(|error| {
                Failure::from(error).context("cannot parse bundle endpoint SPIFFE ID")
            })?;
            id.trust_domain_name().clone_into(&mut bundle_of);
            Profile::HttpsSpiffe(HttpsspiffeProfile { endpoint_spiffe_id: record.endpointspiffeid })
        }
        other => return Err(format!("unknown bundle endpoint profile type: {other:?}").into()),
    };
    let format = record.trustdomainbundleformat.as_str();
    let trust_domain_bundle = match (record.bundle_path.as_str(), record.trustdomainbundle) {
        ("", None) => None,
        ("", Some(raw)) => Some(
            raw_bundle(&raw, format, &bundle_of)
                .map_err(|error| error.context("cannot parse bundle raw message"))?,
        ),
        (path, _) => Some(bundle_file(path, format, &bundle_of, env)?),
    };
    Ok(FederationRelationship {
        trust_domain: record.trustdomain,
        bundle_endpoint_url: record.bundleendpointurl,
        bundle_endpoint_profile: Some(profile),
        trust_domain_bundle,
    })
}

fn bundle_file(path: &str, format: &str, of: &str, env: &mut Env) -> Result<Bundle, Failure> {
    // Here, `-` is a file of that name.
    let path = if path == "-" { "./-" } else { path };
    let content =
        env.read(path).map_err(|error| Failure(format!("cannot read bundle file: {error}")))?;
    // Whatever is not PEM is the other, as for SPIRE.
    let format = if format == "pem" { Format::Pem } else { Format::Spiffe };
    bundle_text::parse(&content, format, of)
        .map_err(|error| error.context("cannot parse bundle file"))
}

fn raw_bundle(raw: &Value, format: &str, of: &str) -> Result<Bundle, Failure> {
    match format {
        "pem" => {
            let pem =
                raw.as_str().ok_or("failed to unmarshal json: a PEM bundle must be a string")?;
            bundle_text::parse(pem.as_bytes(), Format::Pem, of)
        }
        "spiffe" => bundle_text::parse(raw.to_string().as_bytes(), Format::Spiffe, of),
        other => Err(format!("bundle format {other:?} is unsupported").into()),
    }
}

/// The lines of a relationship.
pub(super) fn text(relationship: &FederationRelationship) -> String {
    let mut text = format!(
        "Trust domain              : {}\nBundle endpoint URL       : {}\n",
        relationship.trust_domain, relationship.bundle_endpoint_url
    );
    match &relationship.bundle_endpoint_profile {
        Some(Profile::HttpsWeb(_)) => {
            text.push_str("Bundle endpoint profile   : https_web\n");
        }
        Some(Profile::HttpsSpiffe(spiffe)) => {
            text.push_str("Bundle endpoint profile   : https_spiffe\nEndpoint SPIFFE ID        : ");
            text.push_str(&spiffe.endpoint_spiffe_id);
            text.push('\n');
        }
        None => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_in_any_case_and_without_the_path() {
        let records = parse(
            br#"{"federationRelationships":[{"trustDomain":"a","BundleEndpointURL":"https://a",
                "bundleEndpointProfile":"https_web","bundle_path":"/etc/passwd","more":1}]}"#,
        )
        .unwrap();
        assert_eq!((records[0].trustdomain.as_str(), records.len()), ("a", 1));
        assert_eq!(records[0].bundleendpointurl, "https://a");
        assert!(records[0].bundle_path.is_empty());
    }

    #[test]
    fn a_relationship_is_laid_out_in_labelled_lines() {
        let relationship = FederationRelationship {
            trust_domain: "a".into(),
            bundle_endpoint_url: "https://a".into(),
            bundle_endpoint_profile: Some(Profile::HttpsSpiffe(HttpsspiffeProfile {
                endpoint_spiffe_id: "spiffe://a/s".into(),
            })),
            trust_domain_bundle: None,
        };
        assert_eq!(
            text(&relationship),
            "Trust domain              : a\nBundle endpoint URL       : https://a\n\
             Bundle endpoint profile   : https_spiffe\nEndpoint SPIFFE ID        : spiffe://a/s\n"
        );
    }
}
