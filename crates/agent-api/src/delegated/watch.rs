//! Our own method: many workloads on one stream, by difference.
//!
//! A subscription costs its place in the cache's group and a future that waits for the group's
//! next update; what was sent of it is known by reference. Nothing is queued for a reader that is
//! slow: what it has not read yet is worked out when it reads.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, unfold};
use futures_util::{FutureExt as _, StreamExt as _};
use http_body::Frame as BodyFrame;
use http_body_util::StreamBody;
use steeple_agent_core::cache::{Identity, Subscription, Update};
use steeple_agent_core::wire::{self, Frame};
use steeple_proto::steeple::agent::delegation::v1 as proto;
use steeple_runtime::Watcher;
use tokio::sync::oneshot;
use tonic::body::Body;
use tonic::codec::Streaming;
use tonic::server::NamedService as _;
use tonic::{Code, Status};

use super::authority::Delegate;
use super::{Call, DelegatedApi, DelegationService, Subject};
use crate::caller;
use crate::share::Share;
use crate::streaming::{self, stopping, trailers};

pub(super) async fn route(
    api: Arc<DelegatedApi>,
    method: &str,
    request: http::Request<Body>,
    share: Share,
) -> Result<http::Response<Body>, Status> {
    if method != "WatchX509SVIDs" {
        let method: String = method.escape_default().take(64).collect();
        let service = DelegationService::NAME;
        return Err(Status::unimplemented(format!(
            "unknown method {method} for service {service}"
        )));
    }
    let peer = caller::peer(request.extensions())?;
    let (pid, uid) = (peer.pid(), peer.uid());
    let call = Call { service: "Delegation", method: "WatchX509SVIDs", pid, uid };
    let delegate = api.authorize(call, &peer).await?;
    let watch = Watch {
        requests: Some(streaming::messages(request.into_body())),
        drain: api.drain.clone(),
        api,
        call,
        delegate,
        waiting: FuturesUnordered::new(),
        live: HashMap::new(),
        outgoing: VecDeque::new(),
        _share: share,
    };
    let frames = unfold(Some(watch), |watch| async move {
        let mut watch = watch?;
        match watch.next().await {
            Ok(frame) => Some((Ok::<_, Status>(BodyFrame::data(frame.bytes())), Some(watch))),
            Err(status) => Some((Ok(trailers(&status)), None)),
        }
    });
    Ok(streaming::respond(StreamBody::new(Box::pin(frames))))
}

struct Watch {
    api: Arc<DelegatedApi>,
    call: Call,
    delegate: Delegate,
    drain: Watcher,
    /// None once the delegate will ask no more.
    requests: Option<Streaming<proto::WatchX509sviDsRequest>>,
    waiting: FuturesUnordered<BoxFuture<'static, Event>>,
    /// Open subscriptions; dropping the sender ends one.
    live: HashMap<u64, oneshot::Sender<()>>,
    outgoing: VecDeque<News>,
    _share: Share,
}

/// One subscription and what was said of it.
struct Watched {
    id: u64,
    subject: Subject,
    subscription: Subscription,
    cancelled: oneshot::Receiver<()>,
    sent: Vec<Arc<Identity>>,
    federates_with: Vec<String>,
    begun: bool,
}

enum Event {
    Resolved(u64, oneshot::Receiver<()>, Result<Subject, Status>),
    Updated(Watched, Arc<Update>),
    Ended(u64, Status),
    Cancelled,
}

/// A change as it will be sent.
#[derive(Default)]
struct News {
    id: u64,
    upserted: Vec<Arc<Identity>>,
    removed: Vec<Arc<Identity>>,
    federates_with: Vec<String>,
    more: bool,
    incomplete: bool,
    error: Option<Status>,
}

impl Watch {
    /// The next message, of what there is to say by now.
    async fn next(&mut self) -> Result<Frame, Status> {
        while self.outgoing.is_empty() {
            tokio::select! {
                request = request(&mut self.requests) => self.on_request(request?)?,
                Some(event) = self.waiting.next(), if !self.waiting.is_empty() => self.on_event(event),
                standing = self.delegate.changed(&self.api, self.call) => standing?,
                () = self.drain.signalled() => return Err(stopping()),
            }
        }
        while self.outgoing.len() < MAX_CHANGES
            && let Some(Some(event)) = self.waiting.next().now_or_never()
        {
            self.on_event(event);
        }
        self.delegate.check(&self.api, self.call)?;
        Ok(self.frame())
    }

    fn on_request(&mut self, request: Option<proto::WatchX509sviDsRequest>) -> Result<(), Status> {
        let Some(request) = request else {
            self.requests = None;
            return Ok(());
        };
        for id in request.unsubscribe {
            self.live.remove(&id);
        }
        for wanted in request.subscribe {
            let id = wanted.id;
            if self.live.contains_key(&id) {
                let status = Status::already_exists("the subscription's number is in use");
                self.fail(id, status);
                continue;
            }
            if self.live.len() >= MAX_SUBSCRIPTIONS {
                return Err(Status::resource_exhausted("too many subscriptions"));
            }
            let (sender, cancelled) = oneshot::channel();
            self.live.insert(id, sender);
            let (api, call) = (self.api.clone(), self.call);
            self.waiting.push(Box::pin(async move {
                let subject = api.subject(call, wanted.pid, &wanted.selectors).await;
                Event::Resolved(id, cancelled, subject)
            }));
        }
        Ok(())
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Cancelled => {}
            Event::Ended(id, status) => {
                self.live.remove(&id);
                self.fail(id, status);
            }
            Event::Resolved(id, mut cancelled, subject) => match subject {
                _ if cancelled.try_recv() == Err(oneshot::error::TryRecvError::Closed) => {}
                Err(status) => {
                    self.live.remove(&id);
                    self.fail(id, status);
                }
                Ok(subject) => {
                    let now = self.api.clock.now();
                    let mut subscription = self.api.cache.subscribe(subject.selectors.clone(), now);
                    let update = subscription.current();
                    let (sent, federates_with) = (Vec::new(), Vec::new());
                    let watched = Watched {
                        id,
                        subject,
                        subscription,
                        cancelled,
                        sent,
                        federates_with,
                        begun: false,
                    };
                    self.on_update(watched, &update);
                }
            },
            Event::Updated(watched, update) => self.on_update(watched, &update),
        }
    }

    fn on_update(&mut self, mut watched: Watched, update: &Update) {
        self.outgoing.extend(watched.news(update));
        self.waiting.push(watched.wait().boxed());
    }

    fn fail(&mut self, id: u64, status: Status) {
        self.outgoing.push_back(News { id, error: Some(status), ..News::default() });
    }

    /// Takes as many changes as make a message.
    fn frame(&mut self) -> Frame {
        let mut taken: Vec<News> = Vec::new();
        let mut identities = 0;
        while let Some(next) = self.outgoing.front() {
            identities += next.upserted.len();
            if !taken.is_empty() && (identities > MAX_IDENTITIES || taken.len() >= MAX_CHANGES) {
                break;
            }
            taken.extend(self.outgoing.pop_front());
        }
        let changes: Vec<_> = taken.iter().map(News::change).collect();
        wire::watched(&changes)
    }
}

async fn request(
    requests: &mut Option<Streaming<proto::WatchX509sviDsRequest>>,
) -> Result<Option<proto::WatchX509sviDsRequest>, Status> {
    match requests {
        Some(requests) => requests.message().await,
        None => std::future::pending().await,
    }
}

impl Watched {
    async fn wait(mut self) -> Event {
        let exit = async {
            match &self.subject.exit {
                Some(exit) => exit.ended().await,
                None => std::future::pending().await,
            }
        };
        let update = tokio::select! {
            update = self.subscription.changed() => update,
            // An error: the sender is gone, which is how it says so.
            _ = &mut self.cancelled => return Event::Cancelled,
            () = exit => return Event::Ended(self.id, Status::unavailable("the process has ended")),
        };
        Event::Updated(self, update)
    }

    /// What the update says that was not sent yet; nothing, if that is nothing.
    fn news(&mut self, update: &Update) -> Vec<News> {
        let now: Vec<Arc<Identity>> = update.delegable_shared().cloned().collect();
        let was = std::mem::replace(&mut self.sent, now);
        let held: HashMap<&str, &Arc<Identity>> =
            was.iter().map(|it| (&*it.entry().id, it)).collect();
        let upserted: Vec<Arc<Identity>> = self
            .sent
            .iter()
            .filter(|it| !held.get(&*it.entry().id).is_some_and(|held| Arc::ptr_eq(held, it)))
            .cloned()
            .collect();
        let stays: std::collections::HashSet<&str> =
            self.sent.iter().map(|it| &*it.entry().id).collect();
        let removed: Vec<_> =
            was.iter().filter(|it| !stays.contains(&*it.entry().id)).cloned().collect();
        let federates_with = update.federates_with();
        let same =
            upserted.is_empty() && removed.is_empty() && federates_with == self.federates_with;
        if same && self.begun {
            return Vec::new();
        }
        self.begun = true;
        self.federates_with.clone_from(&federates_with);
        let mut news: Vec<News> = upserted
            .chunks(MAX_IDENTITIES)
            .map(|chunk| News {
                id: self.id,
                upserted: chunk.to_vec(),
                more: true,
                ..News::default()
            })
            .collect();
        if news.is_empty() {
            news.push(News { id: self.id, ..News::default() });
        }
        if let Some(last) = news.last_mut() {
            last.more = false;
            last.removed = removed;
            last.federates_with = federates_with;
            last.incomplete = !update.is_complete();
        }
        news
    }
}

impl News {
    fn change(&self) -> wire::Change<'_> {
        wire::Change {
            id: self.id,
            upserted: self.upserted.iter().map(|it| (&*it.entry().id, it.with_key())).collect(),
            removed: self.removed.iter().map(|it| &*it.entry().id).collect(),
            federates_with: &self.federates_with,
            more: self.more,
            incomplete: self.incomplete,
            error: self.error.as_ref().map(|it| (code(it.code()), it.message())),
        }
    }
}

fn code(code: Code) -> u32 {
    u32::try_from(code as i32).unwrap_or(Code::Unknown as u32)
}

/// Subscriptions of one stream.
const MAX_SUBSCRIPTIONS: usize = 100_000;
/// Identities in one message: some hundred kilobytes.
const MAX_IDENTITIES: usize = 256;
/// Changes in one message.
const MAX_CHANGES: usize = 1024;
