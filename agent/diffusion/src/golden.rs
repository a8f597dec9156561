//! Golden cases of the tests: files that the reference library made, with a part's config, its
//! weights (`w.*`), inputs (`in.*`) and outputs (`out.*`).

use std::path::PathBuf;

use kernels::{Device, Tensor};

use crate::weights::{Component, Config, TensorFile};

/// One file of `tests/golden`.
pub struct Golden {
    path: PathBuf,
    file: TensorFile,
    device: Device,
}

impl Golden {
    /// Opens `tests/golden/{case}.safetensors`.
    pub fn open(case: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let path = folder.join(format!("{case}.safetensors"));
        let file = TensorFile::open(&path).unwrap();
        Self {
            path,
            file,
            device: Device::cpu(2).unwrap(),
        }
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// A text of the header, such as `config`.
    pub fn note(&self, key: &str) -> &str {
        self.file.note(key).unwrap()
    }

    /// The part whose config is the note `config` and whose tensors are `w.*`.
    pub fn component(&self) -> Component {
        self.component_as("config", "w.")
    }

    /// The part with another note and prefix.
    pub fn component_as(&self, note: &str, prefix: &str) -> Component {
        let config = Config::parse(&self.path, self.note(note)).unwrap();
        Component::from_file("golden", config, self.reopened(), prefix)
    }

    /// The file once more.
    pub fn reopened(&self) -> TensorFile {
        TensorFile::open(&self.path).unwrap()
    }

    /// A tensor by its full name, such as `in.latents`.
    pub fn tensor(&self, name: &str) -> Tensor {
        let dims = self
            .file
            .dims(name)
            .unwrap_or_else(|| panic!("no tensor {name}"))
            .to_vec();
        self.file.tensor(&self.device, name, &dims).unwrap()
    }

    /// True when the file has the tensor.
    pub fn contains(&self, name: &str) -> bool {
        self.file.dims(name).is_some()
    }

    /// Fails unless `found` equals the tensor `name` within `tolerance` (largest difference).
    pub fn check(&self, name: &str, found: &[f32], tolerance: f32) {
        let expected = self.tensor(name);
        assert_eq!(found.len(), expected.count(), "element count of {name}");
        let mut worst = (0, 0.0f32);
        for (index, (a, b)) in found.iter().zip(expected.f32s()).enumerate() {
            let difference = (a - b).abs();
            assert!(
                difference.is_finite(),
                "{name}[{index}] is {a}, expected {b}"
            );
            if difference > worst.1 {
                worst = (index, difference);
            }
        }
        let (index, difference) = worst;
        let (a, b) = (found[index.min(found.len() - 1)], expected.f32s()[index]);
        assert!(
            difference <= tolerance,
            "{name}[{index}] is {a}, expected {b}: off by {difference}"
        );
    }
}
