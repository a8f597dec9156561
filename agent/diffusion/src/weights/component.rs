//! One part of a model: its class, its config and its tensors, whether in one file or in shards.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use kernels::conv::HALF_VALUES_MIN;
use kernels::{Device, Tensor};

use super::{Config, TensorFile, WeightsError};

/// Stems of weight files: diffusers parts first, then transformers parts.
const FILE_STEMS: [&str; 2] = ["diffusion_pytorch_model", "model"];

/// A part of a model, opened and checked but not yet uploaded.
#[derive(Debug)]
pub struct Component {
    name: String,
    folder: PathBuf,
    config: Config,
    files: Vec<TensorFile>,
    /// Tensor name without prefix -> file.
    index: BTreeMap<String, usize>,
    prefix: String,
}

impl Component {
    /// Opens `root/name`: `config.json` and `*.safetensors` (single, or sharded with an index).
    ///
    /// # Errors
    /// A [`WeightsError`] for an absent or damaged file or an index that names an absent tensor.
    pub fn open(root: &Path, name: &str) -> Result<Self, WeightsError> {
        let folder = root.join(name);
        let config = Config::open(&folder.join("config.json"))?;
        let found = match weight_files(&folder)? {
            WeightFiles::One(path) => {
                let files = vec![TensorFile::open(&path)?];
                Self::from_files(name, folder, config, files, "")
            }
            WeightFiles::Shards(shards) => {
                let (files, index) = shards.open(&folder)?;
                Self {
                    name: name.to_owned(),
                    folder,
                    config,
                    files,
                    index,
                    prefix: String::new(),
                }
            }
        };
        Ok(found)
    }

    /// A component whose tensors are those of one file that begin with `prefix`.
    pub fn from_file(name: &str, config: Config, file: TensorFile, prefix: &str) -> Self {
        let folder = file.path().to_owned();
        Self::from_files(name, folder, config, vec![file], prefix)
    }

    fn from_files(
        name: &str,
        folder: PathBuf,
        config: Config,
        files: Vec<TensorFile>,
        prefix: &str,
    ) -> Self {
        let mut index = BTreeMap::new();
        for (number, file) in files.iter().enumerate() {
            let names = file.names();
            index.extend(
                names
                    .iter()
                    .filter_map(|n| Some((n.strip_prefix(prefix)?.to_owned(), number))),
            );
        }
        Self {
            name: name.to_owned(),
            folder,
            config,
            files,
            index,
            prefix: prefix.to_owned(),
        }
    }

    /// Name of the subfolder, such as `transformer`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The config.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Class that the config names: `_class_name`, or the first of `architectures`.
    ///
    /// # Errors
    /// [`WeightsError::Field`] when a name is no text.
    pub fn class(&self) -> Result<String, WeightsError> {
        if let Some(class) = self.config.optional::<String>("_class_name")? {
            return Ok(class);
        }
        let architectures = self
            .config
            .get::<Vec<String>>("architectures", Vec::new())?;
        Ok(architectures.into_iter().next().unwrap_or_default())
    }

    /// Refuses a class that is not one of `expected`; gives the class.
    ///
    /// # Errors
    /// [`WeightsError::Class`].
    pub fn expect_class(&self, expected: &[&str]) -> Result<String, WeightsError> {
        let found = self.class()?;
        if expected.contains(&found.as_str()) {
            return Ok(found);
        }
        Err(WeightsError::Class {
            path: self.config.path().to_owned(),
            component: self.name.clone(),
            expected: expected.join(" or "),
            found,
        })
    }

    /// True when the part has a tensor of that name.
    pub fn contains(&self, tensor: &str) -> bool {
        self.index.contains_key(tensor)
    }

    /// Names of all tensors, sorted, without the prefix.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.index.keys().map(String::as_str)
    }

    /// Shape of a tensor.
    pub fn dims(&self, tensor: &str) -> Option<&[usize]> {
        let file = &self.files[*self.index.get(tensor)?];
        file.dims(&format!("{}{tensor}", self.prefix))
    }

    /// Values of all tensors together.
    pub fn value_count(&self) -> u64 {
        self.names().map(|name| self.size_of(name)).sum()
    }

    /// Values of the largest tensor.
    pub fn largest(&self) -> u64 {
        self.names()
            .map(|name| self.size_of(name))
            .max()
            .unwrap_or(0)
    }

    fn size_of(&self, name: &str) -> u64 {
        let dims = self.dims(name);
        dims.map_or(0, |dims| dims.iter().product::<usize>() as u64)
    }

    /// Bytes of all tensors together once they are loaded: large matrices keep a half-precision type, on a card
    /// all do, all else becomes F32.
    pub fn loaded_bytes(&self, device: &Device) -> u64 {
        let halves_min = match device.card_bytes() {
            Some(_) => 0,
            None => HALF_VALUES_MIN,
        };
        let bytes = |name: &str| {
            let dims = self.dims(name).unwrap_or_default();
            let values = dims.iter().product::<usize>();
            let packed = dims.len() > 1 && !name.ends_with("embed_tokens.weight");
            // A card multiplies with BF16 whatever the file has.
            let is_half = halves_min == 0 || self.is_half(name);
            let size = match packed && values >= halves_min && is_half {
                true => 2,
                false => 4,
            };
            values as u64 * size
        };
        self.names().map(bytes).sum()
    }

    fn is_half(&self, tensor: &str) -> bool {
        let name = format!("{}{tensor}", self.prefix);
        let file = self.index.get(tensor).map(|number| &self.files[*number]);
        file.is_some_and(|file| file.is_half(&name))
    }

    /// Uploads a tensor of the given shape as F32.
    ///
    /// # Errors
    /// A [`WeightsError`] that names the file, the tensor, what was expected and what was found.
    pub fn tensor(
        &self,
        device: &Device,
        name: &str,
        dims: &[usize],
    ) -> Result<Tensor, WeightsError> {
        let Some(&number) = self.index.get(name) else {
            return Err(WeightsError::MissingTensor {
                path: self.folder.clone(),
                tensor: name.to_owned(),
                expected: dims.to_vec(),
            });
        };
        self.files[number].tensor(device, &format!("{}{name}", self.prefix), dims)
    }

    /// As [`Component::tensor`], as values for the program itself.
    ///
    /// # Errors
    /// As [`Component::tensor`].
    pub fn values(
        &self,
        device: &Device,
        name: &str,
        dims: &[usize],
    ) -> Result<Vec<f32>, WeightsError> {
        let tensor = self.tensor(device, name, dims)?;
        let values = tensor.values().map_err(|source| WeightsError::Upload {
            tensor: name.to_owned(),
            source,
        })?;
        Ok(values.into_owned())
    }

    /// Digest over the config and all weight files.
    ///
    /// # Errors
    /// [`WeightsError::Read`] when the config is gone.
    pub fn digest(&self) -> Result<blake3::Hash, WeightsError> {
        let path = self.config.path();
        let config = std::fs::read(path).map_err(|source| WeightsError::Read {
            path: path.to_owned(),
            source,
        })?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(blake3::hash(&config).as_bytes());
        for file in &self.files {
            hasher.update(file.digest().as_bytes());
        }
        Ok(hasher.finalize())
    }
}

/// Where a part's tensors are.
enum WeightFiles {
    One(PathBuf),
    Shards(Shards),
}

/// An index over several files.
struct Shards {
    index: Config,
    /// Tensor -> file name.
    map: BTreeMap<String, String>,
}

impl Shards {
    /// Opens every shard and checks that it holds what the index says.
    fn open(
        self,
        folder: &Path,
    ) -> Result<(Vec<TensorFile>, BTreeMap<String, usize>), WeightsError> {
        let names: BTreeSet<&String> = self.map.values().collect();
        let mut files = Vec::new();
        let mut places = BTreeMap::new();
        for (number, name) in names.into_iter().enumerate() {
            let tensors = || self.map.iter().filter(|(_, shard)| *shard == name);
            let file = self.shard(folder, name, tensors().count())?;
            for (tensor, _) in tensors() {
                if file.dims(tensor).is_none() {
                    let reason = format!("tensor `{tensor}` should be in `{name}`, which lacks it");
                    return Err(self.index.refuse("weight_map", reason));
                }
                places.insert(tensor.clone(), number);
            }
            files.push(file);
        }
        Ok((files, places))
    }

    fn shard(&self, folder: &Path, name: &str, tensors: usize) -> Result<TensorFile, WeightsError> {
        if Path::new(name).file_name() != Some(name.as_ref()) {
            let reason = format!("`{name}` is no name of a file in this folder");
            return Err(self.index.refuse("weight_map", reason));
        }
        let path = folder.join(name);
        if !path.exists() {
            return Err(WeightsError::MissingShard {
                path,
                index: self.index.path().to_owned(),
                tensors,
            });
        }
        TensorFile::open(&path)
    }
}

/// Weight files of a folder: the single file, or the shards that the index names.
fn weight_files(folder: &Path) -> Result<WeightFiles, WeightsError> {
    for stem in FILE_STEMS {
        let single = folder.join(format!("{stem}.safetensors"));
        if single.is_file() {
            return Ok(WeightFiles::One(single));
        }
        let index = folder.join(format!("{stem}.safetensors.index.json"));
        if index.is_file() {
            let index = Config::open(&index)?;
            let map = index.get("weight_map", BTreeMap::new())?;
            return Ok(WeightFiles::Shards(Shards { index, map }));
        }
    }
    let path = folder.join(format!("{}.safetensors", FILE_STEMS[0]));
    Err(WeightsError::Read {
        path,
        source: std::io::ErrorKind::NotFound.into(),
    })
}
