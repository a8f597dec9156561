//! Layers that the transformer, the connectors and the text encoder are made of.

mod attention;
mod feed_forward;
mod linear;

use kernels::{Device, Tensor};

use crate::weights::{Component, WeightsError};

pub use attention::{Attention, AttentionInput, AttentionShape};
pub use feed_forward::FeedForward;
pub use linear::Linear;

/// Reads tensors of one component onto a device, under a prefix that grows as layers nest.
#[derive(Clone)]
pub struct Loader<'a> {
    component: &'a Component,
    device: &'a Device,
    prefix: String,
}

impl<'a> Loader<'a> {
    /// A loader at the root of a component.
    pub fn new(component: &'a Component, device: &'a Device) -> Self {
        Self {
            component,
            device,
            prefix: String::new(),
        }
    }

    /// The loader of a nested layer.
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        Self {
            prefix: format!("{}{name}.", self.prefix),
            ..self.clone()
        }
    }

    /// Uploads a tensor of the given shape.
    ///
    /// # Errors
    /// A [`WeightsError`] that names the file and the tensor.
    pub fn tensor(&self, name: &str, dims: &[usize]) -> Result<Tensor, WeightsError> {
        self.component
            .tensor(self.device, &format!("{}{name}", self.prefix), dims)
    }

    /// True when there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.component.contains(&format!("{}{name}", self.prefix))
    }

    /// Where the tensors go.
    pub fn device(&self) -> &'a Device {
        self.device
    }
}
