//! `/v1/organization/keys`: API keys of every project. Only a key with the operator's right may.

use axum::{
    Extension, Json,
    extract::{Path, Request, State},
};
use schemas::keys::{ApiKey, ApiKeyList};

use super::{
    ApiState,
    auth::Caller,
    body::read_fields,
    error::ApiError,
    quota::{boolean, only_operators, refuse_rest, text},
};
use crate::{
    admission::{Code, Refusal},
    bootstrap::{key_hash, new_key, no_project},
    core::rows::{AccountRow, KeyRow, Level, Priority},
};

/// Digits of a key's hash that name it.
const ID_DIGITS: usize = 12;

/// `GET /v1/organization/keys`
pub async fn list(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<ApiKeyList>, ApiError> {
    only_operators(&caller)?;
    let (keys, accounts) = (state.store.keys().await?, state.store.accounts().await?);
    Ok(Json(ApiKeyList {
        object: "list".into(),
        data: keys.iter().map(|row| shown(row, &accounts, None)).collect(),
    }))
}

/// `POST /v1/organization/keys`: `name`; `project` if not the first, `admin`, and `priority_max` if not `high`.
pub async fn create(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<ApiKey>, ApiError> {
    only_operators(&caller)?;
    let mut fields = read_fields(request).await?;
    let name = text(&mut fields, "name")?.ok_or_else(|| Refusal::missing("name"))?;
    let project = text(&mut fields, "project")?;
    let admin = boolean(&mut fields, "admin")?.unwrap_or(false);
    let priority_max = priority_max(text(&mut fields, "priority_max")?)?;
    refuse_rest(&fields)?;
    let accounts = state.store.accounts().await?;
    let asked = |row: &&AccountRow| {
        let is_named = project.as_ref().is_none_or(|name| row.name == *name);
        row.level == Level::Project && is_named
    };
    let missing = || {
        let shown: String = project
            .iter()
            .flat_map(|name| name.chars().take(80))
            .collect();
        let named = accounts.iter().find(|row| row.name == shown);
        Refusal::wrong_value("project", no_project(&shown, named.map(|row| row.level)))
    };
    let key = new_key().map_err(|error| {
        tracing::error!(error = &error as &dyn std::error::Error, "no key was made");
        ApiError::overloaded("No key can be made right now; try again shortly.")
    })?;
    let row = KeyRow {
        hash: key_hash(&key),
        project: accounts.iter().find(asked).ok_or_else(missing)?.id,
        name,
        created_at_ms: state.dispatcher.now_ms(),
        revoked_at_ms: None,
        admin,
        priority_max,
    };
    tracing::info!(
        actor = caller.key_name,
        key = id(&row),
        name = row.name,
        admin,
        "made a key"
    );
    state.dispatcher.add_key(row.clone()).await?;
    Ok(Json(shown(&row, &accounts, Some(key))))
}

/// `DELETE /v1/organization/keys/{id}`: by digits of its hash that no other key begins with.
pub async fn revoke(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Path(digits): Path<String>,
) -> Result<Json<ApiKey>, ApiError> {
    only_operators(&caller)?;
    let keys = state.store.keys().await?;
    let mut named = keys.iter().filter(|row| row.hash.starts_with(&digits));
    let (Some(row), None) = (named.next(), named.next()) else {
        let shown: String = digits.chars().take(80).collect();
        let message = format!("'{shown}' does not name exactly one key.");
        return Err(Refusal::new(Code::NotFound, message).into());
    };
    if row.hash == caller.key {
        let why = "this is the key that asks; revoke it with another one";
        return Err(Refusal::wrong_value("id", why).into());
    }
    tracing::info!(
        actor = caller.key_name,
        key = id(row),
        name = row.name,
        "revoked a key"
    );
    state.dispatcher.revoke_key(row.hash.clone()).await?;
    let (row, accounts) = (
        state.store.key(&row.hash).await?,
        state.store.accounts().await?,
    );
    let row = row.ok_or_else(|| Refusal::new(Code::NotFound, "The key is gone."))?;
    Ok(Json(shown(&row, &accounts, None)))
}

fn priority_max(named: Option<String>) -> Result<Priority, Refusal> {
    let Some(named) = named else {
        return Ok(Priority::High);
    };
    let found = Priority::ALL.into_iter().find(|p| p.name() == named);
    let why = "supported values are 'low', 'normal', 'high' and 'urgent'";
    found.ok_or_else(|| Refusal::wrong_value("priority_max", why))
}

fn id(row: &KeyRow) -> &str {
    &row.hash[..ID_DIGITS.min(row.hash.len())]
}

fn shown(row: &KeyRow, accounts: &[AccountRow], key: Option<String>) -> ApiKey {
    let project = accounts.iter().find(|account| account.id == row.project);
    ApiKey {
        object: "organization.key".into(),
        id: id(row).into(),
        name: row.name.clone(),
        project: project
            .map(|account| account.name.clone())
            .unwrap_or_default(),
        admin: row.admin,
        priority_max: row.priority_max.name().into(),
        created_at: row.created_at_ms.div_euclid(1_000),
        revoked_at: row.revoked_at_ms.map(|at| at.div_euclid(1_000)),
        key,
    }
}
