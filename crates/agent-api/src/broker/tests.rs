use super::*;

#[test]
fn only_a_reference_to_a_process_names_one() {
    let reference = |type_url: &str, value: &[u8]| WorkloadReference {
        type_url: type_url.into(),
        value: value.to_vec(),
    };
    let pid = proto::WorkloadPidReference { pid: 4711 }.encode_to_vec();
    assert_eq!(pid_of(&reference(PID_REFERENCE, &pid)), Some(4711));
    assert_eq!(pid_of(&reference(PID_REFERENCE, &[])), Some(0));
    assert_eq!(pid_of(&reference(PID_REFERENCE, &[0xff; 40])), None);
    assert_eq!(pid_of(&reference("type.googleapis.com/x", &pid)), None);
}

#[test]
fn the_header_is_required_once_and_as_it_is() {
    let headers = |values: &[&'static str]| {
        let mut headers = http::HeaderMap::new();
        for value in values {
            headers.append(SECURITY_HEADER, http::HeaderValue::from_static(value));
        }
        caller::require_header(&headers, SECURITY_HEADER)
    };
    assert!(headers(&["true"]).is_ok());
    for wrong in [&[][..], &["True"], &["1"], &["true", "true"]] {
        assert_eq!(headers(wrong).unwrap_err().code(), Code::InvalidArgument);
    }
}
