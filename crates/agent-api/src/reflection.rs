//! gRPC server reflection, v1 and v1alpha, as grpc-go answers: a file comes with the files that it
//! depends on, and what is not found is an answer, not the end of the stream.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, LazyLock};

use futures_util::{Stream, StreamExt as _, stream};
use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};
use tonic::{Request, Response, Status, Streaming};
use tonic_reflection::pb::{v1, v1alpha};

/// What can be asked about: the files of the services and all that those import.
pub(crate) struct Reflected {
    services: Vec<String>,
    files: HashMap<String, File>,
    symbols: HashMap<String, String>,
}

struct File {
    encoded: Vec<u8>,
    imports: Vec<String>,
}

/// The service, for either version of the protocol. It reads its descriptors, which take megabytes
/// once decoded, when the first question comes, and hardly any agent is asked one.
#[derive(Clone)]
pub(crate) struct ReflectionService(Arc<LazyLock<Reflected, Describe>>);

type Describe = Box<dyn FnOnce() -> Reflected + Send>;

impl ReflectionService {
    /// Describes `services`, which are in `descriptors`, and itself. The descriptors are those that
    /// were generated with the code; others would panic at the first question.
    pub(crate) fn new(services: &[&str], descriptors: &'static [&'static [u8]]) -> Self {
        let services = services.iter().copied().chain(OWN_SERVICES).map(str::to_owned).collect();
        let describe = move || {
            Reflected::read(services, descriptors)
                .expect("descriptors generated with the code are well-formed")
        };
        Self(Arc::new(LazyLock::new(Box::new(describe))))
    }
}

impl Reflected {
    fn read(services: Vec<String>, descriptors: &[&[u8]]) -> Result<Self, prost::DecodeError> {
        let own = [
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let mut known = BTreeMap::new();
        for set in descriptors.iter().chain(&own) {
            for mut file in FileDescriptorSet::decode(*set)?.file {
                // go-spiffe has it by this name.
                if file.name() == "spiffe/workload/workload.proto" {
                    file.name = Some("workload.proto".to_owned());
                }
                known.insert(file.name().to_owned(), file);
            }
        }
        Ok(Self::new(services, &known))
    }

    fn new(mut services: Vec<String>, known: &BTreeMap<String, FileDescriptorProto>) -> Self {
        services.sort_unstable();
        let declares = |file: &FileDescriptorProto| {
            file.service.iter().any(|it| services.contains(&qualified(file.package(), it.name())))
        };
        let mut wanted: VecDeque<&str> =
            known.values().filter(|file| declares(file)).map(FileDescriptorProto::name).collect();
        let mut this =
            Self { services: services.clone(), files: HashMap::new(), symbols: HashMap::new() };
        while let Some(file) = wanted.pop_front().and_then(|name| known.get(name)) {
            if !this.files.contains_key(file.name()) {
                this.add(file);
                wanted.extend(file.dependency.iter().map(String::as_str));
            }
        }
        this
    }

    fn add(&mut self, file: &FileDescriptorProto) {
        let (name, package) = (file.name().to_owned(), file.package());
        for message in &file.message_type {
            self.add_message(&name, package, message);
        }
        for names in file.enum_type.iter().map(|it| qualified(package, it.name())) {
            self.symbols.insert(names, name.clone());
        }
        for service in &file.service {
            let full = qualified(package, service.name());
            for method in &service.method {
                self.symbols.insert(qualified(&full, method.name()), name.clone());
            }
            self.symbols.insert(full, name.clone());
        }
        let (encoded, imports) = (file.encode_to_vec(), file.dependency.clone());
        self.files.insert(name, File { encoded, imports });
    }

    fn add_message(&mut self, file: &str, scope: &str, message: &DescriptorProto) {
        let full = qualified(scope, message.name());
        for nested in &message.nested_type {
            self.add_message(file, &full, nested);
        }
        let enums = message.enum_type.iter().map(|it| it.name());
        for name in enums.chain(message.field.iter().map(|it| it.name())) {
            self.symbols.insert(qualified(&full, name), file.to_owned());
        }
        self.symbols.insert(full, file.to_owned());
    }

    /// The file and those that it imports, without the ones that were `sent`.
    fn with_imports(&self, name: &str, sent: &mut HashSet<String>) -> Option<Vec<Vec<u8>>> {
        let mut found = Vec::new();
        let mut wanted = VecDeque::from([(name, self.files.get(name)?)]);
        while let Some((name, file)) = wanted.pop_front() {
            // What was asked for comes in any case.
            if sent.insert(name.to_owned()) || found.is_empty() {
                found.push(file.encoded.clone());
            }
            let imports = file.imports.iter().filter(|import| !sent.contains(*import));
            wanted.extend(imports.filter_map(|it| Some((it.as_str(), self.files.get(it)?))));
        }
        Some(found)
    }
}

fn qualified(scope: &str, name: &str) -> String {
    if scope.is_empty() { name.to_owned() } else { format!("{scope}.{name}") }
}

/// The stream's answers, which end where the questions do.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

macro_rules! answer_in {
    ($version:ident) => {
        const _: () = {
            use $version::server_reflection_request::MessageRequest as Question;
            use $version::server_reflection_response::MessageResponse as Answer;
            use $version::server_reflection_server::ServerReflection;

            fn files(found: Option<Vec<Vec<u8>>>) -> Answer {
                match found {
                    Some(file_descriptor_proto) => {
                        Answer::FileDescriptorResponse($version::FileDescriptorResponse {
                            file_descriptor_proto,
                        })
                    }
                    None => not_found(),
                }
            }

            fn not_found() -> Answer {
                Answer::ErrorResponse($version::ErrorResponse {
                    error_code: tonic::Code::NotFound as i32,
                    error_message: "proto: not found".into(),
                })
            }

            fn answer(
                known: &Reflected,
                question: $version::ServerReflectionRequest,
                sent: &mut HashSet<String>,
            ) -> Result<$version::ServerReflectionResponse, Status> {
                let found = match &question.message_request {
                    Some(Question::FileByFilename(name)) => files(known.with_imports(name, sent)),
                    Some(Question::FileContainingSymbol(symbol)) => {
                        let file = known.symbols.get(symbol);
                        files(file.and_then(|name| known.with_imports(name, sent)))
                    }
                    Some(Question::FileContainingExtension(_)) => not_found(),
                    Some(Question::AllExtensionNumbersOfType(name)) => {
                        // As grpc-go does: of anything that has a name.
                        if known.symbols.contains_key(name) {
                            Answer::AllExtensionNumbersResponse($version::ExtensionNumberResponse {
                                base_type_name: name.clone(),
                                extension_number: Vec::new(),
                            })
                        } else {
                            not_found()
                        }
                    }
                    Some(Question::ListServices(_)) => {
                        let name = |name: &String| $version::ServiceResponse { name: name.clone() };
                        let service = known.services.iter().map(name).collect();
                        Answer::ListServicesResponse($version::ListServiceResponse { service })
                    }
                    None => return Err(Status::invalid_argument("invalid MessageRequest: <nil>")),
                };
                Ok($version::ServerReflectionResponse {
                    valid_host: question.host.clone(),
                    original_request: Some(question),
                    message_response: Some(found),
                })
            }

            #[tonic::async_trait]
            impl ServerReflection for ReflectionService {
                type ServerReflectionInfoStream = Answers<$version::ServerReflectionResponse>;

                async fn server_reflection_info(
                    &self,
                    request: Request<Streaming<$version::ServerReflectionRequest>>,
                ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
                    let state = (self.0.clone(), request.into_inner(), HashSet::new(), false);
                    let answers = stream::unfold(state, async |state| {
                        let (known, mut questions, mut sent, failed) = state;
                        if failed {
                            return None;
                        }
                        let found = match questions.next().await? {
                            Ok(question) => answer(&known, question, &mut sent),
                            Err(status) => Err(reworded(status)),
                        };
                        let failed = found.is_err();
                        Some((found, (known, questions, sent, failed)))
                    });
                    Ok(Response::new(Box::pin(answers)))
                }
            }
        };
    };
}

answer_in!(v1);
answer_in!(v1alpha);

/// A question that cannot be read, in grpc-go's words.
fn reworded(status: Status) -> Status {
    if status.message().starts_with("failed to decode Protobuf message") {
        return Status::internal(
            "grpc: failed to unmarshal the received message: \
             proto: cannot parse invalid wire-format data",
        );
    }
    status
}

const OWN_SERVICES: [&str; 2] =
    ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];

#[cfg(test)]
mod tests {
    use super::*;

    fn workload_api() -> ReflectionService {
        let services = ["grpc.health.v1.Health", "SpiffeWorkloadAPI"];
        ReflectionService::new(&services, &crate::endpoint::DESCRIPTORS)
    }

    #[test]
    fn services_are_listed_in_order_and_nothing_else_can_be_seen() {
        let known = workload_api().0;
        assert_eq!(
            known.services,
            ["SpiffeWorkloadAPI", "grpc.health.v1.Health", OWN_SERVICES[0], OWN_SERVICES[1]]
        );
        assert!(known.symbols.contains_key("SpiffeWorkloadAPI.FetchX509SVID"));
        assert!(known.symbols.contains_key("X509SVIDResponse.FederatedBundlesEntry"));
        assert!(!known.symbols.contains_key("spire.api.server.entry.v1.Entry"));
    }

    #[test]
    fn a_file_comes_with_its_imports_once_per_stream() {
        let known = workload_api().0;
        let mut sent = HashSet::new();
        let file = known.symbols["SpiffeWorkloadAPI"].as_str();
        assert_eq!(known.with_imports(file, &mut sent).unwrap().len(), 2);
        assert_eq!(known.with_imports(file, &mut sent).unwrap().len(), 1);
        assert_eq!(known.with_imports("nope.proto", &mut sent), None);
    }
}
