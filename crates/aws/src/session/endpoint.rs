//! Where the APIs are.

use crate::environment::Environment;

/// An API.
#[derive(Debug)]
pub(crate) struct Service {
    /// Its name in the SDKs, which errors repeat.
    pub(crate) id: &'static str,
    /// Its name in signatures.
    pub(crate) signing: &'static str,
    host: &'static str,
    variable: &'static str,
    scope: Scope,
}

#[derive(Debug)]
enum Scope {
    /// One in each region.
    Regional,
    Iam,
    Organizations,
}

/// Where a service is, and the region that signatures for it name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Scheme, host and port.
    pub(crate) url: String,
    pub(crate) region: String,
}

const fn regional(id: &'static str, signing: &'static str, variable: &'static str) -> Service {
    Service { id, signing, host: signing, variable, scope: Scope::Regional }
}

pub(crate) static EC2: Service = regional("EC2", "ec2", "AWS_ENDPOINT_URL_EC2");
pub(crate) static STS: Service = regional("STS", "sts", "AWS_ENDPOINT_URL_STS");
pub(crate) static EKS: Service = regional("EKS", "eks", "AWS_ENDPOINT_URL_EKS");
pub(crate) static AUTO_SCALING: Service =
    regional("Auto Scaling", "autoscaling", "AWS_ENDPOINT_URL_AUTO_SCALING");
pub(crate) static IAM: Service = Service {
    id: "IAM",
    signing: "iam",
    host: "iam",
    variable: "AWS_ENDPOINT_URL_IAM",
    scope: Scope::Iam,
};
pub(crate) static ORGANIZATIONS: Service = Service {
    id: "Organizations",
    signing: "organizations",
    host: "organizations",
    variable: "AWS_ENDPOINT_URL_ORGANIZATIONS",
    scope: Scope::Organizations,
};

impl Service {
    /// Where it is for callers in `region`; nothing when that is no region's name. The variables
    /// of AWS's SDKs say another place: `AWS_ENDPOINT_URL_<service>`, or `AWS_ENDPOINT_URL`.
    pub(crate) fn endpoint(&self, region: &str, environment: &Environment) -> Option<Place> {
        if !is_region(region) {
            return None;
        }
        let suffix = suffix(region);
        let (home, host) = match self.scope {
            Scope::Regional => (region, format!("{}.{region}.{suffix}", self.host)),
            Scope::Iam => iam(region),
            Scope::Organizations => {
                let home = match partition(region) {
                    Partition::China => "cn-northwest-1",
                    Partition::Government => "us-gov-west-1",
                    Partition::Commercial => "us-east-1",
                    Partition::Other => region,
                };
                (home, format!("organizations.{home}.{suffix}"))
            }
        };
        let url = match configured(self.variable, environment) {
            Some(url) => url,
            None => format!("https://{host}"),
        };
        Some(Place { url, region: home.to_owned() })
    }
}

fn configured(variable: &str, environment: &Environment) -> Option<String> {
    if environment.is_true("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") {
        return None;
    }
    let url = environment.get(variable).or_else(|| environment.get("AWS_ENDPOINT_URL"))?;
    Some(url.trim_end_matches('/').to_owned())
}

/// Whether a text may stand where a host's name has its region.
pub(crate) fn is_region(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=32).contains(&text.len())
        && text.bytes().all(plain)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

enum Partition {
    Commercial,
    China,
    Government,
    /// Those apart from the others; the European one among them.
    Other,
}

fn partition(region: &str) -> Partition {
    match region.split('-').next() {
        Some("cn") => Partition::China,
        Some("us") if region.starts_with("us-gov-") => Partition::Government,
        _ if suffix(region) == "amazonaws.com" => Partition::Commercial,
        _ => Partition::Other,
    }
}

fn suffix(region: &str) -> &'static str {
    const SUFFIXES: [(&str, &str); 6] = [
        ("cn-", "amazonaws.com.cn"),
        ("us-iso-", "c2s.ic.gov"),
        ("us-isob-", "sc2s.sgov.gov"),
        ("eu-isoe-", "cloud.adc-e.uk"),
        ("us-isof-", "csp.hci.ic.gov"),
        ("eusc-", "amazonaws.eu"),
    ];
    let found = SUFFIXES.into_iter().find(|(prefix, _)| region.starts_with(prefix));
    found.map_or("amazonaws.com", |(_, suffix)| suffix)
}

/// IAM is one for each partition.
fn iam(region: &str) -> (&str, String) {
    match partition(region) {
        Partition::China => ("cn-north-1", "iam.cn-north-1.amazonaws.com.cn".to_owned()),
        Partition::Government => ("us-gov-west-1", "iam.us-gov.amazonaws.com".to_owned()),
        Partition::Commercial => ("us-east-1", "iam.amazonaws.com".to_owned()),
        Partition::Other => {
            let home = match suffix(region) {
                "c2s.ic.gov" => "us-iso-east-1",
                "sc2s.sgov.gov" => "us-isob-east-1",
                "cloud.adc-e.uk" => "eu-isoe-west-1",
                "csp.hci.ic.gov" => "us-isof-south-1",
                _ => "eusc-de-east-1",
            };
            (home, format!("iam.{home}.{}", suffix(region)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(service: &Service, region: &str) -> (String, String) {
        let place = service.endpoint(region, &Environment::of([])).unwrap();
        (place.url, place.region)
    }

    #[test]
    fn services_are_where_the_sdks_look_for_them() {
        for (service, region, url, signed) in [
            (&EC2, "us-east-2", "https://ec2.us-east-2.amazonaws.com", "us-east-2"),
            (&STS, "cn-north-1", "https://sts.cn-north-1.amazonaws.com.cn", "cn-north-1"),
            (&IAM, "eu-west-1", "https://iam.amazonaws.com", "us-east-1"),
            (&IAM, "us-gov-east-1", "https://iam.us-gov.amazonaws.com", "us-gov-west-1"),
            (&IAM, "cn-northwest-1", "https://iam.cn-north-1.amazonaws.com.cn", "cn-north-1"),
            (
                &ORGANIZATIONS,
                "us-west-2",
                "https://organizations.us-east-1.amazonaws.com",
                "us-east-1",
            ),
            (
                &AUTO_SCALING,
                "us-gov-west-1",
                "https://autoscaling.us-gov-west-1.amazonaws.com",
                "us-gov-west-1",
            ),
        ] {
            assert_eq!(place(service, region), (url.to_owned(), signed.to_owned()));
        }
    }

    #[test]
    fn variables_name_other_places() {
        let environment = Environment::of([
            ("AWS_ENDPOINT_URL", "http://localhost:1/"),
            ("AWS_ENDPOINT_URL_EC2", "http://localhost:2"),
        ]);
        let url = |service: &Service| service.endpoint("us-east-1", &environment).unwrap().url;
        assert_eq!(
            (url(&EC2), url(&STS)),
            ("http://localhost:2".into(), "http://localhost:1".into())
        );
    }

    #[test]
    fn what_is_no_region_is_no_part_of_a_host() {
        for text in
            ["", "a.b", "us-east-1.evil.test/", "US-EAST-1", "-a", "a-", "a@b", &"a".repeat(33)]
        {
            assert_eq!(EC2.endpoint(text, &Environment::of([])), None, "{text}");
        }
    }
}
