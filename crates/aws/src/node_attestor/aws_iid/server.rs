//! The server's half.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use steeple_plugin::{
    AgentAttributes, Challenger, Code, HostContext, HostServices, NodeAttestor, PluginError,
};
use steeple_spiffe::{SpiffeId, TrustDomain};
use steeple_template::Value;

use super::clients::{Client, Clients};
use super::config::{Accounts, Settings, account_list};
use super::membership::Membership;
use super::payload::Verified;
use super::{NAME, device, error, selectors};
use crate::api::ec2::{self, Instance, Reservation};
use crate::api::{autoscaling, eks, iam, organizations};
use crate::session::{Session, World};

/// How long a look-up may take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Judges documents.
pub(super) struct Server {
    settings: Settings,
    trust_domain: TrustDomain,
    services: HostServices,
    world: World,
    clients: Clients,
    organization: Option<Session>,
    accounts: Membership,
    /// How long each look-up may take, with all its requests.
    timeout: Duration,
}

impl Server {
    pub(super) fn new(settings: Settings, world: World, host: &HostContext) -> Self {
        for region in settings.certificates.added() {
            tracing::warn!(
                plugin_name = NAME,
                region,
                "Documents of a region are verified with a certificate of the configuration"
            );
        }
        let clients = Clients::new(&settings, world.clone());
        let organization = settings.organization.as_ref();
        let ttl = organization.map_or(Duration::ZERO, |it| it.ttl);
        Self {
            organization: organization.and_then(|it| clients.organization(&it.source)),
            accounts: Membership::new(ttl, false),
            clients,
            trust_domain: host.trust_domain.clone(),
            services: host.services.clone(),
            world,
            settings,
            timeout: TIMEOUT,
        }
    }

    /// Waits no longer than this for a look-up.
    #[cfg(test)]
    pub(super) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Awaits a look-up for as long as one may take.
    async fn within<T>(
        &self,
        look_up: impl Future<Output = Result<T, String>>,
    ) -> Result<T, String> {
        match tokio::time::timeout(self.timeout, look_up).await {
            Ok(result) => result,
            Err(_) => Err("context deadline exceeded".to_owned()),
        }
    }

    /// Refuses an account that is not of the organization, where one is configured.
    async fn check_account(&self, account: &str) -> Result<(), PluginError> {
        let Some(organization) = &self.settings.organization else { return Ok(()) };
        let fetch = async {
            match (&organization.source, &self.organization) {
                (Accounts::File(path), _) => {
                    let accounts = account_list(path)
                        .map_err(|why| format!("failed to load org account list: {why}"))?;
                    if accounts.is_empty() {
                        tracing::warn!(
                            account_list_file = %path.display(),
                            "org account list file is empty; all accounts will fail organization \
                             validation"
                        );
                    }
                    Ok(accounts)
                }
                (Accounts::Api { .. }, Some(session)) => {
                    organizations::active_accounts(session).await.map_err(|why| why.to_string())
                }
                (Accounts::Api { .. }, None) => Err("not configured".to_owned()),
            }
        };
        let is_member = self.within(self.accounts.contains(account, self.world.clock.now(), fetch));
        match is_member.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(error(
                Code::Internal,
                format!(
                    "failed aws ec2 attestation, nodes account id: {account} is not part of \
                     configured organization or doesn't have ACTIVE status"
                ),
            )),
            Err(why) => Err(error(
                Code::Internal,
                format!(
                    "failed aws ec2 attestation, issue while verifying if nodes account id: \
                     {account} belong to org: {why}"
                ),
            )),
        }
    }

    /// Refuses an instance that is in none of the clusters, where some are configured.
    async fn check_cluster(&self, client: &Client, instance: &str) -> Result<(), PluginError> {
        let Some(clusters) = &self.settings.clusters else { return Ok(()) };
        let fetch = nodes(&client.session, clusters);
        match self.within(client.nodes.contains(instance, self.world.clock.now(), fetch)).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(error(
                Code::Internal,
                format!(
                    "failed aws eks attestation, nodes id: {instance} is not part of configured \
                     EKS cluster"
                ),
            )),
            Err(why) => Err(error(
                Code::Internal,
                format!(
                    "failed aws eks attestation, issue while verifying if nodes id: {instance} \
                     belong to cluster: {why}"
                ),
            )),
        }
    }

    fn agent_id(
        &self,
        document: &Verified,
        tags: &[(String, String)],
    ) -> Result<SpiffeId, PluginError> {
        let text = |text: &str| Value::from(text);
        let data = Value::record(
            "awsiid.agentPathTemplateData",
            [
                ("InstanceID", text(&document.instance)),
                ("AccountID", text(&document.account)),
                ("Region", text(&document.region)),
                ("PluginName", text(NAME)),
                // As upstream has it: a field without a value.
                ("TrustDomain", text("")),
                ("Tags", Value::string_map(tags.iter().cloned())),
            ],
        );
        self.settings
            .template
            .render(&self.trust_domain, &data)
            .map_err(|why| error(Code::Internal, format!("failed to create spiffe ID: {why}")))
    }

    async fn selectors(
        &self,
        document: &Verified,
        reservations: &[Reservation],
        session: &Session,
    ) -> Result<Vec<String>, PluginError> {
        let mut found = BTreeSet::from(selectors::of_document(document));
        for instance in reservations.iter().flat_map(|it| &it.instances) {
            selectors::of_instance(instance, &mut found);
            let Some(arn) = &instance.profile_arn else { continue };
            if !self.settings.instance_profiles {
                continue;
            }
            let name = selectors::profile_name(arn).map_err(|why| error(Code::Internal, why))?;
            let roles = self.within(async {
                iam::instance_profile_roles(session, name).await.map_err(|why| why.to_string())
            });
            let roles = roles.await.map_err(|why| {
                error(Code::Internal, format!("failed to get intance profile: {why}"))
            })?;
            found.extend(roles.iter().map(|arn| selectors::of_role(arn)));
        }
        Ok(found.into_iter().collect())
    }
}

#[async_trait]
impl NodeAttestor for Server {
    fn name(&self) -> &str {
        NAME
    }

    fn once(&self, _id: &SpiffeId) -> bool {
        true
    }

    async fn attest(
        &self,
        payload: &[u8],
        _challenger: &mut dyn Challenger,
    ) -> Result<AgentAttributes, PluginError> {
        if payload.is_empty() {
            return Err(error(Code::InvalidArgument, "missing attestation payload"));
        }
        let settings = &self.settings;
        let now = self.world.clock.now();
        let document = Verified::verify(payload, &settings.certificates, now)?;
        if !settings.template_has_tags {
            // Nobody is asked about an instance whose document has counted.
            let id = self.agent_id(&document, &[])?;
            self.services.refuse_attested(NAME, &id).await?;
        }
        self.check_account(&document.account).await?;
        let client = self.clients.client(&document.account, &document.region);
        self.check_cluster(&client, &document.instance).await?;
        let reservations = self.within(async {
            let described = ec2::describe_instance(&client.session, &document.instance).await;
            described.map_err(|why| why.to_string())
        });
        let reservations = reservations
            .await
            .map_err(|why| error(Code::Internal, format!("failed to describe instance: {why}")))?;

        let is_local = settings.local_accounts.contains(&document.account);
        let checks_device = !is_local && !settings.skip_block_device;
        let mut tags: &[(String, String)] = &[];
        if settings.template_has_tags || checks_device {
            let instance = first(&reservations)?;
            tags = &instance.tags;
            if checks_device {
                device::check(instance).map_err(|why| {
                    error(Code::Internal, format!("failed aws ec2 attestation: {why}"))
                })?;
            }
        }
        let agent_id = self.agent_id(&document, tags)?;
        self.services.refuse_attested(NAME, &agent_id).await?;
        let selector_values = self.selectors(&document, &reservations, &client.session).await?;
        Ok(AgentAttributes { agent_id, selector_values, can_reattest: false })
    }
}

fn first(reservations: &[Reservation]) -> Result<&Instance, PluginError> {
    let missing = |what: &str| {
        let text = format!("failed to query AWS via describe-instances: returned no {what}");
        error(Code::Internal, text)
    };
    let reservation = reservations.first().ok_or_else(|| missing("reservations"))?;
    reservation.instances.first().ok_or_else(|| missing("instances"))
}

/// The nodes of clusters: the instances of the Auto Scaling groups of their node groups.
async fn nodes(session: &Session, clusters: &[String]) -> Result<HashSet<String>, String> {
    let mut found = HashSet::new();
    for cluster in clusters {
        let groups = eks::node_groups(session, cluster).await.map_err(|why| why.to_string())?;
        for group in groups {
            let scaling = eks::auto_scaling_groups(session, cluster, &group).await;
            let scaling = scaling
                .map_err(|why| format!("issue while getting list of EKS Node Groups: {why}"))?;
            for name in scaling {
                let instances = autoscaling::instances(session, &name).await;
                found.extend(instances.map_err(|why| why.to_string())?);
            }
        }
    }
    Ok(found)
}
