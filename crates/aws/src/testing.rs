//! A stand-in for AWS's HTTP servers, and for whoever signs documents.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use steeple_pki::{Certificate, PrivateKey, SignatureAlgorithm};
use steeple_runtime::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What a stand-in was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Asked {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let line = self.head.lines().find(|line| {
            line.split_once(':').is_some_and(|(it, _)| it.eq_ignore_ascii_case(name))
        })?;
        line.split_once(':').map(|(_, value)| value.trim())
    }

    /// A parameter of the query protocol.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        let mut pairs = url::form_urlencoded::parse(self.body.as_bytes());
        pairs.find(|(it, _)| it == name).map(|(_, value)| value.into_owned())
    }

    /// The operation, in whichever protocol.
    pub(crate) fn operation(&self) -> String {
        if let Some(target) = self.header("x-amz-target") {
            return target.rsplit('.').next().unwrap().to_owned();
        }
        self.parameter("Action").unwrap_or_else(|| format!("{} {}", self.method, self.target))
    }
}

/// A status, a content type and a body.
pub(crate) type Answer = (u16, &'static str, String);

/// An answer in XML.
pub(crate) fn xml(body: impl Into<String>) -> Answer {
    (200, "text/xml", body.into())
}

/// An answer in JSON.
#[expect(clippy::needless_pass_by_value, reason = "made where it is given")]
pub(crate) fn json(body: serde_json::Value) -> Answer {
    (200, "application/x-amz-json-1.1", body.to_string())
}

/// A server that answers as a function says.
pub(crate) struct StandIn {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    _tasks: Tasks,
}

impl StandIn {
    pub(crate) async fn start(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (tasks, noted) = (Tasks::new(), Arc::clone(&asked));
        tasks.spawn("stand-in", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = serve(stream, &answer, &noted).await;
            }
        });
        Self { url, asked, _tasks: tasks }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn operations(&self) -> Vec<String> {
        self.asked().iter().map(Asked::operation).collect()
    }
}

async fn serve(
    mut stream: TcpStream,
    answer: &(impl Fn(&Asked) -> Answer + Sync),
    noted: &Mutex<Vec<Asked>>,
) -> Option<()> {
    let mut read = Vec::new();
    let asked = loop {
        let mut some = [0; 4096];
        let length = stream.read(&mut some).await.ok().filter(|it| *it > 0)?;
        read.extend_from_slice(&some[..length]);
        let text = String::from_utf8_lossy(&read).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let mut words = head.split(' ');
        let asked = Asked {
            method: words.next()?.to_owned(),
            target: words.next()?.to_owned(),
            head: head.to_owned(),
            body: body.to_owned(),
        };
        let length = asked.header("content-length").map_or(0, |it| it.parse().unwrap());
        if body.len() >= length {
            break asked;
        }
    };
    noted.lock().unwrap().push(asked.clone());
    let (status, kind, body) = answer(&asked);
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nx-amzn-requestid: req\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.ok()?;
    stream.write_all(body.as_bytes()).await.ok()?;
    stream.shutdown().await.ok()
}

/// Signs documents, as AWS does in a region.
pub(crate) struct DocumentSigner {
    key: PrivateKey,
    pub(crate) certificate: Certificate,
}

impl DocumentSigner {
    pub(crate) fn new() -> Self {
        Self::valid_until(2200)
    }

    /// One whose certificate ends with a year.
    pub(crate) fn valid_until(year: i32) -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.serial_number = Some(vec![0x7f, 1, 2, 3].into());
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let certificate = params.self_signed(&key).unwrap().der().to_vec();
        Self {
            key: PrivateKey::from_pkcs8_der(&key.serialize_der()).unwrap(),
            certificate: Certificate::from_der(certificate).unwrap(),
        }
    }

    /// The signed message with `content`, in base64 as the metadata service gives it.
    pub(crate) fn sign(&self, content: &[u8]) -> String {
        let signature = self.key.sign(SignatureAlgorithm::RsaPkcs1Sha256, content).unwrap();
        let oid = |bytes: &[u8]| tlv(0x06, bytes);
        let sha256 = tlv(
            0x30,
            &[oid(&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01]), tlv(0x05, &[])]
                .concat(),
        );
        let rsa = tlv(
            0x30,
            &[oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01]), tlv(0x05, &[])]
                .concat(),
        );
        let pkcs7 = |last: u8| oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, last]);
        let version = tlv(0x02, &[1]);
        let issuer = self.certificate.issuer_der().to_vec();
        let serial = tlv(0x02, self.certificate.serial_bytes());
        let names = tlv(0x30, &[issuer, serial].concat());
        let signer = [version.clone(), names, sha256.clone(), rsa, tlv(0x04, &signature)].concat();
        let content = tlv(0x30, &[pkcs7(1), tlv(0xa0, &tlv(0x04, content))].concat());
        let signers = tlv(0x31, &tlv(0x30, &signer));
        let fields = [version, tlv(0x31, &sha256), content, signers].concat();
        let message = tlv(0x30, &[pkcs7(2), tlv(0xa0, &tlv(0x30, &fields))].concat());
        let text = STANDARD.encode(message);
        let lines = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap());
        lines.collect::<Vec<_>>().join("\n")
    }
}

fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = value.len();
    let mut out = match length {
        0..=0x7f => vec![tag, u8::try_from(length).unwrap()],
        _ => [&[tag, 0x82][..], &u16::try_from(length).unwrap().to_be_bytes()].concat(),
    };
    if (0x80..0x100).contains(&length) {
        out = vec![tag, 0x81, u8::try_from(length).unwrap()];
    }
    out.extend_from_slice(value);
    out
}
