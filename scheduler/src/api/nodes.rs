//! `/v1/organization/nodes`, `/v1/organization/memory` and `/v1/organization/notices`: what operators see of the farm and order.

use axum::{
    Extension, Json,
    extract::{Path, Request, State},
};
use schemas::node::{
    MemoryList, MemoryNeed, Node, NodeDevice, NodeList, NodeOrdered, NodeQuarantine, Notice,
    NoticeList,
};

use super::{
    ApiState,
    auth::Caller,
    body::read_fields,
    error::ApiError,
    node,
    quota::{only_operators, refuse_rest, small, text},
};
use crate::{
    admission::{Code, Refusal},
    core::{
        command::Refusal as CoreRefusal,
        memory::{NeedView, views},
        nodes::{NodeChange, NodeOrder, NodeView},
        quota::Ordered,
        rows::NoticeRow,
    },
};

/// Notices that one answer shows.
const NOTICES_SHOWN: u64 = 100;
/// Characters of an operator's reason.
const WHY_CHARS_MAX: usize = 200;

/// `GET /v1/organization/nodes`
pub async fn list(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<NodeList>, ApiError> {
    only_operators(&caller)?;
    let nodes = state.dispatcher.nodes().await?;
    Ok(Json(NodeList {
        object: "list".into(),
        data: nodes.iter().map(shown).collect(),
    }))
}

/// `GET /v1/organization/memory`
pub async fn memory(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<MemoryList>, ApiError> {
    only_operators(&caller)?;
    let prices = state.dispatcher.prices().await?;
    Ok(Json(MemoryList {
        object: "list".into(),
        data: views(&prices.costs).into_iter().map(need).collect(),
    }))
}

/// `GET /v1/organization/nodes/{node}`
pub async fn retrieve(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Json<Node>, ApiError> {
    only_operators(&caller)?;
    Ok(Json(look(&state, &name).await?))
}

/// `GET /v1/organization/notices`
pub async fn notices(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<NoticeList>, ApiError> {
    only_operators(&caller)?;
    let rows = state.store.notices(NOTICES_SHOWN).await?;
    Ok(Json(NoticeList {
        object: "list".into(),
        data: rows.into_iter().map(notice).collect(),
    }))
}

/// `POST /v1/organization/nodes/{node}/{order}`, with `device` and `reason` where the order has them.
pub async fn order(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Path((name, word)): Path<(String, String)>,
    request: Request,
) -> Result<Json<NodeOrdered>, ApiError> {
    only_operators(&caller)?;
    let mut fields = match request.headers().contains_key(http::header::CONTENT_TYPE) {
        true => read_fields(request).await?,
        false => node::Fields::default(), // nothing but the path
    };
    let change = change(&word, &mut fields)?;
    refuse_rest(&fields)?;
    tracing::info!(
        actor = caller.key_name,
        node = name,
        order = word,
        ?change,
        "operator"
    );
    let order = NodeOrder {
        actor: caller.key_name,
        node: name.clone(),
        change,
    };
    let done = state.dispatcher.order_node(order).await?;
    let changed = done.map_err(|why| refused(&word, &why))? == Ordered::Now;
    Ok(Json(NodeOrdered {
        object: "node.order".into(),
        changed,
        node: look(&state, &name).await?,
    }))
}

fn change(word: &str, fields: &mut node::Fields) -> Result<NodeChange, Refusal> {
    let why = |fields: &mut node::Fields| -> Result<String, Refusal> {
        let why = text(fields, "reason")?.unwrap_or_else(|| "no reason given".into());
        Ok(why.chars().take(WHY_CHARS_MAX).collect())
    };
    Ok(match word {
        "drain" => NodeChange::Drain,
        "cordon" => NodeChange::Cordon { why: why(fields)? },
        "uncordon" => NodeChange::Uncordon,
        "quarantine" => NodeChange::Quarantine {
            device: small(fields, "device")?,
            why: why(fields)?,
        },
        "release" => NodeChange::Release {
            device: small(fields, "device")?,
        },
        other => {
            let other: String = other.chars().take(80).collect();
            let text = format!(
                "No order '{other}': there are drain, cordon, uncordon, quarantine and release."
            );
            return Err(Refusal::new(Code::NotFound, text));
        }
    })
}

fn refused(word: &str, why: &CoreRefusal) -> ApiError {
    match why {
        CoreRefusal::UnknownNode(name) => no_node(name),
        CoreRefusal::NodeGone => {
            let text = format!("Not done: a node that is gone takes no {word}.");
            Refusal::new(Code::InvalidValue, text).into()
        }
        CoreRefusal::Invalid(text) => {
            Refusal::new(Code::InvalidValue, format!("Not done: {text}.")).into()
        }
        other => Refusal::new(Code::InvalidValue, format!("Not done: {other}.")).into(),
    }
}

fn no_node(name: &str) -> ApiError {
    let name: String = name.chars().take(80).collect();
    Refusal::new(
        Code::NotFound,
        format!("No node '{name}': see 'dailies nodes'."),
    )
    .into()
}

async fn look(state: &ApiState, name: &str) -> Result<Node, ApiError> {
    let nodes = state.dispatcher.nodes().await?;
    let view = nodes.iter().find(|view| view.row.name == name);
    view.map(shown).ok_or_else(|| no_node(name))
}

fn shown(view: &NodeView) -> Node {
    let row = &view.row;
    let device = |device: &schemas::agent::Device| {
        let view = view.devices.iter().find(|view| view.index == device.index);
        NodeDevice {
            index: device.index,
            class: device.class.clone(),
            memory_bytes: device.memory_bytes,
            state: view.map_or("absent", |view| view.state).into(),
            task: view.and_then(|view| view.task).map(|task| task.to_string()),
            quarantine: row.health.quarantined.get(&device.index).map(|quarantine| {
                NodeQuarantine {
                    cause: quarantine.cause.name().into(),
                    why: quarantine.why.clone(),
                    since: quarantine.since_ms.div_euclid(1_000),
                    probes_failed: quarantine.probes_failed,
                    probe_at: quarantine.probe_at_ms.map(|at| at.div_euclid(1_000)),
                }
            }),
        }
    };
    Node {
        object: "node".into(),
        name: row.name.clone(),
        state: row.condition().into(),
        seen_at: view.seen_at_ms.div_euclid(1_000),
        version: row.version.clone(),
        cordon: row.health.cordon.as_ref().map(|cordon| cordon.why.clone()),
        weights: row
            .weights
            .iter()
            .map(|weights| weights.name.clone())
            .collect(),
        ffmpeg: row.ffmpeg.clone(),
        devices: row.devices.iter().map(device).collect(),
        samples: view.samples.clone(),
    }
}

fn need(view: NeedView) -> MemoryNeed {
    let [width, height, _] = view.size;
    MemoryNeed {
        object: "memory.need".into(),
        width,
        height,
        frames_max: view.frames_max(),
        devices: view.devices,
        foretold_bytes: view.peaks.foretold_bytes,
        peaks: u32::try_from(view.peaks.peaks.len()).unwrap_or(u32::MAX),
        peak_p95_bytes: view.peaks.peak_p95_bytes(),
        proven_bytes: view.peaks.proven_bytes,
        device_bytes: view.device_bytes,
        weights: view.weights,
        class: view.class,
    }
}

fn notice(row: NoticeRow) -> Notice {
    Notice {
        object: "notice".into(),
        seq: row.seq,
        created_at: row.at_ms.div_euclid(1_000),
        kind: row.kind,
        actor: row.actor,
        subject: row.subject,
        detail: row.detail,
    }
}
