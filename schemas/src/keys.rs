//! API keys on the wire, under `/v1/organization/keys`.

use serde::{Deserialize, Serialize};

/// A key as an operator sees it; the key itself only once, in the answer that made it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Always `organization.key`.
    pub object: String,
    /// First digits of its hash, which name it.
    pub id: String,
    pub name: String,
    /// Name of the project that it belongs to.
    pub project: String,
    /// May see and change nodes, and quota and keys of every account.
    pub admin: bool,
    /// The highest priority that it may send.
    pub priority_max: String,
    /// Unix seconds.
    pub created_at: i64,
    /// Unix seconds; absent while it is valid.
    pub revoked_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApiKeyList {
    /// Always `list`.
    pub object: String,
    pub data: Vec<ApiKey>,
}
