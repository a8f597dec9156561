//! What decisions need of a task's spec, kept once for all tasks that are alike in it.
//!
//! The words of a task (prompt, seed, first frame) stay in the database and come back with the offer:
//! a farm with a million waiting films would hold little else.

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

use schemas::task::{AssembleSpec, RenderSpec, TaskSpec};

use super::costs::{Size, size};

/// The spec without what no decision looks at.
pub fn shape_of(spec: &TaskSpec) -> TaskSpec {
    match spec {
        TaskSpec::Render(spec) => TaskSpec::Render(RenderSpec {
            prompt: String::new(),
            negative_prompt: String::new(),
            seed: 0,
            guidance_scale: None,
            first_frame: None,
            given: None,
            weights: spec.weights.clone(),
            ..*spec
        }),
        TaskSpec::Assemble(spec) => TaskSpec::Assemble(AssembleSpec {
            before: None,
            ..spec.clone()
        }),
    }
}

/// Number of a shape; the same in the database.
pub type ShapeId = u32;

/// All shapes that tasks of this farm ever had, numbered from 0.
#[derive(Clone, Debug, Default)]
pub(super) struct Shapes {
    known: Vec<Arc<TaskSpec>>,
    /// For each, the first of its size that needs the same weights and as many devices.
    classes: Vec<ShapeId>,
    numbers: BTreeMap<Shape, ShapeId>,
    by_needs: BTreeMap<(String, u32, Size), ShapeId>,
}

impl Shapes {
    /// The shape of this spec, and its number if it is new.
    pub fn intern(&mut self, spec: &TaskSpec) -> (Arc<TaskSpec>, Option<ShapeId>) {
        let shape = Arc::new(shape_of(spec));
        if let Some(number) = self.number(&shape) {
            return (self.get(number).clone(), None);
        }
        let number = self.known.len() as ShapeId;
        let (weights, size) = match &*shape {
            TaskSpec::Render(spec) => (
                spec.weights.clone(),
                size(spec.width, spec.height, spec.frames),
            ),
            TaskSpec::Assemble(_) => Default::default(),
        };
        let needs = (weights, shape.devices(), size);
        self.classes
            .push(*self.by_needs.entry(needs).or_insert(number));
        self.numbers.insert(Shape(shape.clone()), number);
        self.known.push(shape.clone());
        (shape, Some(number))
    }

    pub fn number(&self, shape: &Arc<TaskSpec>) -> Option<ShapeId> {
        self.numbers.get(&Shape(shape.clone())).copied()
    }

    /// The one copy of this shape, if it is known.
    pub fn share(&self, shape: &Arc<TaskSpec>) -> Option<Arc<TaskSpec>> {
        self.number(shape).map(|number| self.get(number).clone())
    }

    /// Shapes with the same class fit the same nodes.
    pub fn class(&self, number: ShapeId) -> Option<ShapeId> {
        self.classes.get(number as usize).copied()
    }

    pub fn find(&self, number: ShapeId) -> Option<&Arc<TaskSpec>> {
        self.known.get(number as usize)
    }

    fn get(&self, number: ShapeId) -> &Arc<TaskSpec> {
        self.find(number).expect("numbers are of known shapes")
    }

    /// All of them with their numbers, in order.
    pub fn rows(&self) -> Vec<(ShapeId, TaskSpec)> {
        let row = |(number, shape): (usize, &Arc<TaskSpec>)| (number as ShapeId, (**shape).clone());
        self.known.iter().enumerate().map(row).collect()
    }
}

/// Ordered by all of its fields.
#[derive(Clone, Debug)]
struct Shape(Arc<TaskSpec>);

impl Shape {
    fn fields(&self) -> (&str, [u32; 7], Option<u32>, &[u32]) {
        match &*self.0 {
            // Every field is named, so that a new one cannot be forgotten here.
            TaskSpec::Render(RenderSpec {
                shot,
                weights,
                prompt: _,
                negative_prompt: _,
                width,
                height,
                frames,
                fps,
                seed: _,
                steps,
                guidance_scale: _,
                first_frame: _,
                given: _,
                devices,
            }) => {
                let numbers = [0, *shot, *width, *height, *frames, *fps, *devices];
                (weights, numbers, *steps, &[])
            }
            TaskSpec::Assemble(AssembleSpec {
                shots,
                width,
                height,
                fps,
                shot_frames,
                before: _,
            }) => (
                "",
                [1, *shots, *width, *height, *fps, 0, 1],
                None,
                shot_frames,
            ),
        }
    }
}

impl Ord for Shape {
    fn cmp(&self, other: &Self) -> Ordering {
        self.fields().cmp(&other.fields())
    }
}

impl PartialOrd for Shape {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Shape {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Shape {}
