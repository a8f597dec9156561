//! The oracle's folder: the list of scenes, their films as PNG strips and WAV files, and the sounds to compare with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::Detectors;
use super::{hits, words};
use crate::eval::engine::Asked;
use crate::eval::film::Film;

/// What happens in a scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Bounce,
    Collide,
    Roll,
    Pendulum,
    Talk,
    Quiet,
}

/// A body of a scene.
#[derive(Clone, Debug, Deserialize)]
pub struct Object {
    pub color: String,
    pub material: String,
}

/// A speaking character.
#[derive(Clone, Debug, Deserialize)]
pub struct Face {
    pub words: Vec<String>,
}

/// One scene of the list: what was asked for and what is true of it.
#[derive(Clone, Debug, Deserialize)]
pub struct Scene {
    pub size: [usize; 2],
    pub frames: usize,
    pub fps: f64,
    pub kind: Kind,
    pub style: String,
    pub camera: String,
    pub gravity: String,
    pub objects: Vec<Object>,
    pub face: Option<Face>,
    pub caption: String,
    /// Start and end of every m, b and p, seconds.
    pub closures: Vec<[f64; 2]>,
    /// Speed of separation over speed of approach of two bodies that collide.
    #[serde(default)]
    pub bounce: Option<f64>,
}

impl Asked for Scene {
    fn caption(&self) -> &str {
        &self.caption
    }

    fn size(&self) -> [usize; 2] {
        self.size
    }

    fn length(&self) -> (usize, f64) {
        (self.frames, self.fps)
    }
}

/// Constants of the world.
#[derive(Clone, Debug, Deserialize)]
pub struct Truth {
    /// Left, right, bottom, top of what a mouth moves: metres from the middle and from the contact line.
    pub mouth: [f64; 4],
    pub line_m: f64,
    pub short_side_m: f64,
    pub colors: BTreeMap<String, [f64; 3]>,
    pub radius_m: BTreeMap<String, f64>,
    pub restitution: BTreeMap<String, f64>,
    /// m/s².
    pub gravity: BTreeMap<String, f64>,
}

/// Where metres are in the pictures of a film whose camera stands.
pub struct Place {
    /// Pixels in a metre.
    pub ppm: f64,
    /// Row of the contact line.
    pub line: f64,
    /// Columns and rows of the mouth: left, right, top, bottom.
    pub mouth: [usize; 4],
    /// Area of the smallest body, pixels.
    pub least_area: f64,
}

impl Truth {
    pub fn place(&self, film: &Film) -> Place {
        let ppm = film.width.min(film.height) as f64 / self.short_side_m;
        let line = film.height as f64 - self.line_m * ppm;
        let [left, right, bottom, top] = self.mouth;
        let middle = film.width as f64 / 2.0;
        let within = |v: f64, most: usize| v.round().clamp(0.0, most as f64) as usize;
        let smallest = self.radius_m.values().copied().fold(f64::MAX, f64::min) * ppm;
        Place {
            ppm,
            line,
            mouth: [
                within(middle + left * ppm, film.width),
                within(middle + right * ppm, film.width),
                within(line - top * ppm, film.height),
                within(line - bottom * ppm, film.height),
            ],
            least_area: smallest * smallest,
        }
    }

    /// Names and RGB of the colours of bodies.
    pub fn palette(&self) -> Vec<(String, [f64; 3])> {
        let pair = |(name, &rgb): (&String, &[f64; 3])| (name.clone(), rgb);
        self.colors.iter().map(pair).collect()
    }
}

#[derive(Deserialize)]
struct List {
    scenes: Vec<Scene>,
    truth: Truth,
}

/// An opened folder.
pub struct Folder {
    path: PathBuf,
    pub scenes: Vec<Scene>,
    truth: Truth,
}

impl Folder {
    pub fn open(path: &Path) -> Result<Folder> {
        let file = path.join("scenes.json");
        let text = std::fs::read_to_string(&file).with_context(|| {
            format!(
                "cannot read {}; `python -m ops.train.eval_list --variant t1 --oracle DIR` writes such a folder",
                file.display()
            )
        })?;
        let list: List = serde_json::from_str(&text)
            .with_context(|| format!("{} is no list of scenes of T1", file.display()))?;
        Ok(Folder {
            path: path.to_owned(),
            scenes: list.scenes,
            truth: list.truth,
        })
    }

    /// The oracle's film of scene `i`.
    pub fn film(&self, i: usize) -> Result<Film> {
        let scene = &self.scenes[i];
        let path = self.path.join(format!("films/{i:03}.png"));
        let strip = image::open(&path)
            .with_context(|| format!("cannot read {}", path.display()))?
            .into_rgb8();
        let [width, height] = scene.size;
        ensure!(
            (strip.width() as usize, strip.height() as usize) == (width, height * scene.frames),
            "{} is not {} frames of {width}x{height}",
            path.display(),
            scene.frames
        );
        let (samples, rate) = read_wav(&path.with_extension("wav"))?;
        Ok(Film {
            width,
            height,
            fps: scene.fps,
            rgb: strip.into_raw(),
            samples,
            rate,
        })
    }

    /// Detectors with the folder's sounds of materials and words.
    pub fn detectors(&self) -> Result<Detectors> {
        let sounds = |kind: &str| -> Result<Vec<(String, Vec<f32>)>> {
            let folder = self.path.join(kind);
            let entries = std::fs::read_dir(&folder)
                .with_context(|| format!("cannot read {}", folder.display()))?;
            let mut paths: Vec<PathBuf> = entries
                .map(|e| Ok(e?.path()))
                .collect::<std::io::Result<_>>()?;
            paths.sort();
            let named = |path: &PathBuf| {
                let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                let name = stem.split('-').next().unwrap_or_default().to_owned();
                Ok((name, read_wav(path)?.0))
            };
            paths.iter().map(named).collect()
        };
        Ok(Detectors {
            hits: hits::Templates::new(&sounds("hits")?),
            words: words::Templates::new(&sounds("words")?),
            truth: self.truth.clone(),
        })
    }
}

/// Samples and rate of a WAV file as the trainer writes them: 16 bits, one channel, header of 44 bytes.
fn read_wav(path: &Path) -> Result<(Vec<f32>, u32)> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let is_ours = bytes.len() >= 44
        && bytes.starts_with(b"RIFF")
        && bytes[20..24] == [1, 0, 1, 0]
        && bytes[34..36] == [16, 0]
        && &bytes[36..40] == b"data";
    ensure!(
        is_ours,
        "{} is no WAV file of 16 bits and one channel",
        path.display()
    );
    let rate = u32::from_le_bytes([bytes[24], bytes[25], bytes[26], bytes[27]]);
    let sample = |b: &[u8]| f32::from(i16::from_le_bytes([b[0], b[1]])) / 32767.0;
    Ok((bytes[44..].chunks_exact(2).map(sample).collect(), rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sound_is_read_and_another_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.wav");
        let mut bytes = b"RIFF\x28\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data\x04\0\0\0".to_vec();
        bytes.extend([0xff, 0x7f, 0, 0]);
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(read_wav(&path).unwrap(), (vec![1.0, 0.0], 16_000));
        bytes[22] = 2;
        std::fs::write(&path, &bytes).unwrap();
        let told = format!("{:#}", read_wav(&path).unwrap_err());
        assert!(told.contains("16 bits and one channel"), "{told}");
    }

    #[test]
    fn a_folder_without_a_list_says_what_writes_one() {
        let dir = tempfile::tempdir().unwrap();
        let told = format!("{:#}", Folder::open(dir.path()).err().unwrap());
        assert!(told.contains("ops.train.eval_list --variant t1"), "{told}");
    }
}
