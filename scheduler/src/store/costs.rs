//! What work took so far: one row for each kind of work on each class of device.

use sea_orm::{DatabaseTransaction, DbErr, EntityTrait, IntoActiveModel, sea_query::OnConflict};

use super::{
    StoreError,
    convert::{from_json, json},
    entity::cost_sample,
    load::all,
};
use crate::core::{
    costs::{CostKey, CostRow},
    fold::Snapshot,
    memory::Peaks,
};

pub async fn put(tx: &DatabaseTransaction, row: &CostRow) -> Result<(), DbErr> {
    let model = cost_sample::Model {
        weights: row.key.weights.clone(),
        class: row.key.class.clone(),
        shape: row.key.shape.clone(),
        parts: json(&row.parts),
        memory: (!row.memory.is_empty()).then(|| json(&row.memory)),
    };
    let key = [
        cost_sample::Column::Weights,
        cost_sample::Column::Class,
        cost_sample::Column::Shape,
    ];
    let replace = OnConflict::columns(key)
        .update_columns([cost_sample::Column::Parts, cost_sample::Column::Memory])
        .to_owned();
    cost_sample::Entity::insert(model.into_active_model())
        .on_conflict(replace)
        .exec_without_returning(tx)
        .await
        .map(drop)
}

pub async fn read(tx: &DatabaseTransaction, into: &mut Snapshot) -> Result<(), StoreError> {
    let rows = all(tx, cost_sample::Entity::find(), "read what work took").await?;
    let row = |model: cost_sample::Model| {
        Ok(CostRow {
            parts: from_json("cost_sample.parts", &model.parts)?,
            memory: match &model.memory {
                Some(memory) => from_json("cost_sample.memory", memory)?,
                None => Peaks::default(),
            },
            key: CostKey {
                weights: model.weights,
                class: model.class,
                shape: model.shape,
            },
        })
    };
    into.costs = rows
        .into_iter()
        .map(row)
        .collect::<Result<_, StoreError>>()?;
    into.costs.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(())
}
