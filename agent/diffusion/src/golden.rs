//! Golden cases of the tests: files that the reference library made, with a part's config, its
//! weights (`w.*`), inputs (`in.*`) and outputs (`out.*`).
//!
//! Larger weights are not stored: the note `drawn` names their shapes in order, and both sides draw
//! the same values from a hash of their places ([`drawn`]).

use std::path::{Path, PathBuf};

use kernels::{Device, Tensor};
use safetensors::tensor::{Dtype, TensorView};

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

    /// True when the header has the text.
    pub fn has_note(&self, key: &str) -> bool {
        self.file.note(key).is_some()
    }

    /// The part whose config is the note `config` and whose tensors are `w.*`.
    pub fn component(&self) -> Component {
        self.component_as("config", "w.")
    }

    /// The part with another note and prefix.
    pub fn component_as(&self, note: &str, prefix: &str) -> Component {
        let config = Config::parse(&self.path, self.note(note)).unwrap();
        match self.file.note("drawn") {
            None => Component::from_file("golden", config, self.reopened(), prefix),
            Some(shapes) => Component::from_file("golden", config, drawn_file(shapes), ""),
        }
    }

    /// A tensor that the reference has as [1, channel, t, h, w], as [1, t, h, w, channel].
    pub fn channels_last(&self, name: &str) -> Tensor {
        let x = self.tensor(name);
        let [b, c, t, h, w]: [usize; 5] = x.dims().try_into().unwrap();
        let positions = t * h * w;
        let value = |i: usize| x.f32s()[i % c * positions + i / c];
        let values = (0..positions * c).map(value).collect();
        Tensor::from_f32(&self.device, &[b, t, h, w, c], values).unwrap()
    }

    /// [`Golden::check`] for a tensor [1, t, h, w, channel] that the reference has channels first.
    pub fn check_channels_last(&self, name: &str, found: &Tensor, tolerance: f32) {
        let c = found.last_dim();
        let positions = found.count() / c;
        let value = |i: usize| found.f32s()[i % positions * c + i / positions];
        let values: Vec<f32> = (0..found.count()).map(value).collect();
        self.check(name, &values, tolerance);
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

/// Weights of the note `drawn` as a file.
fn drawn_file(shapes: &str) -> TensorFile {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("drawn.safetensors");
    write_drawn(shapes, &path);
    TensorFile::open(&path).unwrap()
}

/// Writes drawn weights, a list of [name, shape, scale], to a file.
pub fn write_drawn(shapes: &str, path: &Path) {
    let shapes: Vec<(String, Vec<usize>, f32)> = serde_json::from_str(shapes).unwrap();
    let bytes: Vec<Vec<u8>> = (0u32..)
        .zip(&shapes)
        .map(|(number, (_, dims, scale))| {
            let values = (0..dims.iter().product::<usize>() as u32)
                .map(|at| drawn(number, at) * scale)
                .flat_map(f32::to_le_bytes);
            values.collect()
        })
        .collect();
    let views = shapes.iter().zip(&bytes).map(|((name, dims, _), bytes)| {
        (
            name,
            TensorView::new(Dtype::F32, dims.clone(), bytes).unwrap(),
        )
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Value `at` of tensor `number` in -1..1, as `drawn` in ops/train/golden.py: a hash's 24 bits.
fn drawn(number: u32, at: u32) -> f32 {
    let mut z = at.wrapping_add((number + 1).wrapping_mul(0x9E37_79B9));
    z = (z ^ (z >> 16)).wrapping_mul(0x85EB_CA6B);
    z = (z ^ (z >> 13)).wrapping_mul(0xC2B2_AE35);
    z ^= z >> 16;
    (z >> 8) as f32 / (1 << 23) as f32 - 1.0
}
