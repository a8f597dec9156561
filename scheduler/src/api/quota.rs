//! `/v1/organization/quota`: accounts, their limits and charges. A key sees its own project, the operator's all.

use axum::{
    Extension, Json,
    extract::{Path, Request, State},
};
use schemas::{
    AccountId, GpuMicros,
    quota::{QuotaAccount, QuotaArithmetic, QuotaDetail, QuotaEntry, QuotaGrant, QuotaList},
};
use uuid::Uuid;

use super::{
    ApiState,
    auth::Caller,
    body::read_fields,
    error::ApiError,
    node::{Fields, Node},
    quota_rules,
};
use crate::{
    admission::{Code, Refusal},
    core::{
        command::Refusal as CoreRefusal,
        quota::{Arithmetic, LimitsChange, Ordered, QuotaChange, QuotaOrder, QuotaView},
        rows::{Bucket, LedgerRow, Level},
    },
};

/// Entries that the answer about one account shows.
const ENTRIES_SHOWN: u64 = 20;

/// `GET /v1/organization/quota`
pub async fn list(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<QuotaList>, ApiError> {
    let views = state.dispatcher.quota_views().await?;
    let (all, project) = (caller.admin, caller.project);
    let seen = views
        .iter()
        .filter(|view| all || view.account.id == project || view.account.parent == Some(project));
    Ok(Json(QuotaList {
        object: "list".into(),
        data: seen.map(|view| shown(view, &views)).collect(),
    }))
}

/// `POST /v1/organization/quota`: an org by `name`, or a project of the org `parent`.
pub async fn open(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<QuotaAccount>, ApiError> {
    only_operators(&caller)?;
    let mut fields = read_fields(request).await?;
    let name = text(&mut fields, "name")?.ok_or_else(|| Refusal::missing("name"))?;
    let parent = match text(&mut fields, "parent")? {
        Some(parent) => Some(find(&state, &parent).await?),
        None => None,
    };
    refuse_rest(&fields)?;
    let id = AccountId(Uuid::now_v7());
    order(&state, &caller, id, QuotaChange::Open { name, parent }).await?;
    Ok(Json(look(&state, id).await?))
}

/// `GET /v1/organization/quota/{account}`
pub async fn retrieve(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Json<QuotaDetail>, ApiError> {
    if name != caller.slug {
        only_operators(&caller)?;
    }
    let id = find(&state, &name).await?;
    let entries = state.store.entries(id, ENTRIES_SHOWN).await?;
    Ok(Json(QuotaDetail {
        account: look(&state, id).await?,
        entries: entries.iter().map(entry).collect(),
    }))
}

/// `POST /v1/organization/quota/{account}`: only what is named changes; `null` removes a cap or a rule.
pub async fn change(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Json<QuotaAccount>, ApiError> {
    only_operators(&caller)?;
    let mut fields = read_fields(request).await?;
    let change = LimitsChange {
        metered: boolean(&mut fields, "metered")?,
        overdraft: seconds(&mut fields, "overdraft_seconds")?,
        jobs_max: cap(&mut fields, "max_jobs")?,
        devices_max: cap(&mut fields, "max_devices")?,
        weight: small(&mut fields, "weight")?,
        lend: seconds(&mut fields, "lend_seconds")?,
        borrow: seconds(&mut fields, "borrow_seconds")?,
    };
    let mut changes = vec![QuotaChange::Limits(change)];
    changes.retain(|_| change != LimitsChange::default());
    changes.extend(quota_rules::budget(&mut fields)?);
    changes.extend(quota_rules::capacity(&mut fields)?);
    refuse_rest(&fields)?;
    let id = find(&state, &name).await?;
    for change in changes {
        order(&state, &caller, id, change).await?;
    }
    Ok(Json(look(&state, id).await?))
}

/// `POST /v1/organization/quota/{account}/grants`: `seconds`, a `name` that makes a repeat harmless, and
/// `expires_at`, after which what is left of it goes back.
pub async fn grant(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Path(account): Path<String>,
    request: Request,
) -> Result<Json<QuotaGrant>, ApiError> {
    only_operators(&caller)?;
    let mut fields = read_fields(request).await?;
    let amount = seconds(&mut fields, "seconds")?.ok_or_else(|| Refusal::missing("seconds"))?;
    let expires_at_ms = quota_rules::instant_ms(&mut fields, "expires_at")?;
    let name = text(&mut fields, "name")?;
    let name = name.unwrap_or_else(|| Uuid::now_v7().simple().to_string());
    refuse_rest(&fields)?;
    let id = find(&state, &account).await?;
    let change = QuotaChange::Grant {
        name: name.clone(),
        amount,
        expires_at_ms,
    };
    let granted = order(&state, &caller, id, change).await? == Ordered::Now;
    Ok(Json(QuotaGrant {
        object: "quota.grant".into(),
        name,
        granted,
        account: look(&state, id).await?,
    }))
}

pub(super) fn only_operators(caller: &Caller) -> Result<(), ApiError> {
    match caller.admin {
        true => Ok(()),
        false => Err(Refusal::new(
            Code::InsufficientPermissions,
            "This key may not see or change what is the operator's. The operator's key may, and so \
             may one that 'dailies keys create NAME --admin' makes.",
        )
        .into()),
    }
}

async fn order(
    state: &ApiState,
    caller: &Caller,
    account: AccountId,
    change: QuotaChange,
) -> Result<Ordered, ApiError> {
    tracing::info!(actor = caller.key_name, %account, ?change, "operator");
    let order = QuotaOrder {
        actor: caller.key_name.clone(),
        account,
        change,
    };
    state.dispatcher.order_quota(order).await?.map_err(|why| {
        let text = match why {
            CoreRefusal::Invalid(text) | CoreRefusal::Conflict(text) => text,
            other => other.to_string(),
        };
        Refusal::new(Code::InvalidValue, format!("Not done: {text}.")).into()
    })
}

async fn find(state: &ApiState, name: &str) -> Result<AccountId, ApiError> {
    let accounts = state.store.accounts().await?;
    match accounts.iter().find(|row| row.name == name) {
        Some(row) => Ok(row.id),
        None => Err(no_account(name)),
    }
}

fn no_account(name: &str) -> ApiError {
    let shown: String = name.chars().take(80).collect();
    Refusal::new(Code::NotFound, format!("No account '{shown}'.")).into()
}

async fn look(state: &ApiState, id: AccountId) -> Result<QuotaAccount, ApiError> {
    let views = state.dispatcher.quota_views().await?;
    let view = views.iter().find(|view| view.account.id == id);
    let view = view.ok_or_else(|| no_account(&id.to_string()))?;
    Ok(shown(view, &views))
}

fn shown(view: &QuotaView, all: &[QuotaView]) -> QuotaAccount {
    let parent = |id| all.iter().find(|other| other.account.id == id);
    let (account, quota, balance) = (&view.account, &view.quota, &view.balance);
    QuotaAccount {
        object: "quota.account".into(),
        name: account.name.clone(),
        level: match account.level {
            Level::Org => "org",
            Level::Project => "project",
            Level::User => "user",
        }
        .into(),
        parent: account
            .parent
            .and_then(parent)
            .map(|view| view.account.name.clone()),
        weight: account.weight,
        metered: quota.metered,
        overdraft_seconds: quota.overdraft.as_secs_f64(),
        max_jobs: quota.jobs_max,
        max_devices: quota.devices_max,
        granted_seconds: GpuMicros(-balance.mint.0).as_secs_f64(),
        available_seconds: balance.available.as_secs_f64(),
        held_seconds: balance.held.as_secs_f64(),
        spent_seconds: balance.spent.as_secs_f64(),
        running_jobs: view.jobs,
        running_devices: view.devices,
        lend_seconds: quota.lend.as_secs_f64(),
        borrow_seconds: quota.borrow.as_secs_f64(),
        budget: view.budget.as_ref().map(quota_rules::shown_budget),
        capacity: view
            .capacity
            .iter()
            .map(quota_rules::shown_capacity)
            .collect(),
        expiring: view
            .expiring
            .iter()
            .map(quota_rules::shown_expiry)
            .collect(),
        loans: view.loans.iter().map(quota_rules::shown_loan).collect(),
    }
}

fn entry(row: &LedgerRow) -> QuotaEntry {
    QuotaEntry {
        seq: row.seq,
        created_at: row.at_ms.div_euclid(1_000),
        key: row.key.clone(),
        from: bucket(row.from).into(),
        to: bucket(row.to).into(),
        seconds: row.amount.as_secs_f64(),
        arithmetic: row.why.as_ref().map(arithmetic),
    }
}

fn bucket(bucket: Bucket) -> &'static str {
    match bucket {
        Bucket::Available => "available",
        Bucket::Held => "held",
        Bucket::Spent => "spent",
        Bucket::Mint => "mint",
        Bucket::Loan => "loan",
    }
}

fn arithmetic(why: &Arithmetic) -> QuotaArithmetic {
    let steps = why.steps.max(1);
    QuotaArithmetic {
        steps,
        seconds_per_step: GpuMicros(why.device_us).as_secs_f64() / f64::from(steps),
        devices: why.devices,
        rate: why.rate_ppm as f64 / 1e6,
        factor: why.factor_percent as f64 / 100.0,
        at_most_seconds: GpuMicros(why.at_most_us).as_secs_f64(),
    }
}

pub(super) fn text(fields: &mut Fields, name: &str) -> Result<Option<String>, Refusal> {
    match fields.remove(name) {
        None => Ok(None),
        Some(Node::Text(text)) => Ok(Some(text)),
        Some(other) => Err(wrong(name, "a string", &other)),
    }
}

pub(super) fn boolean(fields: &mut Fields, name: &str) -> Result<Option<bool>, Refusal> {
    match fields.remove(name) {
        None => Ok(None),
        Some(Node::Bool(is)) => Ok(Some(is)),
        Some(other) => Err(wrong(name, "a boolean", &other)),
    }
}

pub(super) fn small(fields: &mut Fields, name: &str) -> Result<Option<u32>, Refusal> {
    fields
        .remove(name)
        .map(|node| whole(name, &node))
        .transpose()
}

/// `null` is no cap.
fn cap(fields: &mut Fields, name: &str) -> Result<Option<Option<u32>>, Refusal> {
    match fields.remove(name) {
        None => Ok(None),
        Some(Node::Null) => Ok(Some(None)),
        Some(node) => whole(name, &node).map(|number| Some(Some(number))),
    }
}

fn whole(name: &str, node: &Node) -> Result<u32, Refusal> {
    let number = match node {
        Node::Number(number) => number.as_u64().and_then(|n| u32::try_from(n).ok()),
        _ => None,
    };
    number.ok_or_else(|| wrong(name, "an integer of 0 or more", node))
}

pub(super) fn seconds(fields: &mut Fields, name: &str) -> Result<Option<GpuMicros>, Refusal> {
    let Some(node) = fields.remove(name) else {
        return Ok(None);
    };
    let micros = match &node {
        Node::Number(number) => number.as_i64().and_then(|s| s.checked_mul(1_000_000)),
        _ => None,
    };
    micros
        .map(|micros| Some(GpuMicros(micros)))
        .ok_or_else(|| wrong(name, "an integer of seconds", &node))
}

pub(super) fn wrong(name: &str, due: &str, node: &Node) -> Refusal {
    Refusal::new(
        Code::InvalidType,
        format!(
            "Invalid type for '{name}': expected {due}, but got {}.",
            node.kind()
        ),
    )
    .about(name)
}

pub(super) fn refuse_rest(fields: &Fields) -> Result<(), Refusal> {
    match fields.keys().next() {
        None => Ok(()),
        Some(name) => {
            let shown: String = name.chars().take(80).collect();
            let message = format!("Unknown parameter: '{shown}'.");
            Err(Refusal::new(Code::UnknownParameter, message).about(shown))
        }
    }
}
