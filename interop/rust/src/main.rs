//! A workload on the `spiffe` crate; see interop/README.md for the verbs.

use std::error::Error;
use std::sync::Arc;

use futures_util::StreamExt;
use serde_json::{Value, json};
use spiffe::{JwtSvid, WorkloadApiClient, X509Source, X509Svid};
use spiffe_rustls::{authorizer, mtls_client, mtls_server};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn say(value: Value) {
    println!("{value}");
}

fn describe(svid: &X509Svid) -> Outcome<Value> {
    let (_, leaf) = x509_parser::parse_x509_certificate(svid.leaf().as_bytes())?;
    let serial = leaf.tbs_certificate.serial.to_string();
    Ok(json!({"id": svid.spiffe_id().to_string(), "serial": serial, "hint": svid.hint().unwrap_or("")}))
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().collect();
    match (args[1].as_str(), &args[2..]) {
        ("fetch-x509", []) => {
            let context = WorkloadApiClient::connect_env().await?.fetch_x509_context().await?;
            let svids =
                context.svids().iter().map(|svid| describe(svid)).collect::<Outcome<Vec<_>>>()?;
            let domain = context.default_svid().ok_or("no SVID")?.spiffe_id().trust_domain().to_string();
            say(json!({"svids": svids, "bundles": [domain]}));
        }
        ("fetch-jwt", [audience]) => {
            let client = WorkloadApiClient::connect_env().await?;
            let svid = client.fetch_jwt_svid([audience], None).await?;
            let bundles = client.fetch_jwt_bundles().await?;
            JwtSvid::parse_and_validate(svid.token(), &bundles, &[audience.as_str()])?;
            say(json!({"id": svid.spiffe_id().to_string(), "token": svid.token()}));
        }
        ("validate-jwt", [audience, token]) => {
            let client = WorkloadApiClient::connect_env().await?;
            let svid = client.validate_jwt_token(audience, token).await?;
            say(json!({"id": svid.spiffe_id().to_string()}));
        }
        ("watch", [count]) => {
            let client = WorkloadApiClient::connect_env().await?;
            let mut updates = Box::pin(client.stream_x509_contexts().await?);
            for _ in 0..count.parse::<usize>()? {
                let update = updates.next().await.ok_or("the stream ended")??;
                say(describe(update.default_svid().ok_or("no SVID")?)?);
            }
        }
        ("serve", [allowed]) => serve(allowed).await?,
        ("dial", [address, expected]) => {
            let source = X509Source::new().await?;
            let config =
                mtls_client(source).authorize(authorizer::exact([expected.as_str()])?).build()?;
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::try_from("workload.invalid")?;
            let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
            stream.write_all(b"hello\n").await?;
            let mut reply = String::new();
            BufReader::new(stream).read_line(&mut reply).await?;
            if reply.is_empty() {
                return Err("no reply".into());
            }
            say(json!({"reply": reply}));
        }
        _ => return Err("unknown verb".into()),
    }
    Ok(())
}

async fn serve(allowed: &str) -> Outcome<()> {
    let source = X509Source::new().await?;
    let config = mtls_server(source).authorize(authorizer::exact([allowed])?).build()?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    say(json!({"port": listener.local_addr()?.port()}));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                match answer(acceptor, stream).await {
                    Ok(()) => say(json!({"served": true})),
                    Err(error) => say(json!({"refused": error.to_string()})),
                }
            });
        }
    });
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    Ok(())
}

async fn answer(acceptor: TlsAcceptor, stream: TcpStream) -> Outcome<()> {
    let mut stream = BufReader::new(acceptor.accept(stream).await?);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    stream.write_all(format!("echo {line}").as_bytes()).await?;
    stream.shutdown().await?;
    Ok(())
}
