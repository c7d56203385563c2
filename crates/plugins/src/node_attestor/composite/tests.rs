use std::collections::VecDeque;
use std::sync::Mutex;

use async_trait::async_trait;
use steeple_plugin::{AgentAttributes, Challenger, contract};
use steeple_spiffe::{SpiffeId, TrustDomain};

use super::payload::{Challenge, Payload};
use super::*;

/// An attestor that asks `asks` times for the evidence again, reversed.
struct Judge {
    name: &'static str,
    asks: usize,
    can_reattest: bool,
}

fn reversed(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().rev().copied().collect()
}

#[async_trait]
impl NodeAttestor for Judge {
    fn name(&self) -> &str {
        self.name
    }

    async fn attest(
        &self,
        payload: &[u8],
        challenger: &mut dyn Challenger,
    ) -> Result<AgentAttributes, PluginError> {
        let refused = |text: &str| Err(error(Code::PermissionDenied, text));
        if !payload.starts_with(self.name.as_bytes()) {
            return refused("not my evidence");
        }
        for _ in 0..self.asks {
            if challenger.challenge(payload).await? != reversed(payload) {
                return refused("wrong response");
            }
        }
        let id = format!("spiffe://td/spire/agent/{}/node", self.name);
        Ok(AgentAttributes {
            agent_id: SpiffeId::parse(&id).unwrap(),
            selector_values: vec![format!("of:{}", self.name)],
            can_reattest: self.can_reattest,
        })
    }
}

struct Evidence(&'static str);

#[async_trait]
impl NodeEvidence for Evidence {
    fn name(&self) -> &str {
        self.0
    }

    async fn payload(&self) -> Result<Vec<u8>, PluginError> {
        Ok(format!("{}-evidence", self.0).into_bytes())
    }

    async fn respond(&self, challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        match challenge.starts_with(self.0.as_bytes()) {
            true => Ok(reversed(challenge)),
            false => Err(error(Code::Internal, "not my challenge")),
        }
    }
}

/// Hands challenges to an agent; what `tamper` makes of the response goes back.
struct Wire<'a> {
    agent: &'a dyn NodeEvidence,
    tamper: fn(Vec<u8>) -> Vec<u8>,
    asked: usize,
}

#[async_trait]
impl Challenger for Wire<'_> {
    async fn challenge(&mut self, challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        self.asked += 1;
        Ok((self.tamper)(self.agent.respond(challenge).await?))
    }
}

fn settings(names: &[&str]) -> Settings {
    let attestors = names.iter().map(|name| (*name).to_owned()).collect();
    Settings { attestors, allow_alone: Vec::new() }
}

fn server_of(asks: usize, can_reattest: bool) -> Arc<dyn NodeAttestor> {
    let loaded: Vec<Arc<dyn NodeAttestor>> = vec![
        Arc::new(Judge { name: "cloud", asks: 1, can_reattest }),
        Arc::new(Judge { name: "tpm", asks, can_reattest: true }),
        Arc::new(Judge { name: "other", asks: 0, can_reattest: true }),
    ];
    let host = HostContext::new(TrustDomain::parse("td").unwrap());
    settings(&["tpm", "cloud"]).bind_server(&loaded, &host).unwrap()
}

fn agent_of(names: &[&'static str]) -> Arc<dyn NodeEvidence> {
    let loaded = names.iter().map(|name| Arc::new(Evidence(name)) as Arc<dyn NodeEvidence>);
    settings(names).bind_agent(&loaded.collect::<Vec<_>>()).unwrap()
}

async fn converse(
    server: &dyn NodeAttestor,
    agent: &dyn NodeEvidence,
    payload: Vec<u8>,
    tamper: fn(Vec<u8>) -> Vec<u8>,
) -> Result<AgentAttributes, PluginError> {
    let mut wire = Wire { agent, tamper, asked: 0 };
    server.attest(&payload, &mut wire).await
}

#[tokio::test]
async fn both_halves_make_one_agent_with_the_first_ones_id_and_the_selectors_of_both() {
    let (server, agent) = (server_of(3, false), agent_of(&["tpm", "cloud"]));
    contract::node_evidence(agent.as_ref()).await;
    for _ in 0..2 {
        let payload = agent.payload().await.unwrap();
        let proven = converse(&*server, &*agent, payload, |it| it).await.unwrap();
        assert_eq!(proven.agent_id.as_str(), "spiffe://td/spire/agent/tpm/node");
        assert!(!proven.can_reattest);
        let selectors = server.selectors(&proven.selector_values);
        let texts: Vec<String> = selectors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "composite:attestor:tpm",
                "tpm:of:tpm",
                "composite:attestor:cloud",
                "cloud:of:cloud",
                "composite:agent_id:spiffe://td/spire/agent/cloud/node",
                "composite:once:cloud",
            ]
        );
    }
    assert_eq!((server.name(), server.namespace()), ("composite", "tpm"));
    assert_eq!(server.parts(), ["tpm", "cloud"]);
    let again = server_of(0, true);
    let payload = agent.payload().await.unwrap();
    let proven = converse(&*again, &*agent, payload, |it| it).await.unwrap();
    assert!(proven.can_reattest);
    assert!(!proven.selector_values.iter().any(|value| value.contains("once")));
}

#[tokio::test]
async fn a_half_that_is_missing_swapped_doubled_empty_or_anothers_is_refused_before_any_work() {
    let server = server_of(1, true);
    let part = |name: &str, evidence: &str| (name.to_owned(), evidence.as_bytes().to_vec());
    let (tpm, cloud) = (part("tpm", "tpm-evidence"), part("cloud", "cloud-evidence"));
    for (parts, why) in [
        (vec![], "evidence of node attestor \"tpm\" is missing"),
        (vec![tpm.clone()], "evidence of node attestor \"cloud\" is missing"),
        (vec![cloud.clone()], "evidence of node attestor \"tpm\" is missing"),
        (vec![cloud.clone(), tpm.clone()], "evidence must be of tpm and cloud in this order"),
        (
            vec![tpm.clone(), cloud.clone(), part("other", "other")],
            "evidence must be of tpm and cloud in this order",
        ),
        (
            vec![tpm.clone(), tpm.clone(), cloud.clone()],
            "evidence must be of tpm and cloud in this order",
        ),
        (vec![tpm.clone(), part("cloud", "")], "evidence of node attestor \"cloud\" is empty"),
    ] {
        let mut wire = Wire { agent: &Evidence("tpm"), tamper: |it| it, asked: 0 };
        let refused = server.attest(&Payload { parts }.encode(), &mut wire).await.unwrap_err();
        assert_eq!(refused.to_string(), format!("nodeattestor(composite): {why}"));
        assert_eq!((refused.code, wire.asked), (Code::InvalidArgument, 0));
    }
    // The name of one with the evidence of the other.
    let agent = agent_of(&["tpm", "cloud"]);
    let parts = vec![part("tpm", "cloud-evidence"), part("cloud", "tpm-evidence")];
    let refused = converse(&*server, &*agent, Payload { parts }.encode(), |it| it).await;
    assert_eq!(refused.unwrap_err().code, Code::PermissionDenied);
    for payload in [&b""[..], b"{}", b"[]", b"{\"parts\":[{}]}", b"x509pop", &vec![b'['; 1 << 21]] {
        let refused = converse(&*server, &*agent, payload.to_vec(), |it| it).await.unwrap_err();
        assert_eq!(refused.message, "nodeattestor(composite): failed to unmarshal payload");
    }
    let many = Payload { parts: vec![tpm; 5] }.encode();
    assert_eq!(Payload::decode(&many), None);
}

#[tokio::test]
async fn a_response_to_another_challenge_or_part_is_refused() {
    let (server, agent) = (server_of(2, true), agent_of(&["tpm", "cloud"]));
    let tampers: [fn(Vec<u8>) -> Vec<u8>; 3] = [
        |it| {
            let it = Challenge::decode(&it).unwrap();
            Challenge { attestor: "cloud".into(), ..it }.encode()
        },
        |it| {
            let it = Challenge::decode(&it).unwrap();
            Challenge { step: it.step + 1, ..it }.encode()
        },
        |_| b"{".to_vec(),
    ];
    for tamper in tampers {
        let payload = agent.payload().await.unwrap();
        let refused = converse(&*server, &*agent, payload, tamper).await.unwrap_err();
        assert_eq!(refused.code, Code::InvalidArgument, "{refused}");
    }
    let payload = agent.payload().await.unwrap();
    let wrong: fn(Vec<u8>) -> Vec<u8> = |it| {
        let it = Challenge::decode(&it).unwrap();
        Challenge { data: b"guess".to_vec(), ..it }.encode()
    };
    let refused = converse(&*server, &*agent, payload, wrong).await.unwrap_err();
    assert_eq!(refused.code, Code::PermissionDenied);
}

#[tokio::test]
async fn an_agent_answers_only_the_challenge_whose_turn_it_is() {
    let agent = agent_of(&["tpm", "cloud"]);
    let asked = |attestor: &str, step, data: &str| {
        Challenge { attestor: attestor.into(), step, data: data.into() }.encode()
    };
    let mut script = VecDeque::from([
        (asked("tpm", 1, "tpm-a"), true),
        // The same again, a step left out, a part that is none, another part's message.
        (asked("tpm", 1, "tpm-a"), false),
        (asked("tpm", 3, "tpm-a"), false),
        (asked("other", 2, "other"), false),
        (asked("cloud", 2, "cloud-a"), true),
        // The first part has had its turn.
        (asked("tpm", 3, "tpm-a"), false),
        (b"{}".to_vec(), false),
        (b"tpm-a".to_vec(), false),
    ]);
    agent.payload().await.unwrap();
    let answers = Mutex::new(0);
    while let Some((challenge, fine)) = script.pop_front() {
        let answer = agent.respond(&challenge).await;
        assert_eq!(answer.is_ok(), fine, "{}", String::from_utf8_lossy(&challenge));
        *answers.lock().unwrap() += 1;
    }
    assert_eq!(*answers.lock().unwrap(), 8);
    // A new payload begins anew.
    agent.payload().await.unwrap();
    assert!(agent.respond(&asked("tpm", 1, "tpm-a")).await.is_ok());
    // The part itself looks, too.
    assert!(agent.respond(&asked("cloud", 2, "tpm-a")).await.is_err());
}

#[tokio::test]
async fn a_server_that_asks_without_end_is_cut_short() {
    let (server, agent) = (server_of(1000, true), agent_of(&["tpm", "cloud"]));
    let payload = agent.payload().await.unwrap();
    let refused = converse(&*server, &*agent, payload, |it| it).await.unwrap_err();
    assert_eq!(refused.message, "nodeattestor(composite): there are too many challenges");
}

#[test]
fn settings_say_what_is_wrong_with_them() {
    let refusal = |text: &str, on_server: bool| {
        let data = Block::parse(text).unwrap();
        let checked = if on_server { check_server(Some(&data)) } else { check_agent(Some(&data)) };
        checked.err().map(|error| error.message.replace("nodeattestor(composite): ", ""))
    };
    assert_eq!(refusal("attestors = [\"a\", \"b\"]", true), None);
    assert_eq!(refusal("attestors = [\"a\", \"b\"]\nallow_alone = [\"b\"]", true), None);
    for (text, why) in [
        ("", "attestors must name 2 to 4 node attestors"),
        ("attestors = [\"a\"]", "attestors must name 2 to 4 node attestors"),
        ("attestors = [\"a\",\"a\"]", "attestors names \"a\" twice"),
        (
            "attestors = [\"a\",\"join_token\"]",
            "join_token cannot be a part: the server spends the token itself",
        ),
        ("attestors = [\"a\",\"composite\"]", "\"composite\" cannot be a part"),
        (
            "attestors = [\"a\",\"b\"]\nallow_alone = [\"c\"]",
            "allow_alone names \"c\", which is not among attestors",
        ),
        ("attestors = [\"a\",\"b\"]\nalone = true", "unknown configurations detected: alone"),
    ] {
        assert_eq!(refusal(text, true).as_deref(), Some(why), "{text}");
    }
    assert!(refusal("attestors = [\"a\",\"b\"]\nallow_alone = [\"a\"]", false).is_some());
    assert!(check_server(None).is_err());
    let missing = settings(&["a", "b"]).bind_agent(&[Arc::new(Evidence("a"))]).err().unwrap();
    assert_eq!(
        missing.message,
        "nodeattestor(composite): node attestor \"b\" is a part, and is not configured"
    );
    let three: [Arc<dyn NodeEvidence>; 3] =
        [Arc::new(Evidence("a")), Arc::new(Evidence("b")), Arc::new(Evidence("c"))];
    let other = settings(&["a", "b"]).bind_agent(&three).err().unwrap();
    assert_eq!(
        other.message,
        "nodeattestor(composite): node attestor \"c\" is configured, and is not a part"
    );
}
