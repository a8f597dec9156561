//! The weights that this agent can render with: where they are, and which lie on the device now.
//!
//! All are opened at the start, so that the farm is told what they can do, and stay as long as there is memory for
//! them. A set that is needed beside others which leave it no room takes the place of those that nobody works with,
//! the one that was not used for longest first: one set and its run is what a device must have memory for, as the
//! scheduler counts.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use diffusion::{DiffusionError, ModelInfo, Recipe, Size, Weights};
use kernels::Device;
use schemas::{Digest, agent::WeightsInfo};

use crate::render::micros;

/// Name of the model that comes with the product.
pub const BUILTIN: &str = "builtin";
/// Names a folder of weights to use in place of the built-in model's.
pub const VARIABLE: &str = "DAILIES_WEIGHTS";
const INDEX_FILES: [&str; 2] = ["dailies.json", "model_index.json"];

#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    #[error(
        "the built-in model is not here. Looked in {}. \
         Name a folder of weights with --weights, or in {VARIABLE}",
        tried.join(", ")
    )]
    NoBuiltin { tried: Vec<String> },
    #[error("{path} is no folder of weights: it has neither dailies.json nor model_index.json")]
    NoWeights { path: PathBuf },
    #[error(
        "cannot load the weights in {path}. If the folder is damaged or not whole, get it again"
    )]
    Open {
        path: PathBuf,
        #[source]
        source: Box<DiffusionError>,
    },
    #[error("two folders of weights have the name '{name}': give one another name as NAME=DIR")]
    SameName { name: String },
    #[error("no weights are called '{name}' here")]
    Unknown { name: String },
}

/// Opened weights under the name that the farm knows them by.
#[derive(Clone)]
pub struct Entry {
    pub name: String,
    pub dir: PathBuf,
    pub weights: Arc<Weights>,
    /// What opening them took, until it was told; 0 from then on.
    load_us: Arc<AtomicU64>,
}

/// A set of weights, on the device or not.
#[derive(Debug)]
pub struct Set {
    pub dir: PathBuf,
    /// What the scheduler is told of it.
    pub told: WeightsInfo,
}

/// All of an agent's weights.
pub struct Catalogue {
    device: Device,
    sets: Vec<Set>,
    /// What lies on the device, the one that was used last at the end.
    shelf: Mutex<Vec<Entry>>,
}

impl Catalogue {
    /// Opens the built-in model and each of `settings`, which are `DIR` or `NAME=DIR`.
    ///
    /// # Errors
    /// The first folder that cannot be opened; an agent that lacks weights it was told to have
    /// would leave tasks waiting without a word.
    pub fn open(settings: &[String], device: &Device) -> Result<Self, CatalogueError> {
        let mut folders: Vec<(String, PathBuf)> =
            settings.iter().map(|setting| named(setting)).collect();
        if folders.iter().all(|(name, _)| name != BUILTIN) {
            folders.insert(0, (BUILTIN.into(), find_builtin()?));
        }
        let mut catalogue = Self {
            device: device.clone(),
            sets: Vec::new(),
            shelf: Mutex::default(),
        };
        for (name, dir) in folders {
            if catalogue.sets.iter().any(|set| set.told.name == name) {
                return Err(CatalogueError::SameName { name });
            }
            let told = {
                let mut shelf = catalogue.shelf();
                let entry = load(&mut shelf, &name, &dir, device)?;
                let others = shelf.iter().filter(|other| other.name != name);
                entry.advertise_beside(others.map(|other| other.weights.bytes()).sum())
            };
            catalogue.sets.push(Set { dir, told });
        }
        Ok(catalogue)
    }

    /// The weights of this name, which stay on the device as long as the entry is kept; loads them when they are
    /// not there. Loading takes as long as reading the files: call it where it may block.
    ///
    /// # Errors
    /// [`CatalogueError::Unknown`]; [`CatalogueError::Open`], also when others that are in use leave no room.
    pub fn get(&self, name: &str) -> Result<Entry, CatalogueError> {
        let set = self.sets.iter().find(|set| set.told.name == name);
        let set = set.ok_or_else(|| CatalogueError::Unknown { name: name.into() })?;
        let mut shelf = self.shelf();
        match shelf.iter().position(|entry| entry.name == name) {
            Some(at) => {
                let entry = shelf.remove(at);
                shelf.push(entry.clone());
                Ok(entry)
            }
            None => load(&mut shelf, name, &set.dir, &self.device),
        }
    }

    /// Lets weights go that nobody works with, until the run of a recipe has room, or none are left.
    ///
    /// # Errors
    /// [`DiffusionError::Recipe`] for what these weights cannot make.
    pub fn make_room(&self, weights: &Weights, recipe: &Recipe) -> Result<(), DiffusionError> {
        let plan = weights.plan(recipe)?;
        self.free(plan.memory_least_bytes.saturating_sub(plan.memory.weights));
        Ok(())
    }

    fn free(&self, run_bytes: u64) {
        let mut shelf = self.shelf();
        let is_short = || {
            let free = self.device.free_bytes();
            free.is_some_and(|free| free < run_bytes)
        };
        while is_short() && release_oldest(&mut shelf, &self.device) {}
    }

    pub fn sets(&self) -> &[Set] {
        &self.sets
    }

    /// What they lie on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What the scheduler must know of them.
    pub fn advertise(&self) -> Vec<WeightsInfo> {
        self.sets.iter().map(|set| set.told.clone()).collect()
    }

    fn shelf(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts a set on the device, and others aside where there is no room for it.
fn load(
    shelf: &mut Vec<Entry>,
    name: &str,
    dir: &Path,
    device: &Device,
) -> Result<Entry, CatalogueError> {
    loop {
        match Entry::open(name.into(), dir, device) {
            Err(CatalogueError::Open { source, .. })
                if source.is_out_of_memory() && release_oldest(shelf, device) => {}
            opened => {
                let entry = opened?;
                shelf.push(entry.clone());
                return Ok(entry);
            }
        }
    }
}

/// Frees the memory of the set that was not used for longest, of those that only the shelf holds; false without one.
fn release_oldest(shelf: &mut Vec<Entry>, device: &Device) -> bool {
    let is_idle = |entry: &Entry| Arc::strong_count(&entry.weights) == 1;
    let Some(at) = shelf.iter().position(is_idle) else {
        return false;
    };
    let entry = shelf.remove(at);
    tracing::info!(
        weights = entry.name,
        bytes = entry.weights.bytes(),
        "released, to make room for others"
    );
    drop(entry);
    device.trim();
    true
}

impl Entry {
    /// Opens the weights in `dir`.
    pub fn open(name: String, dir: &Path, device: &Device) -> Result<Self, CatalogueError> {
        if !is_weights(dir) {
            return Err(CatalogueError::NoWeights {
                path: dir.to_path_buf(),
            });
        }
        let began = Instant::now();
        let weights = Weights::open(dir, device).map_err(|source| CatalogueError::Open {
            path: dir.to_path_buf(),
            source: Box::new(source),
        })?;
        Ok(Self {
            name,
            dir: dir.to_path_buf(),
            weights: Arc::new(weights),
            load_us: Arc::new(AtomicU64::new(micros(began.elapsed()))),
        })
    }

    /// Microseconds that opening the weights took: told once, by the first shot.
    pub fn tell_load_us(&self) -> Option<u64> {
        Some(self.load_us.swap(0, Relaxed)).filter(|us| *us > 0)
    }

    /// What the scheduler must know of the weights: of their sizes and lengths those that this node has
    /// the memory for.
    pub fn advertise(&self) -> WeightsInfo {
        self.advertise_beside(0)
    }

    /// The same where other weights of `others_bytes` can be put aside.
    fn advertise_beside(&self, others_bytes: u64) -> WeightsInfo {
        let info = self.weights.info();
        let free = self.weights.device().free_bytes();
        let free = free.map(|free| free.saturating_add(others_bytes));
        let (sizes, frames_max) = fitting(info, |size| match free {
            Some(free_bytes) => self.weights.frames_that_fit(size, free_bytes),
            None => Some(info.frames_max),
        });
        WeightsInfo {
            name: self.name.clone(),
            digest: info
                .digest
                .parse()
                .unwrap_or_else(|_| Digest::of(info.digest.as_bytes())),
            title: info.name.clone(),
            sizes,
            fps: info.fps,
            frames_default: info.frames_default.min(frames_max),
            frames_max,
            frames_step: info.frames_step,
            steps: info.steps,
            vocabulary: info
                .vocabulary
                .iter()
                .map(|word| word.to_lowercase())
                .collect(),
        }
    }
}

/// Sizes that `frames` gives a default clip for, and the length that all of them have memory for. Where
/// no size has, all are kept: the engine then says with numbers what is lacking.
fn fitting(info: &ModelInfo, frames: impl Fn(Size) -> Option<u32>) -> (Vec<(u32, u32)>, u32) {
    let (mut sizes, mut longest) = (Vec::new(), info.frames_max);
    for size in &info.sizes {
        match frames(*size) {
            Some(fit) if fit >= info.frames_default => {
                sizes.push((size.width, size.height));
                longest = longest.min(fit);
            }
            fit => tracing::warn!(
                weights = info.name,
                width = size.width,
                height = size.height,
                frames = fit.unwrap_or(0),
                "too little memory for a clip of the default length: this size is not offered"
            ),
        }
    }
    if sizes.is_empty() {
        let all = info.sizes.iter().map(|size| (size.width, size.height));
        return (all.collect(), info.frames_max);
    }
    (sizes, longest)
}

/// Finds the built-in model: [`VARIABLE`], where the executable was installed, beside it, in the sources it was
/// built from.
///
/// # Errors
/// [`CatalogueError::NoBuiltin`] with every place that was tried. A folder named by the variable
/// that holds no weights is an error of its own: the search does not go on behind it.
pub fn find_builtin() -> Result<PathBuf, CatalogueError> {
    if let Some(named) = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        let path = PathBuf::from(named);
        return match is_weights(&path) {
            true => Ok(path),
            false => Err(CatalogueError::NoWeights { path }),
        };
    }
    first_weights(&builtin_places())
}

fn builtin_places() -> Vec<PathBuf> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("weights")
        .join(BUILTIN);
    let program = std::env::current_exe().ok();
    let folder = program.as_deref().and_then(Path::parent);
    let installed = ["../share/dailies/weights", "weights"].map(|place| {
        let place = folder.map(|folder| folder.join(place));
        place.map(|place| place.join(BUILTIN))
    });
    installed.into_iter().flatten().chain([sources]).collect()
}

fn first_weights(places: &[PathBuf]) -> Result<PathBuf, CatalogueError> {
    let found = places.iter().find(|place| is_weights(place));
    found.cloned().ok_or_else(|| CatalogueError::NoBuiltin {
        tried: places
            .iter()
            .map(|place| place.display().to_string())
            .collect(),
    })
}

fn is_weights(dir: &Path) -> bool {
    INDEX_FILES.iter().any(|file| dir.join(file).is_file())
}

/// `NAME=DIR`, or `DIR` with the folder's own name.
fn named(setting: &str) -> (String, PathBuf) {
    if let Some((name, dir)) = setting.split_once('=') {
        return (name.into(), dir.into());
    }
    let dir = PathBuf::from(setting);
    let name = dir
        .file_name()
        .map_or_else(|| setting.into(), |n| n.to_string_lossy().to_lowercase());
    (name, dir)
}

#[cfg(test)]
mod tests {
    use kernels::cuda::{Gpu, Nowhere};

    use super::*;

    /// A card that has memory for so many and a half sets of the built-in model.
    fn card(sets: u64) -> (Device, u64) {
        let open = |bytes| {
            let card = Nowhere::with_memory("Card", (8, 0), bytes);
            Device::cuda(Gpu::new(Arc::new(card)), 1).unwrap()
        };
        let dir = find_builtin().unwrap();
        let set = Weights::open(&dir, &open(8 << 30)).unwrap().bytes();
        // What the engine leaves to others.
        let kept = (8 << 30) - open(8 << 30).free_bytes().unwrap();
        (open(kept + sets * set + set / 2), set)
    }

    fn settings(names: &[&str]) -> Vec<String> {
        let dir = find_builtin().unwrap();
        names
            .iter()
            .map(|name| format!("{name}={}", dir.display()))
            .collect()
    }

    fn resident(catalogue: &Catalogue) -> Vec<String> {
        catalogue
            .shelf()
            .iter()
            .map(|entry| entry.name.clone())
            .collect()
    }

    #[test]
    fn a_set_that_is_needed_takes_the_place_of_the_one_that_was_not_used_for_longest() {
        let (device, set) = card(2);
        let catalogue = Catalogue::open(&settings(&["b", "c"]), &device).unwrap();
        assert_eq!(
            resident(&catalogue),
            ["b", "c"],
            "all were opened, and two have room"
        );
        let told: Vec<_> = catalogue.advertise();
        assert_eq!(told.len(), 3);
        for other in &told {
            assert_eq!(
                (&other.sizes, other.frames_max),
                (&told[0].sizes, told[0].frames_max)
            );
        }
        catalogue.get("b").unwrap();
        catalogue.get("builtin").unwrap();
        assert_eq!(resident(&catalogue), ["b", "builtin"]);
        // What is worked with stays, whatever else is wanted.
        let held = [
            catalogue.get("b").unwrap(),
            catalogue.get("builtin").unwrap(),
        ];
        let Err(CatalogueError::Open { source, .. }) = catalogue.get("c") else {
            panic!("a set was taken from under its run")
        };
        assert!(source.is_out_of_memory(), "{source}");
        drop(held);
        assert!(
            catalogue.get("c").unwrap().tell_load_us().is_some(),
            "it was loaded anew"
        );
        assert_eq!(resident(&catalogue), ["builtin", "c"]);
        // A run gets the room of a set that is idle, and leaves alone what it has enough beside.
        let held = catalogue.get("c").unwrap();
        let free = device.free_bytes().unwrap();
        catalogue.free(free);
        assert_eq!(resident(&catalogue), ["builtin", "c"]);
        catalogue.free(free + set / 2);
        assert_eq!(resident(&catalogue), ["c"]);
        assert!(device.free_bytes().unwrap() >= free + set / 2);
        catalogue.free(u64::MAX);
        assert_eq!(resident(&catalogue), ["c"]);
        assert_eq!(held.name, "c");
    }

    #[test]
    fn a_card_that_has_no_room_for_one_set_is_an_error_with_numbers() {
        let (device, _) = card(0);
        let Err(error) = Catalogue::open(&[], &device) else {
            panic!("half a set is no set")
        };
        let told = crate::client::chain(&error);
        assert!(
            told.contains("MiB of memory") && told.contains("free some memory"),
            "{told}"
        );
    }

    #[test]
    fn a_folder_has_its_own_name_unless_it_is_given_one() {
        assert_eq!(
            named("/models/LTX-2.3"),
            ("ltx-2.3".into(), "/models/LTX-2.3".into())
        );
        assert_eq!(named("builtin=/a/b"), ("builtin".into(), "/a/b".into()));
    }

    #[test]
    fn sizes_and_lengths_beyond_the_memory_are_not_offered() {
        let device = Device::cpu(1).unwrap();
        let entry = Entry::open("x".into(), &find_builtin().unwrap(), &device).unwrap();
        let info = entry.weights.info();
        let all: Vec<_> = info.sizes.iter().map(|s| (s.width, s.height)).collect();
        let squares = |size: Size| (size.width == size.height).then_some(info.frames_max);
        assert_eq!(fitting(info, squares), (vec![(64, 64)], info.frames_max));
        let short = info.frames_default;
        assert_eq!(fitting(info, |_| Some(short)), (all.clone(), short));
        assert_eq!(fitting(info, |_| None), (all.clone(), info.frames_max));
        // What one clip needs is enough for it, and a byte less is not.
        let need = |frames| {
            let recipe = diffusion::Recipe {
                frames,
                ..diffusion::Recipe::with_defaults("", 0, info)
            };
            entry.weights.plan(&recipe).unwrap().memory.run_bytes()
        };
        let fit = |bytes| entry.weights.frames_that_fit(info.sizes[0], bytes);
        assert!(fit(need(33)) >= Some(33) && fit(need(65)) == Some(65));
        assert!(fit(need(65) / 2) < Some(65));
        assert_eq!(fit(1_000), None);
        assert_eq!(entry.advertise().sizes, all);
    }

    #[test]
    fn a_search_without_result_lists_the_places() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("first"), dir.path().join("second"));
        let error = first_weights(&[first.clone(), second.clone()])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("first") && error.contains("second"),
            "{error}"
        );
        assert!(error.contains("--weights"), "{error}");
        std::fs::create_dir(&second).unwrap();
        std::fs::write(second.join("dailies.json"), "{}").unwrap();
        assert_eq!(first_weights(&[first, second.clone()]).unwrap(), second);
    }

    #[test]
    fn a_folder_without_weights_and_a_damaged_one_are_told_apart() {
        let device = Device::cpu(1).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let open = || match Entry::open("x".into(), dir.path(), &device) {
            Ok(_) => panic!("an empty folder was opened"),
            Err(error) => error.to_string(),
        };
        assert!(open().contains("is no folder of weights"));
        std::fs::write(dir.path().join("dailies.json"), "{ broken").unwrap();
        std::fs::write(dir.path().join("model_index.json"), "{}").unwrap();
        assert!(open().contains("cannot load the weights"));
    }
}
