//! IAM: the roles of an instance profile.

use crate::error::ApiError;
use crate::session::{Call, IAM, Session};
use crate::xml;

const VERSION: &str = "2010-05-08";

/// How many roles are read; a profile has one.
const MAX_ROLES: usize = 100;

/// The ARNs of the roles in a profile.
pub(crate) async fn instance_profile_roles(
    session: &Session,
    name: &str,
) -> Result<Vec<String>, ApiError> {
    let parameters = [("InstanceProfileName".to_owned(), name.to_owned())];
    let call = Call::query(&IAM, "GetInstanceProfile", VERSION, &parameters);
    let answer = session.call(&call).await?;
    read(&answer).ok_or_else(|| call.malformed("invalid GetInstanceProfile response"))
}

fn read(answer: &[u8]) -> Option<Vec<String>> {
    let document = xml::parse(answer)?;
    let profile =
        xml::at(document.root_element(), &["GetInstanceProfileResult", "InstanceProfile"])?;
    let roles = xml::list(profile, &["Roles"], "member").take(MAX_ROLES);
    Some(roles.filter_map(|role| xml::text(role, &["Arn"])).collect())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_arns_of_a_profiles_roles_are_read() {
        let answer =
            b"<GetInstanceProfileResponse xmlns='https://iam.amazonaws.com/doc/2010-05-08/'>\
            <GetInstanceProfileResult><InstanceProfile><Roles><member><Arn>arn:1</Arn></member>\
            <member><Arn>arn:2</Arn></member></Roles></InstanceProfile></GetInstanceProfileResult>\
            </GetInstanceProfileResponse>";
        assert_eq!(super::read(answer).unwrap(), ["arn:1", "arn:2"]);
        assert_eq!(super::read(b"<GetInstanceProfileResponse/>"), None);
    }
}
