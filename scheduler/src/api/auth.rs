//! Who asks: the API key of a request to its project.

use http::{HeaderMap, header};
use schemas::{AccountId, Digest};

use super::{ApiState, error::ApiError};
use crate::{
    admission::{Code, Refusal},
    core::rows::Priority,
};

/// Longest key that is worth hashing.
const KEY_BYTES_MAX: usize = 512;

/// A known key and the project that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// BLAKE3 of the key, in hex; scope of the retry protection.
    pub key: String,
    pub project: AccountId,
    /// Name of the project, for `openai-organization`.
    pub slug: String,
    /// What the key was made for; the audit log names it.
    pub key_name: String,
    /// May see and change quota and nodes of the whole farm.
    pub admin: bool,
    /// The highest priority that it may send.
    pub priority_max: Priority,
}

/// Looks the key up. Only its hash is ever stored or compared.
pub async fn caller(state: &ApiState, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let key = Digest::of(bearer(headers)?.as_bytes()).to_string();
    let row = state
        .store
        .key(&key)
        .await?
        .filter(|row| row.revoked_at_ms.is_none());
    let Some(row) = row else {
        return Err(refused(
            "Incorrect API key provided. Check the key, or ask for a new one.",
        ));
    };
    let account = state.store.account(row.project).await?;
    let slug = account.map_or_else(|| row.project.to_string(), |account| account.name);
    Ok(Caller {
        key,
        project: row.project,
        slug,
        key_name: row.name,
        admin: row.admin,
        priority_max: row.priority_max,
    })
}

/// The key in `Authorization: Bearer <key>`.
fn bearer(headers: &HeaderMap) -> Result<&str, ApiError> {
    let missing = || {
        refused(
            "You didn't provide an API key. Provide it in an Authorization header, as in \
             'Authorization: Bearer YOUR_KEY'.",
        )
    };
    let value = headers.get(header::AUTHORIZATION).ok_or_else(missing)?;
    let (scheme, key) = value
        .to_str()
        .ok()
        .and_then(|v| v.split_once(' '))
        .ok_or_else(missing)?;
    let key = key.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(missing());
    }
    Ok(key)
}

fn refused(message: &str) -> ApiError {
    Refusal::new(Code::InvalidApiKey, message).into()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn key_in(value: &'static str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static(value));
        bearer(&headers).ok().map(str::to_owned)
    }

    #[test]
    fn a_bearer_key_is_found_and_nothing_else() {
        assert_eq!(key_in("Bearer sk-1").as_deref(), Some("sk-1"));
        assert_eq!(key_in("bearer  sk-1 ").as_deref(), Some("sk-1"));
        for bad in ["Bearer", "Bearer ", "Basic sk-1", "sk-1", ""] {
            assert_eq!(key_in(bad), None, "{bad}");
        }
        assert!(bearer(&HeaderMap::new()).is_err());
    }
}
