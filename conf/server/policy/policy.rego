# The server's built-in rules as a policy of one's own: the place to start from.
#
#   experimental {
#       auth_opa_policy_engine {
#           local {
#               rego_path        = "conf/server/policy/policy.rego"
#               policy_data_path = "conf/server/policy/policy_data.json"
#           }
#       }
#   }
#
# The server asks for `data.spire.result` on every call. All five fields have to be there, as
# booleans. `input` has
#   caller            the caller's SPIFFE ID, or ""
#   caller_file_path  the program of a caller on the Unix socket (with audit_log_enabled), or ""
#   full_method       "/package.Service/Method"
#   req               the request, with proto field names; null for streams
package spire

result := {
	"allow": allow,
	"allow_if_admin": allow_if_admin,
	"allow_if_local": allow_if_local,
	"allow_if_downstream": allow_if_downstream,
	"allow_if_agent": allow_if_agent,
}

default allow := false

default allow_if_admin := false

default allow_if_local := false

default allow_if_downstream := false

default allow_if_agent := false

# Each method's callers are in the data: "any", "admin", "local", "downstream", "agent".
callers := data.methods[input.full_method]

allow if "any" in callers

allow_if_admin if "admin" in callers

allow_if_local if "local" in callers

allow_if_downstream if "downstream" in callers

allow_if_agent if "agent" in callers
