//! The official Python SDK, unmodified, in its own environment for the tests.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::{python, root};

/// Python of an environment that holds what `tests/sdk/requirements.txt` names.
pub fn python() -> Result<PathBuf> {
    python::environment("sdk", &root().join("tests/sdk/requirements.txt"))
        .context("the tests run the official SDK")
}
