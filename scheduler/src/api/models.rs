//! `GET /v1/models` and `/v1/models/{id}`: the names that a request may use.

use axum::{
    Json,
    extract::{Path, State},
};
use schemas::agent::WeightsInfo;
use serde::Serialize;

use super::{ApiState, error::ApiError};
use crate::admission::{Catalogue, Model, unknown_model};

/// All models carry the day on which the API was first served.
const CREATED: i64 = 1_795_000_000;

#[derive(Debug, Serialize)]
pub struct ModelObject {
    id: String,
    object: &'static str,
    created: i64,
    owned_by: &'static str,
    shutdown_date: Option<String>,
    capabilities: Capabilities,
}

#[derive(Debug, Serialize)]
struct Capabilities {
    sizes: Vec<String>,
    native_sizes: Vec<String>,
    seconds: Vec<String>,
    /// Smallest and largest number of sampler steps.
    steps: [u32; 2],
    fps: u32,
    max_characters: u32,
    audio: bool,
    operations: [&'static str; 4],
}

#[derive(Debug, Serialize)]
pub struct ModelList {
    object: &'static str,
    data: Vec<ModelObject>,
}

/// The catalogue as the farm is now.
pub async fn catalogue(state: &ApiState) -> Result<Catalogue, ApiError> {
    let farm: Vec<WeightsInfo> = state.dispatcher.weights().await?;
    let mut catalogue = Catalogue::new(&state.edge.models, &farm);
    catalogue.windows = state.dispatcher.window_names().await?;
    catalogue.prices = state.dispatcher.prices().await?;
    Ok(catalogue)
}

pub async fn list(State(state): State<ApiState>) -> Result<Json<ModelList>, ApiError> {
    let catalogue = catalogue(&state).await?;
    Ok(Json(ModelList {
        object: "list",
        data: catalogue.models.iter().map(object).collect(),
    }))
}

pub async fn retrieve(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<ModelObject>, ApiError> {
    let catalogue = catalogue(&state).await?;
    match catalogue.get(&name) {
        Some(model) => Ok(Json(object(model))),
        None => Err(unknown_model(&name, &catalogue).about("model").into()),
    }
}

fn object(model: &Model) -> ModelObject {
    ModelObject {
        id: model.name.clone(),
        object: "model",
        created: CREATED,
        owned_by: "dailies",
        shutdown_date: None,
        capabilities: Capabilities {
            sizes: model.sizes.iter().map(ToString::to_string).collect(),
            native_sizes: model.native_sizes.iter().map(ToString::to_string).collect(),
            seconds: model.seconds.iter().map(ToString::to_string).collect(),
            steps: [1, 100],
            fps: model.clip.fps,
            max_characters: 0,
            audio: true,
            operations: ["create", "remix", "edit", "extend"],
        },
    }
}
