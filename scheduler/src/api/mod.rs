//! HTTP: the Videos API for users, the agent protocol for agents, health and metrics.
//!
//! The Videos API reads top down: [`frame`] is around every request (key, rate, headers), [`videos`]
//! holds the calls, [`body`] and [`read`] parse, [`crate::admission`] decides, [`object`] answers.

mod agents;
mod auth;
mod body;
mod content;
mod costs;
mod derive;
mod error;
mod estimate;
mod eta;
mod events;
mod film;
mod form;
mod frame;
mod hashes;
mod inflight;
mod keys;
mod limits;
mod models;
mod node;
mod nodes;
mod object;
mod once;
mod page;
mod quota;
mod quota_rules;
mod quotes;
mod range;
mod read;
mod read_given;
mod standby;
mod submit;
mod videos;

use std::sync::Arc;

use axum::{
    Router, middleware,
    routing::{any, delete, get, post},
};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

pub use agents::{AgentApi, agent_api};
pub use frame::unknown_url;
pub use limits::RateSettings;
pub use standby::{Standby, standby_api};

use crate::{
    admission::CatalogueSettings, artifacts::Artifacts, dispatcher::Dispatcher,
    forecast::Forecaster, pricing::PriceSettings, review::Blocklist, store::Store,
};

/// What the operator may set about the Videos API.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiSettings {
    pub models: CatalogueSettings,
    pub rates: RateSettings,
    /// What device time costs in money.
    pub price: PriceSettings,
    /// Words and phrases that no prompt may contain.
    pub blocked_phrases: Vec<String>,
}

/// What every handler may use; cheap to clone.
#[derive(Clone, Debug)]
pub struct ApiState {
    pub dispatcher: Dispatcher,
    pub store: Store,
    pub artifacts: Artifacts,
    pub forecaster: Forecaster,
    edge: Arc<Edge>,
}

/// State of this process alone; nothing in it outlives a restart or must.
#[derive(Debug)]
struct Edge {
    models: CatalogueSettings,
    price: PriceSettings,
    blocklist: Blocklist,
    limits: limits::Limits,
    in_flight: inflight::InFlight,
    unsaved_errors: once::UnsavedErrors,
    hashes: hashes::Hashes,
    quotes: quotes::Quotes,
    stop: CancellationToken,
}

impl ApiState {
    /// `stop` ends open event streams, so that a shutdown need not wait for them.
    pub fn new(
        dispatcher: Dispatcher,
        store: Store,
        artifacts: Artifacts,
        forecaster: Forecaster,
        settings: ApiSettings,
        stop: CancellationToken,
    ) -> Self {
        let edge = Edge {
            models: settings.models,
            price: settings.price,
            blocklist: Blocklist::new(settings.blocked_phrases),
            limits: limits::Limits::new(settings.rates),
            in_flight: inflight::InFlight::default(),
            unsaved_errors: once::UnsavedErrors::default(),
            hashes: hashes::Hashes::default(),
            quotes: quotes::Quotes::default(),
            stop,
        };
        Self {
            dispatcher,
            store,
            artifacts,
            forecaster,
            edge: Arc::new(edge),
        }
    }

    /// What device time costs.
    fn price(&self) -> &PriceSettings {
        &self.edge.price
    }
}

/// The Videos API, paths from `/v1` on. A path that is not listed is 404 `unknown_url`.
pub fn videos_api(state: ApiState) -> Router {
    let unknown = || any(frame::unknown_url);
    Router::new()
        .route("/v1/videos", get(videos::list).post(videos::create))
        .route("/v1/videos/estimate", post(videos::estimate))
        // Fixed words win over an id also while nothing answers them.
        .route("/v1/videos/characters", unknown())
        .route("/v1/videos/edits", post(derive::edit))
        .route("/v1/videos/extensions", post(derive::extend))
        .route("/v1/videos/{id}/remix", post(derive::remix))
        .route(
            "/v1/videos/{id}",
            get(videos::retrieve).delete(videos::delete),
        )
        .route("/v1/videos/{id}/cancel", post(videos::cancel))
        .route("/v1/videos/{id}/pause", post(videos::pause))
        .route("/v1/videos/{id}/resume", post(videos::resume))
        .route("/v1/videos/{id}/content", get(content::download))
        .route("/v1/videos/{id}/events", get(events::stream))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{id}", get(models::retrieve))
        .route("/v1/organization/costs", get(costs::costs))
        .route("/v1/organization/usage/videos", get(costs::usage))
        .route("/v1/organization/quota", get(quota::list).post(quota::open))
        .route(
            "/v1/organization/quota/{account}",
            get(quota::retrieve).post(quota::change),
        )
        .route(
            "/v1/organization/quota/{account}/grants",
            post(quota::grant),
        )
        .route("/v1/organization/keys", get(keys::list).post(keys::create))
        .route("/v1/organization/keys/{id}", delete(keys::revoke))
        .route("/v1/organization/nodes", get(nodes::list))
        .route("/v1/organization/memory", get(nodes::memory))
        .route("/v1/organization/nodes/{node}", get(nodes::retrieve))
        .route("/v1/organization/nodes/{node}/{order}", post(nodes::order))
        .route("/v1/organization/notices", get(nodes::notices))
        // Not a fallback, so that this router can be merged with others.
        .route("/v1", unknown())
        .route("/v1/", unknown())
        .route("/v1/{*rest}", unknown())
        .method_not_allowed_fallback(frame::method_not_allowed)
        .layer(CatchPanicLayer::custom(frame::panicked))
        .layer(middleware::from_fn_with_state(state.clone(), frame::frame))
        .with_state(state)
}

#[cfg(test)]
mod http_tests;
