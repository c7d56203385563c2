//! The server's half: verifies the token, and looks the machine up.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use steeple_pki::jwt::issuer::{Expected, IssuerTokenError, SignedClaims};
use steeple_plugin::{
    AgentAttributes, Challenger, Code, HostContext, HostServices, NodeAttestor, PluginError,
};
use steeple_runtime::Clock;
use steeple_spiffe::{SpiffeId, TrustDomain};
use steeple_template::{AgentPathTemplate, Value};

use super::config::{self, Config};
use super::{NAME, error, payload, resolve};
use crate::arm::Arm;
use crate::cached::{Cached, Fetched};
use crate::credential::Credential;
use crate::login::{Refused, SigningKeys};
use crate::metadata;
use crate::web::{Web, quoted};

/// How far Azure's clock may be off.
const LEEWAY: Duration = Duration::from_mins(5);
/// How long what the server's own machine is stays known.
const SUBSCRIPTION_LIFE: Duration = Duration::from_hours(1);

pub(super) struct Server {
    trust_domain: TrustDomain,
    clock: Arc<dyn Clock>,
    services: HostServices,
    web: Arc<dyn Web>,
    template: AgentPathTemplate,
    tenants: HashMap<String, Tenant>,
    keys: SigningKeys,
    /// The subscription of the machine that the server runs on.
    own_subscription: Cached<Arc<str>>,
}

struct Tenant {
    resource_id: String,
    subscription: Option<String>,
    arm: Arm,
}

impl Server {
    pub(super) fn new(config: Config, host: &HostContext, web: Arc<dyn Web>) -> Self {
        let tenant = |tenant: config::Tenant| {
            let credential = Credential::new(tenant.credential, host.clock.clone());
            Tenant {
                resource_id: tenant.resource_id,
                subscription: tenant.subscription,
                arm: Arm::new(web.clone(), credential),
            }
        };
        let tenants = config.tenants.into_iter().map(|(id, raw)| (id, tenant(raw))).collect();
        Self {
            trust_domain: host.trust_domain.clone(),
            clock: host.clock.clone(),
            services: host.services.clone(),
            template: config.template,
            tenants,
            keys: SigningKeys::default(),
            own_subscription: Cached::default(),
            web,
        }
    }

    /// The claims of the token in `payload`, whose signature holds.
    async fn open(&self, payload: &[u8], now: SystemTime) -> Result<SignedClaims, PluginError> {
        let token =
            payload::parse(payload).map_err(|why| error(Code::InvalidArgument, why.to_string()))?;
        self.keys.open(&*self.web, now, &token).await.map_err(|refused| match refused {
            Refused::Keys(why) => error(Code::Internal, format!("unable to obtain JWKS: {why}")),
            Refused::Token(why) => error(Code::InvalidArgument, refusal(&why)),
        })
    }

    fn agent_id(&self, claims: &SignedClaims, identity: &Identity) -> Result<SpiffeId, String> {
        let text = |name: &str| Value::from(claims.text(name).unwrap_or_default());
        let data = Value::record(
            "azure.agentPathTemplateData",
            [
                ("Issuer", text("iss")),
                // SPIRE has the subject under another name.
                ("Subject", Value::from("")),
                ("ID", text("jti")),
                ("TenantID", Value::from(&identity.tenant)),
                ("PrincipalID", Value::from(&identity.principal)),
                ("PluginName", Value::from(NAME)),
            ],
        );
        self.template.render(&self.trust_domain, &data).map_err(|why| why.to_string())
    }

    async fn subscription(&self, tenant: &Tenant) -> Result<String, PluginError> {
        if let Some(subscription) = &tenant.subscription {
            return Ok(subscription.clone());
        }
        let fetch = async || {
            let value = Arc::from(metadata::compute(&*self.web).await?.subscription());
            Ok(Fetched { value, fresh: SUBSCRIPTION_LIFE, usable: Duration::MAX })
        };
        let own = self.own_subscription.get(self.clock.now(), fetch).await;
        own.map(|it| it.to_string()).map_err(|why| error(Code::Internal, why.to_string()))
    }
}

/// Whom the token speaks of.
struct Identity {
    tenant: String,
    principal: String,
}

impl Identity {
    fn of(claims: &SignedClaims) -> Result<Self, PluginError> {
        let claim = |name: &str, missing: &str| match claims.text(name) {
            Some(value) => Ok(value.to_owned()),
            None => Err(error(Code::Internal, missing)),
        };
        Ok(Self {
            tenant: claim("tid", "token missing tenant ID claim")?,
            principal: claim("sub", "token missing subject claim")?,
        })
    }
}

#[async_trait]
impl NodeAttestor for Server {
    fn name(&self) -> &str {
        NAME
    }

    async fn attest(
        &self,
        payload: &[u8],
        _challenger: &mut dyn Challenger,
    ) -> Result<AgentAttributes, PluginError> {
        let now = self.clock.now();
        let claims = self.open(payload, now).await?;
        let identity = Identity::of(&claims)?;
        let agent_id = self
            .agent_id(&claims, &identity)
            .map_err(|why| error(Code::Internal, format!("unable to make agent ID: {why}")))?;
        self.services.refuse_attested(NAME, &agent_id).await?;
        let Identity { tenant: tenant_id, principal } = identity;
        let tenant = self.tenants.get(&tenant_id).ok_or_else(|| {
            let text = format!("tenant {} is not authorized", quoted(&tenant_id));
            error(Code::PermissionDenied, text)
        })?;
        validate(claims, &tenant_id, &tenant.resource_id, now).map_err(|why| {
            error(Code::Internal, format!("unable to validate token claims: {why}"))
        })?;
        let subscription = self.subscription(tenant).await?;
        let selector_values = resolve::selectors(&tenant.arm, &subscription, &principal).await?;
        Ok(AgentAttributes { agent_id, selector_values, can_reattest: false })
    }
}

/// The token is for us, in its time, and from the tenant that it speaks of. SPIRE does not look at
/// the issuer; but one set of keys signs for all tenants, and some of its keys for one alone.
fn validate(
    claims: SignedClaims,
    tenant: &str,
    resource_id: &str,
    now: SystemTime,
) -> Result<(), IssuerTokenError> {
    if let Some(of) = claims.key_issuer()
        && !of.contains("{tenantid}")
        && !of.split('/').any(|segment| segment == tenant)
    {
        return Err(IssuerTokenError::Issuer);
    }
    let issuers = [
        format!("https://sts.windows.net/{tenant}/"),
        format!("https://login.microsoftonline.com/{tenant}/v2.0"),
    ];
    let issuers = issuers.each_ref().map(String::as_str);
    let expected = Expected { audiences: &[resource_id], issuers: &issuers, now, leeway: LEEWAY };
    claims.validate(&expected).map(drop)
}

/// What the agent is told; the first words are SPIRE's.
fn refusal(why: &IssuerTokenError) -> String {
    match why {
        IssuerTokenError::MissingKeyId | IssuerTokenError::UnknownKey(_) => why.to_string(),
        IssuerTokenError::Parse(_) => format!("unable to parse token: {why}"),
        _ => format!("unable to verify token: {why}"),
    }
}
